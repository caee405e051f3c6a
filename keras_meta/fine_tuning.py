"""From a learner and a support set to an ordinary Keras model of one task."""

import tensorflow as tf

from keras_meta.checks import named_shape


def finetune(learner, x, y, optimizer=None):
    """An ordinary, compiled `keras.Model` that starts where `adapt` ends.

    `fit` it on the same examples (or more) to go on learning the task; save, evaluate
    and predict as with any Keras model. Batch normalization starts from the statistics
    of `x` under the adapted weights, and then follows the batches that `fit` gives it.
    Weight regularizers of the network's layers act in `fit` as in any Keras model.

    Args:
        learner: a `Learner`.
        x: support examples `[S, ...]`, as for `learner.adapt` without T.
        y: their labels `[S]` or targets `[S, d_y]`.
        optimizer: the learner's inner step by default, so that an epoch over all of x
            in one batch is one more of them: SGD; for Meta-SGD its learned rates
            (`meta_sgd.RatedSGD`); for Reptile with Adam inside, Adam that goes on with
            the inner loop's moments; for learners with a prior (sigma-MAML,
            sigma-iMAML, sigma-Reptile, iMAML) `priors.ProximalSGD`, which is stable for
            every scale. Any other optimizer finds the prior in the loss, as a penalty
            of curvature `1 / (S sigma^2)`: freeze modules of small scale first
            (`learner.freeze_below`), or take a rate below `S sigma^2`. The prior is
            part of the model and saved with it.

    Returns:
        A compiled `keras.Model` from `[B, ...]` to predictions `[B, d_y]` (of a `CNP`
        mean and scale, `[B, d_y, 2]`), or to logits: of a gradient learner `[B, n]` of
        the n classes present in y, of others `[B, N]`, those of absent classes being
        out of reach. Its accuracy with string labels is that of single characters.

    Raises:
        ValueError: more or fewer than one task, or as `learner.adapt`.

    Divergence: `fit` of the returned model raises a ValueError if the loss of an epoch
    is not finite. The model of a learner that takes inner steps without a prior (the
    MAML family) is a plain Keras model, which reports NaN and goes on, as in Keras:
    give its `fit` a `keras.callbacks.TerminateOnNaN()`.

    Example:
        >>> model = km.finetune(learner, x, y)
        >>> model.fit(x, y, epochs=20)
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
