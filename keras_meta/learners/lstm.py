"""Learning to learn by gradient descent: an LSTM."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
import numpy as np

from keras_meta import network as network_module
from keras_meta import options, settings
from keras_meta.learners import sequence


@keras.saving.register_keras_serializable("keras_meta")
class LSTMLearner(sequence.SequenceLearner):
    """An LSTM that implements a learning algorithm (Hochreiter et al., 2001).

        h_t, c_t = LSTM([f(x_t), y_{t-1}], h_{t-1}, c_{t-1})
        prediction_t = g([f(x_t), h_t])

    Meta-training trains the weights by gradient descent. Adaptation changes the state
    (h, c) alone.

    Args:
        network: f, a built Keras model from `[B, ...]` to features `[B, D]`; None
            flattens x. Its batch normalization works as in Keras.
        units: size of the LSTM layer, or a list with a size for each layer.
        example_shape: shape of one x without the batch axis; by default the input shape
            of `network`.
        loss: "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        outputs: the number of classes N, or of target dimensions d_y.
        labels: "onehot"; or "strings": each label is five symbols from an alphabet of
            five, integers `[T, S, 5]` in [0, 5). Then `outputs` is 5 and the logits are
            `[T, Q, 5, 5]`.
        skip: if True, g gets f(x_t) in addition to h_t.
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
        >>> learner = km.LSTMLearner(example_shape=[2], outputs=2, units=8)
        >>> functions = km.tasks.boolean().episodes(shots=6, queries=3).batch(4)
        >>> episode, query_y = next(iter(functions))
        >>> state = learner.adapt(episode["support_x"], episode["support_y"])
        >>> learner.infer(state, episode["query_x"]).shape
        TensorShape([4, 3, 2])

    Raises:
        ValueError: an argument out of range.

    Reference:
        Hochreiter, Younger and Conwell, "Learning to Learn Using Gradient Descent",
        ICANN 2001.
    """

    def __init__(
        self,
        network: keras.Model | None = None,
        *,
        units: int | Sequence[int] = 128,
        **kwargs: Unpack[options.SequenceOptions],
    ) -> None:
        if network is not None:
            kwargs.setdefault("dtype", network_module.policy(network))
        if isinstance(units, int | np.integer):
            units = [units]
        self.units = settings.sizes("units", units, least=1)
        policy = kwargs.get("dtype")
        cells = [
            keras.layers.LSTMCell(size, dtype=policy, name=f"lstm{index + 1}")
            for index, size in enumerate(self.units)
        ]
        cell = (
            cells[0]
            if len(cells) == 1
            else keras.layers.StackedRNNCells(cells, dtype=policy, name="cells")
        )
        super().__init__(cell, network, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}
