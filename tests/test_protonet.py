"""Tests of prototypical networks against NumPy loops and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import smooth


def learner(**options):
    with smooth.float64():
        return km.ProtoNet(smooth.network(normalized=False), outputs=4, **options)


def reference(learner, episode):
    """Computes log-probabilities by equations 1 and 2, example by example."""
    log_probs = []
    for x, y, queries in zip(
        episode["support_x"], episode["support_y"], episode["query_x"], strict=True
    ):
        prototypes = [
            np.mean([_feature(learner, e) for e in x[y == n]], axis=0) for n in range(3)
        ]
        for query in queries:
            feature = _feature(learner, query)
            scores = [-np.sum((feature - c) ** 2) for c in prototypes]
            log_probs.append(scores - np.log(np.sum(np.exp(scores))))
    return np.array(log_probs).reshape(*episode["query_x"].shape[:2], 3)


def _feature(learner, x):
    return tf.cast(learner.network(x[None])[0], "float64").numpy()


def test_logits_match_the_equations():
    protonet = learner()
    episode, _ = smooth.episode()
    log_probs = tf.nn.log_softmax(protonet(episode)[..., :3])
    np.testing.assert_allclose(log_probs, reference(protonet, episode), rtol=1e-10)
    # The fourth class is absent.
    np.testing.assert_array_equal(tf.nn.softmax(protonet(episode))[..., 3], 0)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_distances_of_half_precision_features_are_precise(policy):
    # Features near 100 differ by about 1; bfloat16 has steps of 64 at their squares.
    network = keras.Sequential([keras.Input([6]), keras.layers.Dense(4, dtype=policy)])
    network.layers[-1].bias.assign([100.0] * 4)
    protonet = km.ProtoNet(network, 3)
    random = np.random.RandomState(0)
    y = np.array([[0, 1, 2, 0, 1, 2]], "int32")
    x, queries = (random.normal(size=[1, n, 6]).astype("float32") for n in (6, 5))
    episode = {"support_x": x, "support_y": y, "query_x": queries}
    assert protonet.network(x[0]).dtype == policy.removeprefix("mixed_")
    expected = reference(protonet, {k: v.astype("float64") for k, v in episode.items()})
    log_probs = tf.nn.log_softmax(protonet(episode))
    np.testing.assert_allclose(log_probs, expected, atol=1e-2)
    assert np.ptp(expected) > 1


def test_gradients_match_finite_differences():
    protonet = learner()
    episode, query_y = smooth.episode()
    _, gradients, variables, _ = protonet.meta_gradient(episode, query_y)

    def compute_loss():
        log_probs = reference(protonet, episode)
        return -np.take_along_axis(log_probs, query_y[..., None], -1).mean()

    for direction, slope in smooth.slopes(compute_loss, variables):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.thorough
def test_finetuning_trains_only_the_prototypes():
    protonet = learner()
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    weights_before = protonet.get_weights()
    model = km.finetune(protonet, x, y)
    assert [v.shape for v in model.trainable_variables] == [(4, 3)]
    model.fit(x, y, epochs=2, verbose=0)
    for old, new in zip(weights_before, protonet.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not np.allclose(
        model.trainable_variables[0], numpy_prototypes(protonet, x, y)
    )


def test_finetuning_watches_no_integers(caplog):
    protonet = learner()
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    tf.get_logger().addHandler(caplog.handler)
    try:
        model = km.finetune(protonet, x, y)
        model.fit(x, y, verbose=0)
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert "must be floating" not in caplog.text


def numpy_prototypes(protonet, x, y):
    features = protonet.network(x).numpy()
    means = [features[y == n].mean(0) for n in range(3)]
    return np.array([*means, np.zeros(3)])
