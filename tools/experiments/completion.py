"""Completion of characters from some of their pixels.

    python tools/experiments/completion.py --out=runs/completion

A neural process, the k nearest known pixels, and a Gaussian process predict the same
test characters from the same known pixels. The settings of the last two (k; length,
scale and noise) are chosen on validation characters, for each number of known pixels.
The results are a table, a picture and a CSV file.
"""

import itertools
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import results
from absl import flags
from results import FLAGS

from keras_meta import checks, plots, tasks, zoo
from keras_meta.zoo import intervals, recipes
from keras_meta.zoo.recipes import sources

KNOWN = (10, 100, 300)
SIDE, BATCH, DRAWN = 28, 50, 4
NEIGHBOURS = (1, 2, 3, 5, 9)
LENGTHS, SCALES, NOISES = (0.03, 0.06, 0.1, 0.2), (0.2, 0.4), (0.05, 0.15)


def nearest(k):
    """Mean of the k nearest known pixels, without a scale."""

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
        outputs = learner.infer(learner.adapt(support_x, support_y), query_x)
        return [v.numpy() for v in outputs]

    return predict


def score(predict, batches):
    """Squared error, and NLL if there is a scale, of each task: `[T, 1 or 2]`."""
    rows = []
    for episode, y in batches:
        mean, scale = predict(*(episode[k] for k in checks.INPUTS))
        row = [np.square(y - mean)]
        if scale is not None:
            distance = (y - mean) / scale
            row.append(np.log(scale) + distance**2 / 2 + np.log(2 * np.pi) / 2)
        rows.append(np.stack([v.mean((1, 2)) for v in row], 1))
    return np.concatenate(rows)


def drawn(family, known, seed, count):
    """Batches of tasks whose queries are all other pixels."""
    data = family.episodes(known, SIDE**2 - known, seed)
    return list(data.take(count).batch(BATCH).as_numpy_iterator())


def best(settings, make, batches, column):
    """The setting with the least error (0) or NLL (1) on validation tasks."""
    return min(settings, key=lambda s: score(make(*s), batches)[:, column].mean())


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


def show(figures):
    rows = []
    for name in figures[KNOWN[0]]:
        cells = []
        for known in KNOWN:
            pairs = intervals.summaries(figures[known][name]).T
            cells.append("\n".join(results.cell(*pair, 4) for pair in pairs))
        rows.append([name, *cells])
    results.show(
        f"All other pixels of {FLAGS.tasks} test characters, seed {FLAGS.seed}: "
        "squared error, and NLL in nats a pixel; 95% intervals",
        ["predictor", *(f"{known} pixels" for known in KNOWN)],
        rows,
    )


def draw(models, tests):
    """Characters in groups of rows; columns: truth, known pixels, each predictor."""
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
                outputs = predict(episode["support_x"], episode["support_y"], x)
                row += [(x, values) for values in outputs if values is not None]
            shown = [plots.placed(x[0], v[0, :, 0], (SIDE, SIDE)) for x, v in row]
            rows.append((str(known), shown))
    titles = [title.replace(".", ".\n").replace(" ", "\n") for title in titles]
    return plots.images(rows, titles)


def main(out):
    try:
        learner, card = zoo.load(FLAGS.model), zoo.card(FLAGS.model)
        task = recipes.recipe(FLAGS.model).task
        pools = task.source.pools(learner.preprocess)
    except ValueError as error:
        results.stop(error)
    assert set(card.test_classes) == set(pools["test"].class_ids)
    validation, test = task.family(pools["validation"]), task.family(pools["test"])
    seed = FLAGS.seed + sources.PART_SEEDS["test"]
    models = {known: predictors(learner, validation, known) for known in KNOWN}
    tests = {known: drawn(test, known, seed, FLAGS.tasks) for known in KNOWN}
    figures = {
        known: {name: score(predict, tests[known]) for name, predict in by_name.items()}
        for known, by_name in models.items()
    }
    show(figures)
    results.write_picture(out / "completion.png", draw(models, tests))
    rows = []
    for known, by_name in figures.items():
        for name, values in by_name.items():
            mse, *nll = values.mean(0)
            row = {"predictor": name, "known_pixels": known, "mse": mse}
            rows.append({**row, "nll": nll[0] if nll else ""})
    results.write_csv(out / "completion.csv", rows)


if __name__ == "__main__":
    unit = "Test characters for each number of pixels."
    results.define_flags("completion", 500, unit)
    flags.DEFINE_string("model", "cnp.completion_omniglot", "Entry to score.")
    flags.DEFINE_integer("tuning_tasks", 50, "Validation characters.")
    results.start(main, intra_op=2)
