"""Images as functions from the position of a pixel to its intensity."""

import numpy as np
import tensorflow as tf

from keras_meta.tasks.family import TaskFamily
from keras_meta.typing_names import TensorLike


def completion(images: TensorLike) -> TaskFamily:
    """Returns the family of image completion: the pixels of an image are its points.

    x is a pixel's (row, column), each scaled to [0, 1], and y its intensities. Pixels
    come in uniformly random order without repetition. The first n pixels of a task do
    not depend on the number of pixels.

    Args:
        images: `[n, H, W, C]`, uint8 or floats in [0, 1], with equal probabilities;
            stored once, unchanged.

    Returns:
        A `TaskFamily` with d_x = 2 and d_y = C, y in [0, 1].

    Raises:
        ValueError: images of another rank, none, or floats outside [0, 1].

    Reference:
        Garnelo et al., Conditional Neural Processes, ICML 2018, section 4.2.
    """
    images = tf.convert_to_tensor(images)
    if images.shape.rank != 4 or 0 in images.shape:
        raise ValueError(
            f"expected images [n, H, W, C], at least one, got {list(images.shape)}."
        )
    if images.dtype != tf.uint8:
        images = tf.cast(images, tf.float32)
        if not (np.min(images) >= 0 and np.max(images) <= 1):
            raise ValueError(
                "expected images of uint8, or of floats in [0, 1], got values from "
                f"{np.min(images):g} to {np.max(images):g}."
            )
    count, height, width, channels = images.shape
    images = tf.reshape(images, [count, height * width, channels])
    rows, columns = np.indices([height, width]).reshape(2, -1)
    places = tf.constant(
        np.stack([rows / max(height - 1, 1), columns / max(width - 1, 1)], 1),
        tf.float32,
    )

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 2))
        image = tf.random.stateless_uniform([], seeds[0], 0, count, tf.int32)
        chance = tf.random.stateless_uniform([len(places)], seeds[1], dtype=tf.float64)
        _, pixels = tf.math.top_k(chance, n)
        y = tf.gather(images[image], pixels)
        if y.dtype == tf.uint8:
            y = tf.cast(y, tf.float32) / 255.0
        return tf.gather(places, pixels), y

    return TaskFamily(sample, points=len(places))
