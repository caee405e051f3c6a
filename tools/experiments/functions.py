"""Error of the LSTM and of reference predictors by example index.

    python tools/experiments/functions.py --out=runs/functions

For each family of Hochreiter, Younger and Conwell (2001), on the same test tasks:
- Boolean functions: the expected share of wrong predictions under the exact posterior,
  for the LSTM and for the Bayes predictor;
- semi-linear and quadratic functions: the squared error of the LSTM, of least squares
  on the features of the family, and of the family's mean.
The prediction at example t uses t - 1 examples. Each family has its own entry of the
zoo. The results are a table, a picture and a CSV file.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.figure
import numpy as np
import results
from results import FLAGS

from keras_meta import plots, tasks, zoo
from keras_meta.zoo import intervals, recipes

BATCH = 500


def batches(task):
    """Yields the support sets of the test tasks as arrays."""
    data = task.test_episodes(None, None, None, task.shots, 1, FLAGS.seed)
    for episode, _ in data.take(FLAGS.tasks).batch(BATCH).as_numpy_iterator():
        yield episode["support_x"], episode["support_y"]


def boolean_errors(learner, x, y):
    """Probabilities `[T, S]` of a wrong prediction of the LSTM and the optimum."""
    predictions = np.argmax(learner.sequence(x, y), -1)
    p_one = np.stack(
        [
            tasks.boolean_bayes(16, x[:, :t], y[:, :t], x[:, t : t + 1])[:, 0]
            for t in range(x.shape[1])
        ],
        axis=1,
    )
    return {
        "LSTM": np.where(predictions == 1, 1 - p_one, p_one),
        "Bayes predictor": np.minimum(p_one, 1 - p_one),
    }


def squared_errors(features, squashed=False):
    def errors(learner, x, y):
        """Squared errors `[T, S]` by predictor."""
        fitted = np.stack(
            [
                tasks.least_squares(
                    features, x[:, :t], y[:, :t], x[:, t : t + 1], squashed
                )[:, 0]
                for t in range(x.shape[1])
            ],
            axis=1,
        )
        predictions = {
            "LSTM": learner.sequence(x, y).numpy(),
            "least squares": fitted,
            "family's mean": np.full_like(y, 0.5),
        }
        return {
            name: ((prediction - y) ** 2).mean(-1)
            for name, prediction in predictions.items()
        }

    return errors


FAMILIES = {
    "lstm.boolean": boolean_errors,
    "lstm.semilinear": squared_errors(tasks.semilinear_features, squashed=True),
    "lstm.quadratic": squared_errors(tasks.quadratic_features),
}


def score(name):
    """Returns `{predictor: (means [S], half-widths of 95% intervals [S])}`."""
    learner, task = zoo.load(name), recipes.recipe(name).task
    parts = [FAMILIES[name](learner, x, y) for x, y in batches(task)]
    return {
        predictor: intervals.summaries(
            np.concatenate([part[predictor] for part in parts])
        )
        for predictor in parts[0]
    }


def show(name, errors):
    """Prints the table of a family at some example indices."""
    indices = range(1, len(errors["LSTM"][0]) + 1)
    columns = [i for i in (1, 2, 3, 5, 7, 10, 15, 20, 30, 35) if i in indices]
    unit, factor = "squared error x 1e4", 1e4
    if name == "lstm.boolean":
        unit, factor = "wrong predictions (%)", 100
    rows = [
        [
            predictor,
            *(
                results.cell(factor * mean[i - 1], factor * width[i - 1])
                for i in columns
            ),
        ]
        for predictor, (mean, width) in errors.items()
    ]
    if "family's mean" in errors:
        share = errors["LSTM"][0] / errors["family's mean"][0]
        cells = [f"{100 * share[i - 1]:.1f}%" for i in columns]
        rows.append(["LSTM / family's mean", *cells])
    results.show(
        f"{name}: {unit} by example index, {FLAGS.tasks} test tasks, seed "
        f"{FLAGS.seed}, 95% intervals",
        ["predictor", *columns],
        rows,
    )


def draw(errors, axes, title):
    for predictor, (mean, width) in errors.items():
        indices = np.arange(1, len(mean) + 1)
        plots.band(axes, indices, mean, width, predictor)
    if "family's mean" in errors:
        axes.set_yscale("log")
        axes.set_ylim(bottom=errors["LSTM"][0].min() / 10)
        axes.set_ylabel("squared error")
    else:
        axes.set_ylabel("share of wrong predictions")
    axes.set_xlabel("example")
    axes.set_title(title)
    axes.legend(fontsize=8)


def main(out):
    names = results.chosen("models", FAMILIES)
    figure = matplotlib.figure.Figure((5 * len(names), 4), layout="constrained")
    panels = figure.subplots(1, len(names), squeeze=False)
    rows = []
    for name, axes in zip(names, panels[0], strict=True):
        errors = score(name)
        show(name, errors)
        draw(errors, axes, name)
        for predictor, (means, widths) in errors.items():
            for index, (mean, width) in enumerate(zip(means, widths, strict=True), 1):
                row = {"model": name, "predictor": predictor, "example": index}
                rows.append({**row, "error": mean, "error_95": width})
    results.write_picture(out / "functions.png", figure)
    results.write_csv(out / "functions.csv", rows)


if __name__ == "__main__":
    results.define_flags("functions", 2000, models=[])
    results.start(main)
