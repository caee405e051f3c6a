"""The field's usual networks, as Keras functional models that give logits."""

import keras

from keras_meta.applications import block_of as block_of
from keras_meta.applications import pretrained as pretrained

POOLINGS = "mean", "none"


def conv4(
    input_shape=(28, 28, 1),
    outputs=5,
    filters=64,
    momentum=0.9,
    pooling="mean",
    halving="stride",
    name="conv4",
):
    """Four 3x3 convolutions, the Omniglot network of MAML and its predecessors.

    Each block is convolution, batch normalization, ReLU, and halves the image; then the
    mean over space and a dense layer. ProtoNet, CNP and MANN evaluate with the moving
    averages of the normalization, as Keras does; the gradient learners read batch
    statistics and never the averages, so that any momentum below 1 suits them.

    Args:
        input_shape: `(H, W, C)` of an image.
        outputs: number of logits N; None for features, without the dense layer.
        filters: channels of each block.
        momentum: of the normalization's moving averages; with 0 they are the
            statistics of the last batch alone.
        pooling: "mean" over space, or "none": all of it goes into the dense layer.
        halving: by a "stride" of 2, MAML's, or by the maximum of 2x2 places, "max",
            prototypical networks', which sees four times as many and costs as much.
        name: the model's name.

    Returns:
        A `keras.Model` from `[B, H, W, C]` to logits `[B, outputs]`, or to features.

    Reference:
        Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", 2017, section 5.2 and appendix A; Snell, Swersky and Zemel,
        "Prototypical Networks for Few-shot Learning", 2017, section 3.1.

    Raises:
        ValueError: another pooling or halving.
    """
    _check_choice("pooling", pooling, POOLINGS)
    _check_choice("halving", halving, ("stride", "max"))
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
    input_shape=(84, 84, 3),
    outputs=5,
    filters=(64, 160, 320, 640),
    momentum=0.99,
    pooling="mean",
    name="resnet12",
):
    """Four residual blocks of three 3x3 convolutions, few-shot learning's larger net.

    In a block each convolution is followed by batch normalization and a leaky ReLU of
    slope 0.1, the last after the sum with the block's input (through a 1x1 convolution
    and a normalization of its own); then the maximum of 2x2 places, at the edge of
    those there are.

    Args:
        input_shape: `(H, W, C)` of an image.
        outputs: number of logits N; None for features, without the dense layer.
        filters: channels of each of the blocks.
        momentum: of the normalization's moving averages; see `conv4`.
        pooling: see `conv4`.
        name: the model's name.

    Returns:
        A `keras.Model` from `[B, H, W, C]` to logits `[B, outputs]`, or to features.

    Reference:
        Lee, Maji, Ravichandran and Soatto, "Meta-Learning with Differentiable Convex
        Optimization", CVPR 2019, section 4.1, without its DropBlock.

    Raises:
        ValueError: another pooling.
    """
    _check_choice("pooling", pooling, POOLINGS)

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


def _check_choice(argument, value, known):
    if value not in known:
        raise ValueError(
            f"expected {argument} to be {' or '.join(known)}, got {value!r}."
        )


def _head(x, pooling, outputs):
    """Logits of a map of features, or the features themselves."""
    if pooling == "mean":
        x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    else:
        x = keras.layers.Flatten(name="flat")(x)
    return x if outputs is None else keras.layers.Dense(outputs, name="head")(x)


def mlp(input_shape=(1,), outputs=1, units=(40, 40), activation="relu", name="mlp"):
    """A plain multi-layer perceptron; the defaults are MAML's for sinusoids.

    Args:
        input_shape: shape of one example.
        outputs: size of the last, linear layer.
        units: sizes of the hidden layers.
        activation: activation of the hidden layers.
        name: the model's name.

    Returns:
        A `keras.Model` from `[B, *input_shape]` to `[B, outputs]`.

    Reference:
        Finn, Abbeel and Levine, 2017, section 5.1.
    """
    inputs = keras.Input(input_shape, name="x")
    x = keras.layers.Flatten(name="flat")(inputs) if len(input_shape) > 1 else inputs
    for index, size in enumerate(units, start=1):
        x = keras.layers.Dense(size, activation=activation, name=f"dense{index}")(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, name="head")(x), name=name)
