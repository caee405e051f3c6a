"""Episodes per second of the data pipeline, and its cost during training."""

import tempfile
import time

import numpy as np

from benchmarks import harness, problems

SECONDS = 5  # for each source
TASKS = problems.TASKS


def measure(on_disk):
    """Returns `{source: median seconds per batch}`.

    The sources are "alone" (drawing episodes without training), "drawn" (training on
    episodes while they are drawn) and "prepared" (training on one batch in memory).
    """
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    images, labels = problems.characters()
    learner = problems.build("maml").learner
    learner.compile("adam")
    with tempfile.TemporaryDirectory() as folder:
        if on_disk:
            np.save(f"{folder}/images.npy", images)
            images = np.load(f"{folder}/images.npy", mmap_mode="r")
        pool = km.ClassPool.from_arrays(images, labels, km.ImagePreprocess())
        drawn = pool.with_rotations().episodes(problems.WAYS, 1, problems.QUERIES)
        drawn = drawn.batch(TASKS)
        prepared = tf.data.Dataset.from_tensors(next(iter(drawn))).repeat()
        learner.make_train_function()

        def train(data):
            float(learner.train_function(data)["loss"])

        sources = {
            "alone": (iter(drawn), next),
            "drawn": (iter(drawn.prefetch(2)), train),
            "prepared": (iter(prepared), train),
        }

        def one_second(data, use):
            """Returns seconds per batch, measured for about one second."""
            use(data)
            start, count = time.perf_counter(), 0
            while time.perf_counter() - start < 1:
                use(data)
                count += 1
            return (time.perf_counter() - start) / count

        times = {name: [] for name in sources}
        for _ in range(SECONDS):
            for name, source in sources.items():
                times[name].append(one_second(*source))
    return {name: float(np.median(values)) for name, values in times.items()}


def table():
    rows = []
    for on_disk in (False, True):
        seconds = harness.in_process(measure, on_disk=on_disk)
        lost_share = 1 - seconds["prepared"] / seconds["drawn"]
        rows.append(
            {
                "images": "on disk" if on_disk else "in memory",
                "episodes a second, alone": round(TASKS / seconds["alone"]),
                "tasks a second, training": round(TASKS / seconds["drawn"], 1),
                "with a prepared batch": round(TASKS / seconds["prepared"], 1),
                "lost": f"{lost_share:.1%}",
            }
        )
    title = f"5w1s, {problems.QUERIES} queries, 4400 classes of 20 images of 28x28"
    return harness.Table(title, rows)
