"""Tests of the LSTM over a sequence against Keras and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import lstm_scan

UNITS, INPUTS, TASKS, STEPS = 5, 3, 2, 7


def build_cell(kind="one", **settings):
    settings = {"bias_initializer": "random_normal", "dtype": "float64", **settings}
    first, second = (keras.layers.LSTMCell(n, **settings) for n in (UNITS, UNITS + 1))
    cell = keras.layers.StackedRNNCells([first, second], dtype="float64")
    cell = first if kind == "one" else cell
    cell.build([None, INPUTS])
    return cell


def random_inputs(cell):
    random = np.random.RandomState(0)
    x = tf.constant(random.randn(TASKS, STEPS, INPUTS))
    state = tf.nest.map_structure(
        lambda v: tf.constant(random.randn(*v.shape)),
        cell.get_initial_state(batch_size=TASKS),
    )
    return x, state


def loss(outputs, state):
    """Computes a loss that depends on all results, and not linearly."""
    flat = [outputs, *tf.nest.flatten(state)]
    return tf.add_n([tf.reduce_sum(tf.sin((i + 1) * v)) for i, v in enumerate(flat)])


def gradients(cell, run, x, state):
    states = tf.nest.flatten(state)
    with tf.GradientTape() as tape:
        tape.watch([x, *states])
        outputs, last = run(x, state)
        value = loss(outputs, last)
    return outputs, last, tape.gradient(value, [x, *states, *cell.trainable_variables])


@pytest.mark.parametrize(
    ("kind", "unroll", "bias"),
    [
        ("one", False, True),
        pytest.param("one", True, True, marks=pytest.mark.thorough),
        pytest.param("two", False, True, marks=pytest.mark.thorough),
        ("two", True, True),
        pytest.param("one", True, False, marks=pytest.mark.thorough),
    ],
)
def test_outputs_and_gradients_match_keras(kind, unroll, bias):
    cell = build_cell(kind, use_bias=bias)
    x, state = random_inputs(cell)
    rnn = keras.layers.RNN(
        cell, return_sequences=True, return_state=True, dtype="float64"
    )

    def run_keras(x, state):
        outputs, *last = rnn(x, initial_state=state)
        return outputs, last

    @tf.function(input_signature=[tf.TensorSpec([None, STEPS, INPUTS], "float64")])
    def traced(x):
        return lstm_scan.run(cell, x, state, unroll)

    expected = gradients(cell, run_keras, x, state)
    results = gradients(
        cell, lambda *values: lstm_scan.run(cell, *values, unroll), x, state
    )
    for a, b in zip(tf.nest.flatten(expected), tf.nest.flatten(results), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)
    for a, b in zip(
        tf.nest.flatten(expected[:2]), tf.nest.flatten(traced(x)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("unroll", [False, True])
def test_gradients_match_finite_differences(unroll):
    cell = build_cell()
    x, state = random_inputs(cell)

    def compute_loss():
        return float(loss(*lstm_scan.run(cell, x, state, unroll)))

    *_, derivatives = gradients(
        cell, lambda *values: lstm_scan.run(cell, *values, unroll), x, state
    )
    step = 1e-6
    pairs = zip(cell.trainable_variables, derivatives[3:], strict=True)
    for variable, derivative in pairs:
        original = variable.numpy()
        direction = np.random.RandomState(1).randn(*original.shape)
        losses = []
        for sign in (1, -1):
            variable.assign(original + sign * step * direction)
            losses.append(compute_loss())
        variable.assign(original)
        slope = (losses[0] - losses[1]) / (2 * step)
        np.testing.assert_allclose(np.sum(derivative * direction), slope, rtol=1e-7)


@pytest.mark.parametrize("linear", [False, True])
def test_second_derivatives_raise(linear):
    cell = build_cell()
    x, state = random_inputs(cell)
    with tf.GradientTape() as outer:
        with tf.GradientTape() as inner:
            outputs, _ = lstm_scan.run(cell, x, state)
            value = tf.reduce_sum(outputs if linear else outputs**2)
        first = inner.gradient(value, cell.kernel)
    with pytest.raises(LookupError, match="no second ones"):
        outer.gradient(first, cell.kernel)


def test_supported_cells():
    assert lstm_scan.supports(build_cell()) and lstm_scan.supports(build_cell("two"))
    for settings in (
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"dropout": 0.1},
        {"recurrent_dropout": 0.1},
        {"dtype": "mixed_bfloat16"},
    ):
        assert not lstm_scan.supports(build_cell(**settings))
    assert not lstm_scan.supports(keras.layers.GRUCell(3))

    class CustomCell(keras.layers.LSTMCell):
        """A cell whose equations may differ from those of `run`."""

    assert not lstm_scan.supports(CustomCell(3))
