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
    errors = {
        name: float(np.float32(np.abs(excess).sum() / count.sum()))
        for name, (count, excess) in bins.items()
    }
    seconds = sum(part["seconds"] * part["episodes"] for part in parts) / len(tasks)
    return {
        **first,
        "mean": mean,
        "interval": interval,
        **errors,
        "episodes": len(tasks),
        "seconds": seconds,
        "tasks": tasks,
        "bins": {name: list(sums) for name, sums in bins.items()},
    }
