"""Copies of a learner in another precision, and random episodes that it accepts."""

import keras
import numpy as np
import tensorflow as tf

from keras_meta import keras_private

# Length of the axes of x for which a learner takes any length.
FREE_SIDE = 32


def in_dtype(learner, dtype):
    """Returns a copy of a learner that computes in another precision."""
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }

    def convert(config):
        if isinstance(config, dict):
            return {
                key: (policy if isinstance(value, dict) else dtype)
                if key == "dtype" and value is not None
                else convert(value)
                for key, value in config.items()
            }
        if isinstance(config, list | tuple):
            return type(config)(map(convert, config))
        return config

    # Includes layers that the user has not registered with Keras.
    classes = {
        type(layer).__name__: type(layer) for layer in keras_private.layers_of(learner)
    }
    with keras.saving.custom_object_scope(classes):
        copy = type(learner).from_config(convert(learner.get_config()))
    copy(copy.example())
    for new, old in zip(copy.weights, learner.weights, strict=True):
        new.assign(tf.cast(old.value, new.dtype))
    keras_private.finalize(copy)
    copy.compile(keras.optimizers.SGD(), loss=None)
    return copy


def random_episode(learner, tasks=2, shots=2):
    """Returns `(episode, query_y)` of normal random numbers in the learner's shapes.

    Args:
        learner: a `Learner`.
        tasks: number of tasks T.
        shots: support and query examples per class; for regression a fifth of S and of
            Q.
    """
    random = np.random.RandomState(0)
    if learner.classification:
        classes = min(learner.output_size or 5, 5)
        labels = np.tile(np.arange(classes), [tasks, shots])
        if learner.label_shape:
            labels = random.randint(0, classes, [*labels.shape, *learner.label_shape])
        y = query_y = labels.astype("int32")
    else:
        shape = [tasks, 5 * shots, learner.output_size]
        y, query_y = (random.normal(size=shape) for _ in range(2))
    sides = [side or FREE_SIDE for side in learner.example_shape]
    x, query_x = (random.normal(size=[*y.shape[:2], *sides]) for _ in range(2))
    x_type, y_type = learner.x_spec("x").dtype, learner.y_spec("y").dtype
    episode = {
        "support_x": tf.cast(x, x_type),
        "support_y": tf.cast(y, y_type),
        "query_x": tf.cast(query_x, x_type),
    }
    return episode, tf.cast(query_y, y_type)
