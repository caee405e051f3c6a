"""Adaptation time with frozen modules."""

import numpy as np

from benchmarks import harness, problems

MODEL = "sigma_maml.omniglot_5w1s"
STEPS, REPEATS = 100, 15


def measure():
    """Returns `{modules that adapt: median seconds to adapt to one task}`."""
    import tensorflow as tf

    import keras_meta as km
    from keras_meta import zoo

    km.runtime.configure()
    batch, _ = tf.nest.map_structure(tf.constant, problems.images(1))

    def adapt(learner):
        state = learner.adapt(batch["support_x"], batch["support_y"])
        np.asarray(state["weights"][-1])

    scales = zoo.load(MODEL).scales()
    thresholds = sorted(scales.values())
    calls = {}
    for count in (0, len(scales) // 2, len(scales) - 1):
        learner = zoo.load(MODEL)
        learner.evaluation_steps = STEPS
        frozen = learner.freeze_below(thresholds[count])
        adapted_modules = ", ".join(name for name in scales if name not in frozen)
        calls[adapted_modules] = lambda learner=learner: adapt(learner)
    return harness.interleaved(calls, REPEATS, untimed=1)


def table():
    seconds = harness.in_process(measure)
    rows = harness.ratios("adapted", seconds, max(seconds.values()), 1)
    return harness.Table(f"Adaptation of {MODEL} to one task, {STEPS} steps", rows)
