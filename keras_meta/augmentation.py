"""Random changes of images while training, each a pure function of a seed.

The functions `random_*` take images `[n, H, W, C]` in [0, 1] and a seed `[2]`, draw
independently for each image, and return float32 images of the same shape. `tf.image`'s
`stateless_random_*` functions, except for flips, draw one amount for all images of a
batch.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_meta.typing_names import TensorLike

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as in `tf.image.rgb_to_grayscale`


def affine(
    images: TensorLike,
    angle: TensorLike,
    zoom: TensorLike,
    shift: TensorLike,
    shear: TensorLike = 0.0,
) -> tf.Tensor:
    """Rotates, scales, shears and translates each image about its centre, bilinearly.

    Args:
        images: `[n, H, W, C]`; pixels outside of an image are zero.
        angle: in radians, counter-clockwise, `[n]`.
        zoom: above 1 enlarges, `[n]`.
        shift: rightwards and downwards, as shares of width and height, `[n, 2]`.
        shear: horizontal shift per unit of height, `[n]` or a number.

    Returns:
        Images of the same shape, float32.
    """
    images = tf.cast(tf.convert_to_tensor(images), tf.float32)
    height, width = images.shape[1:3]
    # Maps a position (x, y) of the result, relative to its centre, to one of the input.
    cosine, sine = tf.cos(angle) / zoom, tf.sin(angle) / zoom
    a, b = cosine, shear * cosine - sine
    c, d = sine, shear * sine + cosine
    centre = tf.constant([(width - 1) / 2, (height - 1) / 2])
    moved = centre + shift * tf.constant([width, height], tf.float32)
    x0 = centre[0] - a * moved[:, 0] - b * moved[:, 1]
    y0 = centre[1] - c * moved[:, 0] - d * moved[:, 1]
    zero = tf.zeros_like(x0)
    return tf.ensure_shape(
        tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack([a, b, x0, c, d, y0, zero, zero], axis=1),
            output_shape=[height, width],
            fill_value=0.0,
            interpolation="BILINEAR",
            fill_mode="CONSTANT",
        ),
        images.shape,
    )


def random_affine(
    images: TensorLike,
    seed: TensorLike,
    degrees: float = 180.0,
    zoom: tuple[float, float] = (0.8, 1.2),
    shift: float = 0.2,
    shear: float = 0.0,
) -> tf.Tensor:
    """Rotates, scales, shears and translates each image by uniformly random amounts.

    Args:
        images: `[n, H, W, C]`, zero where empty.
        seed: `[2]`; the same seed gives the same images.
        degrees: largest rotation in either direction, in degrees.
        zoom: `(low, high)`.
        shift: largest translation, as a share of the image's size.
        shear: largest shear in either direction.

    Returns:
        float32 `[n, H, W, C]`.
    """
    seeds = tf.unstack(tf.random.split(seed, 4))
    count = tf.shape(images)[0]

    def draw(seed, low, high, *shape):
        return tf.random.stateless_uniform([count, *shape], seed, low, high)

    return affine(
        images,
        draw(seeds[0], -np.radians(degrees), np.radians(degrees)),
        draw(seeds[1], *map(float, zoom)),
        draw(seeds[2], -float(shift), float(shift), 2),
        draw(seeds[3], -float(shear), float(shear)),
    )


def random_flip(images: TensorLike, seed: TensorLike) -> tf.Tensor:
    """Mirrors each image left to right with probability 1/2.

    Args:
        images: `[n, H, W, C]`.
        seed: `[2]`.
    """
    return tf.image.stateless_random_flip_left_right(images, seed)


def random_crop(images: tf.Tensor, seed: TensorLike, padding: int = 4) -> tf.Tensor:
    """Pads each image by reflection and crops it at a uniformly random position.

    Args:
        images: `[n, H, W, C]`.
        seed: `[2]`.
        padding: pixels on each side.

    Reference:
        Lee, Xie, Gallagher, Zhang and Tu, "Deeply-Supervised Nets", AISTATS 2015 (with
        zeros in place of the reflection).
    """
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    offsets = tf.random.stateless_uniform(
        [2, count], seed, maxval=2 * padding + 1, dtype=tf.int32
    )
    sides = [padding, padding]
    padded = tf.pad(images, [[0, 0], sides, sides, [0, 0]], mode="REFLECT")
    rows = offsets[0, :, None] + tf.range(height)
    columns = offsets[1, :, None] + tf.range(width)
    cut = tf.gather(padded, rows, axis=1, batch_dims=1)
    cut = tf.gather(cut, columns, axis=2, batch_dims=1)
    return tf.ensure_shape(cut, images.shape)


def random_jitter(
    images: tf.Tensor,
    seed: TensorLike,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
) -> tf.Tensor:
    """Scales brightness, contrast and saturation of each image by random factors.

    The factors are uniform in [1 - s, 1 + s]. They scale the image, its difference from
    its mean grey, and its difference from the grey of each pixel. The result is clipped
    to [0, 1].

    Args:
        images: `[n, H, W, 3]`, or with one channel, which has no saturation.
        seed: `[2]`.
        brightness: s of the brightness, in [0, 1].
        contrast: s of the contrast, in [0, 1].
        saturation: s of the saturation, in [0, 1].
    """
    spread = tf.constant([brightness, contrast, saturation], tf.float32)
    shape = [3, tf.shape(images)[0], 1, 1, 1]
    uniform = tf.random.stateless_uniform(shape, seed, -1.0, 1.0)
    factors = 1 + uniform * spread[:, None, None, None, None]

    def grey(images):
        if images.shape[-1] == 1:
            return images
        return tf.reduce_sum(images * tf.constant(LUMA), axis=-1, keepdims=True)

    images = images * factors[0]
    mean = tf.reduce_mean(grey(images), axis=(1, 2, 3), keepdims=True)
    images = mean + factors[1] * (images - mean)
    images = grey(images) + factors[2] * (images - grey(images))
    return tf.clip_by_value(images, 0.0, 1.0)


def random_cutout(images: tf.Tensor, seed: TensorLike, size: int = 8) -> tf.Tensor:
    """Sets a square at a uniformly random position of each image to the image's mean.

    The centre of the square is inside the image; its sides may be outside.

    Args:
        images: `[n, H, W, C]`.
        seed: `[2]`.
        size: side of the square, in pixels.

    Reference:
        DeVries and Taylor, "Improved Regularization of Convolutional Neural Networks
        with Cutout", 2017, arXiv 1708.04552.
    """
    count, (height, width) = tf.shape(images)[0], images.shape[1:3]
    chance = tf.random.stateless_uniform([2, count, 1], seed)

    def inside(chance, side):
        first = tf.cast(tf.floor(chance * side), tf.int32) - size // 2  # [n, 1]
        places = tf.range(side)
        return (places >= first) & (places < first + size)  # [n, side]

    rows, columns = inside(chance[0], height), inside(chance[1], width)
    cut = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(cut, tf.reduce_mean(images, axis=(1, 2), keepdims=True), images)


AUGMENTATIONS = {
    "affine": random_affine,
    "flip": random_flip,
    "crop": random_crop,
    "jitter": random_jitter,
    "cutout": random_cutout,
}


def apply(
    images: TensorLike, seed: TensorLike, augmentations: Mapping[str, Mapping[str, Any]]
) -> tf.Tensor:
    """Applies several augmentations, one after another.

    Args:
        images: `[n, H, W, C]` in [0, 1].
        seed: `[2]`.
        augmentations: `{name: settings}` with names of `AUGMENTATIONS`, in the order of
            application.

    Raises:
        ValueError: another name.
    """
    for index, (name, settings) in enumerate(augmentations.items()):
        if name not in AUGMENTATIONS:
            raise ValueError(
                f"expected augmentations among {', '.join(AUGMENTATIONS)}, got "
                f"{name!r}."
            )
        own = tf.random.experimental.stateless_fold_in(seed, index) if index else seed
        images = AUGMENTATIONS[name](images, own, **settings)
    return images
