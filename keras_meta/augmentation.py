"""Random changes of images while training, each a pure function of a seed.

All take images `[n, H, W, C]` in [0, 1] and a seed `[2]`, draw for each image by
itself, and return float32 images of the same shape. With a batch of images `tf.image`'s
`stateless_random_*` functions draw one amount for all of them, except for flips.
"""

import tensorflow as tf

from keras_meta import images as images_module

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as of `tf.image.rgb_to_grayscale`


def random_flip(images, seed):
    """Mirrors each image left to right with probability 1/2.

    Args:
        images: `[n, H, W, C]`.
        seed: `[2]`.
    """
    return tf.image.stateless_random_flip_left_right(images, seed)


def random_crop(images, seed, padding=4):
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


def random_jitter(images, seed, brightness=0.4, contrast=0.4, saturation=0.4):
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


def random_cutout(images, seed, size=8):
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
    "affine": images_module.random_affine,
    "flip": random_flip,
    "crop": random_crop,
    "jitter": random_jitter,
    "cutout": random_cutout,
}


def apply(images, seed, augmentations):
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
