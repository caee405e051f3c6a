"""Learner: a Keras model whose input is a dataset."""

import functools

import keras
import tensorflow as tf

from keras_meta import losses, metrics

# Added to the logit of a class that is absent from the support set: its probability is
# then exactly zero in float32, and nothing turns into NaN as infinity would.
ABSENT = -1e9


def require(condition, sentence):
    """Raises `sentence` if not `condition`: ValueError, or the graph run's error."""
    if tf.is_symbolic_tensor(condition):
        tf.debugging.Assert(condition, [sentence], name="check")
    elif not condition:
        raise ValueError(sentence)


class Learner(keras.Model):
    """Learns a task from its support set, and answers its queries.

    `adapt` turns support sets into a state and `infer` answers queries from it; both
    are pure functions that keep nothing on `self`, and calling the learner is one after
    the other. So one model serves `fit` (meta-training), `evaluate`, `predict`, saving,
    fine-tuning and serving. Axes: T tasks, S support and Q query examples of each, N
    classes.

    A subclass gives `adapt_tasks` and `infer_tasks`, and may give `meta_gradient`.

    Args:
        loss: "sparse_categorical_crossentropy" (targets are labels), "mse", or a
            `keras.losses.Loss`; of the support examples where a learner has an inner
            loss, and of the queries unless `compile` names another.
        example_shape: shape of one example x.
        outputs: number of classes N, or of target dimensions d_y.
        preprocess: an `ImagePreprocess` that the data came through, if any.
        **kwargs: for `keras.Model`.

    Call arguments:
        episode: `{"support_x": [T, S, ...], "support_y": [T, S] or [T, S, d_y],
            "query_x": [T, Q, ...]}`.

    Returns:
        Logits `[T, Q, N]`, or predictions `[T, Q, d_y]`.
    """

    def __init__(self, loss, example_shape, outputs, preprocess=None, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False  # second-order gradients under XLA: DESIGN.md
        self.support_loss = losses.get(loss, self.variable_dtype)
        self.classification = losses.is_classification(self.support_loss)
        self.example_shape = tuple(example_shape)
        self.output_size = outputs
        self.preprocess = preprocess
        self.query_loss = self.support_loss
        self._loss_config = losses.config(loss)

    # What a subclass gives.

    def adapt_tasks(self, support_x, support_y, training=False):
        """`adapt` without its checks, traceable."""
        raise NotImplementedError

    def infer_tasks(self, state, query_x, training=False):
        """`infer` without its checks, traceable."""
        raise NotImplementedError

    def meta_gradient(self, episode, query_y):
        """The loss of a batch of tasks and its gradient.

        Returns:
            `(loss, gradients, variables, outputs)`: the mean loss over tasks and
            queries, gradients and the variables they belong to, and the answers to
            the queries.
        """
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self(episode, training=True)
            loss = self.query_loss(query_y, outputs)
        return loss, tape.gradient(loss, variables), variables, outputs

    def task_model(self, x, y, optimizer=None):
        """A Keras model of the one task with support set x `[S, ...]`, y `[S, ...]`.

        Returns:
            `(model, optimizer)`: what `finetune` compiles; the optimizer is the one
            given, or this learner's own.
        """
        raise NotImplementedError

    # What users call.

    def adapt(self, support_x, support_y, training=False):
        """Learns T tasks, each from its own S support examples.

        Args:
            support_x: `[T, S, ...]`, what `preprocess` gives.
            support_y: integer labels `[T, S]`, those present being 0..n-1 with n <= N;
                or targets `[T, S, d_y]`.
            training: take the settings of meta-training, not of evaluation.

        Returns:
            The state: a nest of tensors, each with a leading T.

        Raises:
            ValueError: wrong rank or shape, no support example, labels out of range
                or with a gap, values that are not finite.
        """
        support_x = self._checked_x("support_x", support_x)
        support_y = self._checked_y(support_x, support_y)
        if training or not tf.executing_eagerly():
            return self.adapt_tasks(support_x, support_y, training)
        return self._traced_adapt(support_x, support_y)

    def infer(self, state, query_x, training=False):
        """Answers Q queries of each task.

        Args:
            state: what `adapt` gave for T tasks.
            query_x: `[T, Q, ...]`.
            training: as for `adapt`.

        Returns:
            Logits `[T, Q, N]`, or predictions `[T, Q, d_y]`.

        Raises:
            ValueError: wrong rank or shape, another T than the state's, values that
                are not finite.
        """
        query_x = self._checked_x("query_x", query_x)
        tasks = tf.shape(tf.nest.flatten(state)[0])[0]
        require(
            tf.equal(tasks, tf.shape(query_x)[0]),
            "expected query_x and the state to be of the same number of tasks.",
        )
        if training or not tf.executing_eagerly():
            return self.infer_tasks(state, query_x, training)
        return self._traced_infer(state, query_x)

    def call(self, episode, training=False):
        state = self.adapt(episode["support_x"], episode["support_y"], training)
        return self.infer(state, episode["query_x"], training)

    # Both traced once, for any T, S and Q.

    @functools.cached_property
    def _traced_adapt(self):
        return tf.function(
            self.adapt_tasks,
            input_signature=[self.x_spec("support_x"), self.y_spec("support_y")],
            autograph=False,
        )

    @functools.cached_property
    def _traced_infer(self):
        state = tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype),
            self._traced_adapt.get_concrete_function().structured_outputs,
        )
        return tf.function(
            self.infer_tasks,
            input_signature=[state, self.x_spec("query_x")],
            autograph=False,
        )

    def forget_traces(self):
        """Traces anew at the next call, because what was traced has changed."""
        self.__dict__.pop("_traced_adapt", None)
        self.__dict__.pop("_traced_infer", None)

    def x_spec(self, name):
        """TensorSpec of examples `[T, S or Q, ...]`, T, S and Q free."""
        return tf.TensorSpec(
            [None, None, *self.example_shape], self.compute_dtype, name
        )

    def y_spec(self, name):
        """TensorSpec of labels `[T, S]` or targets `[T, S, d_y]`."""
        if self.classification:
            return tf.TensorSpec([None, None], tf.int32, name)
        return tf.TensorSpec([None, None, self.output_size], self.compute_dtype, name)

    # Checks, once and at the door.

    def _checked_x(self, name, x):
        spec = self.x_spec(name)
        x = tf.convert_to_tensor(x)
        if not spec.shape.is_compatible_with(x.shape):
            raise ValueError(
                f"expected {name} of shape [T, {name[0].upper()}, "
                f"{', '.join(map(str, self.example_shape))}], got {list(x.shape)}."
            )
        if x.dtype == tf.uint8:
            raise ValueError(
                f"expected {name} to be floating point, got uint8: pass images "
                "through learner.preprocess first."
            )
        x = tf.cast(x, spec.dtype)
        require(
            tf.reduce_all(tf.math.is_finite(x)),
            f"expected finite values in {name}, got NaN or infinity.",
        )
        return x

    def _checked_y(self, support_x, support_y):
        spec = self.y_spec("support_y")
        y = tf.convert_to_tensor(support_y)
        if self.classification and not y.dtype.is_integer:
            raise ValueError(
                f"expected support_y to be integer labels, got {y.dtype.name}."
            )
        if not spec.shape.is_compatible_with(y.shape):
            raise ValueError(
                "expected support_y of shape "
                + ("[T, S]" if self.classification else f"[T, S, {self.output_size}]")
                + f", got {list(y.shape)}."
            )
        y = tf.cast(y, spec.dtype)
        shape = tf.shape(support_x)[:2]
        require(
            tf.reduce_all(tf.equal(shape, tf.shape(y)[:2])),
            "expected support_x and support_y of equal T and S, they differ.",
        )
        require(
            tf.reduce_all(shape > 0),
            "expected at least one task and one support example, got none.",
        )
        if not self.classification:
            require(
                tf.reduce_all(tf.math.is_finite(y)),
                "expected finite values in support_y, got NaN or infinity.",
            )
            return y
        require(
            tf.reduce_all((y >= 0) & (y < self.output_size)),
            f"expected labels in [0, {self.output_size}), got one outside.",
        )
        present = tf.reduce_max(tf.one_hot(y, self.output_size), axis=1)
        gapless = tf.reduce_all(present[:, :-1] >= present[:, 1:])
        require(
            gapless, "expected each task's labels to be 0..n-1, got one with a gap."
        )
        return y

    # Keras.

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs):
        """Keras' `compile`, with this learner's loss and metrics as the defaults.

        Args:
            optimizer: of the meta-parameters.
            loss: of the queries; as for the constructor.
            metrics: by default the accuracy (or squared error) of an episode and the
                half-width of its 95% interval over tasks.
            **kwargs: for `keras.Model.compile`.
        """
        if loss is not None:
            self.query_loss = losses.get(loss, self.variable_dtype)
        if metrics is None:
            metrics = self.default_metrics()
        super().compile(
            optimizer=optimizer, loss=self.query_loss, metrics=metrics, **kwargs
        )

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
        return [
            metrics.EpisodeSquaredError(),
            metrics.EpisodeSquaredError(interval=True, name="mse_95"),
        ]

    def train_step(self, data):
        episode, query_y, _ = keras.utils.unpack_x_y_sample_weight(data)
        loss, gradients, variables, outputs = self.meta_gradient(episode, query_y)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._loss_tracker.update_state(loss, sample_weight=tf.shape(query_y)[0])
        return self.compute_metrics(episode, query_y, outputs)

    def get_config(self):
        config = super().get_config()
        config["loss"] = self._loss_config
        config["preprocess"] = keras.saving.serialize_keras_object(self.preprocess)
        return config

    @classmethod
    def from_config(cls, config):
        config = {
            key: keras.saving.deserialize_keras_object(value)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
        }
        return cls(**config)
