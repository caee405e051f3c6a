"""Completion of characters from some known pixels.

    python tools/experiments/completion.py --out=runs/completion

A neural process, the k nearest known pixels, and a Gaussian process predict the same
test characters from the same known pixels. Validation characters choose k, and the
length, scale and noise of the Gaussian process, for each number of known pixels.
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
    """Returns a predictor: the mean of the k nearest known pixels, without a scale."""

    def predict(support_x, support_y, query_x):
        distances = np.square(query_x[:, :, None] - support_x[:, None]).sum(-1)
        neighbours = np.argsort(distances, axis=-1, kind="stable")[..., :k]
        task_indices = np.arange(len(neighbours))[:, None, None]
        return support_y[..., 0][task_indices, neighbours].mean(-1)[..., None], None

    return predict


def process(length, scale, noise):
    """Returns a predictor: a Gaussian process around the mean of the known pixels."""
    family = tasks.gaussian_process("matern32", length, scale, noise)

    def predict(support_x, support_y, query_x):
        pixel_mean = support_y.mean(1, keepdims=True)
        mean, deviation = family.posterior(support_x, support_y - pixel_mean, query_x)
        return mean.numpy() + pixel_mean, deviation.numpy()

    return predict


def model_predictor(learner):
    def predict(support_x, support_y, query_x):
        outputs = learner.infer(learner.adapt(support_x, support_y), query_x)
        return [output.numpy() for output in outputs]

    return predict


def score(predict, batches):
    """Squared error, and NLL if there is a scale, of each task, `[T, 1 or 2]`."""
    rows = []
    for episode, y in batches:
        mean, scale = predict(*(episode[name] for name in checks.INPUTS))
        errors = [np.square(y - mean)]
        if scale is not None:
            distance = (y - mean) / scale
            errors.append(np.log(scale) + distance**2 / 2 + np.log(2 * np.pi) / 2)
        rows.append(np.stack([values.mean((1, 2)) for values in errors], 1))
    return np.concatenate(rows)


def task_batches(family, known, seed, count):
    """Returns batches of tasks whose queries are all other pixels."""
    data = family.episodes(known, SIDE**2 - known, seed)
    return list(data.take(count).batch(BATCH).as_numpy_iterator())


def best(settings, build, batches, column):
    """Returns the setting with the least error (column 0) or NLL (column 1)."""
    return min(
        settings, key=lambda setting: score(build(*setting), batches)[:, column].mean()
    )


def predictors(learner, validation, known):
    """Returns `{name: predict}`, tuned for this number of known pixels."""
    seed = FLAGS.seed + sources.PART_SEEDS["validation"]
    batches = task_batches(validation, known, seed, FLAGS.tuning_tasks)
    (k,) = best([(k,) for k in NEIGHBOURS], nearest, batches, 0)
    setting = best(
        list(itertools.product(LENGTHS, SCALES, NOISES)), process, batches, 1
    )
    print(f"{known} pixels: k = {k}; length, scale and noise {setting}", flush=True)
    return {
        FLAGS.model: model_predictor(learner),
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
    """Draws rows of characters; columns: truth, known pixels, each predictor."""
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
            panels = [
                plots.placed(x[0], values[0, :, 0], (SIDE, SIDE)) for x, values in row
            ]
            rows.append((str(known), panels))
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
    tests = {known: task_batches(test, known, seed, FLAGS.tasks) for known in KNOWN}
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
    unit = "Test characters for each number of known pixels."
    results.define_flags("completion", 500, unit)
    flags.DEFINE_string("model", "cnp.completion_omniglot", "Entry to score.")
    flags.DEFINE_integer("tuning_tasks", 50, "Validation characters.")
    results.start(main, intra_op=2)
