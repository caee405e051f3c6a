"""Names of Keras that are private and have no public replacement.

Each is used here and nowhere else, and `tests/test_keras_private.py` fails once Keras
no longer reads it.

- `Metric._direction`, "up" or "down": what `EarlyStopping`, `ModelCheckpoint` and
  `ReduceLROnPlateau` take for "better" where they are given no `mode`.
"""


def set_direction(metric, direction):
    """Tells callbacks of Keras which way a metric gets better.

    Args:
        metric: a `keras.metrics.Metric`.
        direction: "up", "down", or None for a metric of which it is not known.

    Raises:
        ValueError: another direction.
    """
    if direction not in ("up", "down", None):
        raise ValueError(
            f"expected direction to be 'up', 'down' or None, got {direction!r}."
        )
    if direction is not None:
        metric._direction = direction
