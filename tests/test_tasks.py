"""Tests of task families against their laws, NumPy and another process."""

import hashlib
import inspect
import itertools
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_meta import episodes, images, tasks
from keras_meta.tasks import glyph_pool


def draw(dataset, count):
    """Returns the first episodes of a dataset as one batch `(x, y)` in NumPy."""
    return next(dataset.batch(count).as_numpy_iterator())


def fit_sines(x, y):
    """Fits sines `[T, n, 1]` by least squares: amplitude, phase and largest residual.

    a sin(x - p) = (a cos p) sin x - (a sin p) cos x is linear in its coefficients.
    """
    fits = []
    for points, values in zip(np.float64(x), np.float64(y), strict=True):
        basis = np.concatenate([np.sin(points), -np.cos(points)], axis=1)
        (cosine, sine), *_ = np.linalg.lstsq(basis, values[:, 0])
        residual = np.abs(basis @ [cosine, sine] - values[:, 0]).max()
        fits.append((np.hypot(cosine, sine), np.arctan2(sine, cosine), residual))
    return np.array(fits).T


def uniform_distance(values, low, high):
    """Returns the Kolmogorov-Smirnov distance to the uniform law, times sqrt(n)."""
    ranks = np.arange(len(values) + 1) / len(values)
    law = (np.sort(values) - low) / (high - low)
    distance = max(np.abs(law - ranks[1:]).max(), np.abs(law - ranks[:-1]).max())
    return distance * np.sqrt(len(values))


def test_sinusoid_is_one_sine_for_support_and_query():
    x, y = draw(tasks.sinusoid().episodes(shots=7, queries=13, seed=3), 200)
    assert {k: v.shape for k, v in x.items()} == {
        "support_x": (200, 7, 1),
        "support_y": (200, 7, 1),
        "query_x": (200, 13, 1),
    }
    assert y.shape == (200, 13, 1)
    assert {v.dtype for v in [*x.values(), y]} == {np.dtype("float32")}

    all_x = np.concatenate([x["support_x"], x["query_x"]], axis=1)
    all_y = np.concatenate([x["support_y"], y], axis=1)
    amplitude, phase, residual = fit_sines(all_x, all_y)
    assert 0.1 <= amplitude.min() and amplitude.max() <= 5.0
    # The phase of a float32 sine is known to about 1e-6.
    assert -1e-5 <= phase.min() and phase.max() <= math.pi + 1e-5
    # x - phase is at most 8.2. Its rounding error of 5e-7 is scaled by up to 5.
    assert residual.max() < 5e-6
    assert len(np.unique(all_x[0])) == 20


def test_sinusoid_draws_uniformly():
    episode, y = draw(tasks.sinusoid().episodes(shots=0, queries=10), 2000)
    amplitude, phase, _ = fit_sines(episode["query_x"], y)
    points = episode["query_x"].ravel()
    # A sample of a uniform law exceeds a distance of 1.95 with probability 0.001.
    assert uniform_distance(amplitude, 0.1, 5.0) < 1.95
    assert uniform_distance(phase, 0.0, math.pi) < 1.95
    assert uniform_distance(points, -5.0, 5.0) < 1.95
    # The bound is three standard errors of the correlation of independent numbers.
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 3 / np.sqrt(2000)
    pairs = episode["query_x"].reshape(-1, 2).T
    assert abs(np.corrcoef(pairs)[0, 1]) < 3 / np.sqrt(10_000)


def test_sinusoid_draws_from_the_given_ranges():
    family = tasks.sinusoid(amplitude=(2.0, 2.5), phase=(-1.0, -0.5), x=(3, 9))
    episode, y = draw(family.episodes(shots=0, queries=20), 300)
    amplitude, phase, _ = fit_sines(episode["query_x"], y)
    for values, low, high in (
        (amplitude, 2.0, 2.5),
        (phase, -1.0, -0.5),
        (episode["query_x"], 3, 9),
    ):
        width = high - low
        assert low - 1e-5 < values.min() < low + 0.1 * width
        assert high + 1e-5 > values.max() > high - 0.1 * width


def test_episodes_are_a_function_of_seed_and_index():
    family = tasks.sinusoid()
    x, y = draw(family.episodes(seed=5), 8)
    for start in (0, 3):
        replayed_x, replayed_y = draw(family.episodes(seed=5, start=start), 5)
        for key in x:
            np.testing.assert_array_equal(replayed_x[key], x[key][start : start + 5])
        np.testing.assert_array_equal(replayed_y, y[start : start + 5])
    other_x, _ = draw(family.episodes(seed=6), 8)
    assert not np.isin(other_x["support_x"], x["support_x"]).all()
    assert len(np.unique(x["support_x"])) == 80  # no value occurs twice


def test_sample_continues_an_episode():
    family = tasks.sinusoid()
    x, y = draw(family.episodes(seed=2, start=4), 1)
    curve_x, curve_y = family.sample(episodes.fold_seed(2, 4), 500)
    np.testing.assert_allclose(
        fit_sines(x["query_x"], y)[:2],
        fit_sines(curve_x[None], curve_y[None])[:2],
        atol=1e-5,
    )


def test_task_family_splits_any_sample():
    def ramp(seed, n):
        x = tf.reshape(tf.range(2.0 * n), [n, 2])
        return x, tf.reduce_sum(x, axis=1, keepdims=True)

    x, y = draw(tasks.TaskFamily(ramp).episodes(shots=1, queries=2), 1)
    assert x["support_x"].tolist() == [[[0, 1]]]
    assert x["support_y"].tolist() == [[[1]]]
    assert x["query_x"].tolist() == [[[2, 3], [4, 5]]]
    assert y.tolist() == [[[5], [9]]]


def sinusoids(shots, queries=4, **settings):
    return tasks.sinusoid().episodes(shots, queries, **settings)


def support_sizes(dataset, count):
    episodes_drawn = dataset.take(count).as_numpy_iterator()
    return [len(episode["support_x"]) for episode, _ in episodes_drawn]


def chi_square(values, kinds):
    """Returns Pearson's statistic of integers in [0, kinds) for the uniform law."""
    assert np.min(values) >= 0 and np.max(values) < kinds
    expected = np.size(values) / kinds
    counts = np.bincount(np.ravel(values), minlength=kinds)
    return ((counts - expected) ** 2 / expected).sum()


def test_shots_are_drawn_once_per_block():
    sizes = support_sizes(sinusoids((3, 9), seed=2), 30)
    blocks = sinusoids((3, 9), seed=2, block=8)
    assert support_sizes(blocks, 240) == np.repeat(sizes, 8).tolist()
    later = sinusoids((3, 9), seed=2, start=16, block=8)
    assert support_sizes(later, 24) == np.repeat(sizes[2:5], 8).tolist()
    assert support_sizes(sinusoids((3, 9), seed=3), 30) != sizes
    assert support_sizes(sinusoids((5, 5)), 4) == [5] * 4
    assert support_sizes(sinusoids([0, 0]), 4) == [0] * 4

    spec, _ = blocks.element_spec
    assert spec["support_x"].shape.as_list() == spec["support_y"].shape.as_list()
    assert spec["support_x"].shape.as_list() == [None, 1]
    assert spec["query_x"].shape.as_list() == [4, 1]
    batches = blocks.batch(8).take(30).as_numpy_iterator()
    assert [x["support_x"].shape for x, _ in batches] == [(8, s, 1) for s in sizes]


def test_shots_are_drawn_uniformly():
    sizes = np.array(support_sizes(sinusoids((3, 9)), 1400))
    # A sample of a uniform law exceeds 22.5 with probability 0.001.
    assert chi_square(sizes - 3, 7) < 22.5
    assert abs(np.corrcoef(sizes[1:], sizes[:-1])[0, 1]) < 3 / np.sqrt(1400)


def test_episodes_with_random_shots_contain_one_task():
    family = tasks.sinusoid()
    dataset = family.episodes((3, 9), 6, seed=4, start=7)
    for index, (x, y) in enumerate(dataset.take(20).as_numpy_iterator(), 7):
        all_x = np.concatenate([x["support_x"], x["query_x"]])
        all_y = np.concatenate([x["support_y"], y])
        assert len(np.unique(all_x)) == len(all_x) == len(x["support_x"]) + 6
        curve = family.sample(episodes.fold_seed(4, index), 50)
        amplitude, phase, residual = fit_sines(all_x[None], all_y[None])
        assert residual < 5e-6
        np.testing.assert_allclose(
            [amplitude, phase],
            fit_sines(*[np.array(v)[None] for v in curve])[:2],
            atol=1e-5,
        )


# A sample of a uniform law exceeds each bound with probability 0.001.
@pytest.mark.parametrize("functions, bound, joint", [(14, 34.5, 93.2), (16, 37.7, 103)])
def test_boolean_draws_each_function_uniformly(functions, bound, joint):
    episode, labels = draw(tasks.boolean(functions).episodes(0, 60), 1600)
    x = episode["query_x"]
    assert (x.dtype, x.shape) == (np.float32, (1600, 60, 2))
    assert (labels.dtype, labels.shape) == (np.int32, (1600, 60))
    assert set(np.unique(x)) == {-1.0, 1.0}
    cell = (2 * (x[..., 0] > 0) + (x[..., 1] > 0)).astype(int)
    assert chi_square(cell, 4) < 16.3

    table = np.full([1600, 4], -1)
    np.put_along_axis(table, cell, labels, axis=1)
    np.testing.assert_array_equal(np.take_along_axis(table, cell, 1), labels)
    # Sixty points lack one of the inputs in one task of 5,000,000.
    rows = [tuple(row) for row in table]
    expected = set(itertools.product([0, 1], repeat=4))
    if functions == 14:
        expected -= {(0, 1, 1, 0), (1, 0, 0, 1)}
    assert set(rows) == expected
    kinds = sorted(expected)
    kind = np.array([kinds.index(row) for row in rows])
    assert chi_square(kind, functions) < bound
    assert chi_square(4 * kind + cell[:, 0], 4 * functions) < joint  # independent


@pytest.mark.parametrize("functions", [14, 16])
def test_boolean_bayes_averages_the_consistent_functions(functions):
    inputs = list(itertools.product([-1, 1], repeat=2))
    excluded = ((0, 1, 1, 0), (1, 0, 0, 1)) if functions == 14 else ()
    family = [
        dict(zip(inputs, outputs, strict=True))
        for outputs in itertools.product([0, 1], repeat=4)
        if outputs not in excluded
    ]
    x, y = draw(tasks.boolean(functions).episodes(6, 5, seed=1), 50)
    for shots in range(7):
        support_x, support_y = x["support_x"][:, :shots], x["support_y"][:, :shots]
        probability = tasks.boolean_bayes(functions, support_x, support_y, x["query_x"])
        assert probability.shape == (50, 5)
        for task in range(50):
            consistent = [
                function
                for function in family
                if all(
                    function[tuple(point)] == label
                    for point, label in zip(
                        support_x[task].tolist(), support_y[task], strict=True
                    )
                )
            ]
            expected = [
                np.mean([function[tuple(point)] for function in consistent])
                for point in x["query_x"][task].tolist()
            ]
            np.testing.assert_allclose(probability[task], expected, rtol=1e-15)
            single = tasks.boolean_bayes(
                functions, support_x[task], support_y[task], x["query_x"][task]
            )
            np.testing.assert_array_equal(single, probability[task])


def columns(x):
    return np.moveaxis(np.float64(x), -1, 0)


def plane(x):
    x1, x2 = columns(x)
    return np.stack([x1, x2, x1**0], axis=-1)


def conic(x):
    x1, x2 = columns(x)
    return np.stack([x1 * x1, x2 * x2, x1 * x2, x1, x2, x1**0], axis=-1)


@pytest.mark.parametrize(
    "family, basis, inverse, low, high",
    [
        # y = 0.5 (1 + tanh(z)) and y = 0.5 + 0.05 z, with z linear in the weights.
        (tasks.semilinear, plane, lambda y: np.arctanh(2 * y - 1), 0.0, 1.0),
        (tasks.quadratic, conic, lambda y: 20 * (y - 0.5), 0.2, 0.8),
    ],
)
def test_weights_and_points_are_uniform(family, basis, inverse, low, high):
    episode, y = draw(family().episodes(0, 40), 1000)
    x = episode["query_x"]
    assert (x.shape, y.shape) == ((1000, 40, 2), (1000, 40, 1))
    assert (x.dtype, y.dtype) == (np.float32, np.float32)
    assert low < y.min() and y.max() < high
    fits = []
    for features, z in zip(basis(x), inverse(np.float64(y[..., 0])), strict=True):
        weights, *_ = np.linalg.lstsq(features, z)
        fits.append(weights)
        # The inverse scales float32 errors of 1e-7 by 20, or arctanh by 50 at z = 3.
        np.testing.assert_allclose(features @ weights, z, atol=1e-5)
    for weights in np.transpose(fits):
        assert uniform_distance(weights, -1, 1) < 1.95
    off_diagonal = np.corrcoef(np.transpose(fits)) - np.eye(len(fits[0]))
    assert np.abs(off_diagonal).max() < 4 / np.sqrt(1000)
    for points in columns(x):
        correlations = np.corrcoef(np.transpose(fits), points[:, 0])
        assert np.abs(correlations[-1, :-1]).max() < 4 / np.sqrt(1000)
        assert uniform_distance(points.ravel(), -1, 1) < 1.95
    assert abs(np.corrcoef(*columns(x.reshape(-1, 2)))[0, 1]) < 3 / np.sqrt(40_000)


def test_features_are_in_the_documented_order():
    x = [[[2.0, 3.0], [-1.0, 5.0]]]
    assert tasks.semilinear_features(x).numpy().tolist() == [[[2, 3, 1], [-1, 5, 1]]]
    assert tasks.quadratic_features(x).numpy().tolist() == [
        [[4, 9, 6, 2, 3, 1], [1, 25, -5, -1, 5, 1]]
    ]


@pytest.mark.parametrize(
    "family, features, squashed, minimum",
    [
        (tasks.semilinear, tasks.semilinear_features, True, 3),
        (tasks.quadratic, tasks.quadratic_features, False, 6),
    ],
)
def test_least_squares_is_exact_with_as_many_examples_as_features(
    family, features, squashed, minimum
):
    x, y = draw(family().episodes(2 * minimum, 20, seed=1), 100)

    def errors(shots):
        support = x["support_x"][:, :shots], x["support_y"][:, :shots]
        predictions = tasks.least_squares(features, *support, x["query_x"], squashed)
        assert predictions.shape == y.shape
        return np.abs(predictions - y)

    # Targets are rounded to float32. A few sets of the minimum size are nearly on a
    # line or conic.
    assert np.median(errors(minimum)) < 1e-6
    assert errors(2 * minimum).max() < 1e-5
    assert np.median(errors(minimum - 1)) > 1e-3
    np.testing.assert_array_equal(errors(0), np.abs(0.5 - y))
    single = tasks.least_squares(
        features, x["support_x"][3], x["support_y"][3], x["query_x"][3], squashed
    )
    np.testing.assert_allclose(single, y[3], atol=1e-5)


@pytest.mark.parametrize("shots", [2, 4, 9])
@pytest.mark.parametrize("squashed", [False, True])
def test_least_squares_returns_the_shortest_of_the_best_weights(shots, squashed):
    random = np.random.RandomState(shots)
    support_x, query_x = random.uniform(-1, 1, [2, 7, shots, 2])
    if shots == 9:  # points close together: their squares vary little
        support_x, query_x = support_x / 10, query_x / 10
    support_y = random.uniform(0.1, 0.9, [7, shots, 2])  # noise, no function of x
    predictions = tasks.least_squares(
        tasks.quadratic_features, support_x, support_y, query_x, squashed
    )
    for task in range(7):
        targets = support_y[task] - 0.5
        if squashed:
            targets = np.log(support_y[task] / (1 - support_y[task]))
        weights, *_ = np.linalg.lstsq(conic(support_x[task]), targets)
        output = conic(query_x[task]) @ weights
        expected = 1 / (1 + np.exp(-output)) if squashed else 0.5 + output
        np.testing.assert_allclose(predictions[task], expected, rtol=1e-8, atol=1e-9)


def test_least_squares_does_not_change_with_repeated_points():
    x, y = draw(tasks.quadratic().episodes(3, 5), 20)
    support = x["support_x"], x["support_y"]
    repeated = [np.repeat(v, 4, axis=1) for v in support]
    np.testing.assert_allclose(
        tasks.least_squares(tasks.quadratic_features, *repeated, x["query_x"]),
        tasks.least_squares(tasks.quadratic_features, *support, x["query_x"]),
        rtol=1e-6,
    )


def kernel_matrix(kernel, x1, x2, length, scale):
    x1, x2 = np.asarray(x1, "float64"), np.asarray(x2, "float64")
    d = np.abs(x1[:, None, 0] - x2[None, :, 0])
    root = np.sqrt(3) * d / length
    return (
        scale**2
        * {
            "rbf": np.exp(-(d**2) / (2 * length**2)),
            "matern32": (1 + root) * np.exp(-root),
            "periodic": np.exp(-2 * np.sin(np.pi * d) ** 2 / length**2),
        }[kernel]
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel": "rbf", "length": 0.7, "scale": 2.0, "noise": 0.1},
        {"kernel": "rbf", "length": (0.2, 1.0), "scale": (0.5, 3.0), "noise": 0.1},
        {"kernel": "matern32", "length": (0.2, 1.0), "noise": 0.05},
        {"kernel": "periodic", "length": 0.9, "scale": (1, 2), "noise": 0.05},
    ],
)
def test_gaussian_process_has_the_documented_covariance(settings):
    family = tasks.gaussian_process(**settings)
    tasks_drawn, n = 1500, 6
    episode, y = draw(family.episodes(0, n, seed=1), tasks_drawn)
    x = episode["query_x"]
    assert (x.shape, y.shape) == ((tasks_drawn, n, 1), (tasks_drawn, n, 1))
    assert (x.dtype, y.dtype) == (np.float32, np.float32)
    lengths, scales = task_parameters(family, tasks_drawn, seed=1)
    whitened = []
    for points, values, length, scale in zip(x, y, lengths, scales, strict=True):
        kernel = settings.get("kernel", "rbf")
        covariance = kernel_matrix(kernel, points, points, length, scale)
        covariance += settings["noise"] ** 2 * np.eye(n)
        whitened.append(np.linalg.solve(np.linalg.cholesky(covariance), values[:, 0]))
    # The bounds are five standard errors for independent standard normal numbers.
    assert np.abs(np.mean(whitened, 0)).max() < 5 / np.sqrt(tasks_drawn)
    moments = np.transpose(whitened) @ whitened / tasks_drawn
    bound = 5 / np.sqrt(tasks_drawn) * (1 + (np.sqrt(2) - 1) * np.eye(n))
    assert (np.abs(moments - np.eye(n)) < bound).all()
    assert abs(np.mean(np.power(whitened, 4)) - 3) < 5 * np.sqrt(96 / np.size(whitened))
    assert abs(np.corrcoef(np.ravel(whitened), x.ravel())[0, 1]) < 5 / np.sqrt(x.size)


def task_parameters(family, count, seed):
    parameters = tf.data.Dataset.range(count).map(
        lambda index: family.parameters(episodes.fold_seed(seed, index))
    )
    return np.stack(next(parameters.batch(count).as_numpy_iterator()))


def test_gaussian_process_draws_uniformly():
    family = tasks.gaussian_process(length=(0.1, 0.6), scale=(0.5, 2), x=(-1.0, 3.0))
    lengths, scales = task_parameters(family, 1500, seed=0)
    assert uniform_distance(lengths, 0.1, 0.6) < 1.95
    assert uniform_distance(scales, 0.5, 2) < 1.95
    assert abs(np.corrcoef(lengths, scales)[0, 1]) < 3 / np.sqrt(1500)
    episode, _ = draw(family.episodes(0, 2), 1500)
    x = episode["query_x"]
    assert uniform_distance(x.ravel(), -1, 3) < 1.95
    assert abs(np.corrcoef(x[:, 0, 0], x[:, 1, 0])[0, 1]) < 3 / np.sqrt(1500)
    assert abs(np.corrcoef(x[:, 0, 0], lengths)[0, 1]) < 3 / np.sqrt(1500)


def test_gaussian_process_defaults_equal_those_of_the_notebook():
    defaults = tasks.gaussian_process()
    explicit = tasks.gaussian_process("rbf", 0.4, 1.0, noise=0.02, x=(-2.0, 2.0))
    assert task_parameters(explicit, 2, seed=0).tolist() == [[0.4, 0.4], [1.0, 1.0]]
    for value, expected in zip(
        defaults.sample([0, 1], 9), explicit.sample([0, 1], 9), strict=True
    ):
        np.testing.assert_array_equal(value, expected)


@pytest.mark.parametrize("kernel", ["rbf", "matern32", "periodic"])
def test_gaussian_process_continues_an_episode(kernel):
    # Without noise and with long lengths, the covariance of 300 points is singular but
    # for the jitter.
    family = tasks.gaussian_process(kernel, (0.5, 2.0), (1.0, 3.0), noise=0.0)
    episode, y = draw(family.episodes(shots=3, queries=4, seed=2, start=5), 1)
    x = np.concatenate([episode["support_x"], episode["query_x"]], axis=1)[0]
    y = np.concatenate([episode["support_y"], y], axis=1)[0]
    seed = episodes.fold_seed(2, 5)
    curve_x, curve_y = family.sample(seed, 300)
    assert np.isfinite(curve_y).all()
    np.testing.assert_array_equal(curve_x[:7], x)
    # Rounding differs between sizes of Cholesky factors; y is rounded to float32.
    np.testing.assert_allclose(curve_y[:7], y, rtol=1e-5, atol=1e-6)
    shorter_x, shorter_y = family.sample(seed, 200)
    np.testing.assert_array_equal(curve_x[:200], shorter_x)
    np.testing.assert_allclose(curve_y[:200], shorter_y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kernel", ["rbf", "matern32", "periodic"])
@pytest.mark.parametrize("shots", [0, 1, 6])
def test_gaussian_process_posterior_matches_the_textbook_formula(kernel, shots):
    family = tasks.gaussian_process(kernel, (0.3, 1.0), (0.5, 2.0), noise=0.1)
    lengths, scales = np.array([0.4, 0.9, 0.6]), np.array([1.5, 0.7, 1.0])
    random = np.random.RandomState(shots)
    support_x = random.uniform(-2, 2, [3, shots, 1])
    support_y = random.normal(size=[3, shots, 1])
    query_x = random.uniform(-2, 2, [3, 5, 1])
    mean, deviation = family.posterior(
        support_x, support_y, query_x, length=lengths, scale=scales
    )
    assert mean.shape == deviation.shape == (3, 5, 1)
    for task, (length, scale) in enumerate(zip(lengths, scales, strict=True)):

        def k(x1, x2, length=length, scale=scale):
            return kernel_matrix(kernel, x1, x2, length, scale)

        inverse = np.linalg.inv(
            k(support_x[task], support_x[task]) + 0.01 * np.eye(shots)
        )
        cross = k(query_x[task], support_x[task])
        variance = scale**2 + 0.01 - np.diag(cross @ inverse @ cross.T)
        # The jitter is 1e-8 of the variance, the noise about a hundredth of it.
        np.testing.assert_allclose(
            mean[task], cross @ inverse @ support_y[task], rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(deviation[task, :, 0], variance**0.5, rtol=1e-5)
        single = family.posterior(
            support_x[task], support_y[task], query_x[task], length, scale
        )
        np.testing.assert_allclose(single, [mean[task], deviation[task]], rtol=1e-9)


def test_gaussian_process_posterior_uses_the_parameters_of_the_family():
    family = tasks.gaussian_process(length=0.7, scale=1.3)
    x, _ = draw(family.episodes(4, 1), 2)
    points = x["support_x"], x["support_y"], x["query_x"]
    ranged = tasks.gaussian_process(length=(0.1, 1.0), scale=(0.1, 1.0))
    np.testing.assert_array_equal(
        family.posterior(*points), ranged.posterior(*points, length=0.7, scale=1.3)
    )


@pytest.fixture(scope="module")
def pictures():
    """Returns ten uint8 images 4x3x2, with distinct values in each channel."""
    channel = np.random.RandomState(0).permutation(120).reshape(10, 4, 3)
    return np.stack([channel, 255 - channel], axis=-1).astype(np.uint8)


def pixel_numbers(x):
    """Returns the index of the pixel of 4x3 at each (row, column) in [0, 1]^2."""
    rows, columns = np.rint(x[..., 0] * 3), np.rint(x[..., 1] * 2)
    np.testing.assert_allclose(x[..., 0], rows / 3, rtol=1e-6)
    np.testing.assert_allclose(x[..., 1], columns / 2, rtol=1e-6)
    return (3 * rows + columns).astype(int)


def test_completion_contains_every_pixel_of_one_image(pictures):
    x, y = draw(tasks.completion(pictures).episodes(shots=5, queries=7), 1200)
    pixels = pixel_numbers(np.concatenate([x["support_x"], x["query_x"]], axis=1))
    values = np.concatenate([x["support_y"], y], axis=1)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(np.sort(pixels), np.tile(np.arange(12), [1200, 1]))
    whole = np.zeros([1200, 12, 2])
    np.put_along_axis(whole, pixels[..., None], values, axis=1)
    images_drawn = np.rint(whole * 255).reshape(1200, 4, 3, 2)
    np.testing.assert_allclose(
        whole, images_drawn.reshape(whole.shape) / 255, rtol=1e-6
    )
    first = pictures[:, 0, 0, 0].tolist()
    chosen = [first.index(value) for value in images_drawn[:, 0, 0, 0]]
    np.testing.assert_array_equal(images_drawn, pictures[chosen])
    # A sample of a uniform law exceeds 27.9 (9 degrees of freedom), 31.3 (11), 174
    # (119) and 188 (131) with probability 0.001 each.
    assert chi_square(chosen, 10) < 27.9
    assert chi_square(12 * np.array(chosen) + pixels[:, 0], 120) < 174
    for position in (0, 5, 11):
        assert chi_square(pixels[:, position], 12) < 31.3
    pairs = 11 * pixels[:, 0] + pixels[:, 1] - (pixels[:, 1] > pixels[:, 0])
    assert chi_square(pairs, 132) < 188


def test_completion_continues_an_episode(pictures):
    family = tasks.completion(pictures)
    whole_x, whole_y = family.sample(episodes.fold_seed(3, 2), 12)
    few_x, few_y = family.sample(episodes.fold_seed(3, 2), 4)
    np.testing.assert_array_equal(whole_x[:4], few_x)
    np.testing.assert_array_equal(whole_y[:4], few_y)
    x, y = draw(family.episodes(3, 2, seed=3, start=2), 1)
    np.testing.assert_array_equal(x["support_y"][0], whole_y[:3])
    np.testing.assert_array_equal(y[0], whole_y[3:5])


def test_completion_accepts_floats_rows_and_columns(pictures):
    seed = episodes.fold_seed(0, 0)
    scaled = pictures / 255  # float64
    for from_bytes, from_floats in zip(
        tasks.completion(pictures).sample(seed, 12),
        tasks.completion(scaled).sample(seed, 12),
        strict=True,
    ):
        np.testing.assert_allclose(from_bytes, from_floats, rtol=1e-6)
    x, _ = tasks.completion(pictures[:, :1]).sample(seed, 3)
    np.testing.assert_array_equal(np.sort(x, axis=0), [[0, 0], [0, 0.5], [0, 1]])
    x, _ = tasks.completion(pictures[:, :3, :1]).sample(seed, 3)
    np.testing.assert_array_equal(np.sort(x, axis=0), [[0, 0], [0.5, 0], [1, 0]])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tasks.sinusoid(amplitude=(5, 0.1)), r"amplitude .*got \(5, 0.1\)\."),
        (lambda: tasks.sinusoid(phase=(1, 1)), r"phase .*got \(1, 1\)\."),
        (lambda: tasks.sinusoid(x=(0, math.nan)), r"x .*got \(0, nan\)\."),
        (lambda: tasks.sinusoid().episodes(shots=-1), "shots .* >= 0, got -1."),
        (lambda: tasks.sinusoid().episodes(queries=0), "queries .* >= 1, got 0."),
        (lambda: tasks.sinusoid().episodes(shots=2.5), "shots .*integer.* got 2.5."),
        (lambda: tasks.sinusoid().episodes(start=-1), "start .* >= 0, got -1."),
        (lambda: sinusoids((9, 3)), r"shots .*low <= high, got \(9, 3\)\."),
        (lambda: sinusoids((3,)), r"shots .*\(low, high\).* got \(3,\)\."),
        (lambda: sinusoids((-1, 3)), "each of shots .* >= 0, got -1."),
        (lambda: sinusoids((3, 4.5)), "each of shots .*integer.* got 4.5."),
        (lambda: sinusoids((3, 9), block=0), "block .* >= 1, got 0."),
        (
            lambda: sinusoids((3, 9), start=6, block=4),
            "start .*multiple of block, 4, got 6.",
        ),
        (lambda: tasks.boolean(15), "functions to be 14 or 16, got 15."),
        (
            lambda: tasks.boolean_bayes(16, [[1, 1], [1, 1]], [0, 1], [[1, 1]]),
            "support_y to be of one of the 16 .* none agrees with.",
        ),
        (
            lambda: tasks.boolean_bayes(16, [[1, 1], [1, 1]], [0], [[1, 1]]),
            r"support_x .*support_y \[T, S\], got shapes \[2, 2\] and \[1\]\.",
        ),
        (
            lambda: tasks.least_squares(
                tasks.semilinear_features, [[0, 0]], [[1]], [[0, 0]], squashed=True
            ),
            r"squashed targets in \(0, 1\)",
        ),
        (
            lambda: tasks.least_squares(
                tasks.quadratic_features, [[0, 0]], [1], [[0, 0]]
            ),
            r"support_x .*support_y \[T, S, d_y\], got .* \[1, 2\] and \[1\]\.",
        ),
        (lambda: tasks.gaussian_process("cosine"), "kernel .* got 'cosine'."),
        (lambda: tasks.gaussian_process(length=0), "length to be above 0, got 0."),
        (lambda: tasks.gaussian_process(scale=(0, 1)), r"scale .* got \(0, 1\)\."),
        (lambda: tasks.gaussian_process(scale=(2, 1)), r"scale .*<.* got \(2, 1\)\."),
        (lambda: tasks.gaussian_process(noise=-1), "noise to be at least 0, got -1."),
        (lambda: tasks.gaussian_process(x=(2, 1)), r"x .*<.* got \(2, 1\)\."),
        (
            lambda: tasks.gaussian_process(length=(1, 2)).posterior(
                [[0]], [[0]], [[0]]
            ),
            "length=, as this family draws another for each task",
        ),
        (
            lambda: tasks.gaussian_process(scale=(1, 2)).posterior([[0]], [[0]], [[0]]),
            "scale=, as this family draws another for each task",
        ),
        (
            lambda: tasks.gaussian_process().posterior([[0]], [0], [[0]]),
            r"support_x .*support_y .* got shapes \[1, 1\] and \[1\]\.",
        ),
        (lambda: tasks.completion(np.zeros([3, 2, 2])), r"images .*got \[3, 2, 2\]\."),
        (lambda: tasks.completion(np.zeros([0, 2, 2, 1])), "images .*, at least one"),
        (
            lambda: tasks.completion(np.full([1, 2, 2, 1], 255.0)),
            r"images .*in \[0, 1\], got values from 255 to 255.",
        ),
        (
            lambda: tasks.completion(np.full([1, 2, 2, 1], math.nan)),
            r"images .*in \[0, 1\], got values from nan to nan.",
        ),
        (
            lambda: tasks.completion(np.zeros([1, 2, 2, 1])).episodes(3, 2),
            "at most 4 points, .* got 5.",
        ),
        (
            lambda: tasks.completion(np.zeros([1, 2, 2, 1])).sample([0, 0], 5),
            "at most 4 points, .* got 5.",
        ),
        (lambda: tasks.glyphs(0), "classes .* >= 1 .*got 0."),
        (lambda: tasks.glyphs([]), r"classes .*got \[\]."),
        (lambda: tasks.glyphs([3, -1]), r"classes .*got \[3, -1\]."),
        (lambda: tasks.glyphs([0.5]), r"classes .*got \[0.5\]."),
        (lambda: tasks.glyphs(1, drawings=0), "drawings .* >= 1, got 0."),
        (lambda: tasks.glyphs(1, seed=-2), "seed .* >= 0, got -2."),
    ],
)
def test_invalid_arguments_raise_value_errors(call, message):
    with pytest.raises(ValueError, match="^expected " + message):
        call()


def fingerprint():
    """Returns a hash of glyphs and sinusoids."""
    bits = hashlib.sha256()
    pool = tasks.glyphs([2, 7], drawings=3, seed=1)
    for class_id in (2, 7):
        bits.update(np.asarray(pool.images_of(class_id)).tobytes())
    dataset = tasks.sinusoid().episodes(seed=1, start=9).batch(3).take(1)
    for value in tf.nest.flatten(next(dataset.as_numpy_iterator())):
        bits.update(value.tobytes())
    return bits.hexdigest()


@pytest.mark.thorough
def test_another_process_draws_the_same_tasks():
    code = "\n".join(
        [
            "import hashlib",
            "import numpy as np",
            "import tensorflow as tf",
            "from keras_meta import tasks",
            inspect.getsource(fingerprint),
            "print(fingerprint())",
            "import sys",
            "print('tensorflow_probability' in sys.modules)",
        ]
    )
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    # Importing TFP takes a second. Only some families need it.
    assert process.stdout.split() == [fingerprint(), "False"]


@pytest.fixture(scope="module")
def alphabet():
    """Returns sixty classes of glyphs `[60, 20, 105, 105]`, ink 1 and paper 0."""
    pool = tasks.glyphs(60)
    assert pool.class_ids.tolist() == list(range(60))
    assert pool.shape == (105, 105, 1)
    return 1 - np.stack([pool.images_of(i) for i in range(60)])[..., 0]


def test_a_glyph_does_not_depend_on_the_other_glyphs_drawn(alphabet):
    pool = tasks.glyphs([41, 3, 1000, 3], drawings=4)
    assert pool.class_ids.tolist() == [3, 41, 1000]
    for class_id in (3, 41):
        np.testing.assert_array_equal(
            1 - pool.images_of(class_id)[..., 0], alphabet[class_id][:4]
        )


def test_seeds_draw_different_alphabets(alphabet):
    glyphs = 1 - np.asarray(tasks.glyphs([3], drawings=1, seed=1).images_of(3))
    shared = (glyphs[0, ..., 0] * alphabet[3][0]).sum()
    assert shared < 0.5 * alphabet[3][0].sum()


def test_glyph_drawings_differ(alphabet):
    for drawings in alphabet:
        assert len({drawing.tobytes() for drawing in drawings}) == 20


def test_glyphs_have_the_statistics_of_omniglot(alphabet):
    # Comments state the figures of Omniglot's background set at the same size.
    assert set(np.unique(alphabet)) == {0.0, 1.0}
    ink = alphabet.mean(axis=(2, 3))
    assert ink.min() > 0.005  # never blank
    assert 0.055 < ink.mean() < 0.085  # 0.078
    rows = alphabet[..., [0, -1], :]
    edges = np.concatenate([alphabet[..., [0, -1]], rows.swapaxes(-1, -2)], 2)
    assert edges.mean() < 0.001  # never cut off

    steps = np.diff(np.pad(alphabet, [(0, 0)] * 3 + [(1, 1)]), axis=-1)
    thick = np.nonzero(steps == -1)[-1] - np.nonzero(steps == 1)[-1]
    assert np.bincount(thick).argmax() == 5  # 5 pixels

    def extent(axis):
        inked = alphabet.any(axis=axis)
        side = inked.shape[-1]
        return side - inked[..., ::-1].argmax(-1) - inked.argmax(-1)

    for size in (extent(2), extent(3)):
        assert 52 < size.mean() < 68  # 56 and 63
        assert 6 < size.std(axis=1).mean() < 11  # 7.9 within a class
        assert 11 < size.mean(axis=1).std() < 18  # 14 between classes


def test_glyph_classes_are_distinct_and_drawings_vary(alphabet):
    pixels = alphabet[..., :104, :104].reshape(60, 20, 26, 4, 26, 4).mean(axis=(3, 5))
    for axis in (2, 3):  # a binomial blur
        for _ in range(4):
            pixels = pixels + np.roll(pixels, 1, axis)
    pixels = pixels.reshape(60, 20, -1)
    means, held_out = pixels[:, :10].mean(axis=1), pixels[:, 10:]
    predictions = ((held_out[:, :, None] - means) ** 2).sum(-1).argmin(-1)
    accuracy = np.mean(predictions == np.arange(60)[:, None])
    # Chance is 0.017. Sixty characters of Omniglot's background set reach 0.58, with
    # a standard deviation of 0.02 over the choice of characters.
    assert 0.5 < accuracy < 0.75


def test_glyphs_are_prepared_in_chunks(monkeypatch):
    class Recorded(images.ImagePreprocess):
        def resize(self, raw):
            shapes.append(raw.shape)
            return super().resize(raw)

    shapes = []
    monkeypatch.setattr(glyph_pool, "CLASSES_AT_ONCE", 2)
    prepare = Recorded(28, 28, 1, invert=True)
    pool = tasks.glyphs(5, drawings=3, prepare=prepare)
    assert [tuple(shape) for shape in shapes] == [
        (6, 105, 105, 1),
        (6, 105, 105, 1),
        (3, 105, 105, 1),
        (15, 28, 28, 1),  # by the pool, without effect
    ]
    assert pool.shape == (28, 28, 1)
    full = tasks.glyphs(5, drawings=3)
    for class_id in range(5):
        expected = prepare(tf.cast(full.images_of(class_id) * 255, tf.uint8))
        np.testing.assert_array_equal(pool.images_of(class_id), expected)
