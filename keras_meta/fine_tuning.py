"""Fine-tuning: from a learner and a support set to a Keras model of one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import keras
import tensorflow as tf

from keras_meta.checks import named_shape
from keras_meta.typing_names import TensorLike

if TYPE_CHECKING:
    from keras_meta.learner import Learner


def finetune(
    learner: Learner,
    x: TensorLike,
    y: TensorLike,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> keras.Model:
    """Returns a compiled Keras model of one task that starts at the adapted weights.

    Call `fit` on the same examples, or more, to continue learning the task. Saving,
    evaluation and prediction are Keras'. Batch normalization starts with the statistics
    of `x` under the adapted weights and then follows the batches of `fit`. Weight
    regularizers of the network's layers apply in `fit`, as in any Keras model.

    `fit` of the returned model raises a ValueError if the loss of an epoch is not
    finite. The model of a gradient learner without a prior (the MAML family) is a plain
    Keras model, which reports NaN and continues: pass
    `keras.callbacks.TerminateOnNaN()` to its `fit`.

    Args:
        learner: a `Learner`.
        x: support examples `[S, ...]`, as for `learner.adapt` without T.
        y: their labels `[S]` or targets `[S, d_y]`.
        optimizer: a Keras optimizer. The default continues the learner's inner loop, so
            that an epoch over all of x in one batch is one more inner step: SGD; for
            Meta-SGD its learned rates (`meta_sgd.RatedSGD`); for Reptile with Adam
            inside, Adam with the inner loop's moments; for learners with a prior
            (sigma-MAML, sigma-iMAML, sigma-Reptile, iMAML) `priors.ProximalSGD`, which
            is stable for every scale. With any other optimizer the prior is a penalty
            in the loss, of curvature `1 / (S sigma^2)`: freeze modules of small scale
            first (`learner.freeze_below`), or use a learning rate below `S sigma^2`.

    Returns:
        A compiled `keras.Model` from `[B, ...]` to predictions `[B, d_y]` (for a `CNP`
        mean and scale, `[B, d_y, 2]`) or to logits: `[B, n]` for the n classes in y for
        a gradient learner, `[B, N]` with absent classes masked for others. With string
        labels its accuracy is that of single characters.

    Raises:
        ValueError: x is not one task, or as `learner.adapt`.

    Example:
        >>> learner = km.MAML(km.networks.mlp(), loss="mse", inner_rate=0.01)
        >>> x, y = tasks.sinusoid().sample(tf.constant([0, 0]), 10)
        >>> model = km.finetune(learner, x, y)
        >>> history = model.fit(x, y, epochs=2, verbose=0)
    """
    spec, shape = learner.x_spec("x"), tf.shape(x).numpy().tolist()
    if len(shape) != spec.shape.rank - 1:
        raise ValueError(
            f"expected x of one task, of shape {named_shape(spec, 'S')}, got {shape}."
        )
    model, optimizer = learner.task_model(x, y, optimizer)
    model.compile(
        optimizer=optimizer,
        loss=learner.support_loss,
        # The loss has the prior in it, if there is one.
        metrics=["accuracy" if learner.classification else "mse"],
    )
    return model
