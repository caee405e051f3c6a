"""Tests of joined pools and of batches of labelled examples."""

import numpy as np
import pytest

import keras_meta as km


def pool(first, classes, images=4, shape=(2, 2, 1), dtype="uint8", invert=None):
    """Returns classes `first`, `first + 10`, ...; pixels are 10 * index + number."""
    x = np.arange(classes)[:, None] * 10 + np.arange(images)
    x = np.broadcast_to(x.reshape(-1, *[1] * len(shape)), [x.size, *shape])
    labels = np.repeat(first + 10 * np.arange(classes), images)
    names = {int(i): f"c{i}" for i in labels}
    prepare = None if invert is None else km.ImagePreprocess(2, 2, 1, invert)
    return km.ClassPool.from_arrays(x.astype(dtype), labels, prepare, names)


def test_joined_pools_keep_their_images_under_new_labels():
    a, b = pool(3, 3), pool(0, 2, images=6)
    joined = km.ClassPool.joined({"a": a.select([13, 23]), "b": b})
    assert joined.class_ids.tolist() == [0, 1, 2, 3]
    assert joined.names == {0: "a/c13", 1: "a/c23", 2: "b/c0", 3: "b/c10"}
    assert joined.sizes.tolist() == [4, 4, 6, 6]
    for label, (source, old) in enumerate([(a, 13), (a, 23), (b, 0), (b, 10)]):
        np.testing.assert_array_equal(joined.images_of(label), source.images_of(old))


def test_rotations_of_a_class_get_one_label():
    rotated = pool(0, 2).with_rotations()
    joined = km.ClassPool.joined({"a": pool(0, 1), "b": rotated})
    assert joined.class_ids.tolist() == [0, *[1, 2] * 4]


@pytest.mark.parametrize(
    "options",
    [{"shape": (2, 3, 1)}, {"dtype": "float32"}, {"invert": True}],
    ids=["shape", "type", "prepare"],
)
def test_pools_of_different_examples_are_rejected(options):
    with pytest.raises(ValueError, match=r"type and prepare, got ClassPool\(1 cl"):
        km.ClassPool.joined({"a": pool(0, 1), "b": pool(0, 1, **options)})
    with pytest.raises(ValueError, match="got none"):
        km.ClassPool.joined({})


def test_batches_are_uniform_labelled_and_reproducible():
    # `select` changes the indices of classes; a mix-up of old and new ones would fail.
    selection = pool(0, 5).select([0, 20, 40])
    data = selection.batches(500, seed=3)
    (x, y), *_ = batches = list(data.take(3).as_numpy_iterator())
    assert x.shape == (500, 2, 2, 1) and y.shape == (500,) and y.dtype == np.int32
    pixels = np.round(255 * x[:, 0, 0, 0]).astype(int)
    np.testing.assert_array_equal(np.array([0, 2, 4])[y], pixels // 10)
    counts = np.bincount(y * 4 + pixels % 10, minlength=12)
    assert counts.min() > 0 and len(counts) == 12
    assert ((counts - 500 / 12) ** 2 / (500 / 12)).sum() < 31.3  # chi2, p = 0.001
    for (x, y), (expected_x, expected_y) in zip(
        selection.batches(500, seed=3, start=1).take(2).as_numpy_iterator(),
        batches[1:],
        strict=True,
    ):
        np.testing.assert_array_equal(x, expected_x)
        np.testing.assert_array_equal(y, expected_y)
    assert (batches[0][1] != batches[1][1]).any()
    with pytest.raises(ValueError, match="size to be an integer >= 1, got 0"):
        selection.batches(0)
    with pytest.raises(ValueError, match="without rotations"):
        selection.with_rotations().batches(1)
