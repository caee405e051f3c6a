"""Memory and opening time of a pool of images on disk, by number of classes."""

import os
import statistics
import tempfile
import time

import numpy as np

from benchmarks import harness, problems

CLASSES = (1000, 10_000, 100_000, 500_000)
IMAGES = 20  # per class
EPISODES = 1600


def measure(classes):
    """Measures the memory of this process, without mapped files, and times.

    The file is sparse, so that ten million images fit on any disk.
    """
    import keras_meta as km

    km.runtime.configure()
    with tempfile.TemporaryDirectory() as folder:
        shape = (classes * IMAGES, 28, 28, 1)
        path = f"{folder}/images.npy"
        np.lib.format.open_memmap(path, "w+", "uint8", shape)
        size = os.path.getsize(path) / 2**20
        images, labels = np.load(path, mmap_mode="r"), np.repeat(range(classes), IMAGES)
        memory_before, start = harness.anonymous_memory(), time.perf_counter()
        pool = km.ClassPool.from_arrays(images, labels, km.ImagePreprocess())
        opening_time = time.perf_counter() - start
        data = pool.episodes(problems.WAYS, 1, problems.QUERIES)
        start = time.perf_counter()
        next(iter(data))
        first_episode_time = time.perf_counter() - start
        data = iter(data.batch(problems.TASKS))
        next(data)
        start, memory_samples = time.perf_counter(), []
        for _ in range(EPISODES // problems.TASKS):
            next(data)
            memory_samples.append(harness.anonymous_memory())
        rate = EPISODES / (time.perf_counter() - start)
    half = len(memory_samples) // 2
    first_half, second_half = memory_samples[:half], memory_samples[half:]
    growth = statistics.mean(second_half) - statistics.mean(first_half)
    memory = memory_samples[0] - memory_before
    return {
        "images": classes * IMAGES,
        "file MB": round(size),
        "pool MB": round(memory),
        "bytes a class": round(memory * 2**20 / classes),
        "bytes an image": round(memory * 2**20 / classes / IMAGES, 1),
        "growth MB": round(growth),
        "opening s": round(opening_time, 2),
        "first episode s": round(first_episode_time, 2),
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
