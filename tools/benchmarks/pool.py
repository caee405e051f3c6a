"""Memory and opening time of a pool of images on disk, by number of classes."""

import os
import statistics
import tempfile
import time

import numpy as np

from benchmarks import harness, problems

CLASSES = (1000, 10_000, 100_000, 500_000)
IMAGES = 20  # of a class
EPISODES = 1600


def measure(classes):
    """Memory of this process, without mapped files, and times.

    The file has a size and no content, so that ten million images fit on any disk.
    """
    import keras_meta as km

    km.runtime.configure()
    with tempfile.TemporaryDirectory() as folder:
        shape = (classes * IMAGES, 28, 28, 1)
        path = f"{folder}/images.npy"
        np.lib.format.open_memmap(path, "w+", "uint8", shape)
        size = os.path.getsize(path) / 2**20
        images, labels = np.load(path, mmap_mode="r"), np.repeat(range(classes), IMAGES)
        before, began = harness.anonymous_memory(), time.perf_counter()
        pool = km.ClassPool.from_arrays(images, labels, km.ImagePreprocess())
        opened = time.perf_counter() - began
        data = pool.episodes(problems.WAYS, 1, problems.QUERIES)
        first = time.perf_counter()
        next(iter(data))
        first = time.perf_counter() - first
        data = iter(data.batch(problems.TASKS))
        next(data)
        began, after = time.perf_counter(), []
        for _ in range(EPISODES // problems.TASKS):
            next(data)
            after.append(harness.anonymous_memory())
        rate = EPISODES / (time.perf_counter() - began)
    half = len(after) // 2
    growth = statistics.mean(after[half:]) - statistics.mean(after[:half])
    memory = after[0] - before
    return {
        "images": classes * IMAGES,
        "file MB": round(size),
        "pool MB": round(memory),
        "bytes a class": round(memory * 2**20 / classes),
        "bytes an image": round(memory * 2**20 / classes / IMAGES, 1),
        "growth MB": round(growth),
        "opening s": round(opened, 2),
        "first episode s": round(first, 2),
        "episodes a second": round(rate),
    }


def table():
    rows = [
        {"classes": classes, **harness.in_process(measure, classes=classes)}
        for classes in CLASSES
    ]
    title = (
        f"A mapped file of {IMAGES} images a class: memory of the process without the "
        "file"
    )
    return harness.Table(title, rows)
