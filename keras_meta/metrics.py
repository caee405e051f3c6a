"""Scores of episodes: a mean over tasks and its 95% interval."""

import keras
from keras import ops

# Half-width of a 95% normal interval, in standard errors.
Z95 = 1.959964


class EpisodeMetric(keras.metrics.Metric):
    """Mean over tasks of a score of each task, or the half-width of its 95% interval.

    The interval treats a task, not a query, as the unit drawn: `1.96 s / sqrt(T)`
    with `s` the sample standard deviation of the tasks' scores. Sums are merged batch
    by batch (Chan, Golub and LeVeque, 1979), which is stable in float32.

    Args:
        interval: report the half-width of the 95% interval in place of the mean.
        name: the metric's name.
        dtype: of the sums.
    """

    def __init__(self, interval=False, name=None, dtype=None):
        super().__init__(name=name, dtype=dtype)
        self.interval = interval
        zeros = {"initializer": "zeros", "dtype": self.dtype}
        self.count = self.add_weight(name="count", **zeros)
        self.mean = self.add_weight(name="mean", **zeros)
        self.squares = self.add_weight(name="squares", **zeros)

    def score(self, y_true, y_pred):
        """One score a task, `[T]`."""
        raise NotImplementedError

    def update_state(self, y_true, y_pred, sample_weight=None):
        if sample_weight is not None:
            raise ValueError("episode metrics weigh every task alike: no weights.")
        scores = ops.cast(self.score(y_true, y_pred), self.dtype)
        added = ops.cast(ops.shape(scores)[0], self.dtype)
        mean = ops.mean(scores)
        total = self.count + added
        gap = mean - self.mean
        self.squares.assign_add(
            ops.sum(ops.square(scores - mean))
            + ops.square(gap) * self.count * added / total
        )
        self.mean.assign_add(gap * added / total)
        self.count.assign(total)

    def result(self):
        if not self.interval:
            return ops.copy(self.mean)  # not the variable, which changes
        variance = self.squares / ops.maximum(self.count - 1, 1)
        return Z95 * ops.sqrt(variance / ops.maximum(self.count, 1))

    def get_config(self):
        return {"interval": self.interval, "name": self.name, "dtype": self.dtype}


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeAccuracy(EpisodeMetric):
    """Share of a task's queries that are right, averaged over tasks.

    Call arguments:
        y_true: integer labels `[T, Q]`.
        y_pred: logits or probabilities `[T, Q, N]`.
    """

    def __init__(self, interval=False, name="accuracy", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def score(self, y_true, y_pred):
        guess = ops.cast(ops.argmax(y_pred, axis=-1), "int32")
        right = ops.equal(ops.cast(y_true, "int32"), guess)
        return ops.mean(ops.cast(right, self.dtype), axis=-1)


@keras.saving.register_keras_serializable("keras_meta")
class EpisodeSquaredError(EpisodeMetric):
    """Mean squared error of a task's queries, averaged over tasks.

    Call arguments:
        y_true: targets `[T, Q, d_y]`.
        y_pred: predictions `[T, Q, d_y]`.
    """

    def __init__(self, interval=False, name="mse", dtype=None):
        super().__init__(interval=interval, name=name, dtype=dtype)

    def score(self, y_true, y_pred):
        errors = ops.cast(y_true, self.dtype) - ops.cast(y_pred, self.dtype)
        return ops.mean(ops.square(errors), axis=(1, 2))
