"""Accuracy when a class is seen for the 1st, 2nd, ... time: a table and a picture.

    python tools/experiments/presentations.py --out=runs/presentations

Sequence learners read the same sequences of test characters, in uniformly random order;
each answer comes before its label (Santoro et al., 2016, table 1). Two entries of one
protocol are compared sequence by sequence.
"""

import csv
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.figure
import numpy as np
import rich.console
import rich.progress
import rich.table
from absl import app, flags

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import intervals, recipes, scores

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/presentations", "Folder of the table and the picture.")
flags.DEFINE_list(
    "models",
    [
        "lstm.omniglot_5w-on_protonet",
        "mann.omniglot_5w-on_protonet",
        "lstm.omniglot_15w_strings",
        "mann.omniglot_15w_strings",
    ],
    "Entries to score.",
)
flags.DEFINE_integer("tasks", 1000, "Sequences.")
flags.DEFINE_integer("seed", 0, "Seed of the sequences.")

SHOWN = (1, 2, 3, 4, 5, 10)
BATCH = 20
# Of the paper, by the number of classes: percent at the presentations SHOWN.
PUBLISHED = {
    5: {
        "human, 5 classes": (34.5, 57.3, 70.1, 71.8, 81.4, 92.4),
        "LSTM, 5 classes": (24.4, 49.5, 55.3, 61.0, 63.6, 62.5),
        "MANN, 5 classes": (36.4, 82.8, 91.0, 92.6, 94.9, 98.1),
    },
    15: {"MANN, 15 classes, strings": (0.1, 62.6, 79.3, 86.6, 88.7, 95.3)},
}


def published(found):
    """The paper's figures with as many classes as the entries scored."""
    ways = sorted({zoo.card(name).ways for name in found})
    return {name: row for n in ways for name, row in PUBLISHED[n].items()}


def scored(name):
    """Percent right of each sequence by presentation, `[tasks, K]`."""
    learner, card = zoo.load(name), zoo.card(name)
    task = recipes.recipe(name).task
    data = task.test_episodes(
        learner.preprocess, card.test_classes, card.ways, card.shots, 1, FLAGS.seed
    )
    batches = data.take(FLAGS.tasks).batch(BATCH).as_numpy_iterator()
    batches = rich.progress.track(batches, name, -(-FLAGS.tasks // BATCH))
    return 100 * scores.by_presentation(learner, batches, card.shots)


def differences(found):
    """`{title: [tasks, K]}` of two entries that read the same sequences, one by one."""
    pairs = {}
    for name in found:
        pairs.setdefault(zoo.card(name).protocol, []).append(name)
    return {
        f"{second} minus {first}": intervals.difference(found[second], found[first])
        for first, second in (pair for pair in pairs.values() if len(pair) == 2)
    }


def show(found):
    table = rich.table.Table(
        title=f"Accuracy (%) by presentation, {FLAGS.tasks} sequences of test "
        f"characters, seed {FLAGS.seed}, 95% intervals; inductive"
    )
    table.add_column("model")
    for k in SHOWN:
        table.add_column(str(k), justify="right")
    for name, values in {**found, **differences(found)}.items():
        means, widths = intervals.summaries(values)
        cells = [f"{means[k - 1]:.1f} ± {widths[k - 1]:.1f}" for k in SHOWN]
        table.add_row(name, *cells)
    for name, means in published(found).items():
        table.add_row(f"published: {name}", *map(str, means))
    rich.console.Console(width=140).print(table)


def draw(found, path):
    figure = matplotlib.figure.Figure((7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, values in found.items():
        means, widths = intervals.summaries(values)
        k = np.arange(1, len(means) + 1)
        axes.errorbar(k, means, widths, marker="o", markersize=4, label=name)
    for name, means in published(found).items():
        axes.plot(SHOWN, means, "--", linewidth=1, label=f"published: {name}")
    axes.set(xlabel="presentation of a class", ylabel="accuracy (%)", ylim=(0, 100))
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=120)


def main(_):
    out = pathlib.Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = {name: scored(name) for name in FLAGS.models}
    except ValueError as error:
        sys.exit(f"presentations: error: {error}")
    show(found)
    draw(found, out / "presentations.png")
    with (out / "presentations.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "presentation", "accuracy", "accuracy_95"])
        for name, values in found.items():
            for k, row in enumerate(intervals.summaries(values).T):
                writer.writerow([name, k + 1, *row])
    print(f"wrote {out / 'presentations.csv'} and {out / 'presentations.png'}")


if __name__ == "__main__":
    km.runtime.configure(intra_op=2)
    app.run(main)
