"""Measures time and memory of a meta-gradient by number of inner steps."""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from keras_meta import findings, probes, runtime

INNER_STEPS = (1, 5)


def measure(learner):
    """Measures a meta-step of a learner, each number of inner steps in its own process.

    Args:
        learner: a learner with `inner_steps`.

    Returns:
        A `findings.Finding`.
    """
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "learner.keras"
        learner.save(path)
        for steps in INNER_STEPS:
            process = subprocess.run(
                [sys.executable, "-m", "keras_meta.cost_check", str(path), str(steps)],
                capture_output=True,
                text=True,
                cwd=pathlib.Path(__file__).resolve().parents[1],
            )
            if process.returncode:
                reason = process.stderr.strip().split("\n")[-1]
                return findings.Finding(
                    "cost", "note", f"could not be measured: {reason}"
                )
            figures.append(json.loads(process.stdout.splitlines()[-1]))
    return findings.Finding("cost", "note", sentence(figures))


def sentence(figures):
    """Describes the figures of few and of many inner steps.

    Args:
        figures: a pair of dicts "ms", "MB" and "images", for `INNER_STEPS`.
    """
    few, many = INNER_STEPS
    known = [key for key in ("ms", "MB") if figures[0][key] is not None]
    step, start = {}, {}
    for key in known:
        step[key] = max(figures[1][key] - figures[0][key], 0) / (many - few)
        start[key] = max(figures[0][key] - few * step[key], 0)
    text = (
        f"a meta-step of 4 tasks, {figures[0]['images']} examples each, takes about "
        f"{start['ms']:.0f} ms and {step['ms']:.1f} ms for each inner step; "
    )
    if "MB" not in known:
        return text + "this system does not report the peak memory of a process"
    return text + (
        f"memory with TensorFlow's own {start['MB']:.0f} MB and {step['MB']:.1f} MB "
        "for each"
    )


def _figures(path, steps):
    """Returns time and memory of a meta-gradient of four tasks in this process.

    Args:
        path: the `.keras` file of a learner.
        steps: number of inner steps.

    Returns:
        A dict: "ms", the median time; "MB", the peak memory of the process or None; and
        "images", examples per task.
    """
    learner = keras.models.load_model(path)
    learner.inner_steps = steps
    learner.compile("sgd")  # random layers depend on the optimizer's step
    episode, query_y = probes.random_episode(learner, tasks=4)
    run = tf.function(lambda: learner.meta_gradient(episode, query_y)[:2])
    run()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    images = int(episode["support_x"].shape[1] + query_y.shape[1])
    return {
        "ms": 1000 * float(np.median(times)),
        "MB": runtime.peak_memory(),
        "images": images,
    }


if __name__ == "__main__":
    import keras_meta  # noqa: F401  registers the learners

    print(json.dumps(_figures(sys.argv[1], int(sys.argv[2]))))
