"""From a picture of any size to what a network eats."""

import numbers

import keras
import numpy as np
import tensorflow as tf

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
# Tone and coverage above which a transparent image counts as light, or has a ground.
LIGHT, HALF = 128, 0.5


@keras.saving.register_keras_serializable("keras_meta")
class ImagePreprocess:
    """Resizes uint8 images and scales them to `[0, 1]`.

    A learner carries one, so that training, the command line and serving prepare
    images alike. The work is in two halves, because a pool of images is kept at the
    network's size as uint8 (`resize`) and scaled when drawn (`scale`);
    `preprocess(images)` is `scale(resize(images))`.

    A user's drawings may be light ink on a dark ground where the network knows dark ink
    on a light one. `pair` prepares the images of tasks: with `detect`, it inverts all
    images of a task whose support images call for it, so that ink is 1 in the result.
    Commands and exports prepare with `pair`. A pool takes images with `invert` as set.

    Args:
        height: rows of the result, in pixels.
        width: columns of the result, in pixels.
        channels: 1 (grey) or 3 (colour).
        invert: map black to 1 and white to 0, as is usual for dark ink on white.
        detect: whether `pair` finds out for each task if ink is the darker or the
            lighter tone; by default as `invert`. False: `invert` holds for all tasks.
        mean: subtracted from each channel of the scaled (and inverted) images: a number
            for all channels or one for each, in units of [0, 1]. None: 0.
        deviation: what each channel is divided by after that, as `mean`, above 0.
            None: 1.

    Call arguments:
        images: uint8 `[..., H, W, 1 or 3]`, any H and W.
        invert: in place of the argument above, a bool or bools `[T]` of images
            `[T, S, H, W, C]`, as `inverts` gives them.

    Returns:
        float32 `[..., height, width, channels]`: in `[0, 1]` without `mean` and
        `deviation`.

    Raises:
        ValueError: an argument out of range; images that are not uint8, or not
            `[..., H, W, 1 or 3]`.

    Example:
        >>> preprocess = ImagePreprocess(28, 28, 1, invert=True)
        >>> preprocess(np.zeros([5, 105, 105, 3], "uint8")).shape
        TensorShape([5, 28, 28, 1])
        >>> support_x, query_x = preprocess.pair(support_images, query_images)
    """

    def __init__(
        self,
        height=28,
        width=28,
        channels=1,
        invert=True,
        detect=None,
        mean=None,
        deviation=None,
    ):
        for name, value in (("height", height), ("width", width)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"expected {name} to be an integer >= 1, got {value}.")
        if channels not in (1, 3):
            raise ValueError(f"expected channels to be 1 or 3, got {channels}.")
        self.height = height
        self.width = width
        self.channels = channels
        self.invert = invert
        self.detect = bool(invert if detect is None else detect)
        self.mean = _of_channels("mean", mean, channels)
        self.deviation = _of_channels("deviation", deviation, channels, above=0)

    @property
    def shape(self):
        """`(height, width, channels)`."""
        return (self.height, self.width, self.channels)

    def resize(self, images):
        """uint8 `[..., H, W, 1 or 3]` -> uint8 `[..., height, width, channels]`."""
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
        """Grey or coloured as asked for, also if only the graph's run knows of what."""
        given, leading = images.shape[-1], images.shape[:-1]
        if given is None:
            found = tf.shape(images)[-1]
            check = tf.debugging.Assert(
                (found == 1) | (found == 3),
                [
                    "expected uint8 images of shape [..., H, W, 1 or 3], got channels:",
                    found,
                ],
            )
            with tf.control_dependencies([check] if check is not None else []):
                return tf.cond(
                    found == 3,
                    lambda: self._recoloured(tf.ensure_shape(images, [*leading, 3])),
                    lambda: self._recoloured(tf.ensure_shape(images, [*leading, 1])),
                )
        if given == 3 and self.channels == 1:
            return tf.image.rgb_to_grayscale(images)
        if given == 1 and self.channels == 3:
            return tf.image.grayscale_to_rgb(images)
        return images

    def decode(self, contents):
        """Encoded images, resized.

        Args:
            contents: the bytes of PNG or JPEG images of any sizes, strings `[...]`.

        Returns:
            uint8 `[..., height, width, channels]`.

        Raises:
            tf.errors.InvalidArgumentError: bytes that are no PNG or JPEG image.
        """
        contents = tf.convert_to_tensor(contents)
        images = tf.map_fn(
            lambda content: self.resize(decode(content)),
            tf.reshape(contents, [-1]),
            fn_output_signature=tf.TensorSpec(self.shape, tf.uint8),
        )
        images = tf.reshape(images, tf.concat([tf.shape(contents), self.shape], 0))
        return tf.ensure_shape(images, contents.shape.concatenate(self.shape))

    def scale(self, images, invert=None):
        """uint8 `[..., height, width, channels]` -> float32, what a network takes."""
        # A product: a graph makes one of a quotient by a constant, which differs.
        scaled = tf.cast(images, tf.float32) * (1 / 255)
        invert = tf.convert_to_tensor(self.invert if invert is None else invert)
        if invert.shape.rank:
            invert = invert[..., None, None, None, None]
        return self.standardize(tf.where(invert, 1.0 - scaled, scaled))

    def standardize(self, tones):
        """Tones in `[0, 1]` less `mean`, over `deviation`; as they are without both."""
        if self.mean is not None:
            tones = tones - tf.constant(self.mean, tones.dtype)
        if self.deviation is not None:
            tones = tones * (1 / tf.constant(self.deviation, tones.dtype))
        return tones

    def tones(self, x):
        """The tones in `[0, 1]` of which `standardize` makes x, up to rounding."""
        if self.deviation is not None:
            x = x * tf.constant(self.deviation, x.dtype)
        if self.mean is not None:
            x = x + tf.constant(self.mean, x.dtype)
        return x

    def unscale(self, x):
        """The uint8 images of which `scale` makes x, `invert` as set."""
        tones = self.tones(x)
        tones = 1.0 - tones if self.invert else tones
        return tf.cast(tf.clip_by_value(tf.round(255 * tones), 0, 255), tf.uint8)

    def __call__(self, images, invert=None):
        return self.scale(self.resize(images), invert)

    def inverts(self, support):
        """Whether black is to be 1 in a task, by its support images.

        Args:
            support: uint8 `[T, S, H, W, 1 or 3]`.

        Returns:
            Bools `[T]`: with `detect`, whether ink is the darker tone in most images of
            a task; `invert` if there is no majority, and without `detect`.
        """
        tones = ink_tones(self.resize(support))
        if not self.detect:
            return tf.fill(tf.shape(tones)[:-1], self.invert)
        balance = tf.reduce_sum(tones, axis=-1)
        return balance < 0 if not self.invert else balance <= 0

    def pair(self, support, query):
        """The support and the query images of tasks, prepared alike.

        Args:
            support: uint8 `[T, S, H, W, 1 or 3]`; these alone decide on inversion.
            query: uint8 `[T, Q, H, W, 1 or 3]`.

        Returns:
            `(support_x, query_x)`, what a learner's `adapt` and `infer` take.
        """
        invert = self.inverts(support)
        return self(support, invert), self(query, invert)

    def get_config(self):
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
    def from_config(cls, config):
        return cls(**config)


def _of_channels(name, values, channels, above=None):
    """A number for each channel, a list of floats; None for None.

    Raises:
        ValueError: other things, or values that are not above `above`.
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


def ink_tones(images):
    """Whether the ink of drawings is lighter or darker than the ground.

    Ink covers the smaller part of a drawing, so that tones are skewed towards it; noise
    and light that falls from a side skew little.

    Args:
        images: uint8 `[..., H, W, C]`.

    Returns:
        int32 `[...]`: 1 for light ink, -1 for dark ink, 0 where no tone prevails.
    """
    tone = tf.reduce_mean(tf.cast(images, tf.float32), axis=-1)
    tone -= tf.reduce_mean(tone, axis=(-2, -1), keepdims=True)
    skew = tf.reduce_mean(tone**3, axis=(-2, -1))
    return tf.cast(tf.sign(tf.round(skew)), tf.int32)  # no sign of mere rounding


def decode(content):
    """The pixels of a PNG or JPEG image, as Pillow reads them.

    Args:
        content: its bytes, a string.

    Returns:
        uint8 `[H, W, 1 or 3]`; transparency is laid on a ground, see `opaque`.

    Raises:
        tf.errors.InvalidArgumentError: bytes of no such image.
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
            # The default way differs from Pillow's by some levels.
            lambda: tf.io.decode_jpeg(content, dct_method="INTEGER_ACCURATE"),
        )
    return opaque(pixels)


def opaque(pixels):
    """Lays transparency on a ground, white or black, that the ink stands out from.

    If less than half is opaque, that is ink, and the ground contrasts with it; else the
    image has a ground of its own, which goes on.

    Args:
        pixels: uint8 `[H, W, C]`; of 2 or 4 channels, the last is opacity.

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


def affine(images, angle, zoom, shift, shear=0.0):
    """Turns, scales, shears and moves each image about its centre, bilinearly.

    Args:
        images: `[n, H, W, C]`; what comes in from outside is zero.
        angle: in radians, counter-clockwise, `[n]`.
        zoom: above 1 enlarges, `[n]`.
        shift: rightwards and downwards, as shares of width and height, `[n, 2]`.
        shear: of columns by rows, `[n]` or a number.

    Returns:
        Images of the same shape, float32.
    """
    images = tf.cast(tf.convert_to_tensor(images), tf.float32)
    height, width = images.shape[1:3]
    # From a place (x, y) in the new image, about its centre, to a place in the old.
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


def random_affine(images, seed, degrees=180.0, zoom=(0.8, 1.2), shift=0.2, shear=0.0):
    """Each image turned, scaled, sheared and moved by uniformly random amounts.

    Args:
        images: `[n, H, W, C]`, dark where there is nothing.
        seed: `[2]`; the same seed gives the same images.
        degrees: the most that an image is turned, either way.
        zoom: `(low, high)`.
        shift: the most that it is moved, as a share of its size.
        shear: the most that it is sheared.

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
