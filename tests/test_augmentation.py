"""Augmentations against NumPy: what each changes, by how much, and that it replays."""

import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import augmentation
from keras_meta.zoo.recipes import protocols, sources


def pictures(count=200, size=9, seed=0, channels=3):
    shape = [count, size, size, channels]
    return np.random.RandomState(seed).uniform(size=shape).astype("float32")


@pytest.mark.parametrize("name", augmentation.AUGMENTATIONS)
def test_a_seed_gives_the_same_images_and_each_image_its_own_change(name):
    same = np.repeat(pictures(1), 50, axis=0)
    change = augmentation.AUGMENTATIONS[name]
    first, again = change(same, [1, 2]).numpy(), change(same, [1, 2]).numpy()
    np.testing.assert_array_equal(first, again)
    assert (change(same, [1, 3]).numpy() != first).any()
    kinds = len(np.unique(first.reshape(50, -1), axis=0))
    assert kinds == 2 if name == "flip" else kinds > 20
    assert first.dtype == np.float32 and first.shape == same.shape
    traced = tf.function(change, input_signature=[
        tf.TensorSpec([None, 9, 9, 3]), tf.TensorSpec([2], tf.int32)
    ])  # fmt: skip
    # A graph may fuse a product and a sum: the last bits.
    np.testing.assert_allclose(traced(same, [1, 2]), first, atol=1e-5)


def test_half_of_the_images_are_mirrored():
    x = pictures(400)
    found = augmentation.random_flip(x, [3, 4]).numpy()
    mirrored = (found == x[:, :, ::-1]).all((1, 2, 3))
    assert ((found == x).all((1, 2, 3)) | mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 0.1  # four deviations


def test_crops_are_windows_of_the_reflected_image():
    x = pictures(300, size=5)
    found = augmentation.random_crop(x, [5, 6], padding=2).numpy()
    padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)], mode="reflect")
    places = set()
    for image, whole in zip(found, padded, strict=True):
        at = [
            (i, j)
            for i in range(5)
            for j in range(5)
            if (whole[i : i + 5, j : j + 5] == image).all()
        ]
        assert len(at) == 1
        places.update(at)
    assert len(places) == 25  # all of them are drawn


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_is_three_scalings_in_their_order(channels):
    x = pictures(50, channels=channels)
    found = augmentation.random_jitter(x, [7, 8], 0.1, 0.2, 0.3).numpy()
    uniform = tf.random.stateless_uniform([3, 50, 1, 1, 1], [7, 8], -1.0, 1.0).numpy()
    assert uniform.min() < -0.9 and uniform.max() > 0.9
    weights = [0.299, 0.587, 0.114]
    for image, amounts, result in zip(
        x, np.moveaxis(uniform, 1, 0), found, strict=True
    ):
        a, b, c = 1 + amounts.ravel() * [0.1, 0.2, 0.3]
        image = image.astype("float64") * a
        grey = image @ weights if channels == 3 else image[..., 0]
        image = grey.mean() + b * (image - grey.mean())
        grey = image @ weights if channels == 3 else image[..., 0]
        image = grey[..., None] + c * (image - grey[..., None])
        np.testing.assert_allclose(result, image.clip(0, 1), atol=1e-5)


def test_cutout_fills_one_square_with_the_mean():
    x = pictures(500, size=8)
    found = augmentation.random_cutout(x, [9, 1], size=4).numpy()
    changed = (found != x).any(-1)
    heights = set()
    for image, result, places in zip(x, found, changed, strict=True):
        rows, columns = (places.any(axis) for axis in (1, 0))
        np.testing.assert_array_equal(places, rows[:, None] & columns)
        for side in (rows, columns):
            (at,) = np.nonzero(side)
            assert len(at) == at[-1] - at[0] + 1  # no hole
            heights.add(len(at))
        mean = np.broadcast_to(image.mean((0, 1)), [places.sum(), 3])
        np.testing.assert_allclose(result[places], mean, atol=1e-6)
    assert heights == {2, 3, 4}  # less than 4 where the square leaves the image


def test_augmentations_follow_one_another_with_seeds_of_their_own():
    x = pictures(20)
    found = augmentation.apply(x, [1, 1], {"flip": {}, "crop": {"padding": 1}})
    second = tf.random.experimental.stateless_fold_in([1, 1], 1)
    expected = augmentation.random_flip(x, [1, 1])
    expected = augmentation.random_crop(expected, second, padding=1)
    np.testing.assert_array_equal(found, expected)
    with pytest.raises(ValueError, match="among affine, flip, .*, got 'blur'"):
        augmentation.apply(x, [1, 1], {"blur": {}})


def source():
    """Six classes of random colour images, without a file."""
    x = np.random.RandomState(0).randint(0, 256, [60, 8, 8, 3]).astype("uint8")

    def load(preprocess, ids):
        return km.ClassPool.from_arrays(x, np.repeat(np.arange(6), 10), preprocess)

    return sources.Source("x", "x", "x", "x", (3, 2, 1), load, rotations=False)


EVERYTHING = {"flip": {}, "crop": {"padding": 2}, "jitter": {}, "cutout": {"size": 3}}


def test_colours_are_normalized_after_an_augmentation():
    plain = km.ImagePreprocess(8, 8, 3, False)
    normal = km.ImagePreprocess(
        8, 8, 3, False, mean=[0.5, 0.4, 0.3], deviation=[0.2, 0.3, 0.4]
    )
    task = protocols.Classification(
        source(), 3, 1, 2, test_queries=1, augment=EVERYTHING
    )
    tones, x = (
        next(task.episodes(prepare, 0)["train"]().as_numpy_iterator())[0]["query_x"]
        for prepare in (plain, normal)
    )
    assert tones.min() >= 0 and tones.max() <= 1
    # Cut to [0, 1] before the normalization: float32 of numbers below 5.
    expected = (tones - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    np.testing.assert_allclose(x, expected, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("supervised", [False, True])
def test_a_stream_resumes_anywhere_with_the_same_augmentations(supervised):
    prepare = km.ImagePreprocess(8, 8, 3, False, mean=0.5, deviation=0.25)
    task = protocols.Classification(
        source(), 2, 1, 2, test_queries=1, augment=EVERYTHING
    )
    if supervised:
        task = protocols.Supervised(task, batch=7)
    train = task.episodes(prepare, seed=3)["train"]
    whole = list(train().take(4).as_numpy_iterator())
    for start in (1, 3):
        resumed = list(train(start).take(4 - start).as_numpy_iterator())
        for (x, y), (known_x, known_y) in zip(resumed, whole[start:], strict=True):
            np.testing.assert_array_equal(y, known_y)
            for key in x:
                np.testing.assert_array_equal(x[key], known_x[key])
    other = next(task.episodes(prepare, seed=4)["train"]().as_numpy_iterator())
    assert (other[0]["query_x"] != whole[0][0]["query_x"]).any()
