"""Logits of classes that a task does not have, and the temperature of logits."""

from typing import Any

import tensorflow as tf

from keras_meta import settings

# Added to the logit of a class that is absent from the support set. Its probability is
# then exactly zero in float32, at every temperature. Infinity would cause NaN.
ABSENT = -1e9
TEMPERATURES = 1e-3, 1e3


def masked(logits: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
    """Masks the logits of absent classes, as `Learner.masked`.

    Args:
        logits: `[T, Q, N]`, or `[Q, N]` for one task.
        classes: number of classes present, `[T]` or a scalar.

    Returns:
        Logits of the same shape.
    """
    classes = tf.reshape(classes, [-1] + [1] * (logits.shape.rank - 1))
    return without(logits, tf.range(tf.shape(logits)[-1]) >= classes)


def without(logits: tf.Tensor, absent: tf.Tensor) -> tf.Tensor:
    """Masks the logits where `absent`, whose shape broadcasts to theirs, is True."""
    return logits + tf.where(absent, tf.cast(_absent(logits.dtype), logits.dtype), 0)


def present(logits: tf.Tensor) -> tf.Tensor:
    """Returns which classes are not masked, at any temperature."""
    return logits > _absent(logits.dtype) / (2 * max(TEMPERATURES))


def _absent(dtype):
    """`ABSENT`, or half the lowest number of a type in which that is infinite."""
    return max(ABSENT, float(dtype.min) / 2)


def outputs(learner: Any, name: str, value: Any) -> int | None:
    """Checks the setting `output_size`, the constructor's `outputs`."""
    least = 2 if learner.classification else 1
    return settings.integer(least, optional=True)(learner, "outputs", value)


def temperature(learner: Any, name: str, value: Any) -> Any:
    """Checks the setting `temperature` of a learner."""
    return check_temperature(value, learner.classification)


def check_temperature(value: float, classification: bool) -> float:
    """Checks a temperature; predictions of a regression have none, which is 1."""
    if value != 1 and not classification:
        raise ValueError(f"expected no temperature for regression, got {value!r}.")
    return settings.between(*TEMPERATURES)(None, "temperature", value)
