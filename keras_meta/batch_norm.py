"""Exact, twice differentiable normalization for networks that a task adapts."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from keras_meta import checks, keras_private

if TYPE_CHECKING:
    from keras_meta.learner import Learner

# The list that batch normalization measures into, or None: see `measuring`.
_MEASURING: contextvars.ContextVar[list[tuple[Any, Any]] | None] = (
    contextvars.ContextVar("measuring", default=None)
)


@contextlib.contextmanager
def measuring() -> Iterator[list[tuple[keras.Variable, tf.Tensor]]]:
    """Batch normalization uses and records the statistics of the batch.

    Inside, the layers of an `exact` network normalize with the statistics of their
    batch, whatever `training` and momentum are; all other layers follow `training`.

    Yields:
        A list, which each run of a layer extends by its measurements: pairs of a moving
        mean or variance, a Keras variable, and its value in the batch.
    """
    measurements: list[tuple[Any, Any]] = []
    token = _MEASURING.set(measurements)
    try:
        yield measurements
    finally:
        _MEASURING.reset(token)


def batch_norms(model: keras.layers.Layer) -> list[keras.layers.BatchNormalization]:
    """The batch normalization layers inside a model, at any depth."""
    return [
        layer
        for layer in keras_private.layers_of(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def moving_statistics(model: keras.Model) -> list[keras.Variable]:
    """Returns the moving averages of a model that training updates."""
    return [
        variable
        for norm in batch_norms(model)
        if norm.trainable and not norm.renorm
        for variable in (norm.moving_mean, norm.moving_variance)
    ]


def estimate(learner: Learner, episodes: Iterable[tuple[Any, ...]]) -> None:
    """Replaces the moving statistics by the mean of the statistics of some batches.

    With an optimizer's `use_ema` the stored weights are averages, and the moving
    statistics of training do not fit them. Gradient learners read the statistics of
    each support set and have nothing to estimate.

    Args:
        learner: a `Learner`.
        episodes: a finite dataset of batches of training episodes, as for `fit`.

    Raises:
        ValueError: no episodes, episodes without an end, or a normalization without the
            exact form of `require_exact_form`.

    Reference:
        Izmailov et al., "Averaging Weights Leads to Wider Optima and Better
        Generalization", UAI 2018, section 3.2 (stochastic weight averaging).
    """
    if checks.is_endless(episodes):
        raise ValueError(
            "expected a finite dataset, because these episodes never end; "
            + checks.FINITE
        )
    variables = learner.moving_statistics()
    if not variables:
        return
    norms = batch_norms(learner)
    require_exact_form(norm for norm in norms if norm.trainable and not norm.renorm)

    def measure(episode):
        with measuring() as measurements, keras.StatelessScope():
            learner(episode, training=False)
        return [
            tf.reduce_mean([v for m, v in measurements if m is moving], axis=0)
            for moving in variables
        ]

    traced = learner.traced("estimate", measure, None)
    totals, count = [0.0] * len(variables), 0
    for episode, *_ in episodes:
        totals = [t + m for t, m in zip(totals, traced(episode), strict=True)]
        count += 1
    if not count:
        raise ValueError("expected batches of episodes, got none.")
    for variable, total in zip(variables, totals, strict=True):
        variable.assign(total / count)


def exact(model: keras.Model) -> keras.Model:
    """A network with the same layers and variables, and exact normalization.

    `tf.nn.moments`, which Keras uses, stops the gradient from the variance to the mean.
    First derivatives are exact because the dropped term vanishes; second derivatives
    are not: about 1% of MAML's meta-gradient. The graph of the model is rebuilt with
    `Exact` layers in place of these normalizations. They share the variables of the
    model, whose own graph stays as it was.

    Args:
        model: a built Keras model.

    Returns:
        A Keras model that shares all variables; `model` itself where no layer has
        inexact moments.

    Raises:
        ValueError: a normalization inside a model or a wrapper whose graph Keras cannot
            rebuild, such as a subclassed model, or one synchronized between replicas.
    """
    layers = keras_private.layers_of(model)
    inexact = [layer for layer in layers if is_inexact(layer)]
    if not inexact:
        return model
    for layer in inexact:
        if getattr(layer, "synchronized", False):
            raise ValueError(
                f"expected layer '{layer.name}' to have synchronized=False: the "
                "statistics of a task are its own, on whatever device it runs."
            )
    replaced = []

    def rebuilt(layer):
        form = exact_form(layer)
        if form is not layer:
            replaced.append(id(layer))
        return form

    try:
        graph = keras.models.clone_model(model, clone_function=rebuilt, recursive=True)
    except ValueError:
        graph = None
    missing = [layer for layer in inexact if id(layer) not in replaced]
    if graph is None or missing:
        layer = missing[0] if missing else inexact[0]
        raise ValueError(
            "expected normalization layers in a functional or Sequential network, whose"
            f" graph can be rebuilt with exact derivatives; '{layer.name}' is inside "
            f"one of another kind in {type(model).__name__} '{model.name}'."
        )
    return graph


def exact_form(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The exact form of a normalization layer; any other layer as it is."""
    if not is_inexact(layer):
        return layer
    kind = EXACT[type(layer)]
    return kind(layer, name=layer.name, dtype=layer.dtype_policy)


def is_inexact(layer: keras.layers.Layer) -> bool:
    """Whether a layer has an exact form; layers of a user's subclass have none.

    Batch renormalization has statistics of its own, and no exact form here.
    """
    other = getattr(layer, "renorm", False) or getattr(layer, "rms_scaling", False)
    return type(layer) in EXACT and not other


def require_exact_form(layers: Iterable[keras.layers.Layer]) -> None:
    """Raises a ValueError for a layer whose batch statistics cannot be read."""
    for layer in layers:
        if not is_inexact(layer):
            raise ValueError(
                "expected keras.layers.BatchNormalization without renorm, whose batch "
                f"statistics can be read, got layer '{layer.name}' of "
                f"{type(layer).__name__}."
            )


@keras.saving.register_keras_serializable("keras_meta")
class ConstantAffine(keras.layers.BatchNormalization):
    """Batch normalization by batch statistics in `fit`, with constant gamma and beta.

    With `trainable=False` Keras normalizes by the moving statistics in `fit` too.

    Args:
        **kwargs: for `keras.layers.BatchNormalization`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        super().build(input_shape)
        for variable in (self.gamma, self.beta):
            if variable is not None:
                variable.trainable = False


class Exact(keras.layers.Layer):
    """A normalization layer's exact form, with the variables of that layer.

    Args:
        source: the layer.
        **kwargs: for `keras.layers.Layer`.
    """

    def __init__(self, source: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.supports_masking = True
        self.built = True

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...], *args: Any
    ) -> tuple[int | None, ...]:
        return input_shape

    def regularized(self, outputs: tf.Tensor) -> tf.Tensor:
        """The outputs, the source's activity regularizer applied as Keras does."""
        if self.source.activity_regularizer is not None:
            examples = tf.cast(tf.maximum(tf.shape(outputs)[0], 1), outputs.dtype)
            penalty = self.source.activity_regularizer(outputs)
            self.source.add_loss(penalty / examples)
        return outputs


class ExactBatchNorm(Exact):
    """`keras.layers.BatchNormalization` with exact derivatives, fused where possible.

    Args:
        source: the layer whose variables and settings it shares.
    """

    def call(
        self,
        inputs: tf.Tensor,
        training: bool | None = None,
        mask: tf.Tensor | None = None,
    ) -> tf.Tensor:
        source, measurements = self.source, _MEASURING.get()
        measured = measurements is not None
        if not source.trainable or not (training or measured):
            return self.regularized(source.call(inputs, training=False, mask=mask))
        axis = source.axis % inputs.shape.rank
        axes = [i for i in range(inputs.shape.rank) if i != axis]
        size = inputs.shape[axis]
        last = axis == inputs.shape.rank - 1
        fused = last and mask is None and inputs.dtype in FUSED
        # Derivatives of statistics, and second ones, are taken in float32 at least.
        x = inputs if fused and not measured else _precise(inputs)
        precise = keras.backend.result_type(x.dtype, "float32")
        scale = source.gamma.value if source.scale else tf.ones([size])
        offset = source.beta.value if source.center else tf.zeros([size])
        scale, offset = tf.cast(scale, precise), tf.cast(offset, precise)
        if fused:
            outputs, mean, variance = _fused(x, scale, offset, source.epsilon)
        if not fused or measured:
            mean, variance = _moments(x, axes, mask)
        if not fused:
            along = [size if i == axis else 1 for i in range(x.shape.rank)]
            outputs = (x - mean) * tf.math.rsqrt(variance + source.epsilon)
            outputs = outputs * tf.reshape(scale, along) + tf.reshape(offset, along)
        for moving, value in (
            (source.moving_mean, mean),
            (source.moving_variance, variance),
        ):
            value = tf.cast(tf.reshape(value, [size]), moving.dtype)
            if measurements is not None:
                measurements.append((moving, value))
            else:
                keep = source.momentum
                moving.assign(moving * keep + value * (1 - keep))
        return self.regularized(tf.cast(outputs, self.compute_dtype))


class ExactGroupNorm(Exact):
    """`keras.layers.GroupNormalization` with exact derivatives.

    Args:
        source: the layer whose variables and settings it shares.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        source, rank = self.source, inputs.shape.rank
        axis = source.axis % rank
        size, groups = inputs.shape[axis], source.groups
        shape = tf.shape(inputs)
        x = _precise(inputs)
        split = tf.concat(
            [shape[:axis], [groups, size // groups], shape[axis + 1 :]], axis=0
        )
        x = tf.reshape(x, split)
        axes = [i for i in range(1, rank + 1) if i != axis]
        mean, variance = _moments(x, axes)
        x = (x - mean) * tf.math.rsqrt(variance + source.epsilon)
        x = tf.reshape(x, shape)
        along = [size if i == axis else 1 for i in range(rank)]
        if source.scale:
            x *= tf.reshape(tf.cast(source.gamma.value, x.dtype), along)
        if source.center:
            x += tf.reshape(tf.cast(source.beta.value, x.dtype), along)
        x = tf.ensure_shape(x, inputs.shape)
        return self.regularized(tf.cast(x, self.compute_dtype))


class ExactLayerNorm(Exact):
    """`keras.layers.LayerNormalization` with exact derivatives.

    Args:
        source: the layer whose variables and settings it shares.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        source, rank = self.source, inputs.shape.rank
        axes = source.axis if isinstance(source.axis, list | tuple) else [source.axis]
        axes = sorted(axis % rank for axis in axes)
        x = _precise(inputs)
        mean, variance = _moments(x, axes)
        x = (x - mean) * tf.math.rsqrt(variance + source.epsilon)
        along = [inputs.shape[i] if i in axes else 1 for i in range(rank)]
        if source.scale:
            x *= tf.reshape(tf.cast(source.gamma.value, x.dtype), along)
        if source.center:
            x += tf.reshape(tf.cast(source.beta.value, x.dtype), along)
        return self.regularized(tf.cast(x, self.compute_dtype))


# The exact forms of layers whose moments Keras computes with `tf.nn.moments`.
EXACT = {
    keras.layers.BatchNormalization: ExactBatchNorm,
    keras.layers.GroupNormalization: ExactGroupNorm,
    keras.layers.LayerNormalization: ExactLayerNorm,
}


# What TensorFlow's fused normalization computes, with statistics in float32.
FUSED = tf.float32, tf.bfloat16, tf.float16


def _fused(x, scale, offset, epsilon):
    """Outputs, mean and variance by one operation; the last two have no gradient.

    Args:
        x: `[..., C]` of a type in `FUSED`.
        scale, offset: float32 `[C]`.
        epsilon: added to the variance.
    """
    size, four = x.shape[-1], x.shape.rank == 4
    normalized = tf.raw_ops.FusedBatchNormV3(
        x=x if four else tf.reshape(x, [-1, 1, 1, size]),
        scale=scale,
        offset=offset,
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=epsilon,
        is_training=True,
    )
    # The operation returns the unbiased variance, and zero for one example.
    count = tf.cast(tf.size(x, tf.int64) // size, tf.float32)
    biased = normalized.batch_variance * (count - 1) / count
    outputs = normalized.y if four else tf.reshape(normalized.y, tf.shape(x))
    return outputs, normalized.batch_mean, biased


def _precise(x):
    """In float32 at least: sums of squares overflow float16."""
    return tf.cast(x, keras.backend.result_type(x.dtype, "float32"))


def _moments(x, axes, mask=None):
    """Mean and variance over axes, of the examples that a mask keeps, dims kept."""
    if mask is None:
        mean = tf.reduce_mean(x, axes, keepdims=True)
        return mean, tf.reduce_mean(tf.square(x - mean), axes, keepdims=True)
    weights = tf.cast(mask, x.dtype)[..., None] * tf.ones_like(x)
    total = tf.maximum(tf.reduce_sum(weights, axes, keepdims=True), 1)
    mean = tf.reduce_sum(weights * x, axes, keepdims=True) / total
    squares = weights * tf.square(x - mean)
    return mean, tf.reduce_sum(squares, axes, keepdims=True) / total
