"""Threads: what small per-task graphs want of TensorFlow's pools; cores and memory."""

import os
import pathlib
import re
import sys

import tensorflow as tf


def usable_cores():
    """How many cores this process may use: all of them where nothing says less."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def simultaneous_ops():
    """How many ops TensorFlow runs at once, as `configure` set it."""
    return tf.config.threading.get_inter_op_parallelism_threads() or usable_cores()


def peak_memory():
    """The most memory that this process has held so far, in MB of 2^20 bytes.

    Returns:
        A number, or None where the system does not tell (Windows).
    """
    if sys.platform == "linux":
        # `getrusage` counts there what the process that began this one has held.
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
        found = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        if found:
            return int(found[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


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
        inter_op = usable_cores()
    try:
        tf.config.threading.set_intra_op_parallelism_threads(intra_op)
        tf.config.threading.set_inter_op_parallelism_threads(inter_op)
    except RuntimeError as error:
        raise RuntimeError(
            "keras_meta.runtime.configure() must be called before TensorFlow runs its "
            "first operation, and it has already run one."
        ) from error
