"""A recurrent cell with an external memory, written to where it is least used."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_meta import checks, settings

CONTROLLERS = ("lstm", "feedforward")
SIMILARITIES = ("dot", "cosine")

# Added to squared lengths, so that the cosine of a row of zeros is zero.
EPSILON = 1e-6


@keras.saving.register_keras_serializable("keras_meta")
class LRUACell(keras.layers.Layer):
    """Recurrent cell with a memory: least recently used access (Santoro et al., 2016).

    One step, with `[;]` for concatenation, heads i = 1..n and rows j of the memory M:

        h_t = controller([input_t; r_{t-1}])
        k_i = tanh(W_i h_t + b_i),  delta_i = sigmoid(v_i . h_t + c_i)
        w^lu_{t-1} = 1 at the n smallest w^u_{t-1}, ties to the lowest row, else 0
        w^w_i = delta_i w^r_{i, t-1} + (1 - delta_i) w^lu_{t-1}
        M_t = M_{t-1}, its least used row zeroed, + sum_i w^w_i k_i^T
        w^r_i = softmax_j K(k_i, M_t(j)),  r_i = w^r_i M_t
        w^u_t = gamma w^u_{t-1} + sum_i (w^r_i + w^w_i)
        output_t = [r_1; ...; r_n], or [h_t; r_1; ...; r_n]

    K is the dot product or the cosine. The cosine lies between -1 and 1 and therefore
    reads all rows with similar weights: among 128 rows, a row equal to the key has a
    weight of 0.02 if the other cosines are 0. A read sees the writes of the same step.
    The selection of rows has no gradient. Initially M, w^r, w^u and r are zero.

    Args:
        units: size of the controller's output h_t.
        rows: number of rows of the memory.
        width: length of a memory row, and of a key.
        heads: n, the number of heads; each has its own key, gate, read and write.
        controller: "lstm", or "feedforward": one ReLU layer.
        similarity: K, "dot" or "cosine".
        decay: gamma, the decay of the usage, between 0 and 1.
        feed_reads: if True, r_{t-1} is an input of the controller.
        output_hidden: if True, h_t is part of the output. A controller that can solve
            the task by itself may leave the memory untrained.
        **kwargs: `name` and `dtype` of `keras.layers.Layer`.

    Call arguments:
        inputs: `[B, d]`.
        states: the state, a list of tensors.

    State:
        The controller's, then r `[B, n width]`, M `[B, rows, width]`, w^r `[B, n,
        rows]` and w^u `[B, rows]`.

    Raises:
        ValueError: an argument out of range.

    Reference:
        Santoro et al., "Meta-Learning with Memory-Augmented Neural Networks", ICML
        2016, equations 1 to 8.
    """

    def __init__(
        self,
        units: int = 200,
        rows: int = 128,
        width: int = 40,
        heads: int = 4,
        controller: str = "lstm",
        similarity: str = "dot",
        decay: float = 0.95,
        feed_reads: bool = True,
        output_hidden: bool = False,
        **kwargs: Any,
    ) -> None:
        # States stay in the variables' precision: rows are compared by their usage.
        super().__init__(autocast=False, **kwargs)
        settings.choice(*CONTROLLERS)(self, "controller", controller)
        settings.choice(*SIMILARITIES)(self, "similarity", similarity)
        sizes = {"units": units, "rows": rows, "width": width, "heads": heads}
        for name, size in sizes.items():
            checks.check_integer(name, size, 1)
        if heads > rows:
            raise ValueError(f"expected at most {rows} heads, one a row, got {heads}.")
        if not 0 <= decay <= 1:
            raise ValueError(f"expected decay to be between 0 and 1, got {decay}.")
        self.units = units
        self.rows = rows
        self.width = width
        self.heads = heads
        self.controller = controller
        self.similarity = similarity
        self.decay = decay
        self.feed_reads = feed_reads
        self.output_hidden = output_hidden
        if controller == "lstm":
            self.inner = keras.layers.LSTMCell(
                units, dtype=self.dtype_policy, name="controller"
            )
            inner_sizes = [units, units]
        else:
            self.inner = keras.layers.Dense(
                units, activation="relu", dtype=self.dtype_policy, name="controller"
            )
            inner_sizes = []
        self.key = keras.layers.Dense(
            heads * width, activation="tanh", dtype=self.dtype_policy, name="key"
        )
        self.gate = keras.layers.Dense(
            heads, activation="sigmoid", dtype=self.dtype_policy, name="gate"
        )
        read_size = heads * width
        self.state_size: list[int | tuple[int, ...]] = [
            *inner_sizes,
            read_size,
            (rows, width),
            (heads, rows),
            rows,
        ]
        self.output_size = read_size + (units if output_hidden else 0)

    @property
    def compute_dtype(self) -> str:
        """The dtype of the state and the memory; inner layers have the policy's."""
        return self.variable_dtype

    def build(self, input_shape: Sequence[Any]) -> None:
        reads = self.heads * self.width if self.feed_reads else 0
        self.inner.build([None, input_shape[-1] + reads])
        self.key.build([None, self.units])
        self.gate.build([None, self.units])
        self.built = True

    def get_initial_state(
        self, batch_size: int | tf.Tensor | None = None
    ) -> list[tf.Tensor]:
        shapes = [(s,) if isinstance(s, int) else s for s in self.state_size]
        return [tf.zeros([batch_size, *s], self.variable_dtype) for s in shapes]

    def call(
        self, inputs: tf.Tensor, states: Sequence[tf.Tensor], training: bool = False
    ) -> tuple[tf.Tensor, list[tf.Tensor]]:
        *inner, reads, memory, read_weights, usage = states
        precision = self.variable_dtype
        inputs = tf.cast(inputs, precision)
        if self.feed_reads:
            inputs = tf.concat([inputs, reads], axis=-1)
        if self.controller == "lstm":
            hidden, inner = self.inner(inputs, inner, training=training)
            inner = [tf.cast(state, precision) for state in inner]
        else:
            hidden = self.inner(inputs)
        keys = tf.cast(self.key(hidden), precision)
        keys = tf.reshape(keys, [-1, self.heads, self.width])
        gates = tf.cast(self.gate(hidden), precision)[:, :, None]

        _, least = tf.math.top_k(-usage, self.heads)  # equal ones: lowest row first
        marks = tf.one_hot(least, self.rows, dtype=usage.dtype)  # [B, n, rows]
        least_used = tf.reduce_sum(marks, axis=1, keepdims=True)
        write_weights = gates * read_weights + (1 - gates) * least_used
        memory *= 1 - marks[:, 0, :, None]
        memory += tf.matmul(write_weights, keys, transpose_a=True)

        scores = tf.matmul(keys, memory, transpose_b=True)  # [B, n, rows]
        if self.similarity == "cosine":
            scores *= tf.math.rsqrt(_squared(keys) + EPSILON)[:, :, None]
            scores *= tf.math.rsqrt(_squared(memory) + EPSILON)[:, None, :]
        read_weights = tf.nn.softmax(scores)
        reads = tf.matmul(read_weights, memory)
        reads = tf.reshape(reads, [-1, self.heads * self.width])
        usage = self.decay * usage
        usage += tf.reduce_sum(read_weights + write_weights, axis=1)
        outputs = reads
        if self.output_hidden:
            outputs = tf.concat([tf.cast(hidden, precision), reads], axis=-1)
        return outputs, [*inner, reads, memory, read_weights, usage]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            units=self.units,
            rows=self.rows,
            width=self.width,
            heads=self.heads,
            controller=self.controller,
            similarity=self.similarity,
            decay=self.decay,
            feed_reads=self.feed_reads,
            output_hidden=self.output_hidden,
        )
        return config


def _squared(vectors):
    return tf.reduce_sum(tf.square(vectors), axis=-1)
