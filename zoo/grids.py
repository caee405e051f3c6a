"""Validation accuracy of an entry by ways and shots: the `grid` of its card."""

from keras_meta import zoo
from keras_meta.zoo import recipes, scores
from keras_meta.zoo.recipes import sources

WAYS = 2, 5, 10, 20
SHOTS = 1, 2, 5, 10, 15
# Fifteen shots and five queries use all twenty images of an Omniglot character.
QUERIES = 5
TASKS = 200


def load(name):
    """An entry and its validation classes.

    Returns:
        `(learner, ClassPool)`, of features if `transfer.on_features` separates them.
        Tasks draw their classes from the whole pool. This holds for entries of Lake's
        protocol too, although their training validates on tasks within one alphabet:
        the classes of users are from no alphabet.

    Raises:
        ValueError: no such entry, no classes of images, or data that are not available.
    """
    card = zoo.card(name)
    if card.inputs != "images":
        raise ValueError(
            f"expected a model of classes of images, {name} learns {card.inputs}."
        )
    learner = zoo.load(name)
    source = recipes.recipe(name).task.source
    pool = source.pools(learner.preprocess)["validation"]
    learner, encode = scores.on_features(learner)
    return learner, pool.encoded(**encode) if encode else pool


def cells(ways, pool):
    """The ways and shots of the grid that an entry is scored with.

    Args:
        ways: of the tasks that the entry was trained for.
        pool: its validation classes.

    Returns:
        A list of `(ways, shots)`.
    """
    most, shots = min(ways, len(pool)), _shots(pool)
    return [(n, k) for n in WAYS if n <= most for k in shots]


def score(learner, name, pool, ways, shots, tasks=TASKS, seed=0):
    """The accuracy on validation tasks of these ways and shots.

    Tasks with more shots have the same queries and more support examples: each task is
    drawn with the largest number of shots, and keeps the first examples of each class.

    Args:
        learner: the entry.
        name: of the entry.
        pool: of its validation classes.
        ways, shots: one of `cells`.
        tasks: how many.
        seed: task i is a pure function of (seed, ways, i).

    Returns:
        A dict, see `scores.measure`.
    """
    data = episodes(pool, ways, seed).map(
        lambda episode, query_y: (first(episode, ways, shots), query_y)
    )
    sizes = {"ways": ways, "shots": shots, "queries": QUERIES, "seed": seed}
    return scores.measure(learner, name, data, tasks, "accuracy", **sizes)


def episodes(pool, ways, seed=0):
    """Validation tasks with the largest number of shots, an endless dataset."""
    seed += sources.PART_SEEDS["validation"]
    return pool.episodes(ways, max(_shots(pool)), QUERIES, seed)


def first(episode, ways, shots):
    """The episode with the first `shots` support examples of each class, in order."""
    import tensorflow as tf

    x, y = episode["support_x"], episode["support_y"]
    seen = tf.cumsum(tf.one_hot(y, ways, dtype=tf.int32))
    keep = tf.where(tf.gather(seen, y, batch_dims=1) <= shots)[:, 0]
    keep = tf.ensure_shape(keep, [ways * shots])
    return {**episode, "support_x": tf.gather(x, keep), "support_y": tf.gather(y, keep)}


def _shots(pool):
    return [shots for shots in SHOTS if shots + QUERIES <= min(pool.sizes)]
