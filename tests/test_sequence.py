"""Sequence learners against loops over time, and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import smooth
from tests.test_memory import sigmoid

TASKS, SUPPORT, QUERIES, INPUTS, CLASSES = 2, 5, 3, 4, 3


class Leaky(keras.layers.Layer):
    """A cell with one line of equations: h = tanh(W x) + h / 2."""

    state_size = output_size = 6

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=[input_shape[-1], 6], name="kernel")
        self.built = True

    def get_initial_state(self, batch_size=None):
        return [tf.zeros([batch_size, 6], self.compute_dtype)]

    def call(self, inputs, states, training=False):
        (old,) = states
        new = tf.tanh(inputs @ self.kernel) + old / 2
        return new, [new]


def dressed(learner):
    for variable in learner.trainable_variables:
        values = np.random.RandomState(3).normal(size=variable.shape)
        variable.assign(0.7 * values)
    return learner


@smooth.float64()
def leaky(**options):
    keras.utils.set_random_seed(1)
    return dressed(
        km.learners.sequence.SequenceLearner(
            Leaky(dtype="float64"),
            example_shape=[INPUTS],
            outputs=options.pop("outputs", CLASSES),
            dtype="float64",
            support_order="given",
            **options,
        )
    )


def episode(labels="onehot", d_y=2):
    random = np.random.RandomState(4)
    x = random.normal(size=[TASKS, SUPPORT + QUERIES, INPUTS])
    shape = [TASKS, SUPPORT + QUERIES]
    if labels == "mse":
        y = random.normal(size=[*shape, d_y])
    elif labels == "strings":
        y = random.randint(5, size=[*shape, 5]).astype("int32")
    else:
        y = random.randint(CLASSES, size=shape).astype("int32")
    parts = {"support_x": x[:, :SUPPORT], "support_y": y[:, :SUPPORT]}
    return {**parts, "query_x": x[:, SUPPORT:]}, y[:, SUPPORT:]


CASES = {
    "onehot": {},
    "no skip": {"skip": False},
    "strings": {"labels": "strings", "outputs": 5},
    "mse": {"loss": "mse", "outputs": 2},
    "scaled": {"loss": "mse", "outputs": 2, "target_mean": 0.5, "target_scale": 0.2},
    "features": {"network": True},
}


SHOWN = {"features": "onehot", "no skip": "onehot", "scaled": "mse"}


def made(case):
    options = dict(CASES[case])
    if options.pop("network", False):
        with smooth.float64():
            options["network"] = km.networks.mlp((INPUTS,), 3, (4,), activation="tanh")
    return leaky(**options)


def entered(learner, y):
    """A label as it goes into the cell."""
    if not learner.classification:
        return (np.array(y) - learner.target_mean) / learner.target_scale
    return np.concatenate([np.eye(learner.output_size)[i] for i in np.atleast_1d(y)])


def loop(learner, data, cell):
    """Answers at each support example, then at each query, `[T, S + Q, ...]`.

    Args:
        cell: function `(input, state or None) -> (output, state)` of single examples.
    """
    kernel, bias = (v.numpy() for v in learner.head.weights)
    tasks = []
    for xs, ys, queries in zip(
        data["support_x"], data["support_y"], data["query_x"], strict=True
    ):
        answers, state = [], None
        late = 0 * entered(learner, ys[0])

        def step(x, state, late=late):
            feature = x
            if learner.network is not None:
                feature = learner.network(x[None])[0].numpy()
            output, state = cell(np.concatenate([feature, late]), state)
            seen = np.concatenate([feature, output]) if learner.skip else output
            answer = seen @ kernel + bias
            if learner.labels == "strings":
                answer = answer.reshape(5, 5)
            return learner.target_mean + learner.target_scale * answer, state

        for x, y in zip(xs, ys, strict=True):
            answer, state = step(x, state, late)
            answers.append(answer)
            late = entered(learner, y)
        # Each from the same state, with the last label.
        answers += [step(query, state, late)[0] for query in queries]
        tasks.append(answers)
    return np.array(tasks)


def leaky_cell(learner):
    kernel = learner.cell.kernel.numpy()

    def cell(x, state):
        new = np.tanh(x @ kernel) + (0 if state is None else state) / 2
        return new, new

    return cell


def lstm_cell(learner):
    """Stacked LSTMs by the textbook."""
    cells = getattr(learner.cell, "cells", [learner.cell])
    layers = [[v.numpy() for v in c.trainable_variables] for c in cells]

    def cell(x, state):
        new = []
        for layer, (kernel, recurrent, bias) in enumerate(layers):
            size = len(recurrent)
            h, c = (np.zeros(size), np.zeros(size)) if state is None else state[layer]
            i, f, candidate, o = np.split(x @ kernel + h @ recurrent + bias, 4)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(candidate)
            x = sigmoid(o) * np.tanh(c)
            new.append((x, c))
        return x, new

    return cell


def check(learner, case, cell):
    """Answers and the loss on every time step are the loop's; returns that loss."""
    data, query_y = episode(SHOWN.get(case, case))

    def value():
        answers = loop(learner, data, cell(learner))
        labels = np.concatenate([data["support_y"], query_y], 1)
        if not learner.classification:
            losses = (((answers - labels) / learner.target_scale) ** 2).mean(-1)
        else:
            chances = answers - np.log(np.exp(answers).sum(-1, keepdims=True))
            losses = -np.take_along_axis(chances, labels[..., None], -1)[..., 0]
            losses = losses.reshape(TASKS, SUPPORT + QUERIES, -1).mean(-1)
        # The queries count as one more step.
        read = losses[:, :SUPPORT].sum(1) + losses[:, SUPPORT:].mean(1)
        return (read / (SUPPORT + 1)).mean()

    expected = loop(learner, data, cell(learner))
    read = learner.sequence(data["support_x"], data["support_y"])
    np.testing.assert_allclose(read, expected[:, :SUPPORT], rtol=1e-9)
    np.testing.assert_allclose(learner(data), expected[:, SUPPORT:], rtol=1e-9)
    loss, gradients, variables, outputs = learner.meta_gradient(data, query_y)
    np.testing.assert_allclose(outputs, expected[:, SUPPORT:], rtol=1e-9)
    assert loss.numpy() == pytest.approx(value(), rel=1e-10)
    for direction, slope in smooth.slopes(value, variables, directions=2):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_it_is_its_equations(case):
    check(made(case), case, leaky_cell)


@pytest.mark.parametrize("units", [6, [6, 5]])
def test_lstm_is_its_equations(units):
    with smooth.float64():
        keras.utils.set_random_seed(1)
        learner = km.LSTMLearner(
            example_shape=[INPUTS],
            outputs=CLASSES,
            units=units,
            dtype="float64",
            support_order="given",
        )
    check(dressed(learner), "onehot", lstm_cell)


def test_mann_asks_a_copy_of_its_memory():
    """A query's answer is that of the step after the support set, label and all."""
    with smooth.float64():
        learner = dressed(
            km.MANN(
                example_shape=[INPUTS],
                outputs=CLASSES,
                units=5,
                rows=8,
                width=3,
                heads=2,
                dtype="float64",
                support_order="given",
            )
        )
    data, _ = episode()
    answers = learner(data).numpy()
    for query in range(QUERIES):
        x = np.concatenate(
            [data["support_x"], data["query_x"][:, query : query + 1]], 1
        )
        y = np.concatenate([data["support_y"], data["support_y"][:, :1]], 1)
        longer = learner.sequence(x, y)[:, -1]
        np.testing.assert_allclose(answers[:, query], longer, rtol=1e-10)


def test_unrolled_is_the_same():
    data, query_y = episode()
    rolled, unrolled = leaky(), leaky(unroll=True)
    for x, y in zip(
        rolled.meta_gradient(data, query_y)[1],
        unrolled.meta_gradient(data, query_y)[1],
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-10)
    read = tf.function(lambda: unrolled._read(data["support_x"], data["support_y"], 0))
    operations = {o.type for o in read.get_concrete_function().graph.get_operations()}
    assert not operations & {"While", "StatelessWhile"}


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"example_shape": None}, "a network or an example_shape"),
        ({"labels": "words"}, "onehot or strings"),
        ({"labels": "strings", "outputs": 3}, "5 outputs"),
        ({"loss": "gaussian"}, "a loss of predictions alone"),
        ({"loss": "mse", "labels": "strings"}, "string labels with a loss of classes"),
        ({"target_scale": 2.0}, "target_scale 1 for classification, got 0.0 and 2.0"),
        ({"loss": "mse", "target_scale": 0}, "target_scale to be a number above 0"),
    ],
)
def test_what_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        km.LSTMLearner(**{"example_shape": [3], **wrong})


@pytest.mark.thorough
def test_what_fit_is_given_is_told_before_anything_is_traced():
    learner = km.LSTMLearner(example_shape=[2], outputs=2, units=4)
    learner.compile()
    episodes = km.tasks.boolean().episodes(3, 2)
    batches = episodes.batch(2)
    # What was traced changes nothing.
    learner.fit(batches, steps_per_epoch=1, verbose=0)
    floats = batches.map(lambda episode, y: (episode, tf.cast(y, tf.float32)))
    sides = batches.map(lambda episode, y: (episode, y[..., None]))
    bare = batches.map(lambda episode, y: ({"query": episode["query_x"]}, y))
    for given, words in (
        (episodes, r"support_x of shape \[T, S, 2\], got \[3, 2\]: dataset.batch"),
        (np.zeros([3, 2]), "support_x, support_y, query_x}, query_y.* got ndarray"),
        (bare, "got {query}"),
        (floats, "query_y to be integer labels, got float32"),
        (sides, r"query_y of shape \[T, Q\], got \[None, 2, 1\]"),
    ):
        for call in (learner.fit, learner.evaluate):
            with pytest.raises(ValueError, match=words):
                call(given, verbose=0)
        with pytest.raises(ValueError, match=words):
            learner.fit(batches, validation_data=given, verbose=0)
    episode, query_y = next(iter(batches))
    assert learner.predict(episode, verbose=0).shape == (2, 2, 2)
    assert learner.evaluate(episode, query_y, verbose=0)
    with pytest.raises(ValueError, match=r"one task, of shape \[S, 2\], got \[2, 3, 2"):
        km.finetune(learner, episode["support_x"], episode["support_y"])
