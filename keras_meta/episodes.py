"""N-way K-shot episodes: functions that draw one from a seed."""

import numpy as np
import tensorflow as tf

from keras_meta.streams import fold_seed as fold_seed
from keras_meta.streams import seeded_map as seeded_map
from keras_meta.streams import stream as stream

LABELS = ("onehot", "strings")
# A string label has five symbols, each one of five (Santoro et al., 2016).
SYMBOLS = 5


def sampler(sizes, groups, read, ways, shots, queries, labels):
    """Returns the function that draws an N-way K-shot episode from a seed.

    Args:
        sizes: number of images of each class, an int64 array `[C]`; every class has at
            least shots + queries images.
        groups: the classes of each group, a boolean array `[G, C]` (`group_members`);
            every group has at least N classes.
        read: `(classes [N], indices [N, n]) -> x [N, n, ...]`, the images of classes by
            their index within the class.
        ways: number of classes, N.
        shots: support examples per class, K.
        queries: query examples per class.
        labels: one of `LABELS`.

    Returns:
        A function `seed [2] -> (episode, query_y)`, see `ClassPool.episodes`.
    """
    classes, most, examples = len(sizes), int(np.max(sizes)), shots + queries
    groups, sizes = tf.constant(groups), tf.constant(sizes)

    def draw(seed):
        seeds = tf.unstack(tf.random.split(seed, 6))
        group = tf.random.stateless_uniform(
            [], seeds[4], maxval=len(groups), dtype=tf.int32
        )
        # The largest of uniform numbers are a uniform sample without replacement, in
        # uniformly random order: the order is the labelling.
        chance = tf.random.stateless_uniform([classes], seeds[0], dtype=tf.float64)
        _, chosen = tf.math.top_k(tf.where(groups[group], chance, -1.0), ways)
        chance = tf.random.stateless_uniform([ways, most], seeds[1], dtype=tf.float64)
        exists = tf.range(most, dtype=tf.int64) < tf.gather(sizes, chosen)[:, None]
        _, picks = tf.math.top_k(tf.where(exists, chance, -1.0), examples)
        x = read(chosen, tf.cast(picks, tf.int64))  # [N, K + queries, ...]
        y = _class_labels(labels, ways, seeds[5])
        y = tf.repeat(y[:, None], examples, axis=1)
        support_x, support_y = _shuffled(x[:, :shots], y[:, :shots], seeds[2])
        query_x, query_y = _shuffled(x[:, shots:], y[:, shots:], seeds[3])
        episode = {"support_x": support_x, "support_y": support_y}
        return {**episode, "query_x": query_x}, query_y

    return draw


def group_members(class_ids, groups=None):
    """Returns which classes are in each group, a boolean array `[G, C]`.

    Args:
        class_ids: the label id of each class, an integer array `[C]`.
        groups: `{label id: group}`; None for one group of all classes.

    Raises:
        ValueError: a class without a group.
    """
    if groups is None:
        return np.ones([1, len(class_ids)], bool)
    missing = sorted(set(class_ids.tolist()) - set(groups))
    if missing:
        raise ValueError(
            f"expected groups to have every class of the pool, {missing[:10]} are "
            "missing."
        )
    names = [groups[int(class_id)] for class_id in class_ids]
    _, indices = np.unique(names, return_inverse=True)
    return np.arange(indices.max() + 1)[:, None] == indices


def _class_labels(labels, ways, seed):
    """Returns the label of each class: 0..N-1 `[N]`, or random strings `[N, 5]`."""
    if labels == "onehot":
        return tf.range(ways, dtype=tf.int32)
    chance = tf.random.stateless_uniform([SYMBOLS**SYMBOLS], seed)
    _, strings = tf.math.top_k(chance, ways)
    return strings[:, None] // SYMBOLS ** tf.range(SYMBOLS)[::-1] % SYMBOLS


def _shuffled(x, y, seed):
    """Flattens `[N, k, ...]` to `[N k, ...]`, x and y in the same random order."""
    n = y.shape[0] * y.shape[1]
    _, order = tf.math.top_k(
        tf.random.stateless_uniform([n], seed, dtype=tf.float64), n
    )
    return [tf.gather(tf.reshape(v, [n, *v.shape[2:]]), order) for v in (x, y)]
