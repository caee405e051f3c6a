"""Tests of the memory cell against NumPy loops and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import memory
from tests import smooth

# With eight rows, vectorised exponentials compute equal weights for equal rows.
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
def build_cell(heads=HEADS, **options):
    keras.utils.set_random_seed(3)
    cell = memory.LRUACell(UNITS, ROWS, WIDTH, heads, **options)
    cell.build([None, INPUTS])
    for variable in cell.trainable_variables:  # no zero biases, no tiny kernels
        variable.assign(np.random.RandomState(4).normal(size=variable.shape))
    return cell


def numpy_reference(cell, sequence):
    """Computes outputs and state of a sequence `[S, D]`, head by head, row by row."""
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
        cell_inputs = np.concatenate([x, reads.ravel()]) if cell.feed_reads else x
        if cell.controller == "lstm":
            kernel, recurrent, bias = inner
            sums = cell_inputs @ kernel + hidden @ recurrent + bias
            i, f, candidate, o = np.split(sums, 4)
            carry = sigmoid(f) * carry + sigmoid(i) * np.tanh(candidate)
            hidden = sigmoid(o) * np.tanh(carry)
        else:
            hidden = np.maximum(cell_inputs @ inner[0] + inner[1], 0)
        least_used = sorted(range(rows), key=lambda row: (usage[row], row))[:heads]
        table[least_used[0]] = 0
        writes = np.zeros([heads, rows])
        keys = []
        for head in range(heads):
            columns = slice(head * width, (head + 1) * width)
            keys.append(np.tanh(hidden @ key_kernel[:, columns] + key_bias[columns]))
            gate = sigmoid(hidden @ gate_kernel[:, head] + gate_bias[head])
            for row in range(rows):
                writes[head, row] = gate * read_weights[head, row]
                writes[head, row] += (1 - gate) * (row in least_used)
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
            exponentials = np.exp(scores)
            read_weights[head] = exponentials / exponentials.sum()
            reads[head] = read_weights[head] @ table
        usage = cell.decay * usage + read_weights.sum(0) + writes.sum(0)
        parts = [hidden, reads.ravel()] if cell.output_hidden else [reads.ravel()]
        outputs.append(np.concatenate(parts))
    return np.array(outputs), [reads.ravel(), table, read_weights, usage]


def random_sequences(steps=12, count=3):
    return np.random.RandomState(5).normal(size=[count, steps, INPUTS])


def run_cell(cell, inputs):
    """Runs the cell in a Keras RNN; returns outputs `[B, S, D]` and the last state."""
    with smooth.float64():
        layer = keras.layers.RNN(cell, return_sequences=True, return_state=True)
        initial_state = cell.get_initial_state(len(inputs))
        outputs, *state = layer(tf.constant(inputs), initial_state=initial_state)
    return outputs, state


@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(map(str, o.values()))
)
def test_cell_matches_the_equations(options):
    cell = build_cell(**options)
    inputs = random_sequences()
    outputs, state = run_cell(cell, inputs)
    for sequence, output, *tensors in zip(inputs, outputs, *state[-4:], strict=True):
        expected, expected_state = numpy_reference(cell, sequence)
        np.testing.assert_allclose(output, expected, rtol=1e-10, atol=1e-12)
        for tensor, expected_tensor in zip(tensors, expected_state, strict=True):
            np.testing.assert_allclose(tensor, expected_tensor, rtol=1e-10, atol=1e-12)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(map(str, o.values()))
)
def test_gradients_match_finite_differences(options):
    cell = build_cell(**options)
    inputs = random_sequences(steps=8)
    variables = cell.trainable_variables
    weights = np.random.RandomState(6).normal(size=[len(inputs), 8, cell.output_size])

    def compute_loss():
        return tf.reduce_sum(run_cell(cell, inputs)[0] * weights)

    with tf.GradientTape() as tape:
        loss = compute_loss()
    gradients = tape.gradient(loss, variables)
    for direction, slope in smooth.slopes(lambda: compute_loss().numpy(), variables):
        assert smooth.along(gradients, direction) == pytest.approx(slope, rel=1e-6)


def test_writes_go_to_the_least_used_rows_lowest_index_first():
    cell = build_cell(feed_reads=False)
    # Gates of 0 write to the least used rows only.
    cell.gate.bias.assign([-50.0, -50.0])
    cell.gate.kernel.assign(tf.zeros_like(cell.gate.kernel))
    state = cell.get_initial_state(1)
    _, state = cell(tf.ones([1, INPUTS], tf.float64), state)
    written_rows = np.flatnonzero(np.abs(state[-3][0]).sum(-1) > 1e-9)
    assert written_rows.tolist() == [0, 1]
    _, state = cell(tf.ones([1, INPUTS], tf.float64), state)
    written_rows = np.flatnonzero(np.abs(state[-3][0]).sum(-1) > 1e-9)
    assert written_rows.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"controller": "gru"}, "controller"),
        ({"similarity": "euclid"}, "similarity"),
        ({"heads": 0}, "expected heads to be an integer >= 1"),
        ({"heads": 9}, "at most 8 heads"),
        ({"decay": 1.5}, "decay"),
    ],
)
def test_arguments_out_of_range_are_rejected(options, message):
    with pytest.raises(ValueError, match=message):
        memory.LRUACell(**{"rows": ROWS, **options})
