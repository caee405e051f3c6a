"""Characters completed from some of their pixels: a table and a picture.

    python tools/experiments/completion.py --out=runs/completion

The neural process beside the k nearest known pixels and a Gaussian process, on the same
test characters and the same known pixels. What the two have to be told (k; length,
scale and noise) is chosen on validation characters, for each number of known pixels.
"""

import csv
import itertools
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import rich.console
import rich.table
from absl import app, flags

import keras_meta as km
from keras_meta import plots, tasks, zoo
from keras_meta.zoo import intervals, recipes
from keras_meta.zoo.recipes import sources

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/completion", "Folder of the table and the picture.")
flags.DEFINE_string("model", "cnp.completion_omniglot", "Entry to score.")
flags.DEFINE_integer("tasks", 500, "Test characters for each number of pixels.")
flags.DEFINE_integer("tuning_tasks", 50, "Validation characters.")
flags.DEFINE_integer("seed", 0, "Seed of the tasks.")

KNOWN = (10, 100, 300)
SIDE, BATCH, DRAWN = 28, 50, 4
NEIGHBOURS = (1, 2, 3, 5, 9)
LENGTHS, SCALES, NOISES = (0.03, 0.06, 0.1, 0.2), (0.2, 0.4), (0.05, 0.15)


def nearest(k):
    """Mean of the k nearest known pixels; it knows no scale."""

    def predict(support_x, support_y, query_x):
        apart = np.square(query_x[:, :, None] - support_x[:, None]).sum(-1)
        places = np.argsort(apart, axis=-1, kind="stable")[..., :k]
        tasks_ = np.arange(len(places))[:, None, None]
        return support_y[..., 0][tasks_, places].mean(-1)[..., None], None

    return predict


def process(length, scale, noise):
    """The posterior of a Gaussian process around the mean of the known pixels."""
    family = tasks.gaussian_process("matern32", length, scale, noise)

    def predict(support_x, support_y, query_x):
        level = support_y.mean(1, keepdims=True)
        mean, deviation = family.posterior(support_x, support_y - level, query_x)
        return mean.numpy() + level, deviation.numpy()

    return predict


def entry(learner):
    def predict(support_x, support_y, query_x):
        found = learner.infer(learner.adapt(support_x, support_y), query_x)
        return [v.numpy() for v in found]

    return predict


def judged(predict, batches):
    """Squared errors, and NLL where there is a scale, of tasks: `[T, 1 or 2]`."""
    rows = []
    for episode, y in batches:
        mean, scale = predict(*(episode[k] for k in km.checks.INPUTS))
        row = [np.square(y - mean)]
        if scale is not None:
            distance = (y - mean) / scale
            row.append(np.log(scale) + distance**2 / 2 + np.log(2 * np.pi) / 2)
        rows.append(np.stack([v.mean((1, 2)) for v in row], 1))
    return np.concatenate(rows)


def drawn(family, known, seed, count):
    """Batches of tasks, all other pixels asked."""
    data = family.episodes(known, SIDE**2 - known, seed)
    return list(data.take(count).batch(BATCH).as_numpy_iterator())


def best(settings, make, batches, column):
    """The setting with the least error (0) or NLL (1) on validation tasks."""
    return min(settings, key=lambda s: judged(make(*s), batches)[:, column].mean())


def predictors(learner, validation, known):
    """`{name: predict}`, tuned for this many known pixels."""
    seed = FLAGS.seed + sources.PART_SEEDS["validation"]
    batches = drawn(validation, known, seed, FLAGS.tuning_tasks)
    (k,) = best([(k,) for k in NEIGHBOURS], nearest, batches, 0)
    setting = best(
        list(itertools.product(LENGTHS, SCALES, NOISES)), process, batches, 1
    )
    print(f"{known} pixels: k = {k}; length, scale and noise {setting}", flush=True)
    return {
        FLAGS.model: entry(learner),
        "k nearest pixels": nearest(k),
        "Gaussian process": process(*setting),
    }


def show(found):
    table = rich.table.Table(
        title=f"All other pixels of {FLAGS.tasks} test characters, seed {FLAGS.seed}: "
        "squared error, and NLL in nats a pixel; 95% intervals"
    )
    table.add_column("predictor")
    for known in KNOWN:
        table.add_column(f"{known} pixels")
    for name in found[KNOWN[0]]:
        cells = []
        for known in KNOWN:
            parts = intervals.summaries(found[known][name]).T
            cells.append("\n".join(f"{m:.4f} ± {w:.4f}" for m, w in parts))
        table.add_row(name, *cells, end_section=True)
    rich.console.Console(width=120).print(table)


def draw(models, tests, path):
    """Characters in groups of rows; truth, what is known, then each predictor."""
    names = list(models[KNOWN[0]])
    titles = ["truth", "known", names[0], "its scale", *names[1:], "its scale"]
    rows = []
    for task in range(DRAWN):
        for known in KNOWN:
            episode, y = tests[known][0]
            episode = {key: value[task : task + 1] for key, value in episode.items()}
            x = np.concatenate([episode["support_x"], episode["query_x"]], 1)
            truth = np.concatenate([episode["support_y"], y[task : task + 1]], 1)
            row = [(x, truth), (x[:, :known], truth[:, :known])]
            for predict in models[known].values():
                found = predict(episode["support_x"], episode["support_y"], x)
                row += [(x, values) for values in found if values is not None]
            shown = [plots.placed(x[0], v[0, :, 0], (SIDE, SIDE)) for x, v in row]
            rows.append((str(known), shown))
    titles = [title.replace(".", ".\n").replace(" ", "\n") for title in titles]
    plots.images(rows, titles).savefig(path, dpi=120)


def main(_):
    out = pathlib.Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        learner, card = zoo.load(FLAGS.model), zoo.card(FLAGS.model)
        task = recipes.recipe(FLAGS.model).task
        pools = task.source.pools(learner.preprocess)
    except ValueError as error:
        sys.exit(f"completion: error: {error}")
    assert set(card.test_classes) == set(pools["test"].class_ids)
    validation, test = task.family(pools["validation"]), task.family(pools["test"])
    seed = FLAGS.seed + sources.PART_SEEDS["test"]
    models = {known: predictors(learner, validation, known) for known in KNOWN}
    tests = {known: drawn(test, known, seed, FLAGS.tasks) for known in KNOWN}
    found = {
        known: {name: judged(predict, tests[known]) for name, predict in each.items()}
        for known, each in models.items()
    }
    show(found)
    draw(models, tests, out / "completion.png")
    with (out / "completion.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["predictor", "known_pixels", "mse", "nll"])
        for known, each in found.items():
            for name, rows in each.items():
                writer.writerow([name, known, *rows.mean(0)])
    print(f"wrote {out / 'completion.csv'} and {out / 'completion.png'}")


if __name__ == "__main__":
    km.runtime.configure(intra_op=2)
    app.run(main)
