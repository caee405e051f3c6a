"""The check that a network gives logits."""

import keras
import tensorflow as tf

# Tolerance of a sum of probabilities in float16.
SUMS_TO_ONE = 1e-2


def require_logits(network: keras.Model) -> None:
    """Raises a ValueError if a network ends in a softmax.

    The loss normalizes logits; probabilities would be normalized twice.
    """
    expected = (
        "expected a network that gives logits, which the loss normalizes, got one "
    )
    layer = _last_layer(network)
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Softmax) or (
        activation is keras.activations.softmax
    ):
        raise ValueError(f"{expected}that ends in a softmax: layer '{layer.name}'.")
    if tf.executing_eagerly() and network.output_shape[-1] > 1:
        # A softmax in another form: the outputs for inputs of zeros sum to one.
        shape = [2, *(side or 8 for side in network.input_shape[1:])]
        rows = tf.cast(network(tf.zeros(shape), training=False), "float32")
        sums = tf.reduce_sum(rows, axis=-1, keepdims=True)
        if tf.reduce_all((rows >= 0) & (tf.abs(sums - 1) < SUMS_TO_ONE)):
            raise ValueError(f"{expected}whose rows of outputs each sum to one.")


def _last_layer(network):
    """The layer or operation that gives a network's output."""
    layer = network.layers[-1] if network.layers else network
    if hasattr(network, "operations"):  # a functional model's, in no order
        ends = (v for v in network.operations if v.output is network.output)
        layer = next(ends, layer)
    inside = isinstance(layer, keras.Model) and layer.layers
    return _last_layer(layer) if inside else layer
