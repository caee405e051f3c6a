"""Tests of the baselines of the cross-domain table on tasks with known results."""

import baselines
import numpy as np
import pytest


def test_nearest_mean_against_a_hand_computed_accuracy():
    support = np.array([0, 2, 10, 20], "uint8").reshape(4, 1, 1, 1)
    labels = np.array([0, 0, 1, 1])  # means 1 and 15
    query = np.array([7, 9, 255, 0], "uint8").reshape(4, 1, 1, 1)
    accuracy = baselines.nearest_mean(support, labels, query, np.array([0, 1, 1, 1]))
    assert accuracy == 0.75


def stripes(count, upright, seed):
    """Returns noisy stripes: equal pixel means, but different directions."""
    random = np.random.RandomState(seed)
    wave = 127 + 100 * np.sign(np.sin(np.arange(32) / 2 + random.rand(count, 1) * 9))
    images = np.broadcast_to(wave[:, None, :], [count, 32, 32])
    images = images if upright else images.swapaxes(1, 2)
    return (images + random.normal(size=images.shape)).astype("uint8")[..., None]


@pytest.mark.parametrize("channels", [1, 3])
def test_hog_regression_separates_directions(channels):
    def images(count, seed):
        directions = [stripes(count, upright, seed) for upright in (True, False)]
        return np.repeat(np.concatenate(directions), channels, axis=-1)

    labels, query_labels = np.repeat([0, 1], 2), np.repeat([0, 1], 10)
    support, query = images(2, 0), images(10, 1)
    assert baselines.hog_regression(support, labels, query, query_labels) == 1.0
    assert baselines.hog_regression(support, labels, query, 1 - query_labels) == 0.0


def test_best_strength_has_the_highest_mean_accuracy(monkeypatch):
    scores = {0.1: [0.5, 0.5], 1.0: [0.2, 0.9], 10.0: [0.6, 0.6], 100.0: [0.0, 1.0]}
    calls = iter([(task, c) for task in range(2) for c in baselines.STRENGTHS])

    def score(support, labels, query, query_labels, strength):
        task, expected = next(calls)
        assert strength == expected and labels == task
        return scores[strength][task]

    monkeypatch.setattr(baselines, "hog", lambda images: images)
    monkeypatch.setattr(baselines, "of_features", score)
    tasks = [(None, task, None, None) for task in range(2)]
    assert baselines.best_strength(tasks) == 10.0
