"""Neural processes beside the exact Gaussian process: tables and a picture.

    python tools/experiments/processes.py --out=runs/processes

On the same test tasks: the negative log-likelihood of new points by number of context
points, and how many of them the 50% and 90% intervals cover. The exact posterior of
the process that the tasks are drawn from is what no model can beat.
"""

import csv
import os
import pathlib
import statistics
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import matplotlib.figure
import numpy as np
import rich.console
import rich.table
from absl import app, flags

import keras_meta as km
from keras_meta import episodes, zoo
from keras_meta.zoo import intervals
from keras_meta.zoo.recipes import functions, sources

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/processes", "Folder of the table and the picture.")
flags.DEFINE_list(
    "models",
    ["cnp.gp_rbf", "cnp.gp_rbf-sharp", "cnp.gp_rbf-attention"],
    "Entries to score.",
)
flags.DEFINE_integer("tasks", 2000, "Tasks for each number of context points.")
flags.DEFINE_integer("seed", 0, "Seed of the tasks.")

EXACT = "exact posterior"
CONTEXTS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 15)
TRAINED = range(3, 10)  # what the entries were trained with
QUERIES, BATCH = 20, 500
LEVELS = (0.5, 0.9)
DRAWN, DRAWN_CONTEXT = 3, 6


def predictors(family):
    """`{name: (support_x, support_y, query_x) -> (mean, scale)}`, as arrays."""

    def of(learner):
        def predict(support_x, support_y, query_x):
            found = learner.infer(learner.adapt(support_x, support_y), query_x)
            return [np.asarray(v, np.float64) for v in found]

        return predict

    models = {name: of(zoo.load(name)) for name in FLAGS.models}
    return {
        **models,
        EXACT: lambda *data: [v.numpy() for v in family.posterior(*data)],
    }


def judged(mean, scale, y):
    """NLL and coverages of tasks, `[T, 1 + levels]`: means over their queries."""
    distance = np.abs(y - mean) / scale
    rows = [np.log(scale) + distance**2 / 2 + np.log(2 * np.pi) / 2]
    for level in LEVELS:
        rows.append(distance <= statistics.NormalDist().inv_cdf((1 + level) / 2))
    return np.stack([row.mean((1, 2)) for row in rows], 1)


def scored(family, models):
    """`{name: {context points: [tasks, 1 + levels]}}` on the same tasks."""
    found = {name: {} for name in models}
    for points in CONTEXTS:
        seed = FLAGS.seed + sources.PART_SEEDS["test"]
        data = family.episodes(points, QUERIES, seed).take(FLAGS.tasks).batch(BATCH)
        parts = {name: [] for name in models}
        for episode, y in data.as_numpy_iterator():
            for name, predict in models.items():
                inputs = [episode[k] for k in km.checks.INPUTS]
                parts[name].append(judged(*predict(*inputs), y))
        for name in models:
            found[name][points] = np.concatenate(parts[name])
        print(f"scored {points} context points", flush=True)
    return found


def show(found):
    console = rich.console.Console(width=160)
    table = rich.table.Table(
        title=f"NLL of new points (nats a point) by context points, {FLAGS.tasks} "
        f"tasks each, seed {FLAGS.seed}, 95% intervals"
    )
    table.add_column("predictor")
    for points in CONTEXTS:
        table.add_column(str(points), justify="right")
    for name, by_points in found.items():
        cells = [intervals.summary(by_points[points][:, 0]) for points in CONTEXTS]
        table.add_row(name, *[f"{mean:.3f}\n±{width:.3f}" for mean, width in cells])
    console.print(table)

    table = rich.table.Table(
        title=f"Over {TRAINED[0]} to {TRAINED[-1]} context points, as trained"
    )
    for title in ("predictor", "NLL", "above the exact (paired)"):
        table.add_column(title)
    for level in LEVELS:
        table.add_column(f"in the {level:.0%} interval")
    pooled = {
        name: np.mean([by_points[points] for points in TRAINED], axis=0)
        for name, by_points in found.items()
    }
    for name, rows in pooled.items():
        above = intervals.difference(rows[:, 0], pooled[EXACT][:, 0])
        cells = [intervals.summary(rows[:, 0]), statistics.summary(above)]
        shares = [intervals.summary(rows[:, 1 + i]) for i in range(len(LEVELS))]
        table.add_row(
            name,
            *[f"{mean:.3f} ± {width:.3f}" for mean, width in cells],
            *[f"{mean:.1%} ± {width:.1%}" for mean, width in shares],
        )
    console.print(table)


def draw(family, models, path):
    """The first test tasks in rows, a predictor in each column."""
    figure = matplotlib.figure.Figure(
        (4 * len(models), 2.6 * DRAWN), layout="constrained"
    )
    grid = np.linspace(-2, 2, 200, dtype=np.float32)[None, :, None]
    for row, panels in enumerate(figure.subplots(DRAWN, len(models), squeeze=False)):
        seed = episodes.fold_seed(FLAGS.seed + sources.PART_SEEDS["test"], row)
        x, y = (v.numpy() for v in family.sample(seed, 300))
        order = np.argsort(x[:, 0])
        context = x[None, :DRAWN_CONTEXT], y[None, :DRAWN_CONTEXT]
        for (name, predict), axes in zip(models.items(), panels, strict=True):
            mean, scale = (v[0, :, 0] for v in predict(*context, grid))
            for width, shade in ((1.645, 0.15), (0.674, 0.25)):
                axes.fill_between(
                    grid[0, :, 0],
                    mean - width * scale,
                    mean + width * scale,
                    color="C0",
                    alpha=shade,
                    linewidth=0,
                )
            axes.plot(x[order], y[order], color="grey", linewidth=0.8)
            axes.plot(grid[0, :, 0], mean, color="C0")
            axes.plot(*(v[0, :, 0] for v in context), "o", color="C1", markersize=5)
            axes.set_ylim(-3, 3)
            axes.set_title(name if row == 0 else "", fontsize=10)
    figure.suptitle(
        f"{DRAWN_CONTEXT} context points; bands of 50% and 90%; the function in grey",
        fontsize=10,
    )
    figure.savefig(path, dpi=120)


def main(_):
    out = pathlib.Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    family = functions.GP_RBF.family(None)
    try:
        models = predictors(family)
    except ValueError as error:
        sys.exit(f"processes: error: {error}")
    found = scored(family, models)
    show(found)
    draw(family, models, out / "processes.png")
    with (out / "processes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = ["nll", *[f"covered_{level}" for level in LEVELS]]
        head = [cell for name in names for cell in (name, f"{name}_95")]
        writer.writerow(["predictor", "context_points", *head])
        for name, by_points in found.items():
            for points, rows in by_points.items():
                cells = [intervals.summary(rows[:, i]) for i in range(len(names))]
                writer.writerow([name, points, *np.ravel(cells)])
    print(f"wrote {out / 'processes.csv'} and {out / 'processes.png'}")


if __name__ == "__main__":
    km.runtime.configure(intra_op=2)
    app.run(main)
