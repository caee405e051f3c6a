"""ImagePreprocess: converts raw images of any size to network inputs."""

import numbers
from collections.abc import Sequence
from typing import Any, Self

import keras
import numpy as np
import tensorflow as tf

from keras_meta import checks, settings
from keras_meta.typing_names import TensorLike

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Intensity above which a transparent image counts as light, and coverage above which it
# has a ground.
LIGHT, HALF = 128, 0.5


@keras.saving.register_keras_serializable("keras_meta")
class ImagePreprocess:
    """Resizes uint8 images and scales them to `[0, 1]`.

    A learner stores one, so that training, the command line and serving prepare images
    in the same way. There are two steps, because a pool stores images as uint8 at the
    network's size (`resize`) and scales them when they are drawn (`scale`).
    `preprocess(images)` is `scale(resize(images))`.

    Users may draw light ink on a dark background where the training images had dark ink
    on a light background. `pair` prepares all images of a task. With `detect`, it
    inverts them if the support images require it, so that ink is 1 in the result. The
    command line and exports use `pair`; a pool inverts images as `invert` states.

    Args:
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.
        channels: 1 (grey) or 3 (colour).
        invert: if True, maps black to 1 and white to 0, as usual for dark ink on white.
        detect: if True, `pair` detects for each task whether ink is darker or lighter
            than the ground; if False, `invert` applies to all tasks. By default as
            `invert`.
        mean: subtracted from each channel of the scaled (and inverted) images: a number
            for all channels or one for each, in units of [0, 1]. None: 0.
        deviation: the standard deviation by which each channel is then divided, a
            number or one for each channel, above 0. None: 1.

    Call arguments:
        images: uint8 `[..., H, W, 1 or 3]`, any H and W.
        invert: replaces the argument above: a bool, or bools `[T]` for images `[T, S,
            H, W, C]`, as `inverts` returns them.

    Returns:
        float32 `[..., height, width, channels]`; in `[0, 1]` without `mean` and
        `deviation`.

    Raises:
        ValueError: an argument out of range, or images that are not uint8 `[..., H, W,
            1 or 3]`.

    Example:
        >>> preprocess = km.ImagePreprocess(28, 28, 1, invert=True)
        >>> support_images = np.zeros([1, 5, 105, 105, 3], "uint8")
        >>> query_images = np.zeros([1, 2, 64, 64, 1], "uint8")
        >>> preprocess(support_images).shape
        TensorShape([1, 5, 28, 28, 1])
        >>> support_x, query_x = preprocess.pair(support_images, query_images)
    """

    def __init__(
        self,
        height: int = 28,
        width: int = 28,
        channels: int = 1,
        invert: bool = True,
        detect: bool | None = None,
        mean: float | Sequence[float] | None = None,
        deviation: float | Sequence[float] | None = None,
    ) -> None:
        for name, value in (("height", height), ("width", width)):
            checks.check_integer(name, value, 1)
        if channels not in (1, 3):
            raise ValueError(f"expected channels to be 1 or 3, got {channels}.")
        self.height = int(height)
        self.width = int(width)
        self.channels = int(channels)
        self.invert = settings.boolean(self, "invert", invert)
        detect = invert if detect is None else detect
        self.detect = settings.boolean(self, "detect", detect)
        self.mean = _by_channel("mean", mean, channels)
        self.deviation = _by_channel("deviation", deviation, channels, above=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(height, width, channels)`."""
        return (self.height, self.width, self.channels)

    def resize(self, images: TensorLike) -> tf.Tensor:
        """Resizes uint8 images and converts between grey and colour.

        Args:
            images: uint8 `[..., H, W, 1 or 3]`.

        Returns:
            uint8 `[..., height, width, channels]`.

        Raises:
            ValueError: images of another dtype or shape.
        """
        images = tf.convert_to_tensor(images)
        shape = images.shape
        if images.dtype != tf.uint8 or shape.rank < 3 or shape[-1] not in (None, 1, 3):
            raise ValueError(
                "expected uint8 images of shape [..., H, W, 1 or 3], got "
                f"{images.dtype.name} of shape {shape}."
            )
        if tuple(shape[-3:]) == self.shape:
            return images
        images = self._recoloured(images)
        if tuple(shape[-3:-1]) == (self.height, self.width):
            return images
        leading = tf.shape(images)[:-3]
        flat = tf.reshape(images, tf.concat([[-1], tf.shape(images)[-3:]], 0))
        flat = tf.image.resize(
            flat, (self.height, self.width), method="lanczos3", antialias=True
        )
        flat = tf.cast(tf.clip_by_value(tf.round(flat), 0, 255), tf.uint8)
        images = tf.reshape(flat, tf.concat([leading, self.shape], 0))
        return tf.ensure_shape(images, shape[:-3].concatenate(self.shape))

    def _recoloured(self, images):
        """Converts images to grey or colour, also if a graph's channels are unknown."""
        given, leading = images.shape[-1], images.shape[:-1]
        if given is None:
            channels = tf.shape(images)[-1]
            check = tf.debugging.Assert(
                (channels == 1) | (channels == 3),
                [
                    "expected uint8 images of shape [..., H, W, 1 or 3], got channels:",
                    channels,
                ],
            )
            with tf.control_dependencies([check] if check is not None else []):
                return tf.cond(
                    channels == 3,
                    lambda: self._recoloured(tf.ensure_shape(images, [*leading, 3])),
                    lambda: self._recoloured(tf.ensure_shape(images, [*leading, 1])),
                )
        if given == 3 and self.channels == 1:
            return tf.image.rgb_to_grayscale(images)
        if given == 1 and self.channels == 3:
            return tf.image.grayscale_to_rgb(images)
        return images

    def decode(self, contents: TensorLike) -> tf.Tensor:
        """Decodes and resizes encoded images.

        Args:
            contents: the bytes of PNG or JPEG images of any sizes, strings `[...]`.

        Returns:
            uint8 `[..., height, width, channels]`.

        Raises:
            tf.errors.InvalidArgumentError: bytes that are not a PNG or JPEG image.
        """
        contents = tf.convert_to_tensor(contents)
        images = tf.map_fn(
            lambda content: self.resize(decode(content)),
            tf.reshape(contents, [-1]),
            fn_output_signature=tf.TensorSpec(self.shape, tf.uint8),
        )
        images = tf.reshape(images, tf.concat([tf.shape(contents), self.shape], 0))
        return tf.ensure_shape(images, contents.shape.concatenate(self.shape))

    def scale(self, images: TensorLike, invert: TensorLike | None = None) -> tf.Tensor:
        """Converts resized images to network inputs.

        Args:
            images: uint8 `[..., height, width, channels]`.
            invert: replaces the setting: a bool, or bools `[T]`; None uses the setting.

        Returns:
            float32 `[..., height, width, channels]`.
        """
        images = tf.convert_to_tensor(images)
        if images.dtype != tf.uint8:
            raise ValueError(f"expected uint8 images, got {images.dtype.name}.")
        # A product: graphs replace a quotient by a product, which rounds differently.
        scaled = tf.cast(images, tf.float32) * (1 / 255)
        invert = tf.convert_to_tensor(self.invert if invert is None else invert)
        if invert.shape.rank:
            invert = invert[..., None, None, None, None]
        return self.standardize(tf.where(invert, 1.0 - scaled, scaled))

    def standardize(self, tones: tf.Tensor) -> tf.Tensor:
        """Subtracts `mean` from intensities in `[0, 1]` and divides by `deviation`."""
        if self.mean is not None:
            tones = tones - tf.constant(self.mean, tones.dtype)
        if self.deviation is not None:
            tones = tones * (1 / tf.constant(self.deviation, tones.dtype))
        return tones

    def tones(self, x: tf.Tensor) -> tf.Tensor:
        """Inverts `standardize`: returns intensities in `[0, 1]`, up to rounding."""
        if self.deviation is not None:
            x = x * tf.constant(self.deviation, x.dtype)
        if self.mean is not None:
            x = x + tf.constant(self.mean, x.dtype)
        return x

    def unscale(self, x: tf.Tensor) -> tf.Tensor:
        """Inverts `scale`, with `invert` as set: returns uint8 images."""
        tones = self.tones(x)
        tones = 1.0 - tones if self.invert else tones
        return tf.cast(tf.clip_by_value(tf.round(255 * tones), 0, 255), tf.uint8)

    def __call__(
        self, images: TensorLike, invert: TensorLike | None = None
    ) -> tf.Tensor:
        return self.scale(self.resize(images), invert)

    def inverts(self, support: TensorLike) -> tf.Tensor:
        """Determines from the support images of a task whether to invert its images.

        Args:
            support: uint8 `[T, S, H, W, 1 or 3]`.

        Returns:
            Bools `[T]`. With `detect`: whether ink is darker than the ground in most
            images of the task. Without a majority, or without `detect`: `invert`.

        Raises:
            ValueError: images that are not uint8, or of another rank.
        """
        tones = ink_tones(self.resize(_of_tasks(support)))
        if not self.detect:
            return tf.fill(tf.shape(tones)[:-1], self.invert)
        balance = tf.reduce_sum(tones, axis=-1)
        return balance < 0 if not self.invert else balance <= 0

    def pair(
        self, support: TensorLike, query: TensorLike
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Prepares the support and the query images of tasks in the same way.

        Args:
            support: uint8 `[T, S, H, W, 1 or 3]`; these alone determine inversion.
            query: uint8 `[T, Q, H, W, 1 or 3]`.

        Returns:
            `(support_x, query_x)`, inputs of a learner's `adapt` and `infer`.

        Raises:
            ValueError: images that are not uint8, or of another rank.
        """
        invert = self.inverts(support)
        return self(support, invert), self(_of_tasks(query), invert)

    def __repr__(self) -> str:
        given = ", ".join(f"{key}={value}" for key, value in self.get_config().items())
        return f"{type(self).__name__}({given})"

    def get_config(self) -> dict[str, Any]:
        return {
            "height": self.height,
            "width": self.width,
            "channels": self.channels,
            "invert": self.invert,
            "detect": self.detect,
            "mean": self.mean,
            "deviation": self.deviation,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return cls(**config)


def _of_tasks(images):
    """Returns the images of tasks as a tensor, after validation of its rank."""
    images = tf.convert_to_tensor(images)
    if images.shape.rank not in (None, 5):
        raise ValueError(
            f"expected images of tasks [T, n, H, W, 1 or 3], got {list(images.shape)}: "
            "images[None] makes an axis of tasks."
        )
    return images


def _by_channel(name, values, channels, above=None):
    """Returns one number for each channel, a list of floats, or None for None.

    Raises:
        ValueError: values that are not finite numbers above `above`, or another number
            of them.
    """
    if values is None:
        return None
    single = isinstance(values, numbers.Real)
    try:
        checked = [float(v) for v in ([values] * channels if single else values)]
    except (TypeError, ValueError):
        checked = []
    low = -np.inf if above is None else above
    if len(checked) != channels or not all(low < v < np.inf for v in checked):
        limit = "" if above is None else f" above {above}"
        raise ValueError(
            f"expected {name} to be a finite number{limit} or one for each of "
            f"{channels} channels, got {values!r}."
        )
    return checked


def ink_tones(images: TensorLike) -> tf.Tensor:
    """Detects whether the ink of drawings is lighter or darker than the ground.

    Ink covers the smaller part of a drawing and therefore skews the intensities towards
    its own. Noise and light from one side skew them little.

    Args:
        images: uint8 `[..., H, W, C]`.

    Returns:
        int32 `[...]`: 1 for light ink, -1 for dark ink, 0 if undecided.
    """
    tone = tf.reduce_mean(tf.cast(images, tf.float32), axis=-1)
    tone -= tf.reduce_mean(tone, axis=(-2, -1), keepdims=True)
    skew = tf.reduce_mean(tone**3, axis=(-2, -1))
    return tf.cast(tf.sign(tf.round(skew)), tf.int32)  # rounding errors have no sign


def decode(content: bytes | tf.Tensor) -> tf.Tensor:
    """Decodes a PNG or JPEG image to the same pixels as Pillow.

    Args:
        content: the bytes of the image, a string.

    Returns:
        uint8 `[H, W, 1 or 3]`; `opaque` replaces transparency.

    Raises:
        tf.errors.InvalidArgumentError: bytes that are not a PNG or JPEG image.
    """
    is_png = tf.strings.substr(content, 0, len(PNG)) == PNG
    is_jpeg = tf.strings.substr(content, 0, len(JPEG)) == JPEG
    check = tf.debugging.Assert(
        is_png | is_jpeg,
        ["expected the bytes of a PNG or JPEG image, got bytes of neither."],
    )
    with tf.control_dependencies([check] if check is not None else []):
        pixels = tf.cond(
            is_png,
            lambda: tf.io.decode_png(content),
            # The default method differs from Pillow's by some intensity levels.
            lambda: tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE"),
        )
    return opaque(pixels)


def opaque(pixels: TensorLike) -> tf.Tensor:
    """Replaces transparency by a white or black ground that contrasts with the ink.

    If less than half of the image is opaque, the opaque part is ink, and transparent
    pixels get the tone that contrasts with it. Otherwise the opaque part is the ground,
    and transparent pixels get the tone nearest to it.

    Args:
        pixels: uint8 `[H, W, C]`; with 2 or 4 channels, the last is opacity.

    Returns:
        uint8 `[H, W, 1 or 3]`.
    """
    pixels = tf.cast(pixels, tf.int32)  # integers, to be exact in any graph
    channels = tf.shape(pixels)[-1]
    clear = channels % 2 == 0
    colours = pixels[..., : channels - tf.cast(clear, tf.int32)]
    alpha = tf.where(clear, pixels[..., -1:], 255)
    coverage = tf.reduce_mean(tf.cast(alpha, tf.float32)) / 255
    weighted = tf.reduce_mean(tf.cast(alpha * colours, tf.float32)) / 255
    light = weighted > LIGHT * coverage
    ground = tf.where(light == (coverage > HALF), 255, 0)
    return tf.cast((alpha * colours + (255 - alpha) * ground + 127) // 255, tf.uint8)
