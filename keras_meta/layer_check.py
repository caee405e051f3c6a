"""Checks of each layer: its derivatives against finite differences and under XLA."""

import inspect

import keras
import numpy as np
import tensorflow as tf

from keras_meta import batch_norm, findings, steps
from keras_meta import network as network_module

# Float32, compiled or not, loses about five of seven digits in second derivatives.
SINGLE_TOLERANCE = 5e-3
ORDERS = {1: "first", 2: "second"}


def check_layers(network, single, order):
    """Returns the findings on all layers of a network.

    Args:
        network: a Keras model in float64.
        single: the same network in its own precision, which is compiled by XLA and
            compared; None for no comparison.
        order: order of the derivatives, 1 or 2.
    """
    results = []
    for position, layer in enumerate(network.layers):
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            results += check_layers(layer, single and single.layers[position], order)
            continue
        if isinstance(network, keras.Sequential):
            # A Sequential casts its input to its own precision, not to its layers'.
            x = tf.cast(_input(network), layer.compute_dtype)
            for earlier in network.layers[:position]:
                x = earlier(x, **_training(earlier))
        else:
            try:
                ahead = keras.Model(network.input, layer.input)
            except (AttributeError, ValueError):
                sentence = "its input is not part of this network: not checked alone"
                results.append(findings.Finding(layer.name, "note", sentence))
                continue
            if not isinstance(layer.input, keras.KerasTensor):
                if layer.variables:
                    sentence = "has several inputs: not checked alone"
                    results.append(findings.Finding(layer.name, "note", sentence))
                continue
            x = ahead(_input(network), training=True)
        if getattr(layer, "seed_generator", None) is not None:
            sentence = "is random while training: not checked alone"
            results.append(findings.Finding(layer.name, "note", sentence))
            continue
        results.append(_check_layer(batch_norm.exact_form(layer), x, order))
        if single is not None:
            compiled = batch_norm.exact_form(single.layers[position])
            x = tf.cast(x, compiled.compute_dtype)
            results += _check_compiled(compiled, x, order)
    return results


def _training(layer):
    """Returns the argument that runs a layer in training mode, if it has one."""
    takes = "training" in inspect.signature(layer.call).parameters
    return {"training": True} if takes else {}


def _input(network):
    """Returns a batch of six random inputs of a network."""
    shape = [6, *(size or 8 for size in network.input_shape[1:])]
    values = np.random.RandomState(1).normal(size=shape)
    return tf.constant(values, network.compute_dtype)


def _derivatives(layer, x, weights, direction, order):
    """Computes a weighted sum of a layer's squared outputs, and its derivatives.

    Returns:
        `(base, along)`, lists of tensors: for order 1 the sum and its derivative along
        the direction; for order 2 its gradient and the derivative of the gradient.
    """
    statistics = network_module.values(layer.non_trainable_variables)
    point = [x, *weights]
    zero = {"unconnected_gradients": tf.UnconnectedGradients.ZERO}
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(point)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(point)
            outputs, _ = layer.stateless_call(
                weights, statistics, x, **_training(layer)
            )
            random = np.random.RandomState(4).normal(size=outputs.shape)
            # Squares, so that the gradient depends on the input of a linear layer too.
            value = tf.reduce_sum(tf.cast(random, outputs.dtype) * outputs**2)
        slope = inner.gradient(value, point, **zero)
    if order == 1:
        return [value], [steps.inner_product(slope, direction)]
    # A second derivative is symmetric, so this is its product with the direction.
    return slope, outer.gradient(slope, point, output_gradients=direction, **zero)


def _directions(x, weights):
    """Yields random directions in the space of the input and the weights."""
    random = np.random.RandomState(2)
    for _ in range(findings.DIRECTIONS):
        yield [tf.constant(random.normal(size=v.shape), v.dtype) for v in [x, *weights]]


def _check_layer(layer, x, order):
    """Returns the finding on a layer in float64."""
    weights = network_module.values(layer.trainable_variables)
    source = getattr(layer, "source", layer)
    kind = f"{type(source).__name__}: its {ORDERS[order]} derivative"
    errors = []
    for direction in _directions(x, weights):
        try:
            _, along = _derivatives(layer, x, weights, direction, order)
        except (LookupError, NotImplementedError, tf.errors.OpError) as error:
            reason = str(error).strip().split("\n")[0]
            return findings.Finding(
                layer.name, "wrong", f"{kind} does not exist: {reason}"
            )
        sides = []
        for sign in (1, -1):
            moved = [
                v + sign * findings.WIDTH * d
                for v, d in zip([x, *weights], direction, strict=True)
            ]
            base, _ = _derivatives(layer, moved[0], moved[1:], direction, order)
            sides.append(base)
        expected = [(a - b) / (2 * findings.WIDTH) for a, b in zip(*sides, strict=True)]
        errors.append(findings.relative_error(along, expected))
    least = min(errors)
    if least > findings.TOLERANCE:
        sentence = f"{kind} is off by {least:.0e} relative to finite differences"
        return findings.Finding(layer.name, "wrong", sentence)
    return findings.Finding(layer.name, "right", f"{kind} is right to {least:.0e}")


def _check_compiled(layer, x, order):
    """Returns findings on errors of a layer compiled by XLA, in its own precision."""
    weights = network_module.values(layer.trainable_variables)
    direction = next(_directions(x, weights))
    _, expected = _derivatives(layer, x, weights, direction, order)
    run = tf.function(
        lambda: _derivatives(layer, x, weights, direction, order)[1],
        jit_compile=True,
        autograph=False,
    )
    kind = type(layer).__name__
    try:
        error = findings.relative_error(run(), expected)
    except tf.errors.OpError as failure:
        reason = str(failure).strip().split("\n")[0]
        sentence = f"{kind}: XLA cannot compile it: {reason}"
        return [findings.Finding(layer.name, "wrong", sentence)]
    if error <= SINGLE_TOLERANCE:
        return []
    sentence = (
        f"{kind}: compiled by XLA, its {ORDERS[order]} derivative is off by {error:.0e}"
    )
    return [findings.Finding(layer.name, "wrong", sentence)]
