"""The usual networks of few-shot learning, as Keras functional models."""

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_meta import checks, settings
from keras_meta.applications import block_of as block_of
from keras_meta.applications import pretrained as pretrained
from keras_meta.hog import HOG as HOG
from keras_meta.whitening import Whitening as Whitening

_check_pooling = settings.choice("mean", "none")
_check_halving = settings.choice("stride", "max")


def conv4(
    input_shape: Sequence[int] = (28, 28, 1),
    outputs: int | None = 5,
    filters: int = 64,
    momentum: float = 0.9,
    pooling: str = "mean",
    halving: str = "stride",
    name: str = "conv4",
) -> keras.Model:
    """Four 3x3 convolutions, the Omniglot network of MAML and its predecessors.

    Each of the four blocks is a convolution, batch normalization and ReLU, and halves
    the image. The mean over space and a dense layer follow. Gradient learners
    normalize by statistics of the task, whatever the momentum; other learners evaluate
    with the moving averages of the normalization, as in Keras.

    Args:
        input_shape: `(H, W, C)` of an image.
        outputs: number of logits N; None for features, without the dense layer.
        filters: channels of each block.
        momentum: momentum of the normalization's moving averages; with 0 they are the
            statistics of the last batch.
        pooling: "mean" over space, or "none": the dense layer gets all positions.
        halving: "stride", convolutions with stride 2 as in MAML; or "max", 2x2 max
            pooling as in prototypical networks, which computes four times as many
            positions.
        name: the model's name.

    Returns:
        A `keras.Model` from `[B, H, W, C]` to logits `[B, outputs]`, or to features.

    Raises:
        ValueError: another pooling or halving, or sizes that are not integers >= 1.

    Example:
        >>> km.networks.conv4(outputs=5, filters=8).output_shape
        (None, 5)

    Reference:
        Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", 2017, section 5.2 and appendix A; Snell, Swersky and Zemel,
        "Prototypical Networks for Few-shot Learning", 2017, section 3.1.
    """
    _check_pooling(None, "pooling", pooling)
    _check_halving(None, "halving", halving)
    checks.check_integer("filters", filters, 1)
    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for block in range(1, 5):
        x = keras.layers.Conv2D(
            filters,
            3,
            strides=2 if halving == "stride" else 1,
            padding="same",
            use_bias=False,  # the normalization's own offset follows
            name=f"conv{block}",
        )(x)
        x = keras.layers.BatchNormalization(momentum=momentum, name=f"norm{block}")(x)
        x = keras.layers.ReLU(name=f"relu{block}")(x)
        if halving == "max":
            x = keras.layers.MaxPooling2D(name=f"max{block}")(x)
    return keras.Model(inputs, _head(x, pooling, outputs), name=name)


def resnet12(
    input_shape: Sequence[int] = (84, 84, 3),
    outputs: int | None = 5,
    filters: Sequence[int] = (64, 160, 320, 640),
    momentum: float = 0.99,
    pooling: str = "mean",
    name: str = "resnet12",
) -> keras.Model:
    """Four residual blocks of three 3x3 convolutions, the larger network of the field.

    In a block, batch normalization and a leaky ReLU of slope 0.1 follow each
    convolution. The last ReLU follows the sum with the block's input, which passes
    through a 1x1 convolution and batch normalization. 2x2 max pooling ends the block;
    windows at the edge may be smaller.

    Args:
        input_shape: `(H, W, C)` of an image.
        outputs: number of logits N; None for features, without the dense layer.
        filters: channels of each block, a sequence.
        momentum: momentum of the normalization's moving averages; see `conv4`.
        pooling: "mean" over space, or "none": the dense layer gets all positions.
        name: the model's name.

    Returns:
        A `keras.Model` from `[B, H, W, C]` to logits `[B, outputs]`, or to features.

    Raises:
        ValueError: another pooling, or sizes that are not integers >= 1.

    Reference:
        Lee, Maji, Ravichandran and Soatto, "Meta-Learning with Differentiable Convex
        Optimization", CVPR 2019, section 4.1, without its DropBlock.
    """
    _check_pooling(None, "pooling", pooling)
    filters = settings.sizes("filters", filters)

    def convolved(x, filters, size, name):
        x = keras.layers.Conv2D(
            filters, size, padding="same", use_bias=False, name=f"conv{name}"
        )(x)
        return keras.layers.BatchNormalization(momentum=momentum, name=f"norm{name}")(x)

    inputs = keras.Input(input_shape, name="image")
    x = inputs
    for block, channels in enumerate(filters, start=1):
        shortcut = convolved(x, channels, 1, f"{block}_shortcut")
        for part in (1, 2, 3):
            x = convolved(x, channels, 3, f"{block}_{part}")
            if part == 3:
                x = keras.layers.Add(name=f"add{block}")([x, shortcut])
            x = keras.layers.LeakyReLU(0.1, name=f"relu{block}_{part}")(x)
        x = keras.layers.MaxPooling2D(padding="same", name=f"max{block}")(x)
    return keras.Model(inputs, _head(x, pooling, outputs), name=name)


def _head(x, pooling, outputs):
    """Logits of a map of features, or the features themselves."""
    if pooling == "mean":
        x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    else:
        x = keras.layers.Flatten(name="flat")(x)
    return x if outputs is None else _logits(x, outputs)


def _logits(x, outputs):
    checks.check_integer("outputs", outputs, 1)
    return keras.layers.Dense(outputs, name="head")(x)


def mlp(
    input_shape: Sequence[int] = (1,),
    outputs: int = 1,
    units: Sequence[int] = (40, 40),
    activation: str | Callable[..., Any] = "relu",
    name: str = "mlp",
) -> keras.Model:
    """A multi-layer perceptron; the defaults are MAML's for sine waves.

    Args:
        input_shape: shape of one example.
        outputs: size of the last, linear layer.
        units: sizes of the hidden layers.
        activation: activation of the hidden layers.
        name: the model's name.

    Returns:
        A `keras.Model` from `[B, *input_shape]` to `[B, outputs]`.

    Raises:
        ValueError: sizes that are not integers >= 1.

    Reference:
        Finn, Abbeel and Levine, 2017, section 5.1.
    """
    units = settings.sizes("units", units)
    inputs = keras.Input(input_shape, name="x")
    x = keras.layers.Flatten(name="flat")(inputs) if len(input_shape) > 1 else inputs
    for index, size in enumerate(units, start=1):
        x = keras.layers.Dense(size, activation=activation, name=f"dense{index}")(x)
    return keras.Model(inputs, _logits(x, outputs), name=name)


def with_hog(
    encoder: keras.Model, weight: float = 0.7, outputs: int | None = None
) -> keras.Model:
    """Joins the features of an encoder with histograms of oriented gradients.

    Each of the two vectors is scaled to norm 1, and the second is multiplied by
    `weight`. The features of an encoder suit classes similar to those it was trained
    on; the histograms describe the shapes of any class.

    Args:
        encoder: a functional `keras.Model` from images `[B, H, W, C]` to features
            `[B, D]`. Its layers are used, not copied.
        weight: the norm of the histograms.
        outputs: number of logits N of a new dense layer; None for the features.

    Returns:
        A `keras.Model` from images to features or logits.

    Example:
        >>> encoder = km.networks.conv4((32, 32, 3), outputs=None, filters=8)
        >>> km.networks.with_hog(encoder, outputs=5).output_shape
        (None, 5)

    Reference:
        `HOG`.
    """
    learned = keras.layers.UnitNormalization(name="unit_features")(encoder.output)
    shape = keras.layers.UnitNormalization(name="unit_hog")(
        HOG(name="hog")(encoder.input)
    )
    x = keras.layers.Concatenate(name="joined")(
        [learned, keras.layers.Rescaling(weight, name="weighted_hog")(shape)]
    )
    if outputs is not None:
        x = _logits(x, outputs)
    return keras.Model(encoder.input, x, name=f"{encoder.name}_hog")
