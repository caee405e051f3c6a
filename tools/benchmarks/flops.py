"""Floating point operations of Conv-4 and of a second-order meta-gradient."""

import math

from benchmarks import problems


def conv4(image_shape=(28, 28, 1), filters=64):
    """Operations of a forward pass of `networks.conv4` on one image."""
    import keras

    import keras_meta as km

    network = km.networks.conv4(image_shape, problems.WAYS, filters)
    total = 0
    for layer in network.layers:
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization):
            positions = math.prod(layer.output.shape[1:-1])
            total += 2 * positions * math.prod(layer.kernel.shape)
    return total


def maml(image, steps):
    """Operations of the second-order meta-gradient of a task, 5 ways, 1 shot.

    A backward pass costs two forward passes. An inner step is one forward and one
    backward pass: three forward passes. The backward pass through it costs twice that.

    Args:
        image: operations of a forward pass on one image.
        steps: number of inner steps.
    """
    ways, queries = problems.WAYS, problems.QUERIES
    return (9 * steps * ways + 3 * ways * queries) * image
