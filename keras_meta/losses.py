"""Losses of support and query examples."""

import math
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_meta.typing_names import TensorLike

NAMES = ("sparse_categorical_crossentropy", "mse", "gaussian")
CROSS_ENTROPIES = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
)
REDUCTIONS = ("sum_over_batch_size", "mean", "sum", "mean_with_sample_weight")


@keras.saving.register_keras_serializable("keras_meta")
class GaussianNLL(keras.losses.Loss):
    """Negative log-likelihood of a Gaussian, in nats per target dimension.

        log sigma + (y - mu)^2 / (2 sigma^2) + log(2 pi) / 2

    Args:
        reduction: as for `keras.losses.Loss`.
        name: the loss's name.
        dtype: dtype of the computation.

    Call arguments:
        y_true: targets `[..., d_y]`.
        y_pred: mean and scale, stacked: `[..., d_y, 2]`.

    Example:
        >>> loss = km.losses.GaussianNLL()
        >>> round(float(loss(np.zeros([3, 1]), np.ones([3, 1, 2]))), 4)
        1.4189
    """

    def call(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        mean, scale = y_pred[..., 0], y_pred[..., 1]
        squares = ops.square((y_true - mean) / scale) / 2
        return ops.mean(ops.log(scale) + squares + math.log(2 * math.pi) / 2, axis=-1)


def get(loss: keras.losses.Loss | str, dtype: str) -> keras.losses.Loss:
    """Returns the Keras loss of a name or a loss object.

    A name stands for the loss of network outputs: "sparse_categorical_crossentropy"
    takes logits, unlike Keras' own string; "gaussian" takes mean and scale.

    Args:
        loss: "sparse_categorical_crossentropy", "mse", "gaussian" or a
            `keras.losses.Loss`.
        dtype: dtype of a loss given by name; Keras' own default is always float32.

    Raises:
        ValueError: any other loss, a loss without a reduction, or a cross-entropy of
            probabilities or with `ignore_class`.
    """
    if isinstance(loss, dict):
        loss = keras.saving.deserialize_keras_object(loss)
    if loss == "sparse_categorical_crossentropy":
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype)
    if loss == "mse":
        return keras.losses.MeanSquaredError(dtype=dtype)
    if loss == "gaussian":
        return GaussianNLL(dtype=dtype)
    if not isinstance(loss, keras.losses.Loss):
        raise ValueError(
            f"expected loss to be one of {', '.join(NAMES)} or a keras.losses.Loss, "
            f"got {loss!r}."
        )
    if loss.reduction not in REDUCTIONS:
        raise ValueError(
            f"expected a loss of reduction {', '.join(REDUCTIONS)}, got "
            f"{loss.reduction!r}."
        )
    if isinstance(loss, CROSS_ENTROPIES) and not loss.get_config()["from_logits"]:
        raise ValueError(
            f"expected {type(loss).__name__}(from_logits=True), because learners "
            "predict logits, got from_logits=False."
        )
    if is_classification(loss) and loss.get_config()["ignore_class"] is not None:
        raise ValueError(
            "expected SparseCategoricalCrossentropy without ignore_class: give the "
            "queries that do not count a sample_weight of 0."
        )
    return loss


def require_outputs(loss: keras.losses.Loss, scale: bool) -> None:
    """Raises a ValueError if a regression loss takes outputs of another kind.

    Args:
        loss: a `keras.losses.Loss`. Losses of users are not checked.
        scale: whether the outputs are mean and scale, or predictions alone.
    """
    kind = type(loss)
    if isinstance(loss, GaussianNLL) and not scale:
        raise ValueError("expected a loss of predictions alone, got gaussian.")
    of_keras = getattr(keras.losses, kind.__name__, None) is kind
    if of_keras and scale and not is_classification(loss):
        raise ValueError(
            f"expected a loss of mean and scale, such as gaussian, got {loss.name}."
        )


def of(
    loss: keras.losses.Loss,
    y_true: TensorLike,
    y_pred: TensorLike,
    weights: TensorLike | None = None,
) -> tf.Tensor:
    """Computes the loss of this replica's tasks, a scalar.

    Keras divides its losses by the number of replicas, because it sums their gradients.
    An inner loop must not be divided: `Learner.train_step` divides the gradients
    instead.

    Args:
        loss: a `keras.losses.Loss`.
        y_true: labels or targets.
        y_pred: logits or predictions.
        weights: weights of tasks `[T]` or of queries `[T, Q]`, or None.
    """
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    if weights is not None:
        # One value a label, or a vector; Keras would align [T] with the last axis.
        rank = len(y_true.shape) - (0 if is_classification(loss) else 1)
        weights = tf.reshape(
            weights,
            tf.concat([tf.shape(weights), [1] * (rank - len(weights.shape))], 0),
        )
        weights = tf.broadcast_to(weights, tf.shape(y_true)[:rank])
    value = loss(y_true, y_pred, sample_weight=weights)
    # Keras divides means alone.
    return value * replicas if replicas > 1 and loss.reduction != "sum" else value


def of_batch(
    loss: keras.losses.Loss,
    y_true: TensorLike,
    y_pred: TensorLike,
    weights: TensorLike | None = None,
) -> tf.Tensor:
    """Computes the outer loss of this replica's tasks, a scalar; arguments as of `of`.

    `Learner.train_step` divides its gradients by the number of replicas. A sum over
    tasks is therefore multiplied by that number.
    """
    value = of(loss, y_true, y_pred, weights)
    replicas = tf.distribute.get_strategy().num_replicas_in_sync
    return value * replicas if loss.reduction == "sum" else value


def divisor(
    loss: keras.losses.Loss, tasks: int | tf.Tensor, weights: TensorLike | None
) -> tf.Tensor | None:
    """Computes Keras' divisor of the sum over T tasks, divided by T.

    With it the mean of `of_task` over tasks is Keras' loss of the whole batch.

    Args:
        loss: a `keras.losses.Loss`.
        tasks: T.
        weights: `[T, Q]` or None.

    Returns:
        A scalar, or None for the number of values in each task.
    """
    if loss.reduction == "sum":
        # `train_step` divides the gradients by the number of replicas, Keras does not.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return 1 / (tf.cast(tasks, loss.dtype) * replicas)
    if loss.reduction == "mean_with_sample_weight" and weights is not None:
        return tf.reduce_sum(tf.cast(weights, loss.dtype)) / tf.cast(tasks, loss.dtype)
    return None


def of_task(
    loss: keras.losses.Loss,
    y_true: tf.Tensor,
    y_pred: tf.Tensor,
    weights: TensorLike | None,
    divisor: tf.Tensor | None,
) -> tf.Tensor:
    """Computes the contribution of one task to the loss of a batch of tasks, a scalar.

    Args:
        loss: a `keras.losses.Loss`.
        y_true: labels or targets of the queries, `[Q, ...]`.
        y_pred: logits or predictions, `[Q, ...]`.
        weights: `[Q]`, or None.
        divisor: the result of `divisor`.
    """
    if not y_true.dtype.is_integer:
        y_true = tf.cast(y_true, loss.dtype)
    terms = loss.call(y_true, tf.cast(y_pred, loss.dtype))
    if divisor is None:
        divisor = tf.cast(tf.size(terms), terms.dtype)
    if weights is not None:
        if not terms.shape.rank:
            raise ValueError(
                f"expected {loss.name} to return a value for each query, which a "
                "sample_weight needs, got a scalar."
            )
        shape = [-1, *[1] * (terms.shape.rank - weights.shape.rank)]
        terms *= tf.reshape(tf.cast(weights, terms.dtype), shape)
    return tf.math.divide_no_nan(tf.reduce_sum(terms), divisor)


def config(loss: keras.losses.Loss | str) -> str | dict[str, Any]:
    """Returns a configuration from which `get` creates the same loss."""
    return loss if isinstance(loss, str) else keras.saving.serialize_keras_object(loss)


def is_classification(loss: keras.losses.Loss) -> bool:
    """Returns whether targets are integer labels rather than vectors."""
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
