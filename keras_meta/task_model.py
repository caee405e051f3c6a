"""TaskModel: a learner held fixed, and the state of one task, which trains."""

import keras
import tensorflow as tf

from keras_meta import keras_private
from keras_meta.learner import stacked


@keras.saving.register_keras_serializable("keras_meta")
class TaskModel(keras.Model):
    """One task's model: a learner held fixed, and the task's state, which trains.

    Args:
        learner: a `Learner`.
        state: what its `adapt` gave for the task, without T. The tensors of it that
            answers have a gradient to are trained.

    Call arguments:
        x: `[B, ...]`.
    """

    def __init__(self, learner, state, **kwargs):
        super().__init__(**kwargs)
        self.learner = learner
        self.example_shape = learner.example_shape
        for layer in keras_private.layers_of(learner):
            layer.trainable = False
        for variable in learner.variables:
            variable.trainable = False
        self.supports_jit = False
        leaves = tf.nest.flatten(state)
        first = tf.nest.map_structure(lambda leaf: leaf[None], state)
        with tf.GradientTape() as tape:
            tape.watch(first)
            answer = learner.infer_tasks(first, learner.example()["query_x"])
        gradients = tf.nest.flatten(tape.gradient(answer, first))
        self.state = [
            self.add_weight(
                shape=leaf.shape,
                dtype=leaf.dtype.name,
                initializer="zeros",
                trainable=gradient is not None,
                name=f"state_{position}",
            )
            for position, (leaf, gradient) in enumerate(
                zip(leaves, gradients, strict=True)
            )
        ]
        for variable, leaf in zip(self.state, leaves, strict=True):
            variable.assign(leaf)
        self._structure = tf.nest.map_structure(lambda _: None, state)
        self.built = True

    def call(self, x):
        x = tf.cast(x, self.learner.variable_dtype)
        leaves = [tf.convert_to_tensor(variable)[None] for variable in self.state]
        state = tf.nest.pack_sequence_as(self._structure, leaves)
        return stacked(self.learner.infer_tasks(state, x[None]))[0]

    def get_config(self):
        leaves = [f"{v.dtype} {' '.join(map(str, v.shape))}" for v in self.state]
        return {
            **super().get_config(),
            "learner": keras.saving.serialize_keras_object(self.learner),
            "state": tf.nest.pack_sequence_as(self._structure, leaves),
        }

    @classmethod
    def from_config(cls, config):
        def zeros(leaf):
            dtype, *shape = leaf.split()
            return tf.zeros(list(map(int, shape)), dtype)

        learner = keras.saving.deserialize_keras_object(config["learner"])
        learner(learner.example())
        state = tf.nest.map_structure(zeros, config["state"])
        return cls(**{**config, "learner": learner, "state": state})
