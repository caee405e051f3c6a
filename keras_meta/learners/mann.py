"""Memory-augmented neural networks."""

from typing import Any, Unpack

import keras

from keras_meta import memory, options
from keras_meta import network as network_module
from keras_meta.learners import sequence

# Arguments of the cell that are this learner's too.
CELL = (
    "units",
    "rows",
    "width",
    "heads",
    "controller",
    "similarity",
    "decay",
    "feed_reads",
    "output_hidden",
)


@keras.saving.register_keras_serializable("keras_meta")
class MANN(sequence.SequenceLearner):
    """Memory-augmented neural network (Santoro et al., 2016).

    A recurrent controller stores examples in an external memory and reads them from
    there:

        state_t, o_t = LRUA([f(x_t), y_{t-1}], state_{t-1}),  prediction_t = g(o_t)

    `memory.LRUACell` has the equations. A query reads a copy of the memory.

    Args:
        network: f, a built Keras model from `[B, ...]` to features `[B, D]`; None
            flattens x. Its batch normalization works as in Keras.
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
        skip: if True, g gets f(x_t) in addition to the cell's output.
        example_shape: shape of one x without the batch axis; by default the input shape
            of `network`.
        loss: "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        outputs: the number of classes N, or of target dimensions d_y.
        labels: "onehot"; or "strings": each label is five symbols from an alphabet of
            five, integers `[T, S, 5]` in [0, 5). Then `outputs` is 5 and the logits are
            `[T, Q, 5, 5]`.
        unroll: if True, unrolls the time steps in graphs of a known S, such as those of
            `fit`, which are then faster and take longer to trace. Graphs for any S,
            such as those of `adapt` and of exports, are loops.
        target_mean: mean of the targets, for regression.
        target_scale: scale of the targets, above 0. Targets enter as `(y - mean) /
            scale`, predictions leave as `mean + scale g`, and meta-training uses the
            scaled loss.
        preprocess: for images, the `ImagePreprocess` that converts raw images to x. The
            learner stores and exports it; `adapt` and `infer` do not apply it.
        support_order: order in which `adapt` reads the support examples outside
            meta-training: "shuffled", a fixed order that depends on S alone
            (`ordered.permutation`), or "given", for time series. Meta-training and
            `sequence` read them as given.
        point_units: for regression, a `StandardUnits`, which scales x of a task to a
            fixed range, standardizes y, and scales predictions back. `keras-meta learn`
            and the signatures `*_points` of an export apply it; `adapt` and `infer` do
            not.
        temperature: for classification, `infer` divides the logits by it, which
            calibrates the probabilities (Guo et al., 2017). Meta-training and
            fine-tuning use the logits themselves.
        trainable: if False, `fit` changes no weight.
        **kwargs: `name` and `dtype` of `keras.Model`.

    Example:
        >>> encoder = km.networks.mlp((28, 28, 1), outputs=16)  # images to features
        >>> learner = km.MANN(encoder, outputs=5, units=8, rows=8, width=4)
        >>> episode, query_y = next(iter(episodes.batch(2)))
        >>> state = learner.adapt(episode["support_x"], episode["support_y"])
        >>> learner.infer(state, episode["query_x"]).shape
        TensorShape([2, 10, 5])

    Raises:
        ValueError: an argument out of range.

    Reference:
        Santoro, Bartunov, Botvinick, Wierstra and Lillicrap, "Meta-Learning with
        Memory-Augmented Neural Networks", ICML 2016.
    """

    def __init__(
        self,
        network: keras.Model | None = None,
        *,
        units: int = 200,
        rows: int = 128,
        width: int = 40,
        heads: int = 4,
        controller: str = "lstm",
        similarity: str = "dot",
        decay: float = 0.95,
        feed_reads: bool = True,
        output_hidden: bool = False,
        skip: bool = False,
        **kwargs: Unpack[options.ReadingOptions],
    ) -> None:
        if network is not None:
            kwargs.setdefault("dtype", network_module.policy(network))
        cell = memory.LRUACell(
            units,
            rows,
            width,
            heads,
            controller,
            similarity,
            decay,
            feed_reads,
            output_hidden,
            dtype=kwargs.get("dtype"),
            name="lrua",
        )
        super().__init__(cell, network, skip=skip, **kwargs)

    def get_config(self) -> dict[str, Any]:
        cell = self.cell.get_config()
        return {**super().get_config(), **{name: cell[name] for name in CELL}}
