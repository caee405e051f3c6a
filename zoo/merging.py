"""Merges scores of parts of a sequence of tasks, computed on several machines."""

import numpy as np

from keras_meta.zoo import intervals

# Fields that differ from part to part; all others must be equal.
OF_A_PART = (
    "mean",
    "interval",
    "calibration",
    "tempered",
    "first",
    "episodes",
    "seconds",
)
LISTS = "tasks", "bins"


def merged(parts):
    """The score of all tasks of several parts, as `scores.evaluate` on all computes it.

    Args:
        parts: results of `scores.evaluate`, or the JSON of `keras-meta evaluate`.

    Returns:
        A dict of the same form.

    Raises:
        ValueError: parts of different evaluations, or with common tasks.
    """
    parts = sorted(parts, key=lambda part: part["first"])
    first, others = parts[0], parts[1:]
    for part in others:
        for key in (first.keys() | part.keys()) - {*OF_A_PART, *LISTS}:
            if first.get(key) != part.get(key):
                raise ValueError(
                    f"expected parts of one evaluation, got {key} = {first.get(key)!r} "
                    f"and {part.get(key)!r}."
                )
    for part, following in zip(parts, others, strict=False):
        end = part["first"] + part["episodes"]
        if end != following["first"]:
            fault = "common tasks" if end > following["first"] else "missing tasks"
            raise ValueError(
                f"expected parts that follow one another, got {fault}: one ends before "
                f"task {end}, the next begins at task {following['first']}."
            )
    tasks = np.concatenate([np.asarray(part["tasks"], "float64") for part in parts])
    mean, interval = intervals.summary(tasks)
    bins = {
        name: np.sum([part["bins"][name] for part in parts], axis=0)
        for name in first["bins"]
    }
    seconds = sum(part["seconds"] * part["episodes"] for part in parts) / len(tasks)
    return {
        **first,
        "mean": mean,
        "interval": interval,
        **{name: calibration(*sums) for name, sums in bins.items()},
        "episodes": len(tasks),
        "seconds": seconds,
        "tasks": tasks,
        "bins": {name: list(sums) for name, sums in bins.items()},
    }


def calibration(count, excess):
    """The calibration error of sums over all predictions.

    Args:
        count, excess: the sums of a `metrics.CalibrationError`, one for each bin.
    """
    from keras_meta import metrics

    error = metrics.CalibrationError(bins=len(count))
    error.count.assign(count)
    error.excess.assign(excess)
    return float(error.result())
