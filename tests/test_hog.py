"""Tests of histograms of oriented gradients against scikit-image."""

import keras
import numpy as np
import pytest

import keras_meta as km

feature = pytest.importorskip("skimage.feature")
RANDOM = np.random.RandomState(0)


def scikit_hog(image, orientations, cell, block):
    return feature.hog(
        image,
        orientations=orientations,
        pixels_per_cell=(cell, cell),
        cells_per_block=(block, block),
    )


@pytest.mark.parametrize(
    ("size", "settings"),
    [((64, 64), (9, 8, 2)), ((40, 24), (9, 8, 2)), ((37, 30), (6, 5, 3))],
)
def test_hog_matches_scikit_image(size, settings):
    images = RANDOM.rand(3, *size, 3).astype("float32")
    histograms = np.asarray(km.networks.HOG(*settings)(images))
    for histogram, image in zip(histograms, images, strict=True):
        np.testing.assert_allclose(
            histogram, scikit_hog(image.mean(-1), *settings), rtol=1e-3, atol=1e-4
        )


def test_hog_ignores_brightness_and_contrast():
    images = RANDOM.rand(2, 32, 32, 3).astype("float32")
    layer = km.networks.HOG()
    np.testing.assert_allclose(layer(images), layer(3 * images - 1), atol=1e-4)


def test_a_blank_image_has_no_gradients():
    assert not np.any(km.networks.HOG()(np.ones([1, 16, 16, 1], "float32")))


def test_hog_in_half_precision_accumulates_in_single_precision():
    images = RANDOM.rand(2, 32, 32, 3).astype("float32")
    half = km.networks.HOG(dtype="mixed_bfloat16")(images)
    assert half.dtype == "bfloat16"
    single = km.networks.HOG()(images)
    np.testing.assert_allclose(np.asarray(half, "float32"), single, atol=4e-3)


def test_hog_rejects_images_smaller_than_a_block():
    with pytest.raises(ValueError, match="at least 16 pixels a side, got 15x40"):
        km.networks.HOG()(np.zeros([1, 15, 40, 3]))
    with pytest.raises(ValueError, match="expected cell to be an integer >= 1, got 0"):
        km.networks.HOG(cell=0)


def test_joined_features_have_two_norms(tmp_path):
    keras.utils.set_random_seed(0)
    encoder = km.networks.conv4((32, 32, 3), outputs=None, filters=4, pooling="none")
    joined = km.networks.with_hog(encoder, weight=0.5)
    images = RANDOM.rand(3, 32, 32, 3).astype("float32")
    features = joined.predict(images, verbose=0)
    learned = encoder.predict(images, verbose=0)
    histograms = np.asarray(km.networks.HOG()(images))
    for part, unscaled, norm in (
        (features[:, : learned.shape[1]], learned, 1.0),
        (features[:, learned.shape[1] :], histograms, 0.5),
    ):
        unit = unscaled / np.linalg.norm(unscaled, axis=1, keepdims=True)
        np.testing.assert_allclose(part, norm * unit, atol=1e-5)
    joined.save(tmp_path / "joined.keras")
    loaded = keras.models.load_model(tmp_path / "joined.keras")
    np.testing.assert_array_equal(loaded.predict(images, verbose=0), features)


def test_only_the_head_on_joined_features_adapts():
    encoder = km.networks.conv4((16, 16, 3), outputs=None, filters=4)
    encoder.trainable = False
    network = km.networks.with_hog(encoder, outputs=2)
    learner = km.SigmaMAML(network, inner_rate=3.0, inner_steps=40, initial_scale=3.0)
    assert [v.path for v in learner.adapted()] == ["head/kernel", "head/bias"]
    # The images are stripes of two directions; the encoder is random.
    stripes = np.zeros([2, 16, 16, 3], "float32")
    stripes[0, ::4], stripes[1, :, ::4] = 1.0, 1.0
    x = stripes[[0, 1, 0, 1]] + 0.3 * RANDOM.rand(4, 16, 16, 3).astype("float32")
    query = stripes[[1, 0, 0]] + 0.3 * RANDOM.rand(3, 16, 16, 3).astype("float32")
    labels = np.array([0, 1, 0, 1], "int32")
    state = learner.adapt(x[None], labels[None])
    logits = np.asarray(learner.infer(state, query[None]))[0]
    np.testing.assert_array_equal(logits.argmax(-1), [1, 0, 0])
