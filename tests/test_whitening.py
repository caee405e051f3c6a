"""Tests of the whitening of features within classes."""

import keras
import numpy as np
import pytest

import keras_meta as km

RANDOM = np.random.RandomState(0)
LABELS = np.repeat([3, 7, 8], [40, 25, 60])
FEATURES = 3 * RANDOM.normal(size=[9, 5])[LABELS] + RANDOM.normal(
    size=[len(LABELS), 5]
) @ RANDOM.normal(size=[5, 5])


def within_classes(features):
    """The covariance within classes, computed class by class."""
    total = np.zeros([features.shape[1]] * 2)
    for label in np.unique(LABELS):
        of_class = features[LABELS == label]
        total += np.cov(of_class.T, bias=True) * len(of_class)
    return total / len(features)


def adapted(shrinkage):
    layer = km.networks.Whitening(shrinkage, dtype="float64")
    layer.adapt(FEATURES, LABELS)
    return layer


def test_without_shrinkage_the_covariance_within_classes_is_the_identity():
    whitened = np.asarray(adapted(0.0)(FEATURES))
    np.testing.assert_allclose(within_classes(whitened), np.eye(5), atol=1e-9)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-9)


def test_the_matrix_is_the_inverse_root_of_the_shrunk_covariance():
    kernel = np.asarray(adapted(0.3).kernel)
    covariance = within_classes(FEATURES)
    shrunk = 0.7 * covariance + 0.3 * np.diag(covariance).mean() * np.eye(5)
    np.testing.assert_allclose(kernel, kernel.T, atol=1e-12)
    np.testing.assert_allclose(kernel @ shrunk @ kernel, np.eye(5), atol=1e-9)
    assert np.all(np.linalg.eigvalsh(kernel) > 0)


def test_with_full_shrinkage_all_directions_have_one_factor():
    kernel = np.asarray(adapted(1.0).kernel)
    factor = np.diag(within_classes(FEATURES)).mean() ** -0.5
    np.testing.assert_allclose(kernel, factor * np.eye(5), atol=1e-12)


def test_training_keeps_the_whitening_and_files_store_it(tmp_path):
    features = FEATURES.astype("float32")
    inputs = keras.Input([5])
    hidden = keras.layers.Dense(5, name="hidden")(inputs)
    layer = km.networks.Whitening(name="whitening")
    network = keras.Model(inputs, layer(hidden))
    np.testing.assert_array_equal(  # before `adapt`
        network(features), keras.Model(inputs, hidden)(features)
    )
    layer.adapt(features, LABELS)
    stored = [np.array(weight) for weight in layer.weights]
    learner = km.ProtoNet(network)
    learner.compile("adam")
    pool = km.ClassPool.from_arrays(features, LABELS)
    episodes = pool.episodes(ways=3, shots=2, queries=2).batch(2)
    before = np.array(network.get_layer("hidden").kernel)
    learner.fit(episodes, steps_per_epoch=2, verbose=0)
    assert np.any(before != network.get_layer("hidden").kernel)
    for weight, value in zip(layer.weights, stored, strict=True):
        np.testing.assert_array_equal(weight, value)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(loaded.network(features), network(features))


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (FEATURES, LABELS[1:], r"expected features \[n, D\] and labels \[n\]"),
        (FEATURES[0], LABELS[:1], r"expected features \[n, D\]"),
        (np.full([4, 5], np.nan), [0, 0, 1, 1], "expected finite features"),
        (FEATURES[:3], [0, 1, 2], "expected features that vary within classes"),
    ],
)
def test_invalid_examples_are_one_sentence(features, labels, message):
    with pytest.raises(ValueError, match=message):
        km.networks.Whitening(0.0).adapt(features, labels)


def test_invalid_settings_are_one_sentence():
    with pytest.raises(ValueError, match="expected a shrinkage from 0 to 1, got 1.5"):
        km.networks.Whitening(1.5)
    with pytest.raises(ValueError, match=r"expected features \[B, D\]"):
        km.networks.Whitening()(np.zeros([2, 3, 3], "float32"))
