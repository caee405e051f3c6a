"""TaskModel: a frozen learner with the state of one task, which is trained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import keras
import tensorflow as tf

from keras_meta import keras_private
from keras_meta.learner import stacked
from keras_meta.network import assign, values
from keras_meta.typing_names import TensorLike, TensorNest

if TYPE_CHECKING:
    from keras_meta.learner import Learner


def build(
    learner: Learner,
    x: TensorLike,
    y: TensorLike,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """Returns the model that trains the state of a task, see `Learner.task_model`.

    Args:
        learner: a `Learner`.
        x: support examples `[S, ...]`.
        y: their labels `[S]` or targets `[S, d_y]`.
        optimizer: a Keras optimizer; by default Adam.

    Returns:
        `(model, optimizer)`.
    """
    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    copy = type(learner).from_config(learner.get_config())
    copy(learner.example())  # creates its variables
    copy.set_weights(learner.get_weights())
    keras_private.finalize(copy)
    state = tf.nest.map_structure(lambda v: v[0], learner.adapt(x[None], y[None]))
    optimizer = optimizer or keras.optimizers.Adam(1e-3)
    return TaskModel(copy, state), optimizer


class OneTask(keras.Model):
    """A Keras model of one task whose `fit` reports that it has diverged."""

    def fit(
        self,
        x: Any = None,
        y: TensorLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Mapping[int, float] | None = None,
        sample_weight: TensorLike | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int | Sequence[int] = 1,
    ) -> keras.callbacks.History:
        """Trains the model: `keras.Model.fit`, with the same arguments.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: the loss of an epoch is NaN or infinite. The losses are checked
                after the last epoch, at no cost per step;
                `keras.callbacks.TerminateOnNaN` stops at the first one.
        """
        history = super().fit(
            x,
            y,
            batch_size=batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        )
        epoch_losses = history.history.get("loss", ())  # none without an epoch
        for epoch, loss in zip(history.epoch, epoch_losses, strict=True):
            if not math.isfinite(loss):
                raise ValueError(
                    f"expected a loss that stays finite, got {loss} in epoch "
                    f"{epoch + 1}: make the model anew with a lower learning rate."
                )
        return history


@keras.saving.register_keras_serializable("keras_meta")
class TaskModel(OneTask):
    """The model of one task: a frozen learner, and the task's trained state.

    Args:
        learner: a `Learner`.
        state: the state that `adapt` returned for the task, without T. Tensors that
            predictions depend on differentiably are trained.
        **kwargs: for `keras.Model`.

    Call arguments:
        x: `[B, ...]`.
    """

    def __init__(self, learner: Learner, state: TensorNest, **kwargs: Any) -> None:
        # The state and x have the learner's dtype, whatever the global policy.
        super().__init__(autocast=False, **kwargs)
        self.learner = learner
        self.example_shape = learner.example_shape
        for layer in keras_private.layers_of(learner):
            layer.trainable = False
        for variable in learner.variables:
            variable.trainable = False
        self.supports_jit = False
        leaves = tf.nest.flatten(state)
        floating = [leaf for leaf in leaves if leaf.dtype.is_floating]
        with tf.GradientTape() as tape:
            tape.watch(floating)
            first = tf.nest.map_structure(lambda leaf: leaf[None], state)
            answer = learner.infer_tasks(first, learner.example()["query_x"])
        slopes = zip(floating, tape.gradient(answer, floating), strict=True)
        trained = {id(leaf) for leaf, slope in slopes if slope is not None}
        self.state = [
            self.add_weight(
                shape=leaf.shape,
                dtype=leaf.dtype.name,
                initializer="zeros",
                trainable=id(leaf) in trained,
                name=f"state_{position}",
            )
            for position, leaf in enumerate(leaves)
        ]
        assign(self.state, leaves)
        self._structure = tf.nest.map_structure(lambda _: None, state)
        self.built = True

    def call(self, x: tf.Tensor) -> tf.Tensor:
        x = tf.cast(x, self.learner.variable_dtype)
        leaves = [value[None] for value in values(self.state)]
        state = tf.nest.pack_sequence_as(self._structure, leaves)
        return stacked(self.learner.infer_tasks(state, x[None]))[0]

    def get_config(self) -> dict[str, Any]:
        leaves = [f"{v.dtype} {' '.join(map(str, v.shape))}" for v in self.state]
        return {
            **super().get_config(),
            "learner": keras.saving.serialize_keras_object(self.learner),
            "state": tf.nest.pack_sequence_as(self._structure, leaves),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        def zeros(leaf):
            dtype, *shape = leaf.split()
            return tf.zeros(list(map(int, shape)), dtype)

        learner = keras.saving.deserialize_keras_object(config["learner"])
        learner(learner.example())
        state = tf.nest.map_structure(zeros, config["state"])
        return cls(**{**config, "learner": learner, "state": state})
