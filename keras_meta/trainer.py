"""Trainer: Keras' `fit`, `evaluate`, `predict` and `compile` on batches of episodes."""

import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_meta import checks, keras_private, losses, metrics


class Trainer(keras_private.WorkersModel):
    """The Keras side of a `Learner`, which gives `meta_gradient` and `trace_key`.

    Args:
        trainable: whether `fit` changes anything.
        **kwargs: for `keras.Model`.
    """

    def __init__(self, trainable=True, **kwargs):
        self._meta_trains = bool(trainable)
        super().__init__(**kwargs)
        self._functions = Functions()
        # Keras would relax the shapes of a trace to any rank.
        self._weights_rank = None

    @property
    def trainable(self):
        """Whether `fit` changes anything; the layers have flags of their own."""
        return self._meta_trains

    @trainable.setter
    def trainable(self, value):
        self._meta_trains = bool(value)

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Meta-trains: Keras' `fit` on batches of episodes.

        Arguments are those of `keras.Model.fit`; x is a dataset of batches of episodes,
        `({"support_x", "support_y", "query_x"}, query_y)` or with `sample_weight` as a
        third, of tasks `[T]` or of queries `[T, Q]`. Weights apply to the outer loss
        and, as in Keras, to `weighted_metrics`, which the default metrics are.

        An optimizer with `use_ema=True` leaves averaged weights beside the moving
        statistics of batch normalization that belong to the raw ones:
        `km.batch_norm.estimate(learner, episodes.take(100))` computes theirs, which
        `fit` does not do.

        Raises:
            ValueError: not batches of episodes, endless ones without
                `steps_per_epoch`, `class_weight` (labels are permuted from task to
                task), or layers that became trainable after `compile`.
        """
        if class_weight is not None:
            raise ValueError(
                "expected no class_weight, because labels are permuted from task to "
                "task; use sample_weight, [T] or [T, Q]."
            )
        checks.check_episodes(self, x)
        if validation_data is not None:
            data = validation_data
            checks.check_episodes(
                self, data[0] if isinstance(data, tuple | list) else data
            )
            checks.check_end(data, validation_steps, "validation_steps")
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
        self._weights_rank = _rank_of_weights(x, sample_weight)
        with checks.in_a_sentence():
            return super().fit(
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_split=validation_split,
                validation_data=validation_data,
                # Or Keras warns that it cannot shuffle a dataset.
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
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """Keras' `evaluate` on batches of episodes; see `fit` for weights.

        Raises:
            ValueError: not batches of episodes, or endless ones without `steps`.
        """
        checks.check_episodes(self, x)
        checks.check_end(x, steps, "steps")
        self._weights_rank = _rank_of_weights(x, sample_weight)
        with checks.in_a_sentence():
            return super().evaluate(
                x,
                y,
                batch_size=batch_size,
                verbose=verbose,
                sample_weight=sample_weight,
                steps=steps,
                callbacks=callbacks,
                return_dict=return_dict,
                **kwargs,
            )

    def predict(self, x, batch_size=None, verbose="auto", steps=None, callbacks=None):
        """Keras' `predict` on batches of episodes: the answers to their queries.

        Raises:
            ValueError: not batches of episodes, or endless ones without `steps`.
        """
        checks.check_episodes(self, x)
        checks.check_end(x, steps, "steps")
        with checks.in_a_sentence():
            return super().predict(
                x,
                batch_size=batch_size,
                verbose=verbose,
                steps=steps,
                callbacks=callbacks,
            )

    def compile(
        self,
        optimizer="adam",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
    ):
        """Keras' `compile`, with this learner's loss and metrics as the defaults.

        Args:
            optimizer: of the meta-parameters.
            loss: of the queries; as for the constructor.
            metrics: Keras' metrics, which ignore `sample_weight`.
            weighted_metrics: Keras' metrics that follow `sample_weight`; by default,
                where neither is given, the accuracy (or squared error) of an episode
                and the half-width of its 95% interval over tasks.
            loss_weights: refused, because a learner has one loss.
            jit_compile: True for XLA, which checks no values of a batch (labels, NaN);
                Keras warns and goes without for gradient learners, whose second
                derivatives XLA has wrong. "auto" goes without: on two cores XLA is
                slower for most learners (docs/benchmarks.md).
            **kwargs: for `keras.Model.compile`.

        Raises:
            ValueError: a loss that does not suit the learner, or `loss_weights`.
        """
        if loss_weights is not None:
            raise ValueError(
                "expected no loss_weights, because a learner has one loss, got "
                f"{loss_weights!r}."
            )
        if loss is not None:
            loss = losses.get(loss, self.variable_dtype)
            if losses.is_classification(loss) != self.classification:
                kind = "classes" if self.classification else "vectors"
                raise ValueError(
                    f"expected a loss of {kind}, as the support loss "
                    f"{type(self.support_loss).__name__} is, got "
                    f"{type(loss).__name__}."
                )
            self.query_loss = loss
        if metrics is None and weighted_metrics is None:
            weighted_metrics = self.default_metrics()
        # Keras asks it for "auto" and for True alike. A meta-step under XLA takes 2.1
        # times as long for ProtoNet with Conv-4, 1.5 for the LSTM, 1.15 for a CNP and
        # 0.85 for a MANN: measured once, on two cores.
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
        self._functions = Functions()  # traced with layers as they are now
        self._compiled_variables = frozenset(map(id, self.trainable_variables))

    def compile_from_config(self, config):
        # Keras skips this for a class with its own `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def default_metrics(self):
        if self.classification:
            return [
                metrics.EpisodeAccuracy(),
                metrics.EpisodeAccuracy(interval=True, name="accuracy_95"),
            ]
        chosen = [
            metrics.EpisodeSquaredError(),
            metrics.EpisodeSquaredError(interval=True, name="mse_95"),
        ]
        if isinstance(self.query_loss, losses.GaussianNLL):
            chosen += [
                metrics.EpisodeNLL(),
                metrics.EpisodeNLL(interval=True, name="nll_95"),
            ]
        return chosen

    def make_train_function(self, force=False):
        return super().make_train_function(force or self._is_stale("train"))

    def make_test_function(self, force=False):
        return super().make_test_function(force or self._is_stale("test"))

    def make_predict_function(self, force=False):
        return super().make_predict_function(force or self._is_stale("predict"))

    def _is_stale(self, name):
        """Whether Keras' function of a name was made with other settings or flags."""
        key = self.trace_key(), self.trainable, self._weights_rank
        return self._functions.is_stale(name, key)

    def train_step(self, data):
        episode, query_y, weights = checks.checked_data(self, data)
        loss_scale = self.optimizer.scale_loss(tf.ones([], self.variable_dtype))
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
        if replicas > 1:  # the optimizer sums them
            pairs = [(tf.convert_to_tensor(g) / replicas, v) for g, v in pairs]
        if pairs:
            self.optimizer.apply_gradients(pairs)
        else:
            warnings.warn("the learner has nothing that trains.", stacklevel=2)
        keras_private.track_loss(self, loss, tf.shape(query_y)[0])
        # A learner may report on the first few tasks of a batch.
        count = tf.shape(outputs)[0]
        weights = None if weights is None else weights[:count]
        episode = tf.nest.map_structure(lambda x: x[:count], episode)
        return self.compute_metrics(episode, query_y[:count], outputs, weights)

    def test_step(self, data):
        episode, query_y, weights = checks.checked_data(self, data)
        if weights is not None and weights.shape.rank == 1:
            weights = tf.repeat(weights[:, None], tf.shape(query_y)[1], axis=1)
        return super().test_step((episode, query_y, weights))


def _rank_of_weights(x, sample_weight):
    """The rank of the sample weights that Keras is given, None without any."""
    if sample_weight is not None:
        return len(np.shape(sample_weight))
    spec = getattr(x, "element_spec", None)
    if isinstance(spec, tuple) and len(spec) > 2:
        return spec[2].shape.rank
    return None


class Functions:
    """The traces of a learner, which Keras neither tracks nor saves."""

    def __init__(self):
        self.key = None
        self.functions = {}
        self.made_with = {}

    def get(self, key, name, function, signature):
        if key != self.key:
            self.key, self.functions = key, {}
        if name not in self.functions:
            self.functions[name] = tf.function(
                function,
                input_signature=signature,
                autograph=False,
                reduce_retracing=True,
            )
        return self.functions[name]

    def is_stale(self, name, key):
        before = self.made_with.get(name, key)
        self.made_with[name] = key
        return before != key
