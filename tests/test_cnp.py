"""Tests of conditional neural processes against NumPy loops and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import smooth

TASKS, SUPPORT, QUERIES = 2, 5, 4


def mlp(inputs, outputs, seed):
    keras.utils.set_random_seed(seed)
    return km.networks.mlp((inputs,), outputs, (8,), activation="tanh")


@smooth.float64()
def regression(aggregate="mean", **options):
    """Creates a CNP for regression with d_x = 2 and d_y = 3."""
    cnp = km.CNP(mlp(5, 8, 1), mlp(10, 6, 2), outputs=3, aggregate=aggregate, **options)
    for variable in cnp.trainable_variables:  # so that none stays zero
        noise = np.random.RandomState(3).normal(size=variable.shape)
        variable.assign(variable + 0.1 * noise)
    return cnp


def classification():
    encoder = smooth.network(normalized=False)
    with smooth.float64():
        return km.CNP(encoder, mlp(6, 1, 2), "sparse_categorical_crossentropy", 4)


def points(support=SUPPORT):
    """Draws `(episode, query_y)` of random points."""
    random = np.random.RandomState(4)
    episode = {
        "support_x": random.normal(size=[TASKS, support, 2]),
        "support_y": random.normal(size=[TASKS, support, 3]),
        "query_x": random.normal(size=[TASKS, QUERIES, 2]),
    }
    return episode, random.normal(size=[TASKS, QUERIES, 3])


def softplus(x):
    return np.log1p(np.exp(x))


def run(network, *parts):
    return network(np.concatenate(parts)[None])[0].numpy()


def dense(x, layer):
    """Computes an einsum layer of attention, `[D] -> [heads, D']` or the reverse."""
    kernel, bias = (v.numpy() for v in layer.weights)
    return np.tensordot(x, kernel, x.ndim) + bias


def attend(cnp, x, xs, ys):
    """Computes attention of a query over the examples and the learned empty example."""
    empty = cnp.nothing.numpy()[:, 0, 0]
    keys = [empty[0]] + [run(cnp.embedding, s) for s in xs]
    values = [empty[1]] + [run(cnp.encoder, s, t) for s, t in zip(xs, ys, strict=True)]
    attention = cnp.attention
    query = dense(run(cnp.embedding, x), attention._query_dense)  # [heads, D']
    keys = [dense(k, attention._key_dense) for k in keys]
    values = [dense(v, attention._value_dense) for v in values]
    heads = []
    for head in range(len(query)):
        scores = [query[head] @ k[head] / np.sqrt(len(query[head])) for k in keys]
        weights = np.exp(scores) / np.sum(np.exp(scores))
        heads.append(sum(w * v[head] for w, v in zip(weights, values, strict=True)))
    return dense(np.array(heads), attention._output_dense)


def numpy_regression(cnp, episode):
    """Computes mean and scale `[T, Q, 3]`, query by query."""
    means, scales = [], []
    for xs, ys, queries in zip(
        episode["support_x"], episode["support_y"], episode["query_x"], strict=True
    ):
        for x in queries:
            if cnp.aggregate == "attention":
                r = attend(cnp, x, xs, ys)
            else:
                encoded = [run(cnp.encoder, s, t) for s, t in zip(xs, ys, strict=True)]
                r = np.mean(encoded, axis=0) if encoded else np.zeros(8)
            mean, raw = np.split(run(cnp.decoder, r, x), 2)
            means.append(mean)
            scales.append(cnp.min_scale + (1 - cnp.min_scale) * softplus(raw))
    shape = [*episode["query_x"].shape[:2], 3]
    return np.reshape(means, shape), np.reshape(scales, shape)


def numpy_class_scores(cnp, episode, query_x):
    """Computes scores `[T, Q, 3]`, one pair of a query and a class at a time."""
    scores = []
    for xs, ys, queries in zip(
        episode["support_x"], episode["support_y"], query_x, strict=True
    ):
        for query in queries:
            h = cnp.encoder(query[None])[0].numpy()
            for n in range(3):
                r = np.mean(cnp.encoder(xs[ys == n]).numpy(), axis=0)
                scores.append(run(cnp.decoder, r, h)[0])
    return np.reshape(scores, [*query_x.shape[:2], 3])


@pytest.mark.parametrize("aggregate", ["mean", "attention"])
@pytest.mark.parametrize("support", [0, 1, SUPPORT])
def test_regression_matches_the_equations(aggregate, support):
    cnp = regression(aggregate, min_scale=0.05)
    episode, _ = points(support)
    state = cnp.adapt(episode["support_x"], episode["support_y"])
    outputs = cnp.infer(state, episode["query_x"])
    for value, expected in zip(outputs, numpy_regression(cnp, episode), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    distribution = cnp.distribution(state, episode["query_x"])
    np.testing.assert_allclose(distribution.stddev(), outputs[1])
    np.testing.assert_allclose(distribution.mean(), outputs[0])


def test_classification_matches_the_equations():
    cnp = classification()
    episode, _ = smooth.episode()
    logits = cnp(episode)
    expected = numpy_class_scores(cnp, episode, episode["query_x"])
    np.testing.assert_allclose(logits[..., :3], expected, rtol=1e-10)
    np.testing.assert_array_equal(tf.nn.softmax(logits)[..., 3], 0)


@pytest.mark.parametrize(
    "aggregate", [pytest.param("mean", marks=pytest.mark.thorough), "attention"]
)
def test_regression_gradients_match_finite_differences(aggregate):
    cnp = regression(aggregate)
    episode, query_y = points()
    query_x, targets = episode["query_x"], query_y
    if aggregate == "mean":  # the loss includes the support examples
        query_x = np.concatenate([query_x, episode["support_x"]], 1)
        targets = np.concatenate([targets, episode["support_y"]], 1)

    def compute_loss():
        mean, scale = numpy_regression(cnp, {**episode, "query_x": query_x})
        squares = ((targets - mean) / scale) ** 2
        return np.mean(np.log(scale) + squares / 2 + np.log(2 * np.pi) / 2)

    loss, gradients, variables, outputs = cnp.meta_gradient(episode, query_y)
    assert loss.numpy() == pytest.approx(compute_loss(), rel=1e-10)
    assert outputs.shape == (TASKS, QUERIES, 3, 2)
    for direction, slope in smooth.slopes(compute_loss, variables, directions=2):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.thorough
def test_classification_gradients_match_finite_differences():
    cnp = classification()
    episode, query_y = smooth.episode()
    all_x = np.concatenate([episode["query_x"], episode["support_x"]], 1)
    labels = np.concatenate([query_y, episode["support_y"]], 1)

    def compute_loss():
        scores = numpy_class_scores(cnp, episode, all_x)
        log_probabilities = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        return -np.take_along_axis(log_probabilities, labels[..., None], -1).mean()

    loss, gradients, variables, _ = cnp.meta_gradient(episode, query_y)
    assert loss.numpy() == pytest.approx(compute_loss(), rel=1e-10)
    for direction, slope in smooth.slopes(compute_loss, variables, directions=2):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


def test_logits_follow_a_permutation_of_the_labels():
    cnp = classification()
    episode, _ = smooth.episode()
    permuted = np.array([2, 0, 1])[episode["support_y"]]
    logits = cnp({**episode, "support_y": permuted}).numpy()
    np.testing.assert_allclose(
        logits[..., [2, 0, 1]], cnp(episode)[..., :3], rtol=1e-12
    )


@pytest.mark.parametrize(
    "create, message",
    [
        (lambda: km.CNP(mlp(2, 8, 0), mlp(9, 3, 0)), r"decoder from \[B, 9\]"),
        (lambda: km.CNP(mlp(3, 8, 0), mlp(9, 2, 0)), "an encoder of"),
        (lambda: regression("max"), "aggregate"),
        (lambda: regression(min_scale=1.0), "min_scale"),
        (
            lambda: km.CNP(
                mlp(6, 8, 0), mlp(8, 1, 0), "sparse_categorical_crossentropy", 5
            ),
            r"decoder from \[B, 16\]",
        ),
        (
            lambda: km.CNP(
                mlp(6, 8, 0),
                mlp(16, 1, 0),
                "sparse_categorical_crossentropy",
                aggregate="attention",
            ),
            "attention for regression",
        ),
        (lambda: classification().distribution({}, []), "CNP for regression"),
    ],
)
def test_invalid_arguments_raise(create, message):
    with pytest.raises(ValueError, match=message):
        create()
