"""An LSTM over a whole sequence, with a gradient of its own."""

import keras
import tensorflow as tf

from keras_meta import network


def supports(cell):
    """Whether `run` computes what a cell does.

    Args:
        cell: a Keras RNN cell. `run` takes an `LSTMCell` with tanh and sigmoid, without
            dropout and with one precision, or `StackedRNNCells` of such cells.
    """
    if type(cell) is keras.layers.StackedRNNCells:
        return all(map(supports, cell.cells))
    return (
        type(cell) is keras.layers.LSTMCell
        and cell.activation is keras.activations.tanh
        and cell.recurrent_activation is keras.activations.sigmoid
        and not cell.dropout
        and not cell.recurrent_dropout
        and cell.compute_dtype == cell.variable_dtype
    )


def run(cell, inputs, state, unroll=False):
    """Runs a cell over a sequence: what `keras.layers.RNN(cell)` returns, faster.

    The products that need no earlier time step are one product each: that of the inputs
    before the loop over time, and those of the weights' gradients after it. Only the
    products with U remain in the loops. There are no second derivatives.

    Args:
        cell: one that `supports`.
        inputs: `[B, S, D]`, S >= 1.
        state: of the cell, as `cell.get_initial_state` gives it.
        unroll: write the time steps out in the graph; S must then be known. It is
            faster, and takes longer to trace.

    Returns:
        `(outputs [B, S, units], state)`.

    Raises:
        LookupError: a second derivative is taken.
    """
    cells = getattr(cell, "cells", [cell])
    pairs = zip(state[::2], state[1::2], strict=True) if len(cells) == 1 else state
    last = []
    for layer, (hidden, memory) in zip(cells, pairs, strict=True):
        weights = [layer.kernel, layer.recurrent_kernel]
        weights = network.values(weights + [layer.bias] * layer.use_bias)
        if not layer.use_bias:
            weights.append(tf.zeros([4 * layer.units], inputs.dtype))
        inputs, memory = _lstm(unroll)(inputs, hidden, memory, *weights)
        last.append([inputs[:, -1], memory])
    return inputs, last[0] if len(cells) == 1 else last


def _lstm(unroll):
    """The function from inputs, state and weights of a layer, with its gradient.

    With the gates `[i; f; o; g] = [sigmoid; sigmoid; sigmoid; tanh](x W + h U + b)`,
    which Keras orders i, f, g, o:

        c_t = f c_{t-1} + i g,  h_t = o tanh(c_t)
    """

    @tf.custom_gradient
    def lstm(x, h0, c0, kernel, recurrent, bias):
        w, u, b = (_reordered(v) for v in (kernel, recurrent, bias))
        units = h0.shape[-1]
        x = tf.transpose(x, [1, 0, 2])  # time first
        flat = tf.reshape(x, [-1, x.shape[-1]])
        shape = [*_sizes(x)[:2], 4 * units]
        projected = tf.reshape(tf.matmul(flat, w) + b, shape)

        def forward(state, projection):
            h, c = state
            z = projection[0] + tf.matmul(h, u)
            gates = tf.sigmoid(z[:, : 3 * units])
            g = tf.tanh(z[:, 3 * units :])
            i, f, o = tf.split(gates, 3, axis=-1)
            new = f * c + i * g
            squashed = tf.tanh(new)
            return (o * squashed, new), (h, c, gates, g, squashed, o * squashed)

        widths = [units, units, 3 * units, units, units, units]
        (_, last), saved = _scan(forward, (h0, c0), [projected], widths, unroll)
        *saved, outputs = saved

        def gradient(d_outputs, d_last):
            h, c, gates, g, squashed = saved  # of all time steps, h and c before them
            i, f, o = tf.split(gates, 3, axis=-1)
            slopes = gates * (1 - gates) * tf.concat([g, c, squashed], axis=-1)
            slopes = tf.concat([slopes, i * (1 - g * g)], axis=-1)
            u_transposed = tf.transpose(u)

            def backward(state, step):
                d_h, d_c = state
                d_output, slope, through, forget = step
                d_h += d_output
                d_c += d_h * through
                d_z = tf.concat([d_c, d_c, d_h, d_c], axis=-1) * slope
                return (tf.matmul(d_z, u_transposed), d_c * forget), (d_z,)

            steps = [
                tf.transpose(d_outputs, [1, 0, 2]),
                slopes,
                o * (1 - squashed * squashed),
                f,
            ]
            (d_h, d_c), (d_z,) = _scan(
                backward,
                (tf.zeros_like(h0), d_last),
                steps,
                [4 * units],
                unroll,
                reverse=True,
            )
            d_z = tf.reshape(d_z, [-1, 4 * units])
            d_x = tf.reshape(tf.matmul(d_z, w, transpose_b=True), _sizes(x))
            d_weights = (
                tf.matmul(flat, d_z, transpose_a=True),
                tf.matmul(tf.reshape(h, [-1, units]), d_z, transpose_a=True),
                tf.reduce_sum(d_z, axis=0),
            )
            d_weights = [_keras_order(v) for v in d_weights]
            return _once(
                [tf.transpose(d_x, [1, 0, 2]), d_h, d_c, *d_weights],
                [h0, c0, kernel, recurrent, bias, flat],
            )

        return (tf.transpose(outputs, [1, 0, 2]), last), gradient

    return lstm


def _once(gradients, inputs):
    """The gradients; to differentiate them is an error.

    They depend on tensors that a tape for second derivatives has not recorded.

    Args:
        gradients: tensors.
        inputs: what the gradients depend on, tensors.
    """

    @tf.custom_gradient
    def first(*tensors):
        def second(*_):
            raise LookupError(
                "expected first derivatives of an LSTM learner, it has no second ones."
            )

        return tuple(map(tf.identity, tensors[: len(gradients)])), second

    return first(*gradients, *inputs)


def _reordered(weights):
    """Weights of the gates i, f, g, o as those of i, f, o, g."""
    i, f, g, o = tf.split(weights, 4, axis=-1)
    return tf.concat([i, f, o, g], axis=-1)


def _keras_order(weights):
    i, f, o, g = tf.split(weights, 4, axis=-1)
    return tf.concat([i, f, g, o], axis=-1)


def _sizes(tensor):
    """The shape of a tensor, a number where it is known."""
    known, sizes = tensor.shape, tf.shape(tensor)
    return [sizes[i] if n is None else n for i, n in enumerate(known)]


def _scan(step, state, sequences, widths, unroll, reverse=False):
    """Runs `step(state, values) -> (state, outputs)` over the first axis of tensors.

    Args:
        step: of the loop.
        state: to begin with, a pair of `[B, units]`.
        sequences: tensors `[S, B, ...]`.
        widths: of the outputs `[B, width]`.
        unroll: whether to write the steps out.
        reverse: whether the last comes first.

    Returns:
        The last state, and the outputs `[S, B, width]` in the order of `sequences`.
    """
    if unroll:
        outputs = []
        values = list(zip(*map(tf.unstack, sequences), strict=True))
        for value in reversed(values) if reverse else values:
            state, output = step(state, value)
            outputs.append(output)
        outputs = outputs[::-1] if reverse else outputs
        return state, [tf.stack(output) for output in zip(*outputs, strict=True)]

    batch, precision = state[0].shape[0], state[0].dtype
    count = tf.shape(sequences[0])[0]
    read = [
        tf.TensorArray(precision, count, element_shape=value.shape[1:]).unstack(value)
        for value in sequences
    ]
    written = tuple(
        tf.TensorArray(precision, count, element_shape=[batch, width])
        for width in widths
    )

    def body(index, state, written):
        place = count - 1 - index if reverse else index
        state, outputs = step(state, [array.read(place) for array in read])
        pairs = zip(written, outputs, strict=True)
        return index + 1, state, tuple(array.write(place, v) for array, v in pairs)

    _, state, written = tf.while_loop(
        lambda index, *_: index < count, body, (0, tuple(state), written)
    )
    return state, [array.stack() for array in written]
