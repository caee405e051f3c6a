"""Tests of sequence learners against loops over time and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import smooth
from tests.test_memory import sigmoid

TASKS, SUPPORT, QUERIES, INPUTS, CLASSES = 2, 5, 3, 4, 3


class Leaky(keras.layers.Layer):
    """A cell with the equation h = tanh(W x) + h / 2."""

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


def randomized(learner):
    for variable in learner.trainable_variables:
        values = np.random.RandomState(3).normal(size=variable.shape)
        variable.assign(0.7 * values)
    return learner


@smooth.float64()
def leaky_learner(**options):
    keras.utils.set_random_seed(1)
    return randomized(
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


LABELS = {"features": "onehot", "no skip": "onehot", "scaled": "mse"}


def build_learner(case):
    options = dict(CASES[case])
    if options.pop("network", False):
        with smooth.float64():
            options["network"] = km.networks.mlp((INPUTS,), 3, (4,), activation="tanh")
    return leaky_learner(**options)


def encode_label(learner, y):
    """Encodes a label as an input of the cell."""
    if not learner.classification:
        return (np.array(y) - learner.target_mean) / learner.target_scale
    return np.concatenate([np.eye(learner.output_size)[i] for i in np.atleast_1d(y)])


def reference(learner, data, cell):
    """Predictions at each support example, then at each query, `[T, S + Q, ...]`.

    Args:
        cell: function `(input, state or None) -> (output, state)` of single examples.
    """
    kernel, bias = (v.numpy() for v in learner.head.weights)
    tasks = []
    for xs, ys, queries in zip(
        data["support_x"], data["support_y"], data["query_x"], strict=True
    ):
        predictions, state = [], None
        last_label = 0 * encode_label(learner, ys[0])

        def step(x, state, last_label=last_label):
            feature = x
            if learner.network is not None:
                feature = learner.network(x[None])[0].numpy()
            output, state = cell(np.concatenate([feature, last_label]), state)
            head_inputs = np.concatenate([feature, output]) if learner.skip else output
            prediction = head_inputs @ kernel + bias
            if learner.labels == "strings":
                prediction = prediction.reshape(5, 5)
            return learner.target_mean + learner.target_scale * prediction, state

        for x, y in zip(xs, ys, strict=True):
            prediction, state = step(x, state, last_label)
            predictions.append(prediction)
            last_label = encode_label(learner, y)
        # All queries start from the same state and the last label.
        predictions += [step(query, state, last_label)[0] for query in queries]
        tasks.append(predictions)
    return np.array(tasks)


def leaky_cell(learner):
    kernel = learner.cell.kernel.numpy()

    def cell(x, state):
        new = np.tanh(x @ kernel) + (0 if state is None else state) / 2
        return new, new

    return cell


def lstm_cell(learner):
    """Stacked LSTMs in NumPy."""
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


def check_learner(learner, case, cell):
    """Compares predictions, loss and gradients with the loop over time."""
    data, query_y = episode(LABELS.get(case, case))

    def compute_loss():
        predictions = reference(learner, data, cell(learner))
        labels = np.concatenate([data["support_y"], query_y], 1)
        if not learner.classification:
            losses = (((predictions - labels) / learner.target_scale) ** 2).mean(-1)
        else:
            log_probs = predictions - np.log(np.exp(predictions).sum(-1, keepdims=True))
            losses = -np.take_along_axis(log_probs, labels[..., None], -1)[..., 0]
            losses = losses.reshape(TASKS, SUPPORT + QUERIES, -1).mean(-1)
        # The queries count as one more step.
        total = losses[:, :SUPPORT].sum(1) + losses[:, SUPPORT:].mean(1)
        return (total / (SUPPORT + 1)).mean()

    expected = reference(learner, data, cell(learner))
    support_predictions = learner.sequence(data["support_x"], data["support_y"])
    np.testing.assert_allclose(support_predictions, expected[:, :SUPPORT], rtol=1e-9)
    np.testing.assert_allclose(learner(data), expected[:, SUPPORT:], rtol=1e-9)
    loss, gradients, variables, outputs = learner.meta_gradient(data, query_y)
    np.testing.assert_allclose(outputs, expected[:, SUPPORT:], rtol=1e-9)
    assert loss.numpy() == pytest.approx(compute_loss(), rel=1e-10)
    for direction, slope in smooth.slopes(compute_loss, variables, directions=2):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("case", CASES)
def test_learners_match_the_equations(case):
    check_learner(build_learner(case), case, leaky_cell)


@pytest.mark.parametrize("units", [6, [6, 5]])
def test_lstm_matches_the_equations(units):
    with smooth.float64():
        keras.utils.set_random_seed(1)
        learner = km.LSTMLearner(
            example_shape=[INPUTS],
            outputs=CLASSES,
            units=units,
            dtype="float64",
            support_order="given",
        )
    check_learner(randomized(learner), "onehot", lstm_cell)


def test_queries_do_not_change_the_memory_of_mann():
    """A query is predicted like the step after the support set, with the last label."""
    with smooth.float64():
        learner = randomized(
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
    predictions = learner(data).numpy()
    for query in range(QUERIES):
        x = np.concatenate(
            [data["support_x"], data["query_x"][:, query : query + 1]], 1
        )
        y = np.concatenate([data["support_y"], data["support_y"][:, :1]], 1)
        last_step = learner.sequence(x, y)[:, -1]
        np.testing.assert_allclose(predictions[:, query], last_step, rtol=1e-10)


def test_unrolled_learner_equals_the_rolled_one():
    data, query_y = episode()
    rolled, unrolled = leaky_learner(), leaky_learner(unroll=True)
    for x, y in zip(
        rolled.meta_gradient(data, query_y)[1],
        unrolled.meta_gradient(data, query_y)[1],
        strict=True,
    ):
        np.testing.assert_allclose(x, y, rtol=1e-10)
    x, y = data["support_x"], data["support_y"]
    np.testing.assert_allclose(  # the graph of `adapt` is for any S
        unrolled.infer(unrolled.adapt(x, y), data["query_x"]),
        rolled.infer(rolled.adapt(x, y), data["query_x"]),
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        unrolled.sequence(x, y), rolled.sequence(x, y), rtol=1e-6
    )
    read = tf.function(lambda: unrolled._read(data["support_x"], data["support_y"], 0))
    operations = {o.type for o in read.get_concrete_function().graph.get_operations()}
    assert not operations & {"While", "StatelessWhile"}


@pytest.mark.parametrize("kind", [km.LSTMLearner, km.MANN])
def test_classes_without_examples_are_masked(kind):
    learner = kind(example_shape=[3], outputs=4, units=5)
    random = np.random.RandomState(0)
    x = random.normal(size=[2, 6, 3]).astype("float32")
    y = np.array([[0, 2, 2], [1, 3, 0]])
    state = learner.adapt(x[:, :3], y)
    outputs = learner.infer(state, x[:, 3:])
    unmasked = learner.infer({**state, "present": np.ones([2, 4], "float32")}, x[:, 3:])
    probabilities = np.asarray(tf.nn.softmax(outputs))
    for task, present in enumerate(([0, 2], [0, 1, 3])):
        absent = sorted({0, 1, 2, 3} - set(present))
        assert (probabilities[task][:, absent] == 0).all()
        odds = np.exp(np.asarray(unmasked)[task][:, present])
        np.testing.assert_allclose(
            probabilities[task][:, present],
            odds / odds.sum(1, keepdims=True),
            rtol=1e-5,
        )


@pytest.mark.parametrize(
    "options, message",
    [
        ({"example_shape": None}, "a network or an example_shape"),
        ({"labels": "words"}, "onehot or strings"),
        ({"labels": "strings", "outputs": 3}, "5 outputs"),
        ({"loss": "gaussian"}, "a loss of predictions alone"),
        ({"loss": "mse", "labels": "strings"}, "string labels with a loss of classes"),
        ({"target_scale": 2.0}, "target_scale 1 for classification, got 2.0"),
        ({"loss": "mse", "target_scale": 0}, "target_scale to be a number above 0"),
    ],
)
def test_invalid_arguments_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        km.LSTMLearner(**{"example_shape": [3], **options})


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [km.MANN, km.LSTMLearner])
def test_an_example_shape_is_that_of_the_network(kind):
    network = km.networks.mlp((4,), 3, (4,))
    with pytest.raises(ValueError, match=r"example_shape \(4,\) of network, got \[3\]"):
        kind(network=network, example_shape=[3])
    for example_shape in (None, [4], [None]):
        learner = kind(network=network, example_shape=example_shape)
        assert learner.x_spec("x").shape.as_list() == [None, None, 4]


@pytest.mark.thorough
def test_fit_checks_its_data_before_tracing():
    learner = km.LSTMLearner(example_shape=[2], outputs=2, units=4)
    learner.compile()
    episodes = km.tasks.boolean().episodes(3, 2)
    batches = episodes.batch(2)
    # An earlier trace does not affect the checks.
    learner.fit(batches, steps_per_epoch=1, verbose=0)
    float_labels = batches.map(lambda episode, y: (episode, tf.cast(y, tf.float32)))
    extra_axis = batches.map(lambda episode, y: (episode, y[..., None]))
    other_keys = batches.map(lambda episode, y: ({"query": episode["query_x"]}, y))
    for data, message in (
        (episodes, r"support_x of shape \[T, S, 2\], got \[3, 2\]: dataset.batch"),
        (np.zeros([3, 2]), "support_x, support_y, query_x}, query_y.* got ndarray"),
        (other_keys, "got {query}"),
        (float_labels, "query_y to be integer labels, got float32"),
        (extra_axis, r"query_y of shape \[T, Q\], got \[None, 2, 1\]"),
    ):
        for call in (learner.fit, learner.evaluate):
            with pytest.raises(ValueError, match=message):
                call(data, verbose=0)
        with pytest.raises(ValueError, match=message):
            learner.fit(batches, validation_data=data, verbose=0)
    episode, query_y = next(iter(batches))
    assert learner.predict(episode, verbose=0).shape == (2, 2, 2)
    assert learner.evaluate(episode, query_y, verbose=0)
    with pytest.raises(ValueError, match=r"one task, of shape \[S, 2\], got \[2, 3, 2"):
        km.finetune(learner, episode["support_x"], episode["support_y"])
