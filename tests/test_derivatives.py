"""Tests of derivatives of exact normalization against differences in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import batch_norm
from tests import smooth

layers = keras.layers


def derivatives(model, point, weights, direction, mask=None):
    """Computes a weighted sum of cubed outputs and its first and second derivatives.

    Args:
        point: arrays, the inputs and the values of the trainable variables.
        weights: the weights of the sum.
        direction: arrays like `point`. A second derivative is symmetric, so its product
            with the direction is the change of the gradient along the direction.
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


def displaced(point, direction, step):
    return [p + step * d for p, d in zip(point, direction, strict=True)]


def relative_errors(model, shape, mask=None):
    """Computes relative errors of both derivatives against central differences."""
    random = np.random.RandomState(2)
    shapes = [shape, *(v.shape for v in model.trainable_variables)]
    point = [random.uniform(0.5, 2, s) for s in shapes]
    direction = [random.normal(size=s) for s in shapes]
    weights = random.normal(size=shape)
    width = 1e-5
    ahead, behind = (
        derivatives(
            model, displaced(point, direction, sign * width), weights, direction, mask
        )
        for sign in (1, -1)
    )
    _, first, second = derivatives(model, point, weights, direction, mask)
    difference = (ahead[0] - behind[0]) / (2 * width)
    directional = sum(np.sum(g * d) for g, d in zip(first, direction, strict=True))
    differences = [
        (a - b) / (2 * width) for a, b in zip(ahead[1], behind[1], strict=True)
    ]
    largest = max(np.abs(c).max() for c in differences)
    error = max(np.abs(s - c).max() for s, c in zip(second, differences, strict=True))
    return abs(directional - difference) / abs(difference), error / largest


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
def build_model(kind):
    """Returns a float64 model of a normalization, its input shape and a mask."""
    layer, arguments, shape = KINDS[kind]
    model = keras.Sequential([keras.Input(shape[1:]), layer(**arguments)])
    mask = np.array([[1, 1, 0, 1], [0, 1, 1, 0], [1, 0, 0, 0]], bool)
    return model, shape, tf.constant(mask) if kind == "masked" else None


@pytest.mark.filterwarnings("ignore:Layer .* was passed an input with a mask")
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_match_finite_differences(kind):
    model, shape, mask = build_model(kind)
    first, second = relative_errors(batch_norm.exact(model), shape, mask)
    # The error of central differences is width^2 times the next derivative.
    assert first < 1e-7 and second < 1e-7


@pytest.mark.parametrize("kind", ["batch", "images", "groups", "layer"])
def test_second_derivatives_of_keras_layers_are_wrong(kind):
    """Shows the need for exact layers; fails once Keras or TensorFlow is corrected."""
    model, shape, _ = build_model(kind)
    first, second = relative_errors(model, shape)
    assert first < 1e-7
    assert second > 1e-3


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [[7, 3], [5, 2, 3], [4, 3, 2, 3]])
def test_fused_batch_normalization_matches_exact_derivatives(shape, scale):
    """Compares a fused float32 op with float64, which computes moments separately."""
    rng = np.random.RandomState(0)
    x, upstream, direction = rng.normal(1.0, 0.1, [3, *shape])

    def compute(dtype):
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
        def compute_derivatives(point):
            with tf.GradientTape() as outer:
                outer.watch(point)
                with tf.GradientTape() as tape:
                    tape.watch([point, *weights])
                    pairs = zip(variables, weights, strict=True)
                    with keras.StatelessScope(pairs) as scope:
                        y = model(point, training=True)
                    total = tf.reduce_sum(tf.constant(upstream, dtype) * y)
                first = tape.gradient(total, [point, *weights])
                directional = tf.reduce_sum(first[0] * tf.constant(direction, dtype))
            statistics = map(scope.get_current_value, network.non_trainable_variables)
            return [y, *statistics, *first, outer.gradient(directional, point)]

        point = tf.constant(x, dtype)
        graph = compute_derivatives.get_concrete_function(point).graph
        op_types = {operation.type for operation in graph.get_operations()}
        return "FusedBatchNormV3" in op_types, compute_derivatives(point)

    (fused, outputs), (fused_float64, expected) = compute("float32"), compute("float64")
    assert fused and not fused_float64
    for output, expected_output in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output, expected_output, rtol=1e-4, atol=1e-4)
