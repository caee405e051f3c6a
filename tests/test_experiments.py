"""The experiments' own arithmetic."""

import numpy as np
import pytest
import tensorflow as tf

from keras_meta import episodes
from tools.experiments import shrinkage


def test_closed_forms_are_the_papers():
    # papers.md, worked out there on its own.
    experiment = shrinkage.EXPERIMENTS["1"]
    assert experiment.exact_risk(experiment.sigma) == pytest.approx(5.127, abs=5e-4)
    assert experiment.exact_risk([6.21] * 8) == pytest.approx(5.322, abs=5e-4)
    assert experiment.exact_risk([1e6] * 8) == pytest.approx(5.500, abs=5e-4)


@pytest.mark.parametrize("name", shrinkage.EXPERIMENTS)
def test_samples_have_the_stated_noise(name):
    experiment = shrinkage.EXPERIMENTS[name]

    def draw(seed):
        mean, support_y, query_y = experiment.sample(seed)
        return mean, tf.concat([support_y, query_y], 0) - mean

    means, noise = next(iter(episodes.stream(draw, 0, 0).batch(2000)))
    # 16,000 draws a dimension and more: the standard error of a scale is 0.6%.
    np.testing.assert_allclose(noise.numpy().std((0, 1)), experiment.xi, rtol=0.03)
    if name == "1":
        spread = means.numpy()[:, :8].std(0)
        np.testing.assert_allclose(spread, experiment.sigma, rtol=0.08)
    else:  # turning a pair keeps its length
        lengths = np.square(means.numpy()).mean(0).reshape(5, 2).sum(1)
        expected = 2 * (2.0**2 + np.square(experiment.sigma[::2]))
        np.testing.assert_allclose(lengths, expected, rtol=0.1)
