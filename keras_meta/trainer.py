"""Trainer: Keras' `fit`, `evaluate`, `predict` and `compile` for episodes."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy as np
import tensorflow as tf

from keras_meta import (
    batch_functions,
    checks,
    keras_private,
    losses,
    metrics,
    streams,
    traces,
)
from keras_meta.typing_names import TensorLike

# Batches of episodes, as `Trainer.fit` takes them.
Episodes: TypeAlias = (
    tf.data.Dataset | keras.utils.PyDataset | Iterator[Any] | Mapping[str, TensorLike]
)


class Trainer(batch_functions.BatchFunctions):
    """The Keras side of a `Learner`, which implements `meta_gradient`.

    Args:
        trainable: if False, `fit` changes no weight.
        **kwargs: for `keras.Model`.
    """

    # Whether a prediction of regression is mean and scale.
    predicts_scale = False

    def __init__(self, trainable: bool = True, **kwargs: Any) -> None:
        self._meta_trains = bool(trainable)
        super().__init__(**kwargs)

    @property
    def trainable(self) -> bool:
        """Whether `fit` changes weights; the layers have flags of their own."""
        return self._meta_trains

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._meta_trains = bool(value)

    def fit(
        self,
        x: Episodes | None = None,
        y: TensorLike | None = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: str | int = "auto",
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        validation_split: float = 0.0,
        validation_data: Episodes | tuple[Any, ...] | None = None,
        shuffle: bool = True,
        class_weight: None = None,
        sample_weight: TensorLike | None = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Meta-trains the learner: `keras.Model.fit` on batches of episodes.

        `sample_weight` applies to the outer loss and to `weighted_metrics`, which
        include the default metrics.

        With an optimizer that has `use_ema=True`, the final weights are averages, while
        the moving statistics of batch normalization belong to the weights before
        averaging. `km.batch_norm.estimate(learner, episodes.take(100))` recomputes the
        statistics.

        Args:
            x: a `tf.data.Dataset` of batches `({"support_x", "support_y", "query_x"},
                query_y)`, optionally with `sample_weight` as third element; or a batch
                of episodes as arrays, `{"support_x": [T, S, ...], ...}`.
            y: query labels `[T, Q]` or targets `[T, Q, d_y]`, if x is a dict of arrays.
            batch_size: tasks per batch, if x is a dict of arrays.
            epochs: number of epochs, counted from epoch 0.
            verbose: "auto", 0, 1 or 2.
            callbacks: a list of `keras.callbacks.Callback`.
            validation_split: share of the tasks kept for validation, if x is a dict of
                arrays.
            validation_data: episodes for validation, a dataset or `(x, y)`.
            shuffle: whether to shuffle tasks, if x is a dict of arrays.
            class_weight: not supported, because labels are permuted from task to task.
            sample_weight: weights of tasks `[T]` or of queries `[T, Q]`, if x is a dict
                of arrays.
            initial_epoch: index of the first epoch, from 0.
            steps_per_epoch: batches per epoch; required for endless datasets.
            validation_steps: batches per validation; required for endless datasets.
            validation_batch_size: tasks per batch of validation, if it has arrays.
            validation_freq: epochs from one validation to the next.

        Returns:
            A `keras.callbacks.History`.

        Raises:
            ValueError: data that are not batches of episodes, an endless
                `tf.data.Dataset` without `steps_per_epoch` or, for validation,
                `validation_steps`, `class_weight`, a `sample_weight` of queries for
                `Reptile` or `SigmaReptile`, layers made trainable after `compile`, or
                an argument that Keras would ignore: a batch size beside a dataset, or
                `validation_steps`, `validation_batch_size` and `validation_freq`
                without validation data.
        """
        batch_functions.refuse_class_weight(class_weight)
        checks.check_episodes(self, x)
        batch_functions.refuse_batch_size(x, batch_size, "batch_size")
        validation_x: Any = validation_data
        if isinstance(validation_data, tuple | list):
            validation_x = validation_data[0]
        batch_functions.refuse_unused_validation(
            validation_x,
            validation_split,
            validation_steps,
            validation_batch_size,
            validation_freq,
        )
        if validation_data is not None:
            checks.check_episodes(self, validation_x)
            checks.check_end(validation_x, validation_steps, "validation_steps")
        checks.check_end(x, steps_per_epoch, "steps_per_epoch")
        if self.compiled:
            unknown = [
                v.path
                for v in self.trainable_variables
                if id(v) not in self._compiled_variables
            ]
            if unknown:
                raise ValueError(
                    "expected compile() after a layer is made trainable, because the "
                    f"optimizer does not know {unknown[0]}."
                )
        self._weights_rank = batch_functions.rank_of_weights(x, sample_weight)
        with checks.in_a_sentence():
            return super().fit(
                streams.divided(x, self.distribute_strategy),
                y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                validation_data=streams.divided(
                    validation_data, self.distribute_strategy
                ),
                # Keras warns if it has to shuffle a dataset.
                shuffle=False if isinstance(x, tf.data.Dataset) else shuffle,
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                validation_steps=validation_steps,
                validation_batch_size=validation_batch_size,
                validation_freq=validation_freq,
            )

    def evaluate(
        self,
        x: Episodes | None = None,
        y: TensorLike | None = None,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        sample_weight: TensorLike | None = None,
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Evaluates the learner: `keras.Model.evaluate` on batches of episodes.

        Args:
            x: batches of episodes, as for `fit`.
            y: query labels or targets, if x is a dict of arrays.
            batch_size: tasks per batch, if x is a dict of arrays.
            verbose: "auto", 0, 1 or 2.
            sample_weight: weights of tasks `[T]` or of queries `[T, Q]`.
            steps: number of batches; required for endless datasets.
            callbacks: a list of `keras.callbacks.Callback`.
            return_dict: if True, returns a dict from metric names to values.
            **kwargs: as for `keras.Model.evaluate`.

        Returns:
            The loss and the metrics: a list of numbers, or a dict.

        Raises:
            ValueError: data that are not batches of episodes, endless data without
                `steps`, or `batch_size` beside a dataset.
        """
        checks.check_episodes(self, x)
        batch_functions.refuse_batch_size(x, batch_size, "batch_size")
        checks.check_end(x, steps, "steps")
        self._weights_rank = batch_functions.rank_of_weights(x, sample_weight)
        with checks.in_a_sentence():
            return super().evaluate(
                streams.divided(x, self.distribute_strategy),
                y,
                batch_size=batch_size,
                verbose=verbose,
                sample_weight=sample_weight,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    def predict(
        self,
        x: Episodes,
        batch_size: int | None = None,
        verbose: str | int = "auto",
        steps: int | None = None,
        callbacks: Sequence[keras.callbacks.Callback] | None = None,
    ) -> np.ndarray:
        """Predicts the queries: `keras.Model.predict` on batches of episodes.

        Args:
            x: batches of episodes, as for `fit`; targets are ignored.
            batch_size: tasks per batch, if x is a dict of arrays.
            verbose: "auto", 0, 1 or 2.
            steps: number of batches; required for endless datasets.
            callbacks: a list of `keras.callbacks.Callback`.

        Returns:
            Logits `[T, Q, N]` or predictions `[T, Q, d_y]` of all tasks, an array. Mean
            and scale are stacked, `[T, Q, d_y, 2]`.

        Raises:
            ValueError: data that are not batches of episodes, endless data without
                `steps`, or `batch_size` beside a dataset.
        """
        checks.check_episodes(self, x)
        batch_functions.refuse_batch_size(x, batch_size, "batch_size")
        checks.check_end(x, steps, "steps")
        with checks.in_a_sentence():
            return super().predict(
                streams.divided(x, self.distribute_strategy),
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
            )

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "adam",
        loss: keras.losses.Loss | str | None = None,
        loss_weights: None = None,
        metrics: Sequence[keras.metrics.Metric | str] | None = None,
        weighted_metrics: Sequence[keras.metrics.Metric | str] | None = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        """Configures meta-training: `keras.Model.compile` with this learner's defaults.

        Args:
            optimizer: optimizer of the meta-learned weights, a name or a Keras
                optimizer.
            loss: query loss, a name or a `keras.losses.Loss` as for the constructor; by
                default the constructor's.
            loss_weights: not supported, because a learner has one loss.
            metrics: Keras metrics, which ignore `sample_weight`.
            weighted_metrics: Keras metrics that use `sample_weight`. If neither list is
                given: accuracy or, for regression, squared error, and NLL for the
                Gaussian loss; each is a mean over tasks, with the half-width of its 95%
                interval.
            run_eagerly: if True, steps run without `tf.function`, for debugging.
            steps_per_execution: batches per call of the compiled function.
            jit_compile: True compiles steps with XLA, which does not check values of a
                batch (labels, NaN). "auto" does not use XLA, which is slower for most
                learners on two cores (docs/benchmarks.md). Gradient learners do not
                support XLA, whose second derivatives are wrong; Keras warns and
                compiles without it.
            auto_scale_loss: if True, and the dtype policy is mixed_float16, Keras
                scales the loss.

        Raises:
            ValueError: a loss of other labels or outputs than the learner's, or
                `loss_weights`.
        """
        if loss_weights is not None:
            raise ValueError(
                "expected no loss_weights, because a learner has one loss, got "
                f"{loss_weights!r}."
            )
        query_loss = self.support_loss
        if loss is not None:
            loss = losses.get(loss, self.variable_dtype)
            if losses.is_classification(loss) != self.classification:
                kind = "classes" if self.classification else "vectors"
                raise ValueError(
                    f"expected a loss of {kind}, as the support loss "
                    f"{type(self.support_loss).__name__} is, got "
                    f"{type(loss).__name__}."
                )
            losses.require_outputs(loss, self.predicts_scale)
            query_loss = loss
        self.query_loss = query_loss
        if metrics is None and weighted_metrics is None:
            weighted_metrics = self.default_metrics()
        # Keras reads it for "auto" as well as for True. A meta-step takes 2.1 times as
        # long with XLA as without for ProtoNet with Conv-4, 1.5 times for the LSTM,
        # 1.15 times for a CNP and 0.85 times for a MANN: measured once, on two cores.
        self.supports_jit = jit_compile is True and self.allows_jit
        super().compile(
            optimizer=optimizer,
            loss=self.query_loss,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        self._auto_scale_loss = auto_scale_loss
        self._functions = traces.Functions()  # traced with layers as they are now
        self._compiled_variables = frozenset(map(id, self.trainable_variables))

    def get_compile_config(self) -> dict[str, Any]:
        config = super().get_compile_config()
        # Keras does not store it, and would scale the loss of a loaded learner.
        return config and {**config, "auto_scale_loss": self._auto_scale_loss}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras skips this for a class with its own `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def default_metrics(self) -> list[keras.metrics.Metric]:
        if self.classification:
            return [
                metrics.EpisodeAccuracy(),
                metrics.EpisodeAccuracy(interval=True, name="accuracy_95"),
            ]
        defaults = [
            metrics.EpisodeSquaredError(),
            metrics.EpisodeSquaredError(interval=True, name="mse_95"),
        ]
        if isinstance(self.query_loss, losses.GaussianNLL):
            defaults += [
                metrics.EpisodeNLL(),
                metrics.EpisodeNLL(interval=True, name="nll_95"),
            ]
        return defaults

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        episode, query_y, weights = checks.checked_data(self, data)
        loss_scale = self.optimizer.scale_loss(tf.ones([], self.variable_dtype))
        # Moving statistics are not trainable variables, but they change predictions.
        unchanged = keras.StatelessScope(collect_losses=True)
        with contextlib.nullcontext() if self.trainable else unchanged:
            loss, gradients, variables, outputs = self.meta_gradient(
                episode, query_y, weights, loss_scale
            )
        trained = {id(v) for v in self.trainable_variables}
        pairs = [
            (gradient, variable)
            for gradient, variable in zip(gradients, variables, strict=True)
            if id(variable) in trained and gradient is not None
        ]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:  # the optimizer sums the gradients of all replicas
            pairs = [(tf.convert_to_tensor(g) / replicas, v) for g, v in pairs]
        if pairs:
            self.optimizer.apply_gradients(pairs)
        else:
            warnings.warn("the learner has no trainable variables.", stacklevel=2)
        keras_private.track_loss(self, loss, tf.shape(query_y)[0])
        # A learner may predict only the first tasks of a batch (`Reptile`).
        count = tf.shape(outputs)[0]
        weights = None if weights is None else weights[:count]
        episode = tf.nest.map_structure(lambda x: x[:count], episode)
        return self.compute_metrics(episode, query_y[:count], outputs, weights)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        episode, query_y, weights = checks.checked_data(self, data)
        if weights is not None and weights.shape.rank == 1:
            weights = tf.repeat(weights[:, None], tf.shape(query_y)[1], axis=1)
        return super().test_step((episode, query_y, weights))
