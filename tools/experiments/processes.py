"""Neural processes and the exact posterior of a Gaussian process.

    python tools/experiments/processes.py --out=runs/processes

All predictors are scored on the same test tasks by the negative log-likelihood of new
points by number of context points, and by the shares of new points inside the 50% and
90% intervals. The exact posterior belongs to the process that the tasks are drawn from:
its expected negative log-likelihood is the lowest possible. The results are tables, a
picture and a CSV file.
"""

import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.figure
import numpy as np
import results
from results import FLAGS

from keras_meta import checks, episodes, zoo
from keras_meta.zoo import intervals
from keras_meta.zoo.recipes import functions, sources

MODELS = ["cnp.gp_rbf", "cnp.gp_rbf-sharp", "cnp.gp_rbf-attention"]
EXACT = "exact posterior"
CONTEXTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15)
TRAINED = range(3, 10)  # numbers of context points in training
QUERIES, BATCH = 20, 500
LEVELS = (0.5, 0.9)
DRAWN, DRAWN_CONTEXT = 3, 6


def predictors(family):
    """Returns `{name: (support_x, support_y, query_x) -> (mean, scale)}`, on arrays."""

    def predictor(learner):
        def predict(support_x, support_y, query_x):
            outputs = learner.infer(learner.adapt(support_x, support_y), query_x)
            return [np.asarray(output, np.float64) for output in outputs]

        return predict

    models = {name: predictor(zoo.load(name)) for name in FLAGS.models}
    return {
        **models,
        EXACT: lambda *data: [array.numpy() for array in family.posterior(*data)],
    }


def score(mean, scale, y):
    """NLL and coverages of tasks, `[T, 1 + levels]`: means over their queries."""
    distance = np.abs(y - mean) / scale
    rows = [np.log(scale) + distance**2 / 2 + np.log(2 * np.pi) / 2]
    for level in LEVELS:
        rows.append(distance <= statistics.NormalDist().inv_cdf((1 + level) / 2))
    return np.stack([row.mean((1, 2)) for row in rows], 1)


def score_all(family, models):
    """Returns `{name: {context points: [tasks, 1 + levels]}}` on the same tasks."""
    figures = {name: {} for name in models}
    for points in CONTEXTS:
        seed = FLAGS.seed + sources.PART_SEEDS["test"]
        data = family.episodes(points, QUERIES, seed).take(FLAGS.tasks).batch(BATCH)
        parts = {name: [] for name in models}
        for episode, y in data.as_numpy_iterator():
            for name, predict in models.items():
                inputs = [episode[key] for key in checks.INPUTS]
                parts[name].append(score(*predict(*inputs), y))
        for name in models:
            figures[name][points] = np.concatenate(parts[name])
        print(f"scored {points} context points", flush=True)
    return figures


def show(figures):
    rows = []
    for name, by_points in figures.items():
        cells = [intervals.summary(by_points[points][:, 0]) for points in CONTEXTS]
        rows.append([name, *(f"{mean:.3f}\n±{width:.3f}" for mean, width in cells)])
    results.show(
        f"NLL of new points (nats a point) by context points, {FLAGS.tasks} tasks "
        f"each, seed {FLAGS.seed}, 95% intervals",
        ["predictor", *CONTEXTS],
        rows,
    )

    pooled = {
        name: np.mean([by_points[points] for points in TRAINED], axis=0)
        for name, by_points in figures.items()
    }
    rows = []
    for name, values in pooled.items():
        excess = intervals.difference(values[:, 0], pooled[EXACT][:, 0])
        nats = [intervals.summary(values[:, 0]), intervals.summary(excess)]
        shares = [intervals.summary(values[:, 1 + i]) for i in range(len(LEVELS))]
        rows.append(
            [
                name,
                *(results.cell(*pair, 3) for pair in nats),
                *(f"{mean:.1%} ± {width:.1%}" for mean, width in shares),
            ]
        )
    results.show(
        f"Over {TRAINED[0]} to {TRAINED[-1]} context points, as trained",
        [
            *("predictor", "NLL", "excess over the exact posterior (paired)"),
            *(f"in the {level:.0%} interval" for level in LEVELS),
        ],
        rows,
    )


def draw(family, models):
    """Draws the first test tasks: a row for each task, a column for each predictor."""
    figure = matplotlib.figure.Figure(
        (4 * len(models), 2.6 * DRAWN), layout="constrained"
    )
    grid = np.linspace(-2, 2, 200, dtype=np.float32)[None, :, None]
    for row, panels in enumerate(figure.subplots(DRAWN, len(models), squeeze=False)):
        seed = episodes.fold_seed(FLAGS.seed + sources.PART_SEEDS["test"], row)
        x, y = (array.numpy() for array in family.sample(seed, 300))
        order = np.argsort(x[:, 0])
        context = x[None, :DRAWN_CONTEXT], y[None, :DRAWN_CONTEXT]
        for (name, predict), axes in zip(models.items(), panels, strict=True):
            mean, scale = (array[0, :, 0] for array in predict(*context, grid))
            for width, alpha in ((1.645, 0.15), (0.674, 0.25)):
                axes.fill_between(
                    grid[0, :, 0],
                    mean - width * scale,
                    mean + width * scale,
                    color="C0",
                    alpha=alpha,
                    linewidth=0,
                )
            axes.plot(x[order], y[order], color="grey", linewidth=0.8)
            axes.plot(grid[0, :, 0], mean, color="C0")
            axes.plot(
                *(array[0, :, 0] for array in context), "o", color="C1", markersize=5
            )
            axes.set_ylim(-3, 3)
            axes.set_title(name if row == 0 else "", fontsize=10)
    figure.suptitle(
        f"{DRAWN_CONTEXT} context points; bands of 50% and 90%; the function in grey",
        fontsize=10,
    )
    return figure


def table(figures):
    """Yields the rows of the CSV file."""
    names = ["nll", *(f"covered_{level}" for level in LEVELS)]
    for predictor, by_points in figures.items():
        for points, values in by_points.items():
            row = {"predictor": predictor, "context_points": points}
            for name, column in zip(names, values.T, strict=True):
                row[name], row[f"{name}_95"] = intervals.summary(column)
            yield row


def main(out):
    family = functions.GP_RBF.family(None)
    try:
        models = predictors(family)
    except ValueError as error:
        results.stop(error)
    figures = score_all(family, models)
    show(figures)
    results.write_picture(out / "processes.png", draw(family, models))
    results.write_csv(out / "processes.csv", list(table(figures)))


if __name__ == "__main__":
    tasks = "Tasks for each number of context points."
    results.define_flags("processes", 2000, tasks, MODELS)
    results.start(main, intra_op=2)
