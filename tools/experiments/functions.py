"""The LSTM's error by example index, beside what could be known: tables and pictures.

    python tools/experiments/functions.py --out=runs/functions

For each family of Hochreiter, Younger and Conwell (2001), on the same test tasks:
- Boolean functions: the share of wrong answers, as expected under the exact posterior,
  which is the Bayes predictor's own;
- semi-linear and quadratic functions: the squared error as a share of that of the
  family's mean, beside least squares on the right features, which knows the family.
Answers at example t have seen t - 1 examples, each learner its own entry of the zoo.
"""

import csv
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.figure
import numpy as np
import rich.console
import rich.table
from absl import app, flags

import keras_meta as km
from keras_meta import plots, tasks, zoo
from keras_meta.zoo import intervals, recipes

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/functions", "Folder of the table and the pictures.")
flags.DEFINE_list("models", None, "Entries to score; all three by default.")
flags.DEFINE_integer("tasks", 2000, "Tasks to score on.")
flags.DEFINE_integer("seed", 0, "Seed of the tasks.")

BATCH = 500


def batches(task):
    """Support sets of the test tasks, as arrays."""
    data = task.test_episodes(None, None, None, task.shots, 1, FLAGS.seed)
    for episode, _ in data.take(FLAGS.tasks).batch(BATCH).as_numpy_iterator():
        yield episode["support_x"], episode["support_y"]


def boolean_errors(learner, x, y):
    """Chances `[T, S]` of a wrong answer: the learner's and the Bayes predictor's."""
    guesses = np.argmax(learner.sequence(x, y), -1)
    ones = np.stack(
        [
            tasks.boolean_bayes(16, x[:, :t], y[:, :t], x[:, t : t + 1])[:, 0]
            for t in range(x.shape[1])
        ],
        axis=1,
    )
    return {
        "LSTM": np.where(guesses == 1, 1 - ones, ones),
        "Bayes predictor": np.minimum(ones, 1 - ones),
    }


def squared_errors(features, squashed=False):
    def errors(learner, x, y):
        """Squared errors `[T, S]`: the learner's, the floor's, the constant's."""
        known = np.stack(
            [
                tasks.least_squares(
                    features, x[:, :t], y[:, :t], x[:, t : t + 1], squashed
                )[:, 0]
                for t in range(x.shape[1])
            ],
            axis=1,
        )
        answers = {
            "LSTM": learner.sequence(x, y).numpy(),
            "least squares": known,
            "family's mean": np.full_like(y, 0.5),
        }
        return {name: ((a - y) ** 2).mean(-1) for name, a in answers.items()}

    return errors


FAMILIES = {
    "lstm.boolean": boolean_errors,
    "lstm.semilinear": squared_errors(tasks.semilinear_features, squashed=True),
    "lstm.quadratic": squared_errors(tasks.quadratic_features),
}


def scored(name):
    """`{predictor: (means [S], half-widths of 95% intervals [S])}` of a family."""
    learner, task = zoo.load(name), recipes.recipe(name).task
    parts = [FAMILIES[name](learner, x, y) for x, y in batches(task)]
    found = {}
    for predictor in parts[0]:
        errors = np.concatenate([part[predictor] for part in parts])
        found[predictor] = intervals.summaries(errors)
    return found


def show(name, found):
    """The table of a family, at some indices."""
    indices = range(1, len(found["LSTM"][0]) + 1)
    shown = [i for i in (1, 2, 3, 5, 7, 10, 15, 20, 30, 35) if i in indices]
    unit = "wrong answers (%)" if name == "lstm.boolean" else "squared error x 1e4"
    factor = 100 if name == "lstm.boolean" else 1e4
    table = rich.table.Table(
        title=f"{name}: {unit} by example index, {FLAGS.tasks} test tasks, seed "
        f"{FLAGS.seed}, 95% intervals"
    )
    table.add_column("predictor")
    for index in shown:
        table.add_column(str(index), justify="right")
    for predictor, (mean, width) in found.items():
        cells = [
            f"{factor * mean[i - 1]:.2f} ± {factor * width[i - 1]:.2f}" for i in shown
        ]
        table.add_row(predictor, *cells)
    if "family's mean" in found:
        share = found["LSTM"][0] / found["family's mean"][0]
        cells = [f"{100 * share[i - 1]:.1f}%" for i in shown]
        table.add_row("LSTM, share of the mean's", *cells)
    rich.console.Console(width=160).print(table)


def draw(found, axes, title):
    for predictor, (mean, width) in found.items():
        indices = np.arange(1, len(mean) + 1)
        plots.band(axes, indices, mean, width, predictor)
    if "family's mean" in found:
        axes.set_yscale("log")
        axes.set_ylim(bottom=found["LSTM"][0].min() / 10)
        axes.set_ylabel("squared error")
    else:
        axes.set_ylabel("share of wrong answers")
    axes.set_xlabel("example")
    axes.set_title(title)
    axes.legend(fontsize=8)


def main(_):
    names = FLAGS.models or list(FAMILIES)
    unknown = sorted(set(names) - set(FAMILIES))
    if unknown:
        sys.exit(
            f"functions: error: expected models of {list(FAMILIES)}, got {unknown}"
        )
    out = pathlib.Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    figure = matplotlib.figure.Figure((5 * len(names), 4), layout="constrained")
    every = figure.subplots(1, len(names), squeeze=False)
    rows = []
    for name, axes in zip(names, every[0], strict=True):
        found = scored(name)
        show(name, found)
        draw(found, axes, name)
        rows += [
            [name, predictor, index + 1, mean, width]
            for predictor, (means, widths) in found.items()
            for index, (mean, width) in enumerate(zip(means, widths, strict=True))
        ]
    figure.savefig(out / "functions.png", dpi=120)
    with (out / "functions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "predictor", "example", "error", "error_95"])
        writer.writerows(rows)
    print(f"wrote {out / 'functions.csv'} and {out / 'functions.png'}")


if __name__ == "__main__":
    km.runtime.configure()
    app.run(main)
