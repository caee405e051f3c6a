"""Tests of ANIL against MAML and finite differences."""

import keras
import numpy as np
import pytest

import keras_meta as km
from tests import smooth

SETTINGS = {"inner_rate": 0.3, "inner_steps": 2}


@pytest.mark.thorough
def test_anil_over_all_layers_equals_maml():
    episode, query_y = smooth.episode()
    anil = km.ANIL(smooth.network(), layers=["conv", "norm", "head"], **SETTINGS)
    maml = km.MAML(smooth.network(), **SETTINGS)
    np.testing.assert_allclose(anil(episode), maml(episode), rtol=1e-10)
    _, gradients, _, _ = anil.meta_gradient(episode, query_y)
    _, expected, _, _ = maml.meta_gradient(episode, query_y)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_the_head_adapts_and_all_weights_meta_train():
    episode, query_y = smooth.episode()
    learner = km.ANIL(smooth.network(), **SETTINGS)
    state = learner.adapt(episode["support_x"], episode["support_y"])
    kernel, bias = learner.network.get_layer("head").trainable_variables
    assert [w.shape[1:] for w in state["weights"]] == [kernel.shape, bias.shape]
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    assert len(variables) == 6

    def loss():
        return float(smooth.LOSS(query_y, learner(episode)))

    for direction, slope in smooth.slopes(loss, variables):
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_added_classes_are_equivariant_to_permuted_labels():
    episode, _ = smooth.episode()
    extended = km.ANIL(smooth.network(), **SETTINGS).with_classes(5)
    episode["support_y"] = np.tile([0, 1, 2, 3, 4, 0], [2, 1])
    permutation = np.array([3, 0, 4, 1, 2])
    permuted = {**episode, "support_y": permutation[episode["support_y"]]}
    logits = extended(permuted).numpy()[..., permutation]
    np.testing.assert_allclose(logits, extended(episode), rtol=1e-10)


def test_a_head_that_is_not_dense_is_rejected():
    network = km.networks.mlp((4,), 3)
    network = keras.Model(network.input, keras.layers.ReLU()(network.output))
    with pytest.raises(ValueError, match="ends in ReLU"):
        km.MAML(network).with_classes(4)
    with pytest.raises(ValueError, match="classes to be an integer >= 2, got 1"):
        km.MAML(km.networks.mlp((4,), 3)).with_classes(1)


def test_unknown_layers_are_rejected():
    with pytest.raises(ValueError, match=r"\(conv, norm, head\), got tail"):
        km.ANIL(smooth.network(), layers=["tail"])
    with pytest.raises(ValueError, match="layers_adapted to be a list of .*, got none"):
        km.ANIL(smooth.network(), layers=[])
