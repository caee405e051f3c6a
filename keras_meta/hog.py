"""Histograms of oriented gradients (HOG), as a Keras layer."""

import math
from typing import Any

import keras
import tensorflow as tf

from keras_meta import checks

SMALL = 1e-10  # added to squared norms
LARGEST = 0.2  # of a normalized value, before the second normalization


@keras.saving.register_keras_serializable("keras_meta")
class HOG(keras.layers.Layer):
    """Histograms of oriented gradients of images, a fixed descriptor of shape.

    The gradient of the mean over channels is a central difference, zero at the edges.
    Each cell has a histogram of its orientations modulo 180 degrees, weighted by
    magnitude. The histograms of neighbouring cells form overlapping blocks, each of
    which is normalized, clipped at 0.2 and normalized again. Pixels beyond the last
    complete cell are not used.

    Args:
        orientations: bins of a histogram.
        cell: height and width of a cell, in pixels.
        block: height and width of a block, in cells.
        **kwargs: for `keras.layers.Layer`.

    Call arguments:
        images: `[B, H, W, C]` of any value range.

    Returns:
        Float `[B, D]`, D being `(H // cell - block + 1) (W // cell - block + 1) block^2
        orientations`.

    Raises:
        ValueError: an argument that is not an integer above 0, or images smaller than
            a block.

    Example:
        >>> tuple(km.networks.HOG()(np.zeros([2, 64, 64, 3])).shape)
        (2, 1764)

    Reference:
        Dalal and Triggs, "Histograms of Oriented Gradients for Human Detection", CVPR
        2005, without interpolation between bins.
    """

    def __init__(
        self, orientations: int = 9, cell: int = 8, block: int = 2, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # counts in single precision
        checks.check_integer("orientations", orientations, 1)
        checks.check_integer("cell", cell, 1)
        checks.check_integer("block", block, 1)
        self.orientations, self.cell, self.block = orientations, cell, block

    def call(self, images: tf.Tensor) -> tf.Tensor:
        grey = tf.reduce_mean(tf.cast(images, "float32"), axis=-1)
        down = tf.pad(grey[:, 2:] - grey[:, :-2], [[0, 0], [1, 1], [0, 0]])
        right = tf.pad(grey[:, :, 2:] - grey[:, :, :-2], [[0, 0], [0, 0], [1, 1]])
        turns = tf.math.floormod(tf.atan2(down, right) / math.pi, 1)
        bins = tf.cast(turns * self.orientations, tf.int32)
        bins = tf.minimum(bins, self.orientations - 1)  # rounded up to half a turn
        magnitudes = tf.sqrt(tf.square(down) + tf.square(right))
        votes = tf.one_hot(bins, self.orientations) * magnitudes[..., None]
        cells = tf.nn.avg_pool2d(votes, self.cell, self.cell, "VALID")
        height, width = self._blocks(images.shape)
        blocks = tf.concat(
            [
                cells[:, i : i + height, j : j + width]
                for i in range(self.block)
                for j in range(self.block)
            ],
            axis=-1,
        )
        blocks = _normalized(tf.minimum(_normalized(blocks), LARGEST))
        features = tf.reshape(blocks, [-1, math.prod(blocks.shape[1:])])
        return tf.cast(features, self.compute_dtype)

    def _blocks(self, shape):
        """The numbers of blocks from top to bottom and from left to right."""
        counts = [size // self.cell - self.block + 1 for size in shape[1:3]]
        if min(counts) < 1:
            raise ValueError(
                f"expected images of at least {self.cell * self.block} pixels a side, "
                f"got {shape[1]}x{shape[2]}."
            )
        return counts

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        values = self.block**2 * self.orientations
        return input_shape[0], math.prod(self._blocks(input_shape)) * values

    def get_config(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("orientations", "cell", "block")}
        return {**super().get_config(), **own}


def _normalized(values):
    squares = tf.reduce_sum(tf.square(values), axis=-1, keepdims=True)
    return values * tf.math.rsqrt(squares + SMALL)
