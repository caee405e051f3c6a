"""Conditional neural processes against loops and finite differences."""

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
    """d_x = 2, d_y = 3."""
    cnp = km.CNP(mlp(5, 8, 1), mlp(10, 6, 2), outputs=3, aggregate=aggregate, **options)
    for variable in cnp.trainable_variables:  # no zeros
        noise = np.random.RandomState(3).normal(size=variable.shape)
        variable.assign(variable + 0.1 * noise)
    return cnp


def classification():
    encoder = smooth.network(normalized=False)
    with smooth.float64():
        return km.CNP(encoder, mlp(6, 1, 2), "sparse_categorical_crossentropy", 4)


def points(support=SUPPORT):
    """`(episode, query_y)` of random points."""
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
    """An einsum layer of attention, `[D] -> [heads, D']`, or back."""
    kernel, bias = (v.numpy() for v in layer.weights)
    return np.tensordot(x, kernel, x.ndim) + bias


def attended(cnp, x, xs, ys):
    """Multi-head attention of one query over the examples and the learned nothing."""
    nothing = cnp.nothing.numpy()[:, 0, 0]
    keys = [nothing[0]] + [run(cnp.embedding, s) for s in xs]
    values = [nothing[1]] + [
        run(cnp.encoder, s, t) for s, t in zip(xs, ys, strict=True)
    ]
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


def loop(cnp, episode):
    """Mean and scale `[T, Q, 3]`, query by query."""
    means, scales = [], []
    for xs, ys, queries in zip(
        episode["support_x"], episode["support_y"], episode["query_x"], strict=True
    ):
        for x in queries:
            if cnp.aggregate == "attention":
                r = attended(cnp, x, xs, ys)
            else:
                encoded = [run(cnp.encoder, s, t) for s, t in zip(xs, ys, strict=True)]
                r = np.mean(encoded, axis=0) if encoded else np.zeros(8)
            mean, raw = np.split(run(cnp.decoder, r, x), 2)
            means.append(mean)
            scales.append(cnp.min_scale + (1 - cnp.min_scale) * softplus(raw))
    shape = [*episode["query_x"].shape[:2], 3]
    return np.reshape(means, shape), np.reshape(scales, shape)


def class_loop(cnp, episode, query_x):
    """Scores `[T, Q, 3]`, pair by pair of a query and a class."""
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
def test_regression_is_its_equations(aggregate, support):
    cnp = regression(aggregate, min_scale=0.05)
    episode, _ = points(support)
    state = cnp.adapt(episode["support_x"], episode["support_y"])
    found = cnp.infer(state, episode["query_x"])
    for value, expected in zip(found, loop(cnp, episode), strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    distribution = cnp.distribution(state, episode["query_x"])
    np.testing.assert_allclose(distribution.stddev(), found[1])
    np.testing.assert_allclose(distribution.mean(), found[0])


def test_classification_is_its_equations():
    cnp = classification()
    episode, _ = smooth.episode()
    found = cnp(episode)
    expected = class_loop(cnp, episode, episode["query_x"])
    np.testing.assert_allclose(found[..., :3], expected, rtol=1e-10)
    np.testing.assert_array_equal(tf.nn.softmax(found)[..., 3], 0)


@pytest.mark.parametrize("aggregate", ["mean", "attention"])
def test_the_gradient_of_regression_is_that_of_differences(aggregate):
    cnp = regression(aggregate)
    episode, query_y = points()
    asked, targets = episode["query_x"], query_y
    if aggregate == "mean":  # the support examples are asked too
        asked = np.concatenate([asked, episode["support_x"]], 1)
        targets = np.concatenate([targets, episode["support_y"]], 1)

    def value():
        mean, scale = loop(cnp, {**episode, "query_x": asked})
        squares = ((targets - mean) / scale) ** 2
        return np.mean(np.log(scale) + squares / 2 + np.log(2 * np.pi) / 2)

    loss, gradients, variables, outputs = cnp.meta_gradient(episode, query_y)
    assert loss.numpy() == pytest.approx(value(), rel=1e-10)
    assert outputs.shape == (TASKS, QUERIES, 3, 2)
    for direction, slope in smooth.slopes(value, variables, directions=2):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


def test_the_gradient_of_classification_is_that_of_differences():
    cnp = classification()
    episode, query_y = smooth.episode()
    both = np.concatenate([episode["query_x"], episode["support_x"]], 1)
    labels = np.concatenate([query_y, episode["support_y"]], 1)

    def value():
        scores = class_loop(cnp, episode, both)
        chances = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
        return -np.take_along_axis(chances, labels[..., None], -1).mean()

    loss, gradients, variables, _ = cnp.meta_gradient(episode, query_y)
    assert loss.numpy() == pytest.approx(value(), rel=1e-10)
    for direction, slope in smooth.slopes(value, variables, directions=2):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


def test_names_of_classes_are_interchangeable():
    cnp = classification()
    episode, _ = smooth.episode()
    renamed = np.array([2, 0, 1])[episode["support_y"]]
    found = cnp({**episode, "support_y": renamed}).numpy()
    np.testing.assert_allclose(found[..., [2, 0, 1]], cnp(episode)[..., :3], rtol=1e-12)


@pytest.mark.parametrize(
    "make, words",
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
def test_what_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
