"""Lake's one-shot classification: twenty characters of one alphabet, two drawers.

One drawer drew the support example of each character, another drawer its query.
`episodes` draws such tasks from the twenty evaluation alphabets; `official` scores the
twenty runs that Lake, Salakhutdinov and Tenenbaum published with "Human-level concept
learning through probabilistic program induction", Science, 2015.
"""

import pathlib

import numpy as np

from keras_meta import zoo
from keras_meta.zoo import downloads, scores
from keras_meta.zoo.recipes import sources

WAYS = 20
DRAWERS = 20
RUNS = 20
LABELS = "class_labels.txt"


def checked_card(name):
    """The card of an entry that Lake's protocol can score.

    Raises:
        ValueError: no classifier of twenty classes of images, or an entry that was
            trained on the evaluation alphabets.
    """
    card = zoo.card(name)
    if card.inputs != "images" or card.ways < WAYS:
        raise ValueError(f"expected a model of {WAYS} classes of images, got {name}.")
    # The label ids of drawn glyphs are not those of Omniglot.
    omniglot = not card.procedural
    if omniglot and not set(sources.EVALUATION) <= set(card.test_classes):
        raise ValueError(
            f"expected a model that was not trained on the evaluation alphabets, "
            f"{name} was trained on some of their characters."
        )
    return card


def drawings(preprocess):
    """All images of the evaluation alphabets, by character and drawer.

    TFDS does not store the drawers, but it orders images by hashes of their file names,
    which contain them. The drawers follow from that order, and the order of the labels
    is checked.

    Returns:
        `(images, alphabets)`: uint8 `[C, 20, H, W, channels]` and the alphabet of each
        character, `[C]` strings.

    Raises:
        ValueError: data that are not available, or in another order.
    """
    import keras_meta as km

    with downloads.quiet("omniglot"):
        images, labels, names = km.sources.read_tfds("omniglot", "test", preprocess)
    from tensorflow_datasets.core import hashing

    hashed = hashing.Hasher("test").hash_key
    files = {
        (label, drawer): f"{names[label]}_{label + 1:04d}_{drawer + 1:02d}.png"
        for label in names
        for drawer in range(DRAWERS)
    }
    order = sorted(files, key=lambda file: hashed(files[file]))
    if [label for label, _ in order] != list(labels):
        raise ValueError(
            "expected TFDS omniglot 3.0.0 in the order of its file names' hashes, got "
            "another order, which does not identify the drawers."
        )
    places = {file: place for place, file in enumerate(order)}
    order = [[places[label, d] for d in range(DRAWERS)] for label in sorted(names)]
    alphabets = [names[label].rpartition("_")[0] for label in sorted(names)]
    return images[np.array(order)], np.array(alphabets)


def episodes(images, alphabets, preprocess, seed=0):
    """The endless dataset of tasks within an alphabet, between two drawers.

    Args:
        images, alphabets: see `drawings`.
        preprocess: an `ImagePreprocess`.
        seed: episode i is a pure function of (seed, i).
    """
    import tensorflow as tf

    import keras_meta as km

    known, which = np.unique(alphabets, return_inverse=True)
    members = tf.ragged.constant(
        [np.flatnonzero(which == a) for a in range(len(known))]
    )
    images = tf.constant(images)

    def draw(seed):
        seeds = tf.random.experimental.stateless_split(seed, 4)
        alphabet = tf.random.stateless_uniform([], seeds[0], 0, len(known), tf.int32)
        characters = tf.random.experimental.stateless_shuffle(
            members[alphabet], seeds[1]
        )
        characters = characters[:WAYS]
        drawers = tf.random.experimental.stateless_shuffle(tf.range(DRAWERS), seeds[2])
        support, query = (
            preprocess.scale(tf.gather(images[:, drawer], characters))
            for drawer in (drawers[0], drawers[1])
        )
        labels = tf.range(WAYS)
        order = tf.random.experimental.stateless_shuffle(labels, seeds[3])
        episode = {
            "support_x": tf.ensure_shape(support, [WAYS, *preprocess.shape]),
            "support_y": labels,
            "query_x": tf.gather(query, order),
        }
        return episode, order

    return km.episodes.stream(draw, seed, 0)


def evaluate(name, count=1000, seed=0, first=0):
    """Scores an entry on `episodes`; see `scores.evaluate` for the result."""
    checked_card(name)
    scores.check_episodes(count)
    learner = zoo.load(name)
    data = episodes(*drawings(learner.preprocess), learner.preprocess, seed)
    sizes = {"ways": WAYS, "shots": 1, "queries": 1, "seed": seed}
    return scores.measure(learner, name, data, count, "accuracy", first=first, **sizes)


def official(name, directory):
    """Scores an entry on the official runs.

    Args:
        name: of a trained entry.
        directory: contains `run01/training/class01.png`, `run01/test/item01.png`,
            `run01/class_labels.txt` and so on; images of any size.

    Returns:
        The share of errors in each run, a list.

    Raises:
        ValueError: as `evaluate`, or a folder with another layout.
    """
    import keras_meta as km

    checked_card(name)
    directory = pathlib.Path(directory)
    folders = sorted(directory.glob("run[0-9][0-9]"))
    if len(folders) != RUNS:
        raise ValueError(
            f"expected {RUNS} folders run01 ... run{RUNS} in {directory}, got "
            f"{len(folders)}."
        )
    learner = zoo.load(name)

    def images(files):
        read = [learner.preprocess.resize(km.files.load_image(f)) for f in files]
        return np.stack(read)[None]

    errors = []
    for folder in folders:
        items, labels = _labels(directory, folder)
        classes = sorted(set(labels))
        if len(classes) != WAYS or len(items) != WAYS:
            raise ValueError(
                f"expected {WAYS} items and as many classes in {folder / LABELS}, got "
                f"{len(items)} and {len(classes)}."
            )
        support_x, query_x = learner.preprocess.pair(images(classes), images(items))
        state = learner.adapt(support_x, np.arange(WAYS)[None])
        guesses = np.argmax(learner.infer(state, query_x)[0], axis=-1)
        right = [classes[g] == label for g, label in zip(guesses, labels, strict=True)]
        errors.append(1 - float(np.mean(right)))
    return errors


def _labels(directory, folder):
    """The items of a run and their classes, as paths."""
    try:
        lines = (folder / LABELS).read_text(encoding="utf-8").split("\n")
        pairs = [line.split() for line in lines if line.strip()]
        items, classes = zip(*pairs, strict=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"expected two paths in each line of {folder / LABELS}, an item and its "
            "class."
        ) from error
    return [directory / p for p in items], [directory / p for p in classes]
