"""EpisodeMetric: the base class of metrics of episodes, and their sums."""

from collections.abc import Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from keras_meta import checks, keras_private
from keras_meta.typing_names import TensorLike

# Half-width of a 95% normal interval, in standard errors.
Z95 = 1.959964


def product(weights: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Returns `weights * values`, with 0 wherever the weight is 0."""
    return ops.where(weights > 0, weights * values, 0)


def checked_predictions(
    y_true: TensorLike,
    y_pred: TensorLike,
    endings: Sequence[Sequence[int | None]],
    least: int = 2,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns targets and predictions as tensors, after validation of their shapes.

    Args:
        y_true: targets `[T, Q, ...]`.
        y_pred: predictions.
        endings: the axes that may follow those of y_true in y_pred, such as `[None]`
            for logits.
        least: least rank of y_true.

    Raises:
        ValueError: targets of a lower rank, or predictions of another shape.
    """
    y_true, y_pred = tf.convert_to_tensor(y_true), tf.convert_to_tensor(y_pred)
    true, pred = y_true.shape, y_pred.shape
    if true.rank is not None and true.rank < least:
        raise ValueError(f"expected y_true of shape [T, Q, ...], got {true}.")
    shapes = [true.concatenate(ending) for ending in endings]
    if not any(shape.is_compatible_with(pred) for shape in shapes):
        expected = " or ".join(str(shape) for shape in shapes)
        raise ValueError(
            f"expected y_pred of shape {expected} for y_true of shape {true}, got "
            f"{pred}."
        )
    return y_true, y_pred


class SumsMetric(keras.metrics.Metric):
    """A metric whose variables are sums, so that metrics merge by addition.

    Args:
        name: the metric's name.
        dtype: dtype of the result.
    """

    def merge_state(self, metrics: Iterable[keras.metrics.Metric]) -> None:
        """Adds the sums of other metrics to this one.

        Args:
            metrics: metrics of the same class and settings.

        Raises:
            ValueError: metrics of another class or with other settings.
        """
        metrics = list(metrics)
        for other in metrics:
            if type(other) is not type(self) or _settings(other) != _settings(self):
                raise ValueError(
                    f"expected metrics of the class and settings of {self.name}, got "
                    f"{other.name}."
                )
        for other in metrics:
            for mine, its in zip(self.variables, other.variables, strict=True):
                mine.assign_add(its)


def _settings(metric):
    """Returns the configuration that decides which sums a metric adds up."""
    return {**metric.get_config(), "name": None, "dtype": None, "interval": None}


class EpisodeMetric(SumsMetric):
    """The mean over tasks of a score, or the half-width of its 95% interval.

    The interval treats tasks, not queries, as independent samples: `1.96 s / sqrt(T)`
    with `s` the sample standard deviation of the tasks' scores. The sums are float64,
    so that nothing is lost, and can be added over replicas.

    With sample weights, the score of a task is the weighted mean over its queries, and
    its weight `w_t` is the mean of the weights of its queries. The result is the
    weighted mean over tasks

        m = sum_t w_t s_t / sum_t w_t

    and the half-width of its interval, with n tasks of positive weight, is

        1.96 sqrt(n / (n - 1) sum_t w_t^2 (s_t - m)^2) / sum_t w_t

    A subclass implements `query_scores`, or `score` if it only scores whole tasks. The
    class attribute `direction`, "up" or "down", states in which direction the mean
    improves, for callbacks that monitor it. A smaller interval is always better.

    Args:
        interval: if True, reports the half-width of the 95% interval instead of the
            mean.
        name: the metric's name.
        dtype: dtype of the result.

    Call arguments:
        y_true: targets, `[T, Q, ...]`.
        y_pred: predictions, `[T, Q, ...]`.
        sample_weight: weights of whole tasks `[T]`, or of queries `[T, Q]`, >= 0; None
            for equal weights. Items of weight zero have no effect.

    Raises:
        ValueError: weights of another shape, negative or not finite.
    """

    direction: str | None = None

    def __init__(
        self, interval: bool = False, name: str | None = None, dtype: str | None = None
    ) -> None:
        super().__init__(name=name, dtype=dtype)
        self.interval = interval
        keras_private.set_direction(self, "down" if interval else self.direction)
        zeros = {"initializer": "zeros", "dtype": "float64"}
        # The number of positive weights w, and the sums of w, w s, w^2, w^2 s, w^2 s^2.
        self.count = self.add_weight(name="count", **zeros)
        self.weight = self.add_weight(name="weight", **zeros)
        self.total = self.add_weight(name="total", **zeros)
        self.weight_squares = self.add_weight(name="weight_squares", **zeros)
        self.products = self.add_weight(name="products", **zeros)
        self.squares = self.add_weight(name="squares", **zeros)

    def query_scores(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """Computes one score per query, `[T, Q]`.

        Args:
            y_true: targets, `[T, Q, ...]`.
            y_pred: predictions, `[T, Q, ...]`.
        """
        raise NotImplementedError

    def score(self, y_true: TensorLike, y_pred: TensorLike) -> tf.Tensor:
        """Computes one score per task, `[T]`: the mean over its queries.

        Args:
            y_true: targets, `[T, Q, ...]`.
            y_pred: predictions, `[T, Q, ...]`.
        """
        return ops.mean(self.query_scores(y_true, y_pred), axis=-1)

    def task_scores(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the scores and weights of tasks that `update_state` adds up.

        Args:
            y_true: targets, `[T, Q, ...]`.
            y_pred: predictions, `[T, Q, ...]`.
            sample_weight: None, `[T]` or `[T, Q]`.

        Returns:
            `(scores, weights)`, each `[T]` in float64.

        Raises:
            ValueError: weights of another shape, negative or not finite.
        """
        by_query = type(self).query_scores is not EpisodeMetric.query_scores
        if not by_query or sample_weight is None or len(ops.shape(sample_weight)) != 2:
            scores = ops.cast(self.score(y_true, y_pred), "float64")
            if sample_weight is None:
                return scores, ops.ones_like(scores)
            axes = "[T] or [T, Q]" if by_query else "[T]"
            return scores, checks.checked_weights(sample_weight, scores, axes)
        scores = ops.cast(self.query_scores(y_true, y_pred), "float64")
        weights = checks.checked_weights(sample_weight, scores, "[T] or [T, Q]")
        scores = ops.sum(product(weights, scores), axis=-1)
        scores = ops.divide_no_nan(scores, ops.sum(weights, axis=-1))
        return scores, ops.mean(weights, axis=-1)

    def update_state(
        self,
        y_true: TensorLike,
        y_pred: TensorLike,
        sample_weight: TensorLike | None = None,
    ) -> None:
        scores, weights = self.task_scores(y_true, y_pred, sample_weight)
        squares = ops.square(weights)
        self.count.assign_add(ops.sum(ops.cast(weights > 0, "float64")))
        self.weight.assign_add(ops.sum(weights))
        self.total.assign_add(ops.sum(product(weights, scores)))
        self.weight_squares.assign_add(ops.sum(squares))
        self.products.assign_add(ops.sum(product(squares, scores)))
        self.squares.assign_add(ops.sum(product(squares, ops.square(scores))))

    def result(self) -> tf.Tensor:
        mean = ops.divide_no_nan(self.total, self.weight)
        if self.interval:
            spread = self.squares - 2 * mean * self.products
            spread += ops.square(mean) * self.weight_squares
            spread *= self.count / ops.maximum(self.count - 1, 1)
            deviation = ops.sqrt(ops.maximum(spread, 0))
            mean = Z95 * ops.divide_no_nan(deviation, self.weight)
        return ops.cast(mean, self.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"interval": self.interval, "name": self.name, "dtype": self.dtype}
