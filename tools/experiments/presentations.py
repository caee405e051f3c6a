"""Accuracy by presentation: the 1st, 2nd, ... example of a class in a sequence.

    python tools/experiments/presentations.py --out=runs/presentations

Sequence learners read the same sequences of test characters in uniformly random order
and predict each label before they read it (Santoro et al., 2016, table 1). Two entries
of one protocol are compared sequence by sequence. The results are a table, a picture
and a CSV file.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.figure
import numpy as np
import results
import rich.progress
from results import FLAGS

from keras_meta import zoo
from keras_meta.zoo import intervals, recipes, scores

MODELS = [
    "lstm.omniglot_5w",
    "mann.omniglot_5w",
    "lstm.omniglot_5w-on_protonet",
    "mann.omniglot_5w-on_protonet",
    "lstm.omniglot_15w_strings",
    "mann.omniglot_15w_strings",
]
SHOWN = (1, 2, 3, 4, 5, 10)
BATCH = 20
# Percentages at the presentations SHOWN by number of classes (table 1 of the paper).
PUBLISHED = {
    5: {
        "human, 5 classes": (34.5, 57.3, 70.1, 71.8, 81.4, 92.4),
        "LSTM, 5 classes": (24.4, 49.5, 55.3, 61.0, 63.6, 62.5),
        "MANN, 5 classes": (36.4, 82.8, 91.0, 92.6, 94.9, 98.1),
    },
    15: {"MANN, 15 classes, strings": (0.1, 62.6, 79.3, 86.6, 88.7, 95.3)},
}


def published_figures(names):
    """Returns the paper's figures for the numbers of classes of these entries."""
    ways = sorted({zoo.card(name).ways for name in names})
    return {name: row for count in ways for name, row in PUBLISHED[count].items()}


def score(name):
    """Returns percent accuracy of each sequence by presentation, `[tasks, K]`."""
    learner, card = zoo.load(name), zoo.card(name)
    task = recipes.recipe(name).task
    data = task.test_episodes(
        learner.preprocess, card.test_classes, card.ways, card.shots, 1, FLAGS.seed
    )
    batches = data.take(FLAGS.tasks).batch(BATCH).as_numpy_iterator()
    batches = rich.progress.track(batches, name, -(-FLAGS.tasks // BATCH))
    return 100 * scores.by_presentation(learner, batches, card.shots)


def differences(accuracies):
    """Returns paired differences of entries of one protocol, `{title: [tasks, K]}`."""
    pairs = {}
    for name in accuracies:
        pairs.setdefault(zoo.card(name).protocol, []).append(name)
    return {
        f"{second} minus {first}": intervals.difference(
            accuracies[second], accuracies[first]
        )
        for first, second in (pair for pair in pairs.values() if len(pair) == 2)
    }


def show(accuracies):
    rows = []
    for name, values in {**accuracies, **differences(accuracies)}.items():
        means, widths = intervals.summaries(values)
        cells = [results.cell(means[k - 1], widths[k - 1], 1) for k in SHOWN]
        rows.append([name, *cells])
    for name, means in published_figures(accuracies).items():
        rows.append([f"published: {name}", *means])
    results.show(
        f"Accuracy (%) by presentation, {FLAGS.tasks} sequences of test characters, "
        f"seed {FLAGS.seed}, 95% intervals; inductive",
        ["model", *SHOWN],
        rows,
    )


def draw(accuracies):
    figure = matplotlib.figure.Figure((9, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in accuracies.items():
        means, widths = intervals.summaries(values)
        k = np.arange(1, len(means) + 1)
        axes.errorbar(k, means, widths, marker="o", markersize=4, label=name)
    for name, means in published_figures(accuracies).items():
        axes.plot(SHOWN, means, "--", linewidth=1, label=f"published: {name}")
    axes.set(xlabel="presentation of a class", ylabel="accuracy (%)", ylim=(0, 100))
    figure.legend(fontsize=7, loc="outside right upper")
    return figure


def main(out):
    try:
        accuracies = {name: score(name) for name in FLAGS.models}
    except ValueError as error:
        results.stop(error)
    show(accuracies)
    results.write_picture(out / "presentations.png", draw(accuracies))
    rows = [
        {"model": name, "presentation": k, "accuracy": mean, "accuracy_95": width}
        for name, values in accuracies.items()
        for k, (mean, width) in enumerate(intervals.summaries(values).T, 1)
    ]
    results.write_csv(out / "presentations.csv", rows)


if __name__ == "__main__":
    results.define_flags("presentations", 1000, "Sequences.", MODELS)
    results.start(main, intra_op=2)
