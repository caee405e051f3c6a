"""Thread pools suited to small per-task graphs; numbers of cores and peak memory."""

import os
import pathlib
import re
import sys

import tensorflow as tf


def usable_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def simultaneous_ops() -> int:
    """Returns how many ops TensorFlow runs in parallel, as `configure` set it."""
    return tf.config.threading.get_inter_op_parallelism_threads() or usable_cores()


def peak_memory() -> float | None:
    """Returns the peak memory of this process so far, in MB of 2^20 bytes.

    Returns:
        A number, or None on systems that do not report it (Windows).
    """
    if sys.platform == "linux":
        # On Linux, `getrusage` includes the memory of the parent process.
        status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
        peak = re.search(r"^VmHWM:\s*(\d+) kB$", status, re.MULTILINE)
        if peak:
            return int(peak[1]) / 2**10
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 2**10)


def configure(intra_op: int = 1, inter_op: int | None = None) -> None:
    """Runs tasks in parallel, one per core, instead of parallelizing each op.

    Meta-learning runs many small graphs, one per task. With one thread per op and as
    many parallel ops as cores, tasks run side by side. TensorFlow's default
    parallelizes every small convolution instead and is slower. One thread per op also
    fixes the order of every sum, so that equal seeds give bitwise equal results.

    Call it before any other use of TensorFlow, which creates the thread pools only
    once.

    Args:
        intra_op: threads per op.
        inter_op: ops that run in parallel; by default the number of usable cores.

    Raises:
        RuntimeError: TensorFlow has already created its thread pools.
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
