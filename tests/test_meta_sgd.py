"""Meta-SGD: MAML at constant rates, and the slope of its loss in the rates."""

import numpy as np
import pytest

import keras_meta as km
from tests import smooth

SETTINGS = {"inner_rate": 0.3, "inner_steps": 2}


def test_constant_rates_are_maml():
    episode, query_y = smooth.episode()
    one = km.MetaSGD(smooth.network(), **SETTINGS)
    two = km.MAML(smooth.network(), **SETTINGS)
    # Keras' Constant initializer, which holds the rates, rounds to float32.
    np.testing.assert_allclose(one(episode), two(episode), rtol=1e-6)
    _, gradients, variables, _ = one.meta_gradient(episode, query_y)
    found = {id(v): g for g, v in zip(gradients, variables, strict=True)}
    _, expected, _, _ = two.meta_gradient(episode, query_y)
    weights = one.network.trainable_variables
    for variable, gradient in zip(weights, expected, strict=True):
        np.testing.assert_allclose(found[id(variable)], gradient, atol=1e-6)


def test_meta_gradient_is_the_losses_slope():
    episode, query_y = smooth.episode()
    learner = km.MetaSGD(smooth.network(), **SETTINGS)
    random = np.random.RandomState(0)
    for rate in learner.rates:
        rate.assign(random.uniform(-0.1, 0.5, rate.shape))
    _, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    assert len(variables) == 12 == len(learner.trainable_variables)

    def value():
        return float(smooth.LOSS(query_y, learner(episode)))

    for direction, slope in smooth.slopes(value, variables):
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)
