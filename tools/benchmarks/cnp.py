"""Time of a conditional neural process by number of support and query points."""

import numpy as np

from benchmarks import harness, problems

SIZES = [
    (100, 100),
    (1000, 100),
    (10_000, 100),
    (100, 1000),
    (100, 10_000),
    (3000, 3000),
    (10_000, 10_000),
]  # (S, Q)
REPEATS = 15


def measure():
    """Returns median seconds to adapt to S points and predict Q, in order of SIZES."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    learner = problems.build("cnp").learner
    points = tf.random.stateless_normal([1, max(map(max, SIZES)), 1], [0, 0])

    def predict(support, queries):
        state = learner.adapt(points[:, :support], points[:, :support])
        mean, _ = learner.infer(state, points[:, :queries])
        np.asarray(mean)

    calls = {size: lambda size=size: predict(*size) for size in SIZES}
    return list(harness.interleaved(calls, REPEATS, untimed=1).values())


def table():
    seconds = harness.in_process(measure)
    slope, intercept = np.polyfit([sum(size) for size in SIZES], seconds, 1)
    rows = [
        {
            "S": support,
            "Q": queries,
            "ms": round(1000 * duration, 2),
            "relative to the fit": round(
                duration / (intercept + slope * (support + queries)), 2
            ),
        }
        for (support, queries), duration in zip(SIZES, seconds, strict=True)
    ]
    fit = f"Linear fit: {1000 * intercept:.2f} ms and {1e6 * slope:.2f} us a point."
    return harness.Table("CNP of 128 units, 1 task", rows, (fit,))
