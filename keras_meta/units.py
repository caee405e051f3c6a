"""StandardUnits: converts points of any units to those of meta-training, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_meta import checks
from keras_meta.typing_names import Predictions, TensorLike

if TYPE_CHECKING:
    from keras_meta.learner import Learner


@keras.saving.register_keras_serializable("keras_meta")
class StandardUnits:
    """Scales each task by its own support points, in float64.

    As `point_units` of a regression learner, this object scales the points of a task
    and the predictions back. The learner must be meta-trained on such x and y:

        x' = clip((x - centre) / unit, -end, end),   y' = (y - middle) / spread

    The x' of the support points cover `[-known, known]`; their y' have mean 0 and
    standard deviation 1. The units depend on the support points alone, so that no
    prediction depends on the other queries. A query beyond the range is predicted at
    the end of the range. Points are centred before the conversion to float32, which
    preserves the differences of time stamps.

    Args:
        end: the largest absolute x in meta-training.
        known: the absolute x of the outermost support points, at most `end`.

    Raises:
        ValueError: not `0 < known <= end`, or an infinity.

    Example:
        >>> encoder = km.networks.mlp((2,), 8, (16,))
        >>> decoder = km.networks.mlp((9,), 2, (16,))
        >>> learner = km.CNP(encoder, decoder, point_units=km.StandardUnits())
        >>> x, y = np.array([[[2000.0], [2010.0]]]), np.array([[[5.0], [7.0]]])
        >>> state = learner.point_units.adapt(learner, x, y)
        >>> mean, scale = learner.point_units.infer(learner, state, [[[2005.0]]])
        >>> mean.shape
        TensorShape([1, 1, 1])
    """

    def __init__(self, end: float = 2.0, known: float = 1.6) -> None:
        if not 0 < known <= end < float("inf"):
            raise ValueError(
                f"expected 0 < known <= end, got known={known!r} and end={end!r}."
            )
        self.end = end
        self.known = known

    def fit(self, support_x: tf.Tensor, support_y: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the units of T tasks.

        Args:
            support_x: float64 `[T, S, d_x]`.
            support_y: float64 `[T, S, d_y]`.

        Returns:
            A dict of float64 tensors: centre and unit `[T, 1, d_x]`, middle and spread
            `[T, 1, d_y]`. Without points, or if all are equal, unit and spread are 1.
        """
        count = tf.cast(tf.maximum(tf.shape(support_x)[1], 1), tf.float64)
        least, most = _ends(support_x)
        low, high = _ends(support_y)
        middle = tf.reduce_sum(support_y / count, axis=1, keepdims=True)
        variance = tf.reduce_sum((support_y - middle) ** 2 / count, 1, keepdims=True)
        return {
            "centre": least / 2 + most / 2,
            "unit": tf.where(most > least, (most - least) / (2 * self.known), 1.0),
            "middle": middle,
            "spread": tf.where(high > low, tf.sqrt(variance), 1.0),
        }

    def adapt(
        self, learner: Learner, support_x: TensorLike, support_y: TensorLike
    ) -> dict[str, Any]:
        """Learns T tasks from points in their own units.

        Args:
            learner: the learner whose `adapt` gets the scaled points.
            support_x: `[T, S, d_x]`, read in float64.
            support_y: `[T, S, d_y]`, likewise.

        Returns:
            `{"state": the learner's, **units}`, see `fit`.

        Raises:
            ValueError: as `Learner.adapt`, or points so large that their units are
                infinite.
        """
        x, y, units = self.scale_support(learner, support_x, support_y)
        return {"state": learner.adapt(x, y), **units}

    def infer(
        self, learner: Learner, state: Mapping[str, Any], query_x: TensorLike
    ) -> Predictions:
        """Predicts Q queries of each task, in the units of its support points.

        Args:
            learner: the learner that computed the state.
            state: the state that `adapt` returned for T tasks.
            query_x: `[T, Q, d_x]`, read in float64.

        Returns:
            Predictions `[T, Q, d_y]` in float64, or a pair of mean and scale.

        Raises:
            ValueError: as `Learner.infer`.
        """
        x = self.scale_query(learner, state, query_x)
        return self.unscale(state, learner.infer(state["state"], x))

    def scale_support(
        self, learner: Learner, support_x: TensorLike, support_y: TensorLike
    ) -> tuple[tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Scales the support points of T tasks.

        Args:
            learner: the learner that defines the shapes.
            support_x: `[T, S, d_x]`.
            support_y: `[T, S, d_y]`.

        Returns:
            `(x, y, units)`: scaled points in float64, and the result of `fit`.

        Raises:
            ValueError: as `adapt`.
        """
        x = _checked(learner, "support_x", support_x, checks.check_x)
        y = _checked(learner, "support_y", support_y, checks.check_y)
        units = self.fit(x, y)
        finite = checks.is_finite(units)
        check = checks.finite("the units of the support points", finite)
        units = checks.required(units, check)
        x = (x - units["centre"]) / units["unit"]
        y = (y - units["middle"]) / units["spread"]
        return x, y, units

    def scale_query(
        self, learner: Learner, units: Mapping[str, tf.Tensor], query_x: TensorLike
    ) -> tf.Tensor:
        """Scales the query points of T tasks to their support points' units.

        Args:
            learner: the learner that defines the shapes.
            units: the units of T tasks, as `fit` returns them.
            query_x: `[T, Q, d_x]`.

        Returns:
            float64 `[T, Q, d_x]`.

        Raises:
            ValueError: wrong shape, values that are not finite, or another T.
        """
        x = _checked(learner, "query_x", query_x, checks.check_x)
        same = tf.equal(tf.shape(units["centre"])[0], tf.shape(x)[0])
        x = checks.required(x, (same, checks.UNEQUAL_TASKS))
        x = (x - units["centre"]) / units["unit"]
        return tf.clip_by_value(x, -self.end, self.end)

    def unscale(
        self, units: Mapping[str, tf.Tensor], outputs: Predictions
    ) -> Predictions:
        """Converts scaled predictions to the units of the support points.

        Args:
            units: the units of T tasks, as `fit` returns them.
            outputs: `[T, Q, d_y]`, or a pair of mean and scale.

        Returns:
            As `outputs`, in float64.
        """
        middle, spread = units["middle"], units["spread"]
        if isinstance(outputs, tuple):
            mean, scale = (tf.cast(output, tf.float64) for output in outputs)
            return middle + spread * mean, spread * scale
        return middle + spread * tf.cast(outputs, tf.float64)

    def get_config(self) -> dict[str, Any]:
        return {"end": self.end, "known": self.known}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


def setting(learner: Learner, name: str, value: Any) -> StandardUnits | None:
    """Checks the setting `point_units`: classification has no points."""
    if value is not None and not isinstance(value, StandardUnits):
        raise ValueError(f"expected {name} to be StandardUnits or None, got {value!r}.")
    if value is not None and learner.classification:
        raise ValueError(f"expected no {name} for classification, got {value!r}.")
    return value


def _ends(values):
    """Returns the least and largest value of each task, `[T, 1, d]`; 0 without any."""
    least = tf.reduce_min(values, axis=1, keepdims=True)
    most = tf.reduce_max(values, axis=1, keepdims=True)
    some = tf.shape(values)[1] > 0
    return tf.where(some, least, 0.0), tf.where(some, most, 0.0)


def _checked(learner, name, values, check):
    """Returns points in float64, after validation of their shape and values."""
    if not tf.is_tensor(values):
        values = np.asarray(values)  # TensorFlow converts Python's floats to float32
    values = tf.convert_to_tensor(values)
    check(learner, name, values)
    values = tf.cast(values, tf.float64)
    return checks.required(values, checks.finite(name, checks.is_finite(values)))
