"""Metrics of episodes: the mean over tasks and its 95% interval."""

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_meta import checks, episode_metric, keras_private, losses, steps
from keras_meta.episode_metric import Z95 as Z95
from keras_meta.episode_metric import EpisodeMetric as EpisodeMetric
from keras_meta.typing_names import TensorLike

# Axes of predictions after those of the targets.
LOGITS = [[None]]
MEAN_AND_SCALE = [[2]]


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeAccuracy(EpisodeMetric):
    """Share of a task's queries that are classified correctly, averaged over tasks.

    Args:
        interval: if True, reports the half-width of the 95% interval instead of the
            mean.
        name: the metric's name.
        dtype: dtype of the result.

    Call arguments:
        y_true: integer labels `[T, Q]`, or strings of them `[T, Q, 5]`.
        y_pred: logits or probabilities `[T, Q, N]`, or `[T, Q, 5, N]`; a string is
            correct if all its symbols are.
        sample_weight: weights of tasks `[T]` or queries `[T, Q]`, >= 0; None for equal
            weights.

    Example:
        >>> metric = km.metrics.EpisodeAccuracy()
        >>> metric.update_state([[0, 1]], [[[2.0, 1.0], [3.0, 1.0]]])
        >>> float(metric.result())
        0.5
    """

    direction = "up"

    def __init__(
        self, interval: bool = False, name: str = "accuracy", dtype: str | None = None
    ) -> None:
        super().__init__(interval=interval, name=name, dtype=dtype)

    def query_scores(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        y_true, y_pred = episode_metric.checked_predictions(y_true, y_pred, LOGITS)
        predicted = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        correct = ops.equal(ops.cast(y_true, "int32"), predicted)
        if len(correct.shape) == 3:
            correct = ops.all(correct, axis=-1)
        return ops.cast(correct, self.dtype)


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeSquaredError(EpisodeMetric):
    """Mean squared error of a task's queries, averaged over tasks.

    Args:
        interval: if True, reports the half-width of the 95% interval instead of the
            mean.
        name: the metric's name.
        dtype: dtype of the result.

    Call arguments:
        y_true: targets `[T, Q, d_y]`.
        y_pred: predictions `[T, Q, d_y]`, or mean and scale stacked, `[T, Q, d_y, 2]`.
        sample_weight: weights of tasks `[T]` or queries `[T, Q]`, >= 0; None for equal
            weights.
    """

    direction = "down"

    def __init__(
        self, interval: bool = False, name: str = "mse", dtype: str | None = None
    ) -> None:
        super().__init__(interval=interval, name=name, dtype=dtype)

    def query_scores(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        y_true, y_pred = episode_metric.checked_predictions(
            y_true, y_pred, [[], *MEAN_AND_SCALE]
        )
        if len(y_pred.shape) > len(y_true.shape):
            y_pred = y_pred[..., 0]
        errors = ops.cast(y_true, self.dtype) - ops.cast(y_pred, self.dtype)
        return ops.mean(ops.square(errors), axis=-1)


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeNLL(EpisodeMetric):
    """Mean negative log-likelihood of a task's queries in nats, averaged over tasks.

    Args:
        interval: if True, reports the half-width of the 95% interval instead of the
            mean.
        name: the metric's name.
        dtype: dtype of the result.

    Call arguments:
        y_true: targets `[T, Q, d_y]`.
        y_pred: mean and scale, stacked: `[T, Q, d_y, 2]`.
        sample_weight: weights of tasks `[T]` or queries `[T, Q]`, >= 0; None for equal
            weights.
    """

    direction = "down"

    def __init__(
        self, interval: bool = False, name: str = "nll", dtype: str | None = None
    ) -> None:
        super().__init__(interval=interval, name=name, dtype=dtype)

    def query_scores(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        y_true, y_pred = episode_metric.checked_predictions(
            y_true, y_pred, MEAN_AND_SCALE
        )
        return losses.GaussianNLL(reduction=None, dtype=self.dtype)(y_true, y_pred)


@keras.saving.register_keras_serializable("keras_meta")
class PresentationAccuracy(EpisodeMetric):
    """Accuracy when a class is presented for the k-th time, averaged over tasks.

    It scores the predictions that `SequenceLearner.sequence` returns. Tasks that
    present no class k times do not count.

    Args:
        presentation: k, from 1.
        interval: if True, reports the half-width of the 95% interval instead of the
            mean.
        name: the metric's name, by default `presentation_<k>`.
        dtype: dtype of the result.

    Call arguments:
        y_true: integer labels `[T, S]`, or strings of them `[T, S, 5]`, in reading
            order.
        y_pred: logits or probabilities `[T, S, N]`, or `[T, S, 5, N]`.
        sample_weight: weights of whole tasks `[T]`, >= 0; None for equal weights.

    Raises:
        ValueError: `presentation` is not an integer >= 1.

    Reference:
        Santoro et al., 2016, table 1.
    """

    direction = "up"

    def __init__(
        self,
        presentation: int = 1,
        interval: bool = False,
        name: str | None = None,
        dtype: str | None = None,
    ) -> None:
        checks.check_integer("presentation", presentation, 1)
        name = name or f"presentation_{presentation}"
        super().__init__(interval=interval, name=name, dtype=dtype)
        self.presentation = presentation

    def _presented(self, y_true, y_pred):
        """Counts the classes that each task presents k times, and the correct ones."""
        y_true, y_pred = episode_metric.checked_predictions(y_true, y_pred, LOGITS)
        y_true = ops.cast(y_true, "int32")
        correct = ops.equal(y_true, ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        same = ops.equal(y_true[:, :, None], y_true[:, None])
        if len(y_true.shape) == 3:
            correct, same = ops.all(correct, axis=-1), ops.all(same, axis=-1)
        # The number of times that the class was presented so far, from 1, [T, S].
        count = ops.sum(ops.tril(ops.cast(same, "int32")), axis=-1)
        presented = ops.cast(ops.equal(count, self.presentation), self.dtype)
        correct = ops.sum(presented * ops.cast(correct, self.dtype), axis=-1)
        return ops.sum(presented, axis=-1), correct

    def score(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """Computes one score for each task that presents a class k times.

        Args:
            y_true: labels `[T, S]` or `[T, S, 5]`.
            y_pred: logits or probabilities `[T, S, N]` or `[T, S, 5, N]`.
        """
        presented, correct = self._presented(y_true, y_pred)
        return correct[presented > 0] / presented[presented > 0]

    def task_scores(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        presented, correct = self._presented(y_true, y_pred)
        scores = ops.cast(ops.divide_no_nan(correct, presented), "float64")
        weights = ops.cast(presented > 0, "float64")
        if sample_weight is not None:
            weights *= checks.checked_weights(sample_weight, scores, "[T]")
        return scores, weights

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "presentation": self.presentation}


@keras.saving.register_keras_serializable("keras_meta")
class CalibrationError(episode_metric.SumsMetric):
    """Expected calibration error: mean difference between confidence and accuracy.

    Predictions are sorted into bins by their confidence, the largest probability. The
    error is the mean over predictions of the absolute difference between the accuracy
    and the mean confidence of their bin.

    Args:
        bins: number of bins of equal width between 0 and 1.
        temperature: divisor of the logits, above 0.
        name: the metric's name.
        dtype: dtype of the result.

    Call arguments:
        y_true: integer labels `[T, Q]`, or with any leading axes.
        y_pred: logits `[T, Q, N]`.
        sample_weight: weights of predictions `[T, Q]`, or `[T]` for all predictions of
            a task, >= 0; None for equal weights.

    Reference:
        Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks",
        ICML 2017, equation 3.

    Raises:
        ValueError: `bins` is not an integer >= 1, or `temperature` not above 0.
    """

    def __init__(
        self,
        bins: int = 15,
        temperature: float = 1.0,
        name: str = "calibration_error",
        dtype: str | None = None,
    ) -> None:
        checks.check_integer("bins", bins, 1)
        steps.check_positive("temperature", temperature)
        super().__init__(name=name, dtype=dtype)
        self.bins = bins
        self.temperature = temperature
        keras_private.set_direction(self, "down")
        zeros = {"shape": [bins], "initializer": "zeros", "dtype": "float64"}
        self.count = self.add_weight(name="count", **zeros)
        self.excess = self.add_weight(name="excess", **zeros)

    def update_state(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
    ) -> None:
        y_true, y_pred = episode_metric.checked_predictions(
            y_true, y_pred, LOGITS, least=0
        )
        y_true = ops.cast(y_true, "int32")
        weights = ops.ones_like(y_true, dtype="float64")
        if sample_weight is not None:
            weights = self._weights(sample_weight, y_true)
        weights = ops.reshape(weights, [-1])
        logits = ops.cast(y_pred, "float64") / self.temperature
        confidence = ops.reshape(ops.max(ops.softmax(logits), axis=-1), [-1])
        predicted = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        correct = ops.reshape(ops.equal(y_true, predicted), [-1])
        bins = ops.cast(ops.ceil(confidence * self.bins) - 1, "int32")
        members = ops.one_hot(bins, self.bins, dtype="float64")
        self.count.assign_add(ops.sum(members * weights[:, None], axis=0))
        excess = episode_metric.product(
            weights, ops.cast(correct, "float64") - confidence
        )
        self.excess.assign_add(ops.sum(members * excess[:, None], axis=0))

    @staticmethod
    def _weights(sample_weight, y_true):
        """Returns weights with the shape of the labels."""
        axes = "[T] or [T, Q]"
        if len(ops.shape(sample_weight)) == 1 and len(y_true.shape) > 1:
            rest = list(range(1, len(y_true.shape)))
            tasks = ops.sum(y_true, axis=rest)  # [T]
            weights = checks.checked_weights(sample_weight, tasks, axes)
            weights = ops.expand_dims(weights, rest)
            return ops.broadcast_to(weights, ops.shape(y_true))
        return checks.checked_weights(sample_weight, y_true, axes)

    def result(self) -> tf.Tensor:
        error = ops.sum(ops.abs(self.excess))
        return ops.cast(ops.divide_no_nan(error, ops.sum(self.count)), self.dtype)

    def get_config(self) -> dict[str, Any]:
        config = {"bins": self.bins, "temperature": self.temperature}
        return {**config, "name": self.name, "dtype": self.dtype}
