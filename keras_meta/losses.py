"""Losses by name: what a learner minimises on its support and query examples."""

import keras

NAMES = ("sparse_categorical_crossentropy", "mse")


def get(loss, dtype):
    """The Keras loss of a name or a loss object.

    A name means the loss of what a network gives: "sparse_categorical_crossentropy"
    takes logits, unlike Keras' own string.

    Args:
        loss: "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
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
    if isinstance(loss, keras.losses.Loss):
        return loss
    raise ValueError(
        f"expected loss to be one of {', '.join(NAMES)} or a keras.losses.Loss, got "
        f"{loss!r}."
    )


def config(loss):
    """What `get` makes the same loss of again, for a config."""
    return loss if isinstance(loss, str) else keras.saving.serialize_keras_object(loss)


def is_classification(loss):
    """Whether targets are integer labels rather than vectors."""
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
