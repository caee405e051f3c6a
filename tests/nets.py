"""Networks and values of their variables, for tests of `keras_meta.network`."""

import keras
import numpy as np
import tensorflow as tf

layers = keras.layers


def tensors(variables, seed=0):
    """Returns random positive values for some variables, as tensors."""
    random = np.random.RandomState(seed)
    return [tf.constant(random.uniform(0.5, 2, v.shape), v.dtype) for v in variables]


def pairs(variables, values):
    return list(zip(variables, values, strict=True))


def snapshot(model):
    return [variable.numpy() for variable in model.variables]


def same(values, expected, **tolerance):
    for a, b in zip(values, expected, strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def ids(variables):
    return [id(variable) for variable in variables]


def chain(*sequence, shape=(4,)):
    """Returns a functional model of consecutive layers."""
    x = inputs = keras.Input(shape)
    for layer in sequence:
        x = layer(x)
    return keras.Model(inputs, x)


def rich(dtype=None):
    """Returns a network with a nested model, shared, normalizing and random layers."""
    keras.utils.set_random_seed(0)
    inner = keras.Sequential(
        [
            keras.Input([4]),
            layers.BatchNormalization(momentum=0.5, name="deep", dtype=dtype),
            layers.Dropout(0.5, seed=1, name="drop", dtype=dtype),
        ],
        name="inner",
    )
    inputs = keras.Input([4], name="inputs")
    shared = layers.BatchNormalization(momentum=0.9, name="shared", dtype=dtype)
    x = shared(layers.Dense(4, name="first", dtype=dtype)(inputs))
    x = shared(layers.Dense(4, name="second", dtype=dtype)(x))
    x = inner(x)
    x = layers.GroupNormalization(2, name="groups", dtype=dtype)(x)
    x = layers.Add(dtype=dtype)([x, inputs])
    x = layers.BatchNormalization(scale=False, name="last", dtype=dtype)(x)
    return keras.Model(inputs, layers.Dense(3, name="head", dtype=dtype)(x))
