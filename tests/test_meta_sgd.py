"""Tests of Meta-SGD: equal to MAML at constant rates; meta-gradients of rates."""

import numpy as np
import pytest

import keras_meta as km
from tests import smooth

SETTINGS = {"inner_rate": 0.3, "inner_steps": 2}


@pytest.mark.thorough
def test_constant_rates_equal_maml():
    episode, query_y = smooth.episode()
    meta_sgd = km.MetaSGD(smooth.network(), **SETTINGS)
    maml = km.MAML(smooth.network(), **SETTINGS)
    # Keras' Constant initializer rounds the rates to float32.
    np.testing.assert_allclose(meta_sgd(episode), maml(episode), rtol=1e-6)
    _, gradients, variables, _ = meta_sgd.meta_gradient(episode, query_y)
    gradient_of = {id(v): g for g, v in zip(gradients, variables, strict=True)}
    _, expected, _, _ = maml.meta_gradient(episode, query_y)
    weights = meta_sgd.network.trainable_variables
    for variable, gradient in zip(weights, expected, strict=True):
        np.testing.assert_allclose(gradient_of[id(variable)], gradient, atol=1e-6)


def test_meta_gradient_matches_finite_differences():
    episode, query_y = smooth.episode()
    learner = km.MetaSGD(smooth.network(), **SETTINGS)
    random = np.random.RandomState(0)
    for rate in learner.rates:
        rate.assign(random.uniform(-0.1, 0.5, rate.shape))
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    assert len(variables) == 12 == len(learner.trainable_variables)

    def compute_loss():
        return float(smooth.LOSS(query_y, learner(episode)))

    for direction, slope in smooth.slopes(compute_loss, variables):
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)
