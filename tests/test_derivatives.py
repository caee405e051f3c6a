"""Derivatives of exact normalization against differences in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import batch_norm
from tests import smooth

layers = keras.layers


def slopes(model, point, weights, direction, mask=None):
    """The gradient of a weighted sum of cubes of the outputs, and its own slope.

    Args:
        point: the inputs and the trainable variables' values, arrays.
        weights: of the sum.
        direction: as `point`; a second derivative is symmetric, so the slope of the
            gradient along it is the gradient's change.
    """
    variables = [*model.trainable_variables]
    point = [tf.constant(value) for value in point]
    with tf.GradientTape() as outer:
        outer.watch(point)
        with tf.GradientTape() as inner:
            inner.watch(point)
            with keras.StatelessScope(zip(variables, point[1:], strict=True)):
                outputs = model(point[0], training=True, mask=mask)
            value = tf.reduce_sum(tf.constant(weights, outputs.dtype) * outputs**3)
        first = inner.gradient(value, point)
    return value, first, outer.gradient(first, point, output_gradients=direction)


def moved(point, direction, by):
    return [p + by * d for p, d in zip(point, direction, strict=True)]


def errors(model, shape, mask=None):
    """Relative errors of the first and second derivative, against differences."""
    random = np.random.RandomState(2)
    shapes = [shape, *(v.shape for v in model.trainable_variables)]
    point = [random.uniform(0.5, 2, s) for s in shapes]
    direction = [random.normal(size=s) for s in shapes]
    weights = random.normal(size=shape)
    width = 1e-5
    ahead, behind = (
        slopes(model, moved(point, direction, sign * width), weights, direction, mask)
        for sign in (1, -1)
    )
    _, first, second = slopes(model, point, weights, direction, mask)
    change = (ahead[0] - behind[0]) / (2 * width)
    along = sum(np.sum(g * d) for g, d in zip(first, direction, strict=True))
    changes = [(a - b) / (2 * width) for a, b in zip(ahead[1], behind[1], strict=True)]
    largest = max(np.abs(c).max() for c in changes)
    wrong = max(np.abs(s - c).max() for s, c in zip(second, changes, strict=True))
    return abs(along - change) / abs(change), wrong / largest


KINDS = {
    "batch": (layers.BatchNormalization, {}, [5, 3]),
    "images": (layers.BatchNormalization, {}, [3, 2, 2, 3]),
    "channels first": (layers.BatchNormalization, {"axis": 1}, [3, 2, 4]),
    "plain": (layers.BatchNormalization, {"scale": False, "center": False}, [5, 3]),
    "masked": (layers.BatchNormalization, {}, [3, 4, 2]),
    "groups": (layers.GroupNormalization, {"groups": 2}, [3, 4]),
    "groups of images": (layers.GroupNormalization, {"groups": 2}, [2, 2, 2, 4]),
    "groups first": (layers.GroupNormalization, {"groups": 2, "axis": 1}, [2, 4, 3]),
    "layer": (layers.LayerNormalization, {}, [3, 4]),
    "layer of images": (layers.LayerNormalization, {"axis": [1, 2]}, [2, 3, 2]),
}


@smooth.float64()
def made(kind):
    """A float64 model of a normalization, the shape of its input, and a mask."""
    layer, arguments, shape = KINDS[kind]
    model = keras.Sequential([keras.Input(shape[1:]), layer(**arguments)])
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]], bool)
    return model, shape, tf.constant(mask) if kind == "masked" else None


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_are_those_of_differences(kind):
    model, shape, mask = made(kind)
    first, second = errors(batch_norm.exact(model), shape, mask)
    # Central differences are off by width^2 times the next derivative.
    assert first < 1e-7 and second < 1e-7


@pytest.mark.parametrize("kind", ["batch", "images", "groups", "layer"])
def test_kerass_own_second_derivatives_are_wrong(kind):
    """The reason for exact layers: where this fails, Keras or TensorFlow is mended."""
    model, shape, _ = made(kind)
    first, second = errors(model, shape)
    assert first < 1e-7
    assert second > 1e-3


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [[7, 3], [5, 2, 3], [4, 3, 2, 3]])
def test_fused_batch_normalization_is_the_exact_one(shape, scale):
    """One op in float32 against float64, which takes moments apart."""
    rng = np.random.RandomState(0)
    x, upstream, direction = rng.normal(1.0, 0.1, [3, *shape])

    def found(dtype):
        layer = layers.BatchNormalization(
            momentum=0.5, scale=scale, center=scale, dtype=dtype
        )
        network = keras.Sequential([keras.Input(shape[1:], dtype=dtype), layer])
        for variable in layer.trainable_variables:
            variable.assign([0.5, 1.0, 2.0])
        model = batch_norm.exact(network)
        variables = network.trainable_variables
        weights = [tf.constant(v.numpy()) for v in variables]

        @tf.function
        def slopes(point):
            with tf.GradientTape() as outer:
                outer.watch(point)
                with tf.GradientTape() as tape:
                    tape.watch([point, *weights])
                    pairs = zip(variables, weights, strict=True)
                    with keras.StatelessScope(pairs) as scope:
                        y = model(point, training=True)
                    total = tf.reduce_sum(tf.constant(upstream, dtype) * y)
                first = tape.gradient(total, [point, *weights])
                along = tf.reduce_sum(first[0] * tf.constant(direction, dtype))
            after = map(scope.get_current_value, network.non_trainable_variables)
            return [y, *after, *first, outer.gradient(along, point)]

        point = tf.constant(x, dtype)
        graph = slopes.get_concrete_function(point).graph
        kinds = {operation.type for operation in graph.get_operations()}
        return "FusedBatchNormV3" in kinds, slopes(point)

    (fused, found_values), (other, expected) = found("float32"), found("float64")
    assert fused and not other
    for one, exact in zip(found_values, expected, strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-4, atol=1e-4)
