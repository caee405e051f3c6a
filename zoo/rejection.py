"""Queries that belong to no class of a task: `keras-meta learn --unknown`.

A query is rejected if a statistic of it lies below a threshold: the largest logit, the
largest probability, the energy, or for a prototypical network the negative distance to
the nearest prototype. Statistic and threshold are chosen on validation tasks in which
the queries of one more class have no support examples; the `rejection` of a card holds
them by ways and shots.

References:
    Hendrycks and Gimpel, 2017: the largest probability as the statistic.
    Liu et al., 2020: the negative energy, the logarithm of the sum of exp(logits).
    Hendrycks et al., 2022: the largest logit.
"""

import itertools

import numpy as np

from keras_meta.zoo import choice, grids, scores

SHOTS = 1, 2, 3, 5, 10
# The share of queries of a class that may be rejected.
REJECTED = 0.05
# Tasks that choose statistic and threshold, and as many others that measure the rates.
TASKS = 200


def statistics(learner, state, query_x, ways):
    """`{name: values [T, Q]}` of queries; low values suggest that they have no class.

    Args:
        learner: the learner that computed the state of T tasks.
        state: as `adapt` returns it.
        query_x: `[T, Q, ...]`.
        ways: the classes of each task.
    """
    from keras_meta import ProtoNet

    logits = np.asarray(learner.infer(state, query_x), "float64")[..., :ways]
    top = logits.max(-1)
    energy = top + np.log(np.exp(logits - top[..., None]).sum(-1))
    values = {"logit": top, "energy": energy, "probability": np.exp(top - energy)}
    if isinstance(learner, ProtoNet):
        distances = np.asarray(learner.distances(state, query_x), "float64")
        values["distance"] = -distances[..., :ways].min(-1)
    return values


def rejected(threshold, learner, parts, ways):
    """Which queries belong to no class.

    Args:
        threshold: an element of a card's `rejection`.
        learner, parts, ways: see `predictions.probabilities`.

    Returns:
        Booleans `[Q]`.
    """
    values = [
        statistics(learner, state, x, ways)[threshold["statistic"]][0]
        for state, x in parts
    ]
    return np.concatenate(values) < threshold["threshold"]


def of_task(card, ways, shots):
    """The threshold for the ways and shots of a card that are nearest by ratio.

    Args:
        card: of the model.
        ways: classes of the task.
        shots: examples of each class, the mean over classes.

    Raises:
        ValueError: a card without thresholds.
    """
    if not card.rejection:
        raise ValueError(
            f"expected a model with thresholds for unknown queries, {card.name} has "
            "none: use --unknown without --model."
        )

    def distance(threshold):
        return (
            choice.ratio(threshold["ways"], ways),
            choice.ratio(threshold["shots"], shots),
        )

    return min(card.rejection, key=distance)


def sentence(threshold, marked):
    """Reports how many queries are rejected and the error rates of the threshold.

    Args:
        threshold: as `of_task` returns it.
        marked: booleans `[Q]`.
    """
    return (
        f"{np.sum(marked)} of {len(marked)} queries seem to belong to no class. On "
        f"validation tasks of {scores.protocol(threshold)}, "
        f"{threshold['rejected']:.1%} of the queries of a class were marked so, and "
        f"{threshold['accepted']:.1%} of the queries of no class were not."
    )


def cells(ways, pool):
    """The ways and shots of a card's thresholds, a list of pairs.

    Args:
        ways: of the tasks that the entry was trained for.
        pool: its validation classes; a task needs one more than its ways.
    """
    measured = grids.cells(ways, pool)
    numbers = sorted({n for n, _ in measured if n < len(pool)})
    most = max(shots for _, shots in measured)  # of the tasks that `calibrate` draws
    return list(itertools.product(numbers, [k for k in SHOTS if k <= most]))


def calibrate(learner, pool, ways, shots, tasks=TASKS, seed=0):
    """Chooses statistic and threshold, and measures their error rates.

    The threshold of a statistic is the quantile `REJECTED` of the queries of a class.
    The statistic that then accepts the fewest queries of no class is chosen.

    Args:
        learner: an inductive entry.
        pool: its validation classes.
        ways, shots: one of `cells`.
        tasks: how many choose, and how many others measure.
        seed: of the tasks.

    Returns:
        A dict of ways, shots, statistic, threshold, rejected (the share of the queries
        of a class), accepted (the share of the queries of no class), episodes (the
        tasks that measured) and seed.
    """
    known, unknown = _values(learner, pool, ways, shots, 2 * tasks, seed)
    choices = []
    for name in known:
        threshold = np.quantile(known[name][:tasks], REJECTED)
        missed = np.mean(unknown[name][:tasks] >= threshold)
        choices.append((missed, name, float(threshold)))
    _, name, threshold = min(choices)
    return {
        "ways": ways,
        "shots": shots,
        "statistic": name,
        "threshold": threshold,
        "rejected": float(np.mean(known[name][tasks:] < threshold)),
        "accepted": float(np.mean(unknown[name][tasks:] >= threshold)),
        "episodes": tasks,
        "seed": seed,
    }


def _values(learner, pool, ways, shots, tasks, seed):
    """The statistics of the queries of a class `[tasks, q]`, and of those of none."""

    def without_last(episode, query_y):
        """The last class keeps its queries and loses its support examples."""
        import tensorflow as tf

        episode = grids.first(episode, ways + 1, shots)
        keep = tf.where(episode["support_y"] < ways)[:, 0]
        keep = tf.ensure_shape(keep, [ways * shots])
        support = {
            key: tf.gather(episode[key], keep) for key in ("support_x", "support_y")
        }
        return {**episode, **support}, query_y

    data = grids.episodes(pool, ways + 1, seed).map(without_last).take(tasks)
    known, unknown = {}, {}
    for episode, labels in data.batch(scores.BATCH):
        state = learner.adapt(episode["support_x"], episode["support_y"])
        values_by_name = statistics(learner, state, episode["query_x"], ways)
        for name, values in values_by_name.items():
            for label, value in zip(labels.numpy(), values, strict=True):
                known.setdefault(name, []).append(value[label < ways])
                unknown.setdefault(name, []).append(value[label == ways])
    return [
        {n: np.stack(rows) for n, rows in kind.items()} for kind in (known, unknown)
    ]
