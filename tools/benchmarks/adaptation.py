"""Time and memory of adaptation, for every entry of the zoo."""

import statistics
import sys
import time

import numpy as np
import rich.progress

from benchmarks import harness

BASE = "maml.omniglot_5w1s"
REPEATS = 40


def measure(model):
    """Returns peak MB and median seconds: to adapt to one task, to predict a query."""
    import tensorflow as tf

    import keras_meta as km
    from keras_meta import zoo

    km.runtime.configure()
    learner, card = zoo.load(model), zoo.card(model)
    ways = card.ways or 1
    random = np.random.RandomState(0)
    x = random.rand(1, ways * card.shots, *learner.example_shape).astype("float32")
    y = random.rand(1, card.shots, learner.output_size).astype("float32")
    if learner.classification:
        y = np.tile(np.arange(ways), [1, card.shots]).astype("int32")
        y %= learner.output_size
        if learner.label_shape:
            y = np.repeat(y[..., None], learner.label_shape[0], axis=-1)
    x, y = tf.constant(x[:, : y.shape[1]]), tf.constant(y)
    times = {"adapt": [], "infer": []}
    for _ in range(REPEATS):
        start = time.perf_counter()
        state = learner.adapt(x, y)
        tf.nest.map_structure(np.asarray, state)
        adapted_at = time.perf_counter()
        np.asarray(km.learner.stacked(learner.infer(state, x[:, :1])))
        times["adapt"].append(adapted_at - start)
        times["infer"].append(time.perf_counter() - adapted_at)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {"MB": harness.peak_memory(), **medians}


def table():
    from keras_meta import zoo
    from keras_meta.zoo import cards, facts

    names = [card.name for card in cards.stored()]
    print("\n".join(facts.skipped()), file=sys.stderr)
    figures_by_model = {
        name: harness.in_process(measure, model=name)
        for name in rich.progress.track(names, "measuring")
    }
    baseline = figures_by_model[BASE]["adapt"]
    rows = [
        {
            "model": name,
            "ms to adapt": round(1000 * figures["adapt"], 1),
            "relative to MAML": round(figures["adapt"] / baseline, 2),
            "ms to predict a query": round(1000 * figures["infer"], 1),
            "peak MB": round(figures["MB"]),
            "sha256": zoo.card(name).sha256,
        }
        for name, figures in figures_by_model.items()
    ]
    title = f"One task of the trained size, one query; MAML is {BASE}"
    return harness.Table(title, rows)
