"""Tests of image preprocessing against NumPy, and of its resizing against Pillow."""

import math

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

from keras_meta import augmentation, images, tasks


def pictures(*shape, seed=0):
    """Draws random uint8 images of a shape."""
    return np.random.RandomState(seed).randint(0, 256, shape).astype("uint8")


def trace_unsized(function, channels):
    """Traces `function` for uint8 images `[n, H, W, channels]` with unknown n, H, W."""
    spec = tf.TensorSpec([None, None, None, channels], tf.uint8)
    return tf.function(function, input_signature=[spec])


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_the_target_size_are_unchanged(channels):
    x = pictures(5, 9, 7, channels)
    preprocess = images.ImagePreprocess(9, 7, channels)
    np.testing.assert_array_equal(preprocess.resize(x), x)
    # If the size is unknown at tracing, the graph resamples the images.
    np.testing.assert_array_equal(trace_unsized(preprocess.resize, channels)(x), x)


@pytest.mark.parametrize("size", [(6, 5), (11, 4)])
def test_grey_becomes_colour_and_colour_grey(size):
    grey, colour = pictures(3, 6, 5, 1), pictures(3, 6, 5, 3)
    to_colour = images.ImagePreprocess(*size, 3)
    expected = np.repeat(images.ImagePreprocess(*size, 1).resize(grey), 3, axis=-1)
    np.testing.assert_array_equal(to_colour.resize(grey), expected)

    to_grey = images.ImagePreprocess(6, 5, 1)
    luma = colour @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    resized = to_grey.resize(colour)
    assert resized.shape == (3, 6, 5, 1) and resized.dtype == tf.uint8
    # Tolerance: one level, for rounding and for three digits of the weights.
    np.testing.assert_allclose(resized[..., 0], luma, atol=1)
    for level in (0, 255):
        flat = np.full([6, 5, 3], level, "uint8")
        assert set(to_grey.resize(flat).numpy().ravel()) == {level}


@pytest.mark.parametrize("invert", [True, False])
def test_levels_are_scaled_to_white_or_to_ink(invert):
    levels = np.arange(256, dtype="uint8").reshape(16, 16, 1)
    preprocess = images.ImagePreprocess(16, 16, 1, invert=invert)
    scaled = preprocess.scale(levels)
    assert scaled.dtype == tf.float32
    expected = np.arange(256).reshape(16, 16, 1) / 255
    # One rounding to float32 of a number in [0, 1].
    np.testing.assert_allclose(
        scaled, 1 - expected if invert else expected, rtol=0, atol=1e-7
    )
    assert scaled.numpy().min() == 0 and scaled.numpy().max() == 1
    np.testing.assert_array_equal(preprocess(levels), scaled)


def test_the_defaults_suit_omniglot():
    preprocess = images.ImagePreprocess()
    assert preprocess.shape == (28, 28, 1)
    image = preprocess(np.full([105, 105, 3], 255, "uint8"))
    assert image.shape == (28, 28, 1)
    assert (image.numpy() == 0).all()  # paper is 0 and ink is 1


@pytest.mark.parametrize("leading", [(), (4,), (2, 3), (1, 2, 2), (0,)])
@pytest.mark.parametrize("shape", [(8, 6, 3), (12, 4, 1), (12, 4, 3)])
def test_any_leading_dimensions(leading, shape):
    preprocess = images.ImagePreprocess(8, 6, 1)
    x = pictures(*leading, *shape)
    resized = preprocess.resize(x)
    assert resized.dtype == tf.uint8 and resized.shape == (*leading, 8, 6, 1)
    for index in np.ndindex(leading):
        np.testing.assert_array_equal(resized[index], preprocess.resize(x[index]))
    assert preprocess(x).shape == (*leading, 8, 6, 1)


@pytest.mark.parametrize("height, width", [(28, 28), (20, 31), (52, 52), (130, 120)])
def test_resizing_matches_the_lanczos_filter_of_pillow(height, width):
    glyph = tasks.glyphs(1, 1, seed=3).images_of(0)
    drawing = np.round(255 * glyph[0].numpy())
    assert set(drawing.ravel()) == {0, 255}
    resized = images.ImagePreprocess(height, width, 1).resize(drawing.astype("uint8"))
    # In floats, since Pillow rounds and clips rows of bytes before it filters columns.
    drawing = PIL.Image.fromarray(drawing[..., 0].astype("float32"))
    expected = drawing.resize((width, height), PIL.Image.Resampling.LANCZOS)
    expected = np.clip(expected, 0, 255)
    # Half a level for rounding. The error of another filter is at least 9 levels, and
    # of a filter that does not widen with the reduction at least 60 levels.
    np.testing.assert_allclose(resized[..., 0], expected, rtol=0, atol=0.51)


def test_a_graph_of_unknown_height_and_width():
    preprocess = images.ImagePreprocess(10, 8, 1)
    graph = trace_unsized(preprocess, 3)
    assert graph.get_concrete_function().output_shapes.as_list() == [None, 10, 8, 1]
    for shape in ((2, 21, 13, 3), (1, 10, 8, 3), (5, 3, 30, 3)):
        x = pictures(*shape)
        # A graph multiplies by 1 / 255, which rounds the last bit differently.
        np.testing.assert_allclose(graph(x), preprocess(x), rtol=0, atol=1e-7)


def test_a_config_restores_the_preprocess():
    preprocess = images.ImagePreprocess(9, 7, 3, invert=False)
    config = keras.saving.serialize_keras_object(preprocess)
    assert config["registered_name"] == "keras_meta>ImagePreprocess"
    restored = keras.saving.deserialize_keras_object(config)
    assert type(restored) is images.ImagePreprocess and restored is not preprocess
    assert restored.get_config() == preprocess.get_config()
    assert restored.get_config() == {
        "height": 9,
        "width": 7,
        "channels": 3,
        "invert": False,
        "detect": False,
        "mean": None,
        "deviation": None,
    }
    old = {**config, "config": {"height": 9, "width": 7, "channels": 1, "invert": True}}
    assert keras.saving.deserialize_keras_object(old).detect
    x = pictures(2, 20, 20, 1)
    np.testing.assert_array_equal(restored(x), preprocess(x))


@pytest.mark.parametrize(
    "x, got",
    [
        (np.zeros([5, 5, 3], "float32"), "float32 of shape (5, 5, 3)"),
        (np.zeros([5, 5, 3], "int64"), "int64 of shape (5, 5, 3)"),
        (np.zeros([2, 5, 5, 4], "uint8"), "uint8 of shape (2, 5, 5, 4)"),
        (np.zeros([5, 5], "uint8"), "uint8 of shape (5, 5)"),
        (np.zeros([], "uint8"), "uint8 of shape ()"),
    ],
)
def test_arrays_that_are_not_images_raise(x, got):
    expected = f"expected uint8 images of shape [..., H, W, 1 or 3], got {got}."
    for call in (images.ImagePreprocess(), images.ImagePreprocess().resize):
        with pytest.raises(ValueError) as info:
            call(x)
        assert str(info.value) == expected


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"channels": 2}, "expected channels to be 1 or 3, got 2."),
        ({"height": 0}, "expected height to be an integer >= 1, got 0."),
        ({"width": -3}, "expected width to be an integer >= 1, got -3."),
        ({"width": 2.5}, "expected width to be an integer >= 1, got 2.5."),
    ],
)
def test_arguments_are_checked(arguments, expected):
    with pytest.raises(ValueError) as info:
        images.ImagePreprocess(**arguments)
    assert str(info.value) == expected


def test_affine_is_bilinear_about_the_centre():
    rng = np.random.RandomState(0)
    x = rng.rand(4, 9, 12, 2).astype("float32")
    angle, zoom = rng.uniform(-3, 3, 4), rng.uniform(0.7, 1.4, 4)
    shift, shear = rng.uniform(-0.3, 0.3, [4, 2]), rng.uniform(-0.3, 0.3, 4)
    expected = np.zeros_like(x)
    size, centre = np.array([12, 9]), np.array([11, 8]) / 2
    for i in range(4):
        cosine, sine = np.cos(angle[i]), np.sin(angle[i])
        # `back` maps positions about the centre from the new image to the old image.
        rotation = np.array([[cosine, -sine], [sine, cosine]])
        back = rotation @ [[1, shear[i]], [0, 1]] / zoom[i]
        for row in range(9):
            for column in range(12):
                position = np.array([column, row]) - centre - shift[i] * size
                u, v = back @ position + centre
                for a in (math.floor(u), math.floor(u) + 1):
                    for b in (math.floor(v), math.floor(v) + 1):
                        if 0 <= a < 12 and 0 <= b < 9:
                            weight = (1 - abs(u - a)) * (1 - abs(v - b))
                            expected[i, row, column] += weight * x[i, b, a]
    arguments = [v.astype("float32") for v in (angle, zoom, shift, shear)]
    np.testing.assert_allclose(augmentation.affine(x, *arguments), expected, atol=2e-6)


def test_random_affine_draws_from_its_ranges():
    dot = np.zeros([500, 41, 41, 1], "float32")
    dot[:, 20, 30] = 1.0  # ten pixels to the right of the centre

    def positions(dot=dot, **ranges):
        identity = {"degrees": 0, "zoom": (1, 1), "shift": 0.0}
        x = augmentation.random_affine(dot, [1, 2], **{**identity, **ranges})[
            ..., 0
        ].numpy()
        mass = x.sum((1, 2))
        grid = np.arange(41) - 20
        return x.sum(1) @ grid / mass, x.sum(2) @ grid / mass

    x, y = positions()
    assert (x == 10).all() and (y == 0).all()
    x, y = positions(degrees=90)
    angles = np.degrees(np.arctan2(-y, x))
    np.testing.assert_allclose(np.hypot(x, y), 10, atol=0.5)
    assert angles.min() < -80 and angles.max() > 80 and abs(angles.mean()) < 10
    x, y = positions(zoom=(0.5, 1.5))
    assert 4.5 < x.min() < 6 and 14 < x.max() < 15.5 and (abs(y) < 0.1).all()
    x, y = positions(shift=0.1)
    assert x.min() > 5.8 and x.max() < 14.2 and y.std() > 2 and x.std() > 2
    assert abs(np.corrcoef(x, y)[0, 1]) < 0.2
    x, y = positions(dot.swapaxes(1, 2), shear=0.5)
    np.testing.assert_allclose(y, 10, atol=1e-5)
    assert -5.1 < x.min() < -4.5 and 4.5 < x.max() < 5.1


@pytest.mark.parametrize("invert", [False, True])
def test_colours_are_normalized_by_channel(invert):
    mean, deviation = [0.5, 0.25, 0.1], [0.2, 0.3, 0.5]
    settings = {"invert": invert, "mean": mean, "deviation": deviation}
    preprocess = images.ImagePreprocess(5, 4, 3, **settings)
    x = pictures(2, 6, 5, 4, 3)
    tones = 1 - x / 255 if invert else x / 255
    # A few roundings to float32 of numbers below 10.
    expected = (tones - mean) / deviation
    np.testing.assert_allclose(preprocess(x), expected, atol=1e-5)
    np.testing.assert_allclose(preprocess.tones(preprocess(x)), tones, atol=1e-6)
    np.testing.assert_array_equal(preprocess.unscale(preprocess(x)), x)
    support_x, query_x = preprocess.pair(x, x[:, :1])
    inverted = preprocess.inverts(x).numpy()[:, None, None, None, None]
    expected = (np.where(inverted, 1 - x / 255, x / 255) - mean) / deviation
    np.testing.assert_allclose(support_x, expected, atol=1e-5)
    np.testing.assert_allclose(query_x, expected[:, :1], atol=1e-5)
    config = keras.saving.serialize_keras_object(preprocess)
    restored = keras.saving.deserialize_keras_object(config)
    assert restored.get_config()["mean"] == mean
    np.testing.assert_array_equal(restored(x), preprocess(x))


def test_mean_and_deviation_are_optional_and_may_be_single_numbers():
    x = pictures(2, 4, 4, 3)
    for settings, expected in (
        ({"mean": 0.5}, x / 255 - 0.5),
        ({"deviation": 0.5}, x / 255 * 2),
        ({}, x / 255),
    ):
        preprocess = images.ImagePreprocess(4, 4, 3, invert=False, **settings)
        np.testing.assert_allclose(preprocess(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mean": [0.1, 0.2]}, "mean to be a finite number or one for each of 3"),
        ({"mean": float("nan")}, "mean to be a finite number or one for"),
        ({"mean": "grey"}, "got 'grey'"),
        ({"deviation": 0}, "deviation to be a finite number above 0 or one for each"),
        ({"deviation": [1, 1, -1]}, r"got \[1, 1, -1\]"),
    ],
)
def test_invalid_means_and_deviations_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        images.ImagePreprocess(4, 4, 3, **settings)
