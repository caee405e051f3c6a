"""Scores of episodes: a mean over tasks and its 95% interval."""

import keras
from keras import ops

from keras_meta import losses

# Half-width of a 95% normal interval, in standard errors.
Z95 = 1.959964


class EpisodeMetric(keras.metrics.Metric):
    """Mean over tasks of a score of each task, or the half-width of its 95% interval.

    The interval treats a task, not a query, as the unit drawn: `1.96 s / sqrt(T)`
    with `s` the sample standard deviation of the tasks' scores. The sums are float64,
    which loses nothing, and can be added up over replicas.

    Args:
        interval: report the half-width of the 95% interval in place of the mean.
        name: the metric's name.
        dtype: of the result.
    """

    def __init__(self, interval=False, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.interval = interval
        zeros = {"initializer": "zeros", "dtype": "float64"}
        self.count = self.add_weight(name="count", **zeros)
        self.total = self.add_weight(name="total", **zeros)
        self.squares = self.add_weight(name="squares", **zeros)

    def score(self, y_true, y_pred):
        """One score a task, `[T]`, or fewer where a task has none."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            raise ValueError("episode metrics weigh every task alike: no weights.")
        scores = ops.cast(self.score(y_true, y_pred), "float64")
        self.count.assign_add(ops.cast(ops.shape(scores)[0], "float64"))
        self.total.assign_add(ops.sum(scores))
        self.squares.assign_add(ops.sum(ops.square(scores)))

    def result(self):
        mean = self.total / ops.maximum(self.count, 1)
        if self.interval:
            spread = ops.maximum(self.squares - self.count * ops.square(mean), 0)
            variance = spread / ops.maximum(self.count - 1, 1)
            mean = Z95 * ops.sqrt(variance / ops.maximum(self.count, 1))
        return ops.cast(mean, self.dtype)

    def get_config(self):
        return {"interval": self.interval, "name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeAccuracy(EpisodeMetric):
    """Share of a task's queries that are right, averaged over tasks.

    Call arguments:
        y_true: integer labels `[T, Q]`, or strings of them `[T, Q, 5]`.
        y_pred: logits or probabilities `[T, Q, N]`, or `[T, Q, 5, N]`: a string is
            right if all of it is.
    """

    def __init__(self, interval=False, name="accuracy", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def score(self, y_true, y_pred):
        guess = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        right = ops.equal(ops.cast(y_true, "int32"), guess)
        if len(right.shape) == 3:
            right = ops.all(right, axis=-1)
        return ops.mean(ops.cast(right, self.dtype), axis=-1)


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeSquaredError(EpisodeMetric):
    """Mean squared error of a task's queries, averaged over tasks.

    Call arguments:
        y_true: targets `[T, Q, d_y]`.
        y_pred: predictions `[T, Q, d_y]`, or mean and scale stacked, `[T, Q, d_y, 2]`.
    """

    def __init__(self, interval=False, name="mse", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def score(self, y_true, y_pred):
        if len(y_pred.shape) > len(y_true.shape):
            y_pred = y_pred[..., 0]
        errors = ops.cast(y_true, self.dtype) - ops.cast(y_pred, self.dtype)
        return ops.mean(ops.square(errors), axis=(1, 2))


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeNLL(EpisodeMetric):
    """Negative log-likelihood of a task's queries in nats, averaged over tasks.

    Call arguments:
        y_true: targets `[T, Q, d_y]`.
        y_pred: mean and scale, stacked: `[T, Q, d_y, 2]`.
    """

    def __init__(self, interval=False, name="nll", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def score(self, y_true, y_pred):
        nll = losses.GaussianNLL(reduction=None, dtype=self.dtype)
        return ops.mean(nll(y_true, y_pred), axis=-1)


@keras.saving.register_keras_serializable("keras_meta")
class PresentationAccuracy(EpisodeMetric):
    """Accuracy when a class is seen for the k-th time, averaged over tasks.

    For the answers that `SequenceLearner.sequence` gives while it reads a support set.
    A task that shows no class k times does not count.

    Args:
        presentation: k, from 1.
        interval: as for `EpisodeMetric`.
        name: the metric's name, by default `presentation_<k>`.
        dtype: of the sums.

    Call arguments:
        y_true: integer labels `[T, S]`, or strings of them `[T, S, 5]`, in the order in
            which they were read.
        y_pred: logits or probabilities `[T, S, N]`, or `[T, S, 5, N]`.

    Reference:
        Santoro et al., 2016, table 1.
    """

    def __init__(self, presentation=1, interval=False, name=None, dtype=None):
        name = name or f"presentation_{presentation}"
        super().__init__(interval=interval, name=name, dtype=dtype)
        self.presentation = presentation

    def score(self, y_true, y_pred):
        y_true = ops.cast(y_true, "int32")
        right = ops.equal(y_true, ops.cast(ops.argmax(y_pred, axis=-1), "int32"))
        same = ops.equal(y_true[:, :, None], y_true[:, None])
        if len(y_true.shape) == 3:
            right, same = ops.all(right, axis=-1), ops.all(same, axis=-1)
        seen = ops.sum(ops.tril(ops.cast(same, "int32")), axis=-1)  # [T, S], from 1
        here = ops.cast(ops.equal(seen, self.presentation), self.dtype)
        shown = ops.sum(here, axis=-1)
        rights = ops.sum(here * ops.cast(right, self.dtype), axis=-1)
        return rights[shown > 0] / shown[shown > 0]

    def get_config(self):
        return {**super().get_config(), "presentation": self.presentation}


@keras.saving.register_keras_serializable("keras_meta")
class CalibrationError(keras.metrics.Metric):
    """Expected calibration error: how far confidences are from what comes true.

    Answers are put in bins by their confidence, the largest probability; the error is
    the mean over answers of how far the accuracy of their bin is from its confidence.

    Args:
        bins: of equal width, between 0 and 1.
        temperature: what logits are divided by.
        name: the metric's name.
        dtype: of the result.

    Call arguments:
        y_true: integer labels `[..., Q]`.
        y_pred: logits `[..., Q, N]`.

    Reference:
        Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks",
        ICML 2017, equation 3.
    """

    def __init__(self, bins=15, temperature=1.0, name="calibration_error", dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.bins = bins
        self.temperature = temperature
        zeros = {"shape": [bins], "initializer": "zeros", "dtype": "float64"}
        self.count = self.add_weight(name="count", **zeros)
        self.excess = self.add_weight(name="excess", **zeros)

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            raise ValueError("the calibration error weighs every answer alike.")
        logits = ops.cast(y_pred, "float64") / self.temperature
        confidence = ops.reshape(ops.max(ops.softmax(logits), axis=-1), [-1])
        guess = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        right = ops.reshape(ops.equal(ops.cast(y_true, "int32"), guess), [-1])
        place = ops.cast(ops.ceil(confidence * self.bins) - 1, "int32")
        here = ops.one_hot(place, self.bins, dtype="float64")
        self.count.assign_add(ops.sum(here, axis=0))
        excess = ops.cast(right, "float64") - confidence
        self.excess.assign_add(ops.sum(here * excess[:, None], axis=0))

    def result(self):
        total = ops.maximum(ops.sum(self.count), 1)
        return ops.cast(ops.sum(ops.abs(self.excess)) / total, self.dtype)

    def get_config(self):
        config = {"bins": self.bins, "temperature": self.temperature}
        return {**config, "name": self.name, "dtype": self.dtype}
