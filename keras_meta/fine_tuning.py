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
    """Adapts a learner to one task; returns the adapted model, compiled.

    Call `fit` on the same examples, or on more examples of the task, to train the model
    further. `save`, `evaluate` and `predict` work as in any Keras model.

    For a gradient learner, the moving averages of batch normalization begin with the
    statistics of `x`, computed with the adapted weights, and `fit` updates them. Weight
    regularizers of the network's layers apply in `fit`.

    The result for a gradient learner without a prior (such as MAML, FOMAML and
    Meta-SGD) is a plain Keras model. Its `fit` does not detect a NaN loss; pass
    `keras.callbacks.TerminateOnNaN()`. For all other learners, `fit` raises a
    ValueError after the last epoch if the loss of an epoch was NaN or infinite.

    Args:
        learner: a `Learner`.
        x: support examples `[S, ...]` of one task, without the axis T of
            `learner.adapt`.
        y: their labels `[S]` or targets `[S, d_y]`.
        optimizer: a Keras optimizer. With the default optimizer of a gradient learner,
            one epoch of `fit` with all of x in one batch equals one more inner step, if
            no layer has a weight regularizer.
            The defaults are:

            - learners with a prior (sigma-MAML, sigma-iMAML, sigma-Reptile, iMAML):
              `priors.ProximalSGD`, which is stable for every scale;
            - Meta-SGD: `meta_sgd.RatedSGD` with the learned rates;
            - Reptile with Adam in the inner loop: Adam, continued from the moments of
              the inner loop;
            - other gradient learners: SGD at the inner rate;
            - learners without inner steps: Adam at 1e-3.

            If the learner has a prior and `optimizer` is not a `priors.ProximalSGD`,
            the prior is a penalty in the loss. With a normal
            prior its curvature is `1 / (S sigma^2)`, and a small sigma makes training
            unstable. Freeze modules with a small sigma (`learner.freeze_below`) before
            `finetune`, or use SGD with a learning rate below `S sigma^2`.

    Returns:
        A compiled `keras.Model` with input `[B, ...]`. Its output for regression is
        `[B, d_y]`, or `[B, d_y, 2]` (mean and scale) for a `CNP`. For classification it
        is logits. A gradient learner gives `[B, n]`, where n is the number of classes
        in y. Other learners give `[B, N]`, and mask the logits of classes that do not
        occur in y. With string labels (see `ClassPool.episodes`), `accuracy` is the
        share of correct symbols.

    Raises:
        ValueError: x does not have the shape of one task, or `learner.adapt` refuses
            the examples.

    Example:
        >>> learner = km.MAML(km.networks.mlp(), loss="mse", inner_rate=0.01)
        >>> x, y = km.tasks.sinusoid().sample(tf.constant([0, 0]), 10)
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
