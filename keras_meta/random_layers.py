"""Seeds of a network's random layers, such as dropout, in the inner loop."""

import tensorflow as tf

from keras_meta import keras_private


def unseeded(network, buffers):
    """Returns buffers with seeds of zero, so that all tasks share one mask.

    States of seeds are not saved. Predictions are therefore reproducible after loading
    only if they do not depend on these states.

    Args:
        network: a `network.Network`.
        buffers: values of its buffers, a list of tensors.
    """
    seeds = {id(seed) for seed in network.seeds}
    pairs = zip(network.buffers, buffers, strict=True)
    return [tf.zeros_like(v) if id(b) in seeds else v for b, v in pairs]


def seeded(learner, held, index):
    """Returns held values with seeds that differ for each meta-step and task.

    Args:
        learner: a compiled `GradientLearner`.
        held: `{"buffers": [...], "frozen": [...]}`, see `objectives.SupportLoss`.
        index: index of the task in the batch, a scalar tensor.

    Raises:
        ValueError: a network with random layers in a learner that is not compiled.
    """
    seeds = {id(seed) for seed in learner.bound.seeds}
    if not seeds:
        return held
    if getattr(learner, "optimizer", None) is None:
        raise ValueError(
            "expected a compiled learner, because random layers depend on the "
            "optimizer's step: call compile first."
        )
    step = keras_private.steps_of(learner.optimizer)
    step = tf.cast(tf.convert_to_tensor(step), tf.int32)
    buffers = []
    for place, (variable, value) in enumerate(
        zip(learner.bound.buffers, held["buffers"], strict=True)
    ):
        if id(variable) in seeds:
            fold = tf.random.experimental.stateless_fold_in([step, place], index)
            value += tf.cast(tf.bitcast(fold, tf.uint32), value.dtype)
        buffers.append(value)
    return {**held, "buffers": buffers}
