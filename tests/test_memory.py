"""The memory cell against loops over heads and rows, and against differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import memory
from tests import smooth

# Eight rows, so that vectorised exponentials give equal rows equal weights.
INPUTS, UNITS, ROWS, WIDTH, HEADS = 3, 4, 8, 2, 2
OPTIONS = [
    {"controller": controller, "similarity": similarity, **reads}
    for controller in memory.CONTROLLERS
    for similarity in memory.SIMILARITIES
    for reads in (
        {"feed_reads": True, "output_hidden": True},
        {"feed_reads": False, "output_hidden": False, "heads": 1, "decay": 0.5},
    )
]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@smooth.float64()
def built(heads=HEADS, **options):
    keras.utils.set_random_seed(3)
    cell = memory.LRUACell(UNITS, ROWS, WIDTH, heads, **options)
    cell.build([None, INPUTS])
    for variable in cell.trainable_variables:  # no zero biases, no tiny kernels
        variable.assign(np.random.RandomState(4).normal(size=variable.shape))
    return cell


def loop(cell, sequence):
    """The equations of one sequence `[S, D]`, head by head and row by row."""
    heads, rows, width, units = cell.heads, cell.rows, cell.width, cell.units
    inner = [v.numpy() for v in cell.inner.trainable_variables]
    key_kernel, key_bias = (v.numpy() for v in cell.key.trainable_variables)
    gate_kernel, gate_bias = (v.numpy() for v in cell.gate.trainable_variables)
    hidden, carry = np.zeros(units), np.zeros(units)
    reads = np.zeros([heads, width])
    table = np.zeros([rows, width])
    read_weights, usage = np.zeros([heads, rows]), np.zeros(rows)
    outputs = []
    for x in sequence:
        entered = np.concatenate([x, reads.ravel()]) if cell.feed_reads else x
        if cell.controller == "lstm":
            kernel, recurrent, bias = inner
            sums = entered @ kernel + hidden @ recurrent + bias
            i, f, candidate, o = np.split(sums, 4)
            carry = sigmoid(f) * carry + sigmoid(i) * np.tanh(candidate)
            hidden = sigmoid(o) * np.tanh(carry)
        else:
            hidden = np.maximum(entered @ inner[0] + inner[1], 0)
        least = sorted(range(rows), key=lambda row: (usage[row], row))[:heads]
        table[least[0]] = 0
        writes = np.zeros([heads, rows])
        keys = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            keys.append(np.tanh(hidden @ key_kernel[:, columns] + key_bias[columns]))
            gate = sigmoid(hidden @ gate_kernel[:, head] + gate_bias[head])
            for row in range(rows):
                writes[head, row] = gate * read_weights[head, row]
                writes[head, row] += (1 - gate) * (row in least)
        for head in range(heads):
            for row in range(rows):
                table[row] = table[row] + writes[head, row] * keys[head]
        for head in range(heads):
            scores = np.zeros(rows)
            for row in range(rows):
                scores[row] = keys[head] @ table[row]
                if cell.similarity == "cosine":
                    lengths = keys[head] @ keys[head] + memory.EPSILON
                    lengths *= table[row] @ table[row] + memory.EPSILON
                    scores[row] /= np.sqrt(lengths)
            chances = np.exp(scores)
            read_weights[head] = chances / chances.sum()
            reads[head] = read_weights[head] @ table
        usage = cell.decay * usage + read_weights.sum(0) + writes.sum(0)
        parts = [hidden, reads.ravel()] if cell.output_hidden else [reads.ravel()]
        outputs.append(np.concatenate(parts))
    return np.array(outputs), [reads.ravel(), table, read_weights, usage]


def sequences(steps=12, count=3):
    return np.random.RandomState(5).normal(size=[count, steps, INPUTS])


def run(cell, inputs):
    """The cell's outputs `[B, S, D]` and last state, by Keras' RNN."""
    with smooth.float64():
        layer = keras.layers.RNN(cell, return_sequences=True, return_state=True)
        start = cell.get_initial_state(len(inputs))
        outputs, *state = layer(tf.constant(inputs), initial_state=start)
    return outputs, state


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(map(str, o.values()))
)
def test_the_cell_is_its_equations(options):
    cell = built(**options)
    inputs = sequences()
    outputs, state = run(cell, inputs)
    for sequence, found, *leaves in zip(inputs, outputs, *state[-4:], strict=True):
        expected, expected_state = loop(cell, sequence)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)
        for leaf, value in zip(leaves, expected_state, strict=True):
            np.testing.assert_allclose(leaf, value, rtol=1e-10, atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(map(str, o.values()))
)
def test_its_gradient_is_that_of_differences(options):
    cell = built(**options)
    inputs = sequences(steps=8)
    variables = cell.trainable_variables
    aim = np.random.RandomState(6).normal(size=[len(inputs), 8, cell.output_size])

    def value():
        return tf.reduce_sum(run(cell, inputs)[0] * aim)

    with tf.GradientTape() as tape:
        loss = value()
    gradients = tape.gradient(loss, variables)
    for direction, slope in smooth.slopes(lambda: value().numpy(), variables):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


def test_it_writes_to_the_least_used_rows_lowest_first():
    cell = built(feed_reads=False)
    cell.gate.bias.assign([-50.0, -50.0])  # always the least used rows
    cell.gate.kernel.assign(tf.zeros_like(cell.gate.kernel))
    state = cell.get_initial_state(1)
    _, state = cell(tf.ones([1, INPUTS], tf.float64), state)
    written = np.flatnonzero(np.abs(state[-3][0]).sum(-1) > 1e-9)
    assert written.tolist() == [0, 1]
    _, state = cell(tf.ones([1, INPUTS], tf.float64), state)
    written = np.flatnonzero(np.abs(state[-3][0]).sum(-1) > 1e-9)
    assert written.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"controller": "gru"}, "controller"),
        ({"similarity": "euclid"}, "similarity"),
        ({"heads": 0}, "between 1 and 8 heads"),
        ({"heads": 9}, "between 1 and 8 heads"),
        ({"decay": 1.5}, "decay"),
    ],
)
def test_arguments_out_of_range(wrong, words):
    with pytest.raises(ValueError, match=words):
        memory.LRUACell(**{"rows": ROWS, **wrong})
