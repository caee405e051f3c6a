"""Accuracy of the zoo's entries on the test classes of several data sets.

    python tools/experiments/cross_domain.py --out=runs/cross_domain

Tasks of 5 ways are drawn as uint8 images at the size of the data, and are the same for
all models. Each model resizes and inverts them with its own `preprocess.pair`, as
`keras-meta learn` does. `--models` accepts names of entries and files of learners. Two
baselines without meta-training are scored on the same tasks. Validation classes of each
data set choose the penalty of the regression. The results are a table and a CSV file
with paired differences from the regression. A cell of an entry that was trained on some
of the test classes states their number; the images of the classes are compared. The
same command resumes an interrupted run. Caltech-101 needs CALTECH101_DIR.
"""

import functools
import hashlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import baselines
import numpy as np
import results
from absl import flags
from results import FLAGS

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import intervals, named, recipes, training, transfer
from keras_meta.zoo.recipes import characters, photo_sources, sources

WAYS, QUERIES, BATCH = 5, 15, 4
# The source of each data set, and the shape of its images in tasks.
DATA = {
    "CIFAR-FS": (photo_sources.CIFAR_FS, (32, 32, 3)),
    "FC100": (photo_sources.FC100, (32, 32, 3)),
    "Caltech-101": (photo_sources.IMAGENET, (84, 84, 3)),
    "Omniglot": (characters.OMNIGLOT, (105, 105, 1)),
}
VALIDATION_TASKS = 20
# Classes of two sources are compared by their images at this size.
COMPARED_SHAPE = (32, 32, 3)


@functools.cache
def pools(data):
    """Returns preprocessing at the size of the data, and the pool of each part."""
    source, shape = DATA[data]
    preprocess = km.ImagePreprocess(*shape, invert=False)
    return preprocess, source.pools(preprocess)


def tasks(data, part, shots, count):
    """Returns a list of tasks: uint8 support images, labels, queries, query labels.

    Args:
        data: a key of `DATA`.
        part: "validation" or "test".
        shots: support examples of each class.
        count: number of tasks.
    """
    preprocess, part_pools = pools(data)
    seed = FLAGS.seed + sources.PART_SEEDS[part]
    episodes = part_pools[part].episodes(WAYS, shots, QUERIES, seed).take(count)
    return [
        (
            preprocess.unscale(episode["support_x"]).numpy(),
            episode["support_y"].numpy(),
            preprocess.unscale(episode["query_x"]).numpy(),
            query_y.numpy(),
        )
        for episode, query_y in episodes
    ]


def learner_accuracies(learner, test):
    """Returns the accuracy of a learner on each task."""
    preprocess = learner.preprocess
    encoder, learner = transfer.on_features(learner)
    features = cached_features(encoder) if encoder else lambda x: x
    accuracies = []
    for start in range(0, len(test), BATCH):
        support, labels, query, query_labels = map(
            np.stack, zip(*test[start : start + BATCH], strict=True)
        )
        support_x, query_x = map(features, preprocess.pair(support, query))
        logits = learner.infer(learner.adapt(support_x, labels), query_x)
        predictions = np.asarray(logits).argmax(-1)
        accuracies.append((predictions == query_labels).mean(1))
    return np.concatenate(accuracies)


def cached_features(encoder):
    """Returns a function that computes the features of each different image once."""
    cache = {}

    def features(x):
        images = np.reshape(x, [-1, *x.shape[2:]])
        keys = [hashlib.sha256(image.tobytes()).digest() for image in images]
        new_images = {
            key: image
            for key, image in zip(keys, images, strict=True)
            if key not in cache
        }
        if new_images:
            outputs = encoder(np.stack(list(new_images.values()))).numpy()
            cache.update(zip(new_images, outputs, strict=True))
        values = np.stack([cache[key] for key in keys])
        return values.reshape(*x.shape[:2], *values.shape[1:])

    return features


@functools.cache
def class_images(source, part):
    """Returns a list with the set of different images, as digests, of each class."""
    preprocess = km.ImagePreprocess(*COMPARED_SHAPE, invert=False)
    pool = source.pools(preprocess)[part]
    classes = []
    for class_id in np.unique(pool.class_ids):
        images = preprocess.unscale(pool.images_of(class_id)).numpy()
        classes.append({hashlib.sha256(image.tobytes()).digest() for image in images})
    return classes


def training_sources(name):
    """Returns the sources that an entry, and the entry it began from, trained on."""
    stages = recipes.recipe(name).stages
    origin = stages[0].warm_start
    return {stage.task.source for stage in stages} | (
        training_sources(origin) if origin else set()
    )


@functools.cache
def trained_classes(model, data):
    """Returns the number of test classes of a data set that a model was trained on.

    A class counts if more than half of its images belong to the training classes. The
    result is None for a file: the classes that it was trained on are not known.
    """
    if named.is_file(model):
        return None
    known = {
        image
        for source in training_sources(model)
        for images in class_images(source, "train")
        for image in images
    }
    test = class_images(DATA[data][0], "test")
    return sum(len(images & known) > len(images) / 2 for images in test)


def entry_names():
    """Returns the names of the image entries with enough outputs."""
    cards = [card for card in zoo.list_models() if card.inputs == "images"]
    return [card.name for card in cards if card.ways >= WAYS and not card.external]


def score_models(out, data, shots):
    """Scores baselines and entries on a data set: `{name: accuracy of each task}`."""
    folder = out / f"{data}-{shots}"
    folder.mkdir(exist_ok=True)
    test = tasks(data, "test", shots, FLAGS.tasks)

    def score_baselines():
        strength = baselines.best_strength(
            tasks(data, "validation", shots, VALIDATION_TASKS)
        )
        print(f"{data}, {shots} shots: {baselines.REGRESSION} has C = {strength:g}")
        functions = baselines.all_baselines(strength)
        return {
            name: np.array([function(*task) for task in test])
            for name, function in functions.items()
        }

    scores = results.stored_arrays(folder / "baselines.npz", score_baselines)
    for model in FLAGS.models or entry_names():

        def score_model(model=model):
            return {"scores": learner_accuracies(named.image_learner(model), test)}

        name = named.short(model)
        # Scores of other weights under the same name are not read.
        path = folder / f"{name}-{training.sha256_of(model)[:16]}.npz"
        scores[name] = results.stored_arrays(path, score_model)["scores"]
        mean, interval = intervals.summary(scores[name])
        print(f"{data}, {shots} shots, {name}: {mean:.3f} ± {interval:.3f}", flush=True)
    return scores


def main(out):
    settings = {"tasks": FLAGS.tasks, "seed": FLAGS.seed}
    if results.stored(out / "run.json", lambda: settings) != settings:
        results.stop(f"expected the tasks and the seed of the run in {out}.")
    rows, table = [], {}
    models = {named.short(model): model for model in FLAGS.models or entry_names()}
    for data in results.chosen("data", DATA):
        for shots in map(int, FLAGS.shots):
            try:
                scores = score_models(out, data, shots)
            except ValueError as error:
                results.stop(error)
            for name, values in scores.items():
                mean, interval = intervals.summary(100 * values)
                seen = trained_classes(models[name], data) if name in models else 0
                mark = f"\n{seen} seen" if seen else ""
                cell = results.cell(mean, interval, 1) + mark
                table.setdefault(name, {})[data, shots] = cell
                difference = intervals.difference(values, scores[baselines.REGRESSION])
                paired = intervals.summary(100 * difference)
                rows.append(
                    {"model": name, "data": data, "shots": shots}
                    | {"trained_classes": seen, "accuracy": mean}
                    | {"accuracy_95": interval, "difference": paired[0]}
                    | {"difference_95": paired[1]}
                )
    columns = list(dict.fromkeys(key for cells in table.values() for key in cells))
    results.show(
        f"Accuracy (%), {WAYS} ways, {QUERIES} queries of each class, {FLAGS.tasks} "
        f"test tasks, seed {FLAGS.seed}, 95% intervals. Seen: test classes that the "
        "entry was trained on",
        ["model", *(f"{data}\n{shots} shots" for data, shots in columns)],
        [
            [name, *(cells.get(key, "") for key in columns)]
            for name, cells in table.items()
        ],
    )
    results.write_csv(out / "cross_domain.csv", rows)


if __name__ == "__main__":
    results.define_flags("cross_domain", 200, models=[])
    flags.DEFINE_list("data", None, f"Data sets: {', '.join(DATA)}; all by default.")
    flags.DEFINE_list("shots", ["1", "5"], "Support examples of each class.")
    results.start(main)
