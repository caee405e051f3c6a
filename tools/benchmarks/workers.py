"""CPU time of one worker's data pipeline by number of workers."""

import statistics
import time

from benchmarks import harness, problems

WORKERS = (1, 2, 4)
BATCHES, REPEATS = 50, 5
TASKS = problems.TASKS


def measure(workers, divided):
    """Returns the CPU seconds of one worker for its share of a meta-step.

    Args:
        workers: number of workers.
        divided: if True, workers divide the indices of the episodes; otherwise each
            worker computes all episodes and uses its share.
    """
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    images, labels = problems.characters()
    pool = km.ClassPool.from_arrays(images, labels, km.ImagePreprocess())
    episodes = pool.with_rotations().episodes(problems.WAYS, 1, problems.QUERIES)
    share = TASKS // workers
    if divided:
        data = episodes.batch(TASKS).part(workers, 0, share)
    else:
        data = episodes.batch(share).shard(workers, 0)
    data = iter(data)
    next(data)
    seconds = []
    for _ in range(REPEATS):
        start = time.process_time()
        for _ in range(BATCHES):
            next(data)
        seconds.append((time.process_time() - start) / BATCHES)
    return statistics.median(seconds)


def table():
    rows = []
    for workers in WORKERS:
        seconds = {
            divided: harness.in_process(measure, workers=workers, divided=divided)
            for divided in (True, False)
        }
        rows.append(
            {
                "workers": workers,
                "episodes a worker and meta-step": TASKS // workers,
                "CPU ms a worker and meta-step": round(1000 * seconds[True], 2),
                "if each computes all": round(1000 * seconds[False], 2),
                "used episodes a CPU second, a worker": round(
                    TASKS / workers / seconds[True]
                ),
                "likewise, if each computes all": round(
                    TASKS / workers / seconds[False]
                ),
            }
        )
    title = (
        f"Meta-steps of {TASKS} episodes, 5w1s, {problems.QUERIES} queries, 4400 "
        "classes of 20 images of 28x28 in memory"
    )
    return harness.Table(title, rows)
