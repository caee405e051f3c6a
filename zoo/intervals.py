"""Statistics of scores over tasks: intervals, paired differences, corrections."""

import math

import numpy as np


def summary(tasks):
    """Mean over tasks, and half the width of its 95% interval."""
    from keras_meta import metrics

    tasks = np.asarray(tasks, "float64")
    deviation = tasks.std(ddof=1) / len(tasks) ** 0.5
    return float(tasks.mean()), float(metrics.Z95 * deviation)


def summaries(values):
    """The `summary` of each column of `[tasks, K]`: means and half-widths, `[2, K]`."""
    return np.transpose([summary(column) for column in np.transpose(values)])


def proportion(right, count):
    """The 95% interval of a proportion, `(low, high)` (Wilson, 1927)."""
    from keras_meta import metrics

    z = metrics.Z95**2 / count
    centre, spread = right / count + z / 2, right / count * (1 - right / count)
    width = (z * spread + z**2 / 4) ** 0.5
    return (centre - width) / (1 + z), (centre + width) / (1 + z)


def difference(tasks, others):
    """The difference of two scores, task by task, `[T, ...]`.

    Args:
        tasks, others: scores of the same tasks in the same order, `[T, ...]`.

    Raises:
        ValueError: different numbers of tasks.
    """
    tasks, others = np.asarray(tasks, "float64"), np.asarray(others, "float64")
    if tasks.shape != others.shape:
        raise ValueError(
            f"expected scores of the same tasks, got {list(tasks.shape)} and "
            f"{list(others.shape)}."
        )
    return tasks - others


def p_value(mean, interval):
    """The two-sided p-value of the hypothesis that the true mean is zero.

    Args:
        mean: over tasks.
        interval: half the width of its 95% interval.
    """
    from keras_meta import metrics

    if interval == 0:
        return float(mean == 0)
    return math.erfc(abs(mean) * metrics.Z95 / interval / 2**0.5)


def holm(p_values):
    """Holm's correction of the p-values of several comparisons, in their order.

    Reference:
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    adjusted = np.maximum.accumulate(np.asarray(p_values)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(adjusted, 1)
    return corrected.tolist()


def over_seeds(pairs):
    """Whether one method is better than another: "better", "worse" or "open".

    Args:
        pairs: `(mean, half-width)` of the paired difference for each training seed. The
            result is "better" if every interval is above zero, and "worse" if every
            interval is below.
    """
    if pairs and all(mean > width for mean, width in pairs):
        return "better"
    if pairs and all(mean < -width for mean, width in pairs):
        return "worse"
    return "open"
