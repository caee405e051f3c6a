"""Smooth networks and episodes in float64, for comparison with differences."""

import contextlib

import keras
import numpy as np

# Without `dtype`, losses of Keras compute in float32.
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype="float64")


@contextlib.contextmanager
def float64():
    """Keras models constructed inside this context compute in float64."""
    try:
        _set_dtype("float64")
        yield
    finally:
        _set_dtype("float32")


def _set_dtype(dtype):
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)


@float64()
def network(momentum=0.0, frozen=False, normalized=True):
    """Returns a network: convolution, normalization, tanh, average pooling, dense."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input([6, 6, 1])
    x = keras.layers.Conv2D(3, 3, name="conv")(inputs)
    if normalized:
        norm = keras.layers.BatchNormalization(momentum=momentum, name="norm")
        norm.trainable = not frozen
        x = norm(x)
    x = keras.layers.Activation("tanh")(x)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(2)(x))
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def episode(tasks=2):
    """Returns `(episode, query_y)` of random images in three classes."""
    random = np.random.RandomState(0)
    labels = np.tile(np.arange(3), [tasks, 2]).astype("int32")
    x = random.normal(size=[2, tasks, 6, 6, 6, 1])
    return {"support_x": x[0], "support_y": labels, "query_x": x[1]}, labels


def slopes(value, variables, directions=3, width=1e-5):
    """Yields central differences of `value()` in random directions of the variables.

    Yields:
        `(direction, slope)`: a list of arrays and a float with an error of O(width^2).
    """
    random = np.random.RandomState(2)
    start = [v.numpy() for v in variables]
    for _ in range(directions):
        direction = [random.normal(size=v.shape) for v in variables]
        sides = []
        for sign in (1, -1):
            for v, origin, d in zip(variables, start, direction, strict=True):
                v.assign(origin + sign * width * d)
            sides.append(value())
        for v, origin in zip(variables, start, strict=True):
            v.assign(origin)
        yield direction, (sides[0] - sides[1]) / (2 * width)


def along(gradients, direction):
    """Returns the derivative along a direction."""
    return sum(
        float(np.sum(np.asarray(g) * d))
        for g, d in zip(gradients, direction, strict=True)
    )
