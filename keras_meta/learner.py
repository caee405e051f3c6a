"""Learner: the base class of all few-shot learners."""

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn, Self, Unpack

import keras
import numpy as np
import tensorflow as tf

from keras_meta import (
    batch_norm,
    checks,
    keras_private,
    logits,
    losses,
    network,
    options,
    settings,
    trainer,
    units,
)
from keras_meta.images import ImagePreprocess
from keras_meta.typing_names import Predictions, TensorLike, TensorNest


def stacked(outputs: Predictions) -> tf.Tensor:
    """Stacks mean and scale into one tensor, as Keras' losses and metrics expect."""
    return tf.stack(outputs, axis=-1) if isinstance(outputs, tuple) else outputs


class Learner(settings.Spelled, trainer.Trainer):
    """Base class: learns a task from its support set, and predicts its queries.

    `adapt` maps support sets to a state, and `infer` predicts queries from it. Both are
    pure functions that store nothing on `self`; a call of the learner runs one after
    the other. The same model therefore serves `fit` (meta-training), `evaluate`,
    `predict`, saving, fine-tuning and serving. Axes: T tasks, S support examples and Q
    query examples per task, N classes.

    A subclass implements `adapt_tasks` and `infer_tasks`, and may override
    `meta_gradient`.

    A layer with `trainable=False` neither adapts nor meta-trains; set the flag before
    `compile`, as in Keras. `learner.trainable = False` leaves the flags of the layers
    as they are: tasks are learned as before, and nothing meta-trains.

    Weight regularizers apply once, to the meta-learned weights, in the outer loss.
    Activity regularizers apply wherever a layer runs on a support or query set.

    Args:
        loss: "sparse_categorical_crossentropy" (targets are labels), "mse", "gaussian"
            (the learner predicts mean and scale), or a `keras.losses.Loss`. It is the
            inner loss of learners that have one, and the query loss unless `compile`
            sets another.
        example_shape: shape of one example x, without batch axes; or the Keras model
            that reads x, whose input shape and dtype policy are then the learner's.
        outputs: number of classes N, or of target dimensions d_y; None if the support
            set determines the number of classes.
        preprocess: the `ImagePreprocess` that produces x, if x are images. The command
            line and exports apply it to raw images; `adapt` and `infer` do not.
        point_units: for regression, a `StandardUnits` that scales points of any units
            to those of meta-training; None uses points as they are. `adapt` and `infer`
            take scaled points; `point_units.adapt` and `point_units.infer` take raw
            ones.
        temperature: for classification, the divisor of the logits that `infer` returns.
            It calibrates their probabilities (Guo, Pleiss, Sun and Weinberger, "On
            Calibration of Modern Neural Networks", ICML 2017, section 4.2).
            Meta-training and fine-tuning use the logits themselves.
        trainable: if False, `fit` changes no weight.
        **kwargs: `name` and `dtype` of `keras.Model`.

    Call arguments:
        episode: `{"support_x": [T, S, ...], "support_y": [T, S] or [T, S, d_y],
            "query_x": [T, Q, ...]}`.
        training: if True, runs as in meta-training (`inner_steps`, dropout).

    Returns:
        Logits `[T, Q, N]` or predictions `[T, Q, d_y]`. Mean and scale are stacked,
        `[T, Q, d_y, 2]`.

    Raises:
        ValueError: an argument out of range, or another library's name for one.
    """

    # Shape of one class label: () for an integer, (5,) for a string.
    label_shape: tuple[int, ...] = ()
    # Whether the labels of a task must be 0..n-1 without a gap.
    gapless = True
    # Least number of support examples of a task.
    least_support = 1
    # Whether `compile(jit_compile=True)` is supported: XLA's second derivatives of max
    # pooling are wrong.
    allows_jit = True
    # "transductive" if a prediction may depend on the other queries.
    normalization = "inductive"

    support_loss = settings.Fixed()
    classification = settings.Fixed()
    example_shape = settings.Fixed()
    output_size = settings.Fixed(logits.outputs)
    preprocess = settings.Setting(checks.preprocess)
    point_units = settings.Setting(units.setting)
    temperature = settings.Setting(logits.temperature)

    def __init__(
        self,
        loss: keras.losses.Loss | str,
        example_shape: Sequence[int | None] | keras.Model,
        outputs: int | None,
        preprocess: ImagePreprocess | None = None,
        point_units: units.StandardUnits | None = None,
        *,
        temperature: float = 1.0,
        **kwargs: Unpack[options.TrainerOptions],
    ) -> None:
        settings.check_names(type(self), kwargs)
        if isinstance(example_shape, keras.Model):
            network.require_built(example_shape)
            kwargs.setdefault("dtype", network.policy(example_shape))
            example_shape = example_shape.input_shape[1:]
        # Layers cast their own inputs. Autocasting here would cast targets too.
        super().__init__(autocast=False, **kwargs)
        self.supports_jit = False  # until `compile(jit_compile=True)`
        self.support_loss = losses.get(loss, self.variable_dtype)
        losses.require_outputs(self.support_loss, self.predicts_scale)
        self.classification = losses.is_classification(self.support_loss)
        self.example_shape = tuple(example_shape)
        self.output_size = outputs
        self.preprocess = preprocess
        self.point_units = point_units
        self.temperature = temperature
        self.query_loss = self.support_loss
        self._loss_config = losses.config(loss)
        self.built = True  # a subclass builds its layers in `__init__`

    def adapt_tasks(
        self, support_x: tf.Tensor, support_y: tf.Tensor, training: bool = False
    ) -> TensorNest:
        """Computes the state of T tasks: `adapt` without its checks, traceable.

        Args:
            support_x: `[T, S, ...]` in the learner's dtype.
            support_y: int32 labels `[T, S]`, or targets `[T, S, d_y]`.
            training: if True, runs as in meta-training (`inner_steps`, dropout).

        Returns:
            The state: a nest of tensors, each with a leading T.
        """
        raise NotImplementedError

    def infer_tasks(
        self, state: TensorNest, query_x: tf.Tensor, training: bool = False
    ) -> Predictions:
        """Predicts the queries of T tasks: `infer` without its checks, traceable.

        Args:
            state: the state that `adapt_tasks` returned.
            query_x: `[T, Q, ...]` in the learner's dtype.
            training: if True, runs as in meta-training (`inner_steps`, dropout).

        Returns:
            As `infer`.
        """
        raise NotImplementedError

    def meta_gradient(
        self,
        episode: Mapping[str, TensorLike],
        query_y: TensorLike,
        weights: TensorLike | None = None,
        loss_scale: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], list[keras.Variable], tf.Tensor]:
        """Computes the loss of a batch of tasks and its gradient.

        Args:
            episode: as for the call.
            query_y: labels `[T, Q]` or targets `[T, Q, d_y]`.
            weights: Keras' `sample_weight`, for tasks `[T]` or for queries `[T, Q]`;
                None for equal weights.
            loss_scale: a factor of the gradients, which prevents underflow in float16
                layers; a Python number or a scalar tensor.

        Returns:
            `(loss, gradients, variables, outputs)`: the unscaled loss; its scaled
            gradients and the variables they belong to; the predictions of all tasks or
            the first few.
        """
        variables, query_y = self.trainable_variables, tf.convert_to_tensor(query_y)
        with tf.GradientTape() as tape:
            outputs = self(episode, training=True)
            loss = losses.of_batch(self.query_loss, query_y, outputs, weights)
            loss += tf.cast(self.penalty(), loss.dtype)
            scaled = loss * tf.cast(loss_scale, loss.dtype)
        return loss, tape.gradient(scaled, variables), variables, outputs

    def penalty(self) -> tf.Tensor:
        """Returns the sum of all regularizers of the last call, a scalar."""
        terms = [tf.cast(loss, self.variable_dtype) for loss in self.losses]
        return tf.add_n(terms) if terms else tf.zeros([], self.variable_dtype)

    def moving_statistics(self) -> list[keras.Variable]:
        """Returns the moving averages that `batch_norm.estimate` recomputes."""
        return batch_norm.moving_statistics(self)

    def task_model(
        self,
        x: TensorLike,
        y: TensorLike,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> tuple[keras.Model, keras.optimizers.Optimizer]:
        """Returns a Keras model of one task; `finetune` compiles it.

        By default the model trains the state that `adapt` returns and nothing else.

        Args:
            x: support examples `[S, ...]`.
            y: their labels `[S]` or targets `[S, d_y]`.
            optimizer: a Keras optimizer; by default the learner's own.

        Returns:
            `(model, optimizer)`.
        """
        from keras_meta import task_model

        return task_model.build(self, x, y, optimizer)

    def config_with(self, classes: int) -> dict[str, Any]:
        """Returns the config of this learner with another number of classes."""
        return {**self.get_config(), "outputs": classes}

    def carried(self, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Returns a weight resized to `shape` for other classes, None if impossible."""
        return weight if weight.shape == shape else None

    # Called by users.

    def adapt(
        self, support_x: TensorLike, support_y: TensorLike, training: bool = False
    ) -> TensorNest:
        """Learns T tasks, each from its own S support examples.

        Args:
            support_x: `[T, S, ...]`, as `preprocess` returns it.
            support_y: labels 0..n-1 `[T, S]` with n <= N, or strings `[T, S, 5]`; or
                targets `[T, S, d_y]`.
            training: if True, runs as in meta-training (`inner_steps`, dropout).

        Returns:
            The state: a nest of tensors, each with a leading T.

        Raises:
            ValueError: wrong rank or shape; no support example (a regression `CNP`
                accepts none); labels out of range or with a gap (`MANN` and
                `LSTMLearner` accept gaps); values that are not finite; or values so
                large that learning diverges (not checked in a `tf.function`).
        """
        return self._adapt(support_x, support_y, training)[0]

    def infer(
        self, state: TensorNest, query_x: TensorLike, training: bool = False
    ) -> Predictions:
        """Predicts Q queries of each task.

        Args:
            state: the state that `adapt` returned for T tasks.
            query_x: `[T, Q, ...]`.
            training: if True, runs as in meta-training (`inner_steps`, dropout).

        Returns:
            Logits `[T, Q, N]`, or predictions `[T, Q, d_y]`, or a pair of mean and
            scale, each `[T, Q, d_y]`.

        Raises:
            ValueError: wrong rank or shape, a T that differs from the state's, a state
                of another structure, or values that are not finite.
        """
        return self._infer(state, query_x, training)[0]

    def with_classes(self, classes: int) -> Self:
        """Returns a copy with another number of classes, reusing the weights.

        ProtoNet and CNP have no weight that depends on N and predict as well as before.
        Gradient learners get a last layer with N units. Labels are assigned at random,
        so that all units are exchangeable: weights of additional units are drawn from
        the normal distribution of the existing ones, or, if only the last layer adapts
        (ANIL), all units get their mean. The LSTM and the MANN read labels through
        weights for a fixed N and cannot change it.

        Args:
            classes: N of the new learner, an integer >= 2.

        Returns:
            A learner; compiled with the defaults if this one is compiled.

        Raises:
            ValueError: fewer than two classes, a learner for regression, weights for a
                fixed N, or a network that does not end in a Dense layer.
        """
        if not self.classification:
            raise ValueError("expected a learner for classification, got regression.")
        checks.check_integer("classes", classes, 2)
        copy = type(self).from_config(self.config_with(int(classes)))
        for old, new in zip(self.weights, copy.weights, strict=True):
            value = self.carried(old.numpy(), tuple(new.shape))
            if value is None:
                raise ValueError(
                    f"expected a learner without weights for a fixed number of "
                    f"classes, {type(self).__name__} reads labels through weights for "
                    f"{self.output_size}: train another one for {classes}."
                )
            new.assign(value)
        keras_private.finalize(copy)
        if self.compiled:
            copy.compile()
        return copy

    def call(
        self, episode: Mapping[str, TensorLike], training: bool = False
    ) -> tf.Tensor:
        state, support_penalty = self._adapt(
            episode["support_x"], episode["support_y"], training
        )
        outputs, query_penalty = self._infer(state, episode["query_x"], training)
        for penalty in (support_penalty, query_penalty):
            if penalty is not None:  # otherwise the layers have added their own
                self.add_loss(penalty)
        return stacked(outputs)

    def _adapt(self, support_x, support_y, training):
        """Returns the state, and the activity regularizers of a trace or None."""
        if not training and tf.executing_eagerly():
            return self.adapt_traced(support_x, support_y)
        support_x, support_y = checks.checked_support(self, support_x, support_y)
        return self.adapt_tasks(support_x, support_y, training), None

    def _infer(self, state, query_x, training):
        """Returns the predictions, and the activity regularizers of a trace or None."""
        if not training and tf.executing_eagerly():
            return self.infer_traced(state, query_x)
        state, query_x = checks.checked_query(self, state, query_x)
        return self.predictions(state, query_x, training), None

    def export(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuses Keras' export, whose signature has no support set: see `km.export`.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "expected km.export(learner, base), whose signatures adapt inside the "
            "request, got learner.export."
        )

    def predictions(
        self, state: TensorNest, query_x: tf.Tensor, training: bool = False
    ) -> Predictions:
        """Returns `infer_tasks`, divided by the temperature unless in training."""
        outputs = self.infer_tasks(state, query_x, training)
        return outputs if training else self.tempered(outputs)

    def tempered(self, outputs: Predictions) -> Predictions:
        """Divides logits by the temperature; predictions pass unchanged."""
        return outputs / self.temperature if self.classification else outputs

    def masked(self, outputs: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """Masks the logits of absent classes.

        Args:
            outputs: logits `[T, Q, N]`, or `[Q, N]` for one task; predictions pass
                unchanged.
            classes: number of classes present, `[T]` or a scalar.
        """
        outputs = tf.cast(outputs, self.variable_dtype)  # the largest float16 is 65504
        return logits.masked(outputs, classes) if self.classification else outputs

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if settings.accepts(type(self), "loss"):
            config["loss"] = self._loss_config
        config["temperature"] = self.temperature
        for name in ("preprocess", "point_units"):
            config[name] = keras.saving.serialize_keras_object(getattr(self, name))
        flags = [layer.trainable for layer in keras_private.layers_of(self)]
        config["layer_flags"] = None if all(flags) else flags
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        config = {
            key: keras.saving.deserialize_keras_object(value)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
        }
        flags = config.pop("layer_flags", None)
        learner = cls(**config)
        if flags is not None:
            keras_private.set_flags(learner, flags)
        return learner
