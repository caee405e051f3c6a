"""Tests of normalized colours: Python, pools, files, evaluation and exports agree."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta.zoo import scores

SETTINGS = {"mean": [0.5, 0.4, 0.3], "deviation": [0.2, 0.3, 0.4]}


@pytest.fixture(scope="module")
def learner():
    keras.utils.set_random_seed(0)
    network = km.networks.conv4((8, 8, 3), None, filters=4, pooling="none")
    for layer in network.layers:  # so that the features differ without training
        if layer.name.startswith("norm"):
            layer.gamma.assign(5 * layer.gamma)
    learner = km.ProtoNet(
        network, preprocess=km.ImagePreprocess(8, 8, 3, False, **SETTINGS)
    )
    learner.compile()
    return learner


@pytest.fixture(scope="module")
def task():
    """Draws support images `[1, 4, 20, 30, 3]` of two classes, labels and queries."""
    draw = np.random.RandomState(0).randint
    support = draw(0, 256, [1, 4, 20, 30, 3]).astype("uint8")
    support[:, 2:] //= 2
    query = draw(0, 200, [1, 3, 20, 30, 3]).astype("uint8")
    return support, np.array([[0, 0, 1, 1]], "int32"), query


def probabilities(learner, task):
    x = learner.preprocess.pair(task[0], task[2])
    state = learner.adapt(x[0], task[1])
    return tf.nn.softmax(learner.infer(state, x[1])).numpy()


@pytest.mark.thorough
def test_files_and_exports_normalize_as_python_does(learner, task, tmp_path):
    expected = probabilities(learner, task)
    unnormalized = type(learner).from_config(learner.get_config())
    unnormalized.set_weights(learner.get_weights())
    unnormalized.preprocess = km.ImagePreprocess(8, 8, 3, False)
    assert abs(probabilities(unnormalized, task) - expected).max() > 0.01

    learner.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(probabilities(loaded, task), expected)
    km.export(loaded, tmp_path / "served")
    signatures = tf.saved_model.load(tmp_path / "served" / "1").signatures
    keys = "support_x", "support_y", "query_x"
    inputs = dict(zip(keys, map(tf.constant, task), strict=True))
    output = signatures["serving_images"](**inputs)["probabilities"]
    # Resampling in a graph has float32 rounding errors, which a softmax of distances
    # amplifies.
    np.testing.assert_allclose(output, expected, atol=1e-4)


def test_pools_and_evaluation_normalize_as_python_does(learner):
    x = np.random.RandomState(1).randint(0, 256, [12, 8, 8, 3]).astype("uint8")
    pool = km.ClassPool.from_arrays(x, np.repeat(range(3), 4), learner.preprocess)
    expected = {image.tobytes() for image in learner.preprocess(x).numpy()}
    episodes = pool.episodes(3, 1, 2).take(3)
    for data in (
        episodes,
        episodes.map(scores.inverted_by_support(learner.preprocess)),
    ):
        for episode, _ in data.as_numpy_iterator():
            images = [*episode["support_x"], *episode["query_x"]]
            assert all(image.tobytes() in expected for image in images)
