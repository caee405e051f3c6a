"""The LSTM over a sequence beside Keras' own, and beside finite differences."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import lstm_scan

UNITS, INPUTS, TASKS, STEPS = 5, 3, 2, 7


def cell(kind="one", **settings):
    settings = {"bias_initializer": "random_normal", "dtype": "float64", **settings}
    one, two = (keras.layers.LSTMCell(n, **settings) for n in (UNITS, UNITS + 1))
    made = keras.layers.StackedRNNCells([one, two], dtype="float64")
    made = one if kind == "one" else made
    made.build([None, INPUTS])
    return made


def tensors(made):
    random = np.random.RandomState(0)
    x = tf.constant(random.randn(TASKS, STEPS, INPUTS))
    state = tf.nest.map_structure(
        lambda v: tf.constant(random.randn(*v.shape)),
        made.get_initial_state(batch_size=TASKS),
    )
    return x, state


def loss(outputs, state):
    """One that depends on all results, and not linearly."""
    flat = [outputs, *tf.nest.flatten(state)]
    return tf.add_n([tf.reduce_sum(tf.sin((i + 1) * v)) for i, v in enumerate(flat)])


def gradients(made, run, x, state):
    leaves = tf.nest.flatten(state)
    with tf.GradientTape() as tape:
        tape.watch([x, *leaves])
        outputs, last = run(x, state)
        value = loss(outputs, last)
    return outputs, last, tape.gradient(value, [x, *leaves, *made.trainable_variables])


@pytest.mark.parametrize(
    ("kind", "unroll", "bias"),
    [*itertools.product(["one", "two"], [False, True], [True]), ("one", True, False)],
)
def test_it_is_keras_own(kind, unroll, bias):
    made = cell(kind, use_bias=bias)
    x, state = tensors(made)
    rnn = keras.layers.RNN(
        made, return_sequences=True, return_state=True, dtype="float64"
    )

    def by_keras(x, state):
        outputs, *last = rnn(x, initial_state=state)
        return outputs, last

    @tf.function(input_signature=[tf.TensorSpec([None, STEPS, INPUTS], "float64")])
    def traced(x):
        return lstm_scan.run(made, x, state, unroll)

    expected = gradients(made, by_keras, x, state)
    found = gradients(
        made, lambda *values: lstm_scan.run(made, *values, unroll), x, state
    )
    for a, b in zip(tf.nest.flatten(expected), tf.nest.flatten(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    for a, b in zip(
        tf.nest.flatten(expected[:2]), tf.nest.flatten(traced(x)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("unroll", [False, True])
def test_its_gradient_is_that_of_finite_differences(unroll):
    made = cell()
    x, state = tensors(made)

    def value():
        return float(loss(*lstm_scan.run(made, x, state, unroll)))

    *_, derivatives = gradients(
        made, lambda *values: lstm_scan.run(made, *values, unroll), x, state
    )
    step = 1e-6
    pairs = zip(made.trainable_variables, derivatives[3:], strict=True)
    for variable, derivative in pairs:
        kept = variable.numpy()
        direction = np.random.RandomState(1).randn(*kept.shape)
        sides = []
        for sign in (1, -1):
            variable.assign(kept + sign * step * direction)
            sides.append(value())
        variable.assign(kept)
        slope = (sides[0] - sides[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(derivative * direction), slope, rtol=1e-7)


@pytest.mark.parametrize("linear", [False, True])
def test_a_second_derivative_is_refused(linear):
    made = cell()
    x, state = tensors(made)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            outputs, _ = lstm_scan.run(made, x, state)
            value = tf.reduce_sum(outputs if linear else outputs**2)
        first = inner.gradient(value, made.kernel)
    with pytest.raises(LookupError, match="no second ones"):
        outer.gradient(first, made.kernel)


def test_cells_that_are_left_to_keras():
    assert lstm_scan.supports(cell()) and lstm_scan.supports(cell("two"))
    for settings in (
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"dropout": 0.1},
        {"recurrent_dropout": 0.1},
        {"dtype": "mixed_bfloat16"},
    ):
        assert not lstm_scan.supports(cell(**settings))
    assert not lstm_scan.supports(keras.layers.GRUCell(3))

    class Own(keras.layers.LSTMCell):
        """A cell with equations that `run` does not know."""

    assert not lstm_scan.supports(Own(3))
