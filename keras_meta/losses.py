"""What a learner minimises on its support and query examples."""

import math

import keras
import tensorflow as tf
from keras import ops

NAMES = ("sparse_categorical_crossentropy", "mse", "gaussian")


@keras.saving.register_keras_serializable("keras_meta")
class GaussianNLL(keras.losses.Loss):
    """Negative log-likelihood of a Gaussian, in nats a target dimension.

        log sigma + (y - mu)^2 / (2 sigma^2) + log(2 pi) / 2

    Call arguments:
        y_true: targets `[..., d_y]`.
        y_pred: mean and scale, stacked: `[..., d_y, 2]`.
    """

    def call(self, y_true, y_pred):
        mean, scale = y_pred[..., 0], y_pred[..., 1]
        squares = ops.square((y_true - mean) / scale) / 2
        return ops.mean(ops.log(scale) + squares + math.log(2 * math.pi) / 2, axis=-1)


def get(loss, dtype):
    """The Keras loss of a name or a loss object.

    A name means the loss of what a network gives: "sparse_categorical_crossentropy"
    takes logits, unlike Keras' own string; "gaussian" takes mean and scale.

    Args:
        loss: "sparse_categorical_crossentropy", "mse", "gaussian" or a
            `keras.losses.Loss`.
        dtype: that a named loss computes in; Keras' own default is float32 always.

    Raises:
        ValueError: anything else.
    """
    if isinstance(loss, dict):
        loss = keras.saving.deserialize_keras_object(loss)
    if loss == "sparse_categorical_crossentropy":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
    if loss == "mse":
        return keras.losses.MeanSquaredError(dtype=dtype)
    if loss == "gaussian":
        return GaussianNLL(dtype=dtype)
    if isinstance(loss, keras.losses.Loss):
        return loss
    raise ValueError(
        f"expected loss to be one of {', '.join(NAMES)} or a keras.losses.Loss, got "
        f"{loss!r}."
    )


def of(loss, y_true, y_pred):
    """The loss of this replica's tasks, a scalar.

    Keras divides its losses by the number of replicas, because it sums their gradients.
    An inner loop must not see that: `Learner.train_step` divides the gradients instead.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    value = loss(y_true, y_pred)
    return value * replicas if replicas > 1 else value


def config(loss):
    """What `get` makes the same loss of again, for a config."""
    return loss if isinstance(loss, str) else keras.saving.serialize_keras_object(loss)


def is_classification(loss):
    """Whether targets are integer labels rather than vectors."""
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
