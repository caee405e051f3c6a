"""Metrics of episodes: the mean over tasks and its 95% interval."""

import keras
from keras import ops

from keras_meta import checks, keras_private, losses

# Half-width of a 95% normal interval, in standard errors.
Z95 = 1.959964


def _product(weights, values):
    """Returns `weights * values`, with 0 wherever the weight is 0."""
    return ops.where(weights > 0, weights * values, 0)


class _SumsMetric(keras.metrics.Metric):
    """A metric whose variables are sums, so that metrics merge by addition."""

    def merge_state(self, metrics):
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


class EpisodeMetric(_SumsMetric):
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

    direction = None

    def __init__(self, interval=False, name=None, dtype=None):
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

    def query_scores(self, y_true, y_pred):
        """Computes one score per query, `[T, Q]`.

        Args:
            y_true: targets, `[T, Q, ...]`.
            y_pred: predictions, `[T, Q, ...]`.
        """
        raise NotImplementedError

    def score(self, y_true, y_pred):
        """Computes one score per task, `[T]`: the mean over its queries.

        Args:
            y_true: targets, `[T, Q, ...]`.
            y_pred: predictions, `[T, Q, ...]`.
        """
        return ops.mean(self.query_scores(y_true, y_pred), axis=-1)

    def task_scores(self, y_true, y_pred, sample_weight=None):
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
        scores = ops.sum(_product(weights, scores), axis=-1)
        scores = ops.divide_no_nan(scores, ops.sum(weights, axis=-1))
        return scores, ops.mean(weights, axis=-1)

    def update_state(self, y_true, y_pred, sample_weight=None):
        scores, weights = self.task_scores(y_true, y_pred, sample_weight)
        squares = ops.square(weights)
        self.count.assign_add(ops.sum(ops.cast(weights > 0, "float64")))
        self.weight.assign_add(ops.sum(weights))
        self.total.assign_add(ops.sum(_product(weights, scores)))
        self.weight_squares.assign_add(ops.sum(squares))
        self.products.assign_add(ops.sum(_product(squares, scores)))
        self.squares.assign_add(ops.sum(_product(squares, ops.square(scores))))

    def result(self):
        mean = ops.divide_no_nan(self.total, self.weight)
        if self.interval:
            spread = self.squares - 2 * mean * self.products
            spread += ops.square(mean) * self.weight_squares
            spread *= self.count / ops.maximum(self.count - 1, 1)
            deviation = ops.sqrt(ops.maximum(spread, 0))
            mean = Z95 * ops.divide_no_nan(deviation, self.weight)
        return ops.cast(mean, self.dtype)

    def get_config(self):
        return {"interval": self.interval, "name": self.name, "dtype": self.dtype}


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

    def __init__(self, interval=False, name="accuracy", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def query_scores(self, y_true, y_pred):
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

    def __init__(self, interval=False, name="mse", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def query_scores(self, y_true, y_pred):
        if len(y_pred.shape) > len(y_true.shape):
            y_pred = y_pred[..., 0]
        errors = ops.cast(y_true, self.dtype) - ops.cast(y_pred, self.dtype)
        return ops.mean(ops.square(errors), axis=-1)


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeNLL(EpisodeMetric):
    """Negative log-likelihood of a task's queries in nats, averaged over tasks.

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

    def __init__(self, interval=False, name="nll", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def query_scores(self, y_true, y_pred):
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

    Reference:
        Santoro et al., 2016, table 1.
    """

    direction = "up"

    def __init__(self, presentation=1, interval=False, name=None, dtype=None):
        name = name or f"presentation_{presentation}"
        super().__init__(interval=interval, name=name, dtype=dtype)
        self.presentation = presentation

    def _presented(self, y_true, y_pred):
        """Counts the classes that each task presents k times, and the correct ones."""
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

    def score(self, y_true, y_pred):
        """Computes one score for each task that presents a class k times.

        Args:
            y_true: labels `[T, S]` or `[T, S, 5]`.
            y_pred: logits or probabilities `[T, S, N]` or `[T, S, 5, N]`.
        """
        presented, correct = self._presented(y_true, y_pred)
        return correct[presented > 0] / presented[presented > 0]

    def task_scores(self, y_true, y_pred, sample_weight=None):
        presented, correct = self._presented(y_true, y_pred)
        scores = ops.cast(ops.divide_no_nan(correct, presented), "float64")
        weights = ops.cast(presented > 0, "float64")
        if sample_weight is not None:
            weights *= checks.checked_weights(sample_weight, scores, "[T]")
        return scores, weights

    def get_config(self):
        return {**super().get_config(), "presentation": self.presentation}


@keras.saving.register_keras_serializable("keras_meta")
class CalibrationError(_SumsMetric):
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
    """

    def __init__(self, bins=15, temperature=1.0, name="calibration_error", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.bins = bins
        self.temperature = temperature
        keras_private.set_direction(self, "down")
        zeros = {"shape": [bins], "initializer": "zeros", "dtype": "float64"}
        self.count = self.add_weight(name="count", **zeros)
        self.excess = self.add_weight(name="excess", **zeros)

    def update_state(self, y_true, y_pred, sample_weight=None):
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
        excess = _product(weights, ops.cast(correct, "float64") - confidence)
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

    def result(self):
        error = ops.sum(ops.abs(self.excess))
        return ops.cast(ops.divide_no_nan(error, ops.sum(self.count)), self.dtype)

    def get_config(self):
        config = {"bins": self.bins, "temperature": self.temperature}
        return {**config, "name": self.name, "dtype": self.dtype}
