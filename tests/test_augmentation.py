"""Tests of augmentations against NumPy: effect, amount and reproducibility."""

import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import augmentation
from keras_meta.zoo.recipes import protocols, sources


def random_images(count=200, size=9, seed=0, channels=3):
    shape = [count, size, size, channels]
    return np.random.RandomState(seed).uniform(size=shape).astype("float32")


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
def test_augmentations_depend_on_the_seed_and_the_position(name):
    images = np.repeat(random_images(1), 50, axis=0)
    augment = augmentation.AUGMENTATIONS[name]
    first, second = augment(images, [1, 2]).numpy(), augment(images, [1, 2]).numpy()
    np.testing.assert_array_equal(first, second)
    assert (augment(images, [1, 3]).numpy() != first).any()
    distinct = len(np.unique(first.reshape(50, -1), axis=0))
    assert distinct == 2 if name == "flip" else distinct > 20
    assert first.dtype == np.float32 and first.shape == images.shape
    traced = tf.function(augment, input_signature=[
        tf.TensorSpec([None, 9, 9, 3]), tf.TensorSpec([2], tf.int32)
    ])  # fmt: skip
    # A graph may fuse a product and a sum, which changes the last bits.
    np.testing.assert_allclose(traced(images, [1, 2]), first, atol=1e-5)


def test_half_of_the_images_are_mirrored():
    x = random_images(400)
    augmented = augmentation.random_flip(x, [3, 4]).numpy()
    mirrored = (augmented == x[:, :, ::-1]).all((1, 2, 3))
    assert ((augmented == x).all((1, 2, 3)) | mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1  # four deviations


def test_crops_are_windows_of_the_reflected_image():
    x = random_images(300, size=5)
    crops = augmentation.random_crop(x, [5, 6], padding=2).numpy()
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="reflect")
    offsets = set()
    for crop, image in zip(crops, padded, strict=True):
        positions = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if (image[i : i + 5, j : j + 5] == crop).all()
        ]
        assert len(positions) == 1
        offsets.update(positions)
    assert len(offsets) == 25  # all offsets are drawn


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_scales_brightness_contrast_and_saturation_in_order(channels):
    x = random_images(50, channels=channels)
    jittered = augmentation.random_jitter(x, [7, 8], 0.1, 0.2, 0.3).numpy()
    uniform = tf.random.stateless_uniform([3, 50, 1, 1, 1], [7, 8], -1.0, 1.0).numpy()
    assert uniform.min() < -0.9 and uniform.max() > 0.9
    weights = [0.299, 0.587, 0.114]
    for image, amounts, result in zip(
        x, np.moveaxis(uniform, 1, 0), jittered, strict=True
    ):
        a, b, c = 1 + amounts.ravel() * [0.1, 0.2, 0.3]
        image = image.astype("float64") * a
        grey = image @ weights if channels == 3 else image[..., 0]
        image = grey.mean() + b * (image - grey.mean())
        grey = image @ weights if channels == 3 else image[..., 0]
        image = grey[..., None] + c * (image - grey[..., None])
        np.testing.assert_allclose(result, image.clip(0, 1), atol=1e-5)


def test_cutout_fills_one_square_with_the_mean():
    x = random_images(500, size=8)
    augmented = augmentation.random_cutout(x, [9, 1], size=4).numpy()
    changed = (augmented != x).any(-1)
    heights = set()
    for image, result, mask in zip(x, augmented, changed, strict=True):
        rows, columns = (mask.any(axis) for axis in (1, 0))
        np.testing.assert_array_equal(mask, rows[:, None] & columns)
        for side in (rows, columns):
            (positions,) = np.nonzero(side)
            assert len(positions) == positions[-1] - positions[0] + 1  # contiguous
            heights.add(len(positions))
        mean = np.broadcast_to(image.mean((0, 1)), [mask.sum(), 3])
        np.testing.assert_allclose(result[mask], mean, atol=1e-6)
    assert heights == {2, 3, 4}  # less than 4 at the border of the image


def test_consecutive_augmentations_use_different_seeds():
    x = random_images(20)
    augmented = augmentation.apply(x, [1, 1], {"flip": {}, "crop": {"padding": 1}})
    second_seed = tf.random.experimental.stateless_fold_in([1, 1], 1)
    expected = augmentation.random_flip(x, [1, 1])
    expected = augmentation.random_crop(expected, second_seed, padding=1)
    np.testing.assert_array_equal(augmented, expected)
    with pytest.raises(ValueError, match="among affine, flip, .*, got 'blur'"):
        augmentation.apply(x, [1, 1], {"blur": {}})


def source():
    """Returns a source of six classes of random colour images in memory."""
    x = np.random.RandomState(0).randint(0, 256, [60, 8, 8, 3]).astype("uint8")

    def load(preprocess, ids):
        return km.ClassPool.from_arrays(x, np.repeat(np.arange(6), 10), preprocess)

    return sources.Source("x", "x", "x", "x", (3, 2, 1), load, rotations=False)


AUGMENT = {"flip": {}, "crop": {"padding": 2}, "jitter": {}, "cutout": {"size": 3}}


@pytest.mark.thorough
def test_normalization_follows_augmentation():
    unnormalized = km.ImagePreprocess(8, 8, 3, False)
    normalized = km.ImagePreprocess(
        8, 8, 3, False, mean=[0.5, 0.4, 0.3], deviation=[0.2, 0.3, 0.4]
    )
    task = protocols.Classification(source(), 3, 1, 2, test_queries=1, augment=AUGMENT)
    pixels, x = (
        next(task.episodes(prepare, 0)["train"]().as_numpy_iterator())[0]["query_x"]
        for prepare in (unnormalized, normalized)
    )
    assert pixels.min() >= 0 and pixels.max() <= 1
    # Pixels are clipped to [0, 1] first: float32 rounding of values below 5.
    expected = (pixels - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("supervised", [False, True])
def test_a_stream_resumes_anywhere_with_the_same_augmentations(supervised):
    prepare = km.ImagePreprocess(8, 8, 3, False, mean=0.5, deviation=0.25)
    task = protocols.Classification(source(), 2, 1, 2, test_queries=1, augment=AUGMENT)
    if supervised:
        task = protocols.Supervised(task, batch=7)
    train = task.episodes(prepare, seed=3)["train"]
    episodes = list(train().take(4).as_numpy_iterator())
    for start in (1, 3):
        resumed = list(train(start).take(4 - start).as_numpy_iterator())
        for (x, y), (known_x, known_y) in zip(resumed, episodes[start:], strict=True):
            np.testing.assert_array_equal(y, known_y)
            for key in x:
                np.testing.assert_array_equal(x[key], known_x[key])
    other_episode = next(task.episodes(prepare, seed=4)["train"]().as_numpy_iterator())
    assert (other_episode[0]["query_x"] != episodes[0][0]["query_x"]).any()
