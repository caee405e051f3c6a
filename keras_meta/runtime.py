"""Threads: what small per-task graphs want of TensorFlow's pools."""

import os

import tensorflow as tf


def configure(intra_op=1, inter_op=None):
    """Gives each core a task instead of giving each op every core.

    Meta-learning runs many small graphs, one a task. With one thread inside an op and
    as many ops at once as there are cores, tasks run side by side; TensorFlow's default
    splits every small convolution instead and is slower. One thread inside an op also
    makes the order of every sum fixed, so that equal seeds give equal bits.

    Call it before anything else uses TensorFlow: the pools are made once.

    Args:
        intra_op: threads inside one op.
        inter_op: ops that run at once; the number of usable cores by default.

    Raises:
        RuntimeError: TensorFlow has already made its thread pools.
    """
    if inter_op is None:
        inter_op = len(os.sched_getaffinity(0))
    try:
        tf.config.threading.set_intra_op_parallelism_threads(intra_op)
        tf.config.threading.set_inter_op_parallelism_threads(inter_op)
    except RuntimeError as error:
        raise RuntimeError(
            "keras_meta.runtime.configure() must be called before TensorFlow runs its "
            "first operation, and it has already run one."
        ) from error
