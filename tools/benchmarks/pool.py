"""Memory of a pool of images on disk, by number of classes."""

import os
import statistics
import tempfile
import time

import numpy as np

from benchmarks import harness, problems

CLASSES = (1000, 10_000, 100_000)
EPISODES = 3200


def measure(classes):
    """Memory of this process, without mapped files, before and after episodes."""
    import keras_meta as km

    km.runtime.configure()
    with tempfile.TemporaryDirectory() as folder:
        shape = (classes * 20, 28, 28, 1)
        path = f"{folder}/images.npy"
        images = np.lib.format.open_memmap(path, "w+", "uint8", shape)
        block = np.random.RandomState(0).randint(0, 256, [20, 28, 28, 1], "uint8")
        for index in range(classes):
            images[20 * index : 20 * index + 20] = block + np.uint8(index % 256)
        images.flush()
        del images
        size = os.path.getsize(path) / 2**20
        images, labels = np.load(path, mmap_mode="r"), np.repeat(range(classes), 20)
        before = harness.anonymous_memory()
        pool = km.ClassPool.from_arrays(images, labels, km.ImagePreprocess())
        data = pool.episodes(problems.WAYS, 1, problems.QUERIES).batch(problems.TASKS)
        data = iter(data)
        next(data)
        began, after = time.perf_counter(), []
        for _ in range(EPISODES // problems.TASKS):
            next(data)
            after.append(harness.anonymous_memory())
        rate = EPISODES / (time.perf_counter() - began)
    half = len(after) // 2
    growth = statistics.mean(after[half:]) - statistics.mean(after[:half])
    return {
        "file MB": round(size),
        "pool MB": round(after[0] - before),
        "growth MB": round(growth),
        "episodes a second": round(rate),
    }


def table():
    rows = [
        {"classes": classes, **harness.in_process(measure, classes=classes)}
        for classes in CLASSES
    ]
    title = "A mapped file of 20 images a class: memory of the process without the file"
    return harness.Table(title, rows)
