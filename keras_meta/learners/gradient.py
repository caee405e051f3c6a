"""GradientLearner: learns a task by gradient steps on its support set."""

import keras
import tensorflow as tf

from keras_meta import functional, learner

NORMALIZATIONS = ("inductive", "transductive")


class GradientLearner(learner.Learner):
    """Takes gradient steps on the support loss, from a meta-learned start.

    The inner loop and the meta-gradient of the MAML family. The state of a task is its
    adapted weights, the normalization statistics of its support set under them, and
    how many classes it has. The meta-gradient of each task is taken inside the map over
    tasks, so that memory does not grow with the number of tasks.

    A subclass gives `update`, one inner step.

    Args:
        network: a built Keras model from `[B, ...]` to logits or predictions `[B, N]`.
            Layers with `trainable=False` keep their weights. BatchNormalization may
            have any momentum below 1: batch statistics are read, never its averages.
            Dropout is active in the inner loop only.
        loss: see `Learner`.
        inner_rate: step size of the inner loop, on the mean loss of the support set.
        inner_steps: inner steps while meta-training.
        evaluation_steps: inner steps at all other times; `inner_steps` by default.
        normalization: "inductive": queries are normalized with the statistics of the
            support set, so that no answer depends on other queries; "transductive":
            with those of all queries of the task, as MAML was published.
        preprocess: see `Learner`.
        **kwargs: for `keras.Model`.

    Raises:
        ValueError: an argument out of range, or a network that is not built.
    """

    # Whether the meta-gradient takes the inner gradients for constants.
    first_order = False

    def __init__(
        self,
        network,
        loss="sparse_categorical_crossentropy",
        inner_rate=0.4,
        inner_steps=1,
        evaluation_steps=None,
        normalization="inductive",
        preprocess=None,
        **kwargs,
    ):
        if not isinstance(network, keras.Model) or not network.built:
            raise ValueError(
                "expected network to be a built keras.Model (start it with a "
                f"keras.Input), got {type(network).__name__}."
            )
        if len(network.output_shape) != 2:
            raise ValueError(
                "expected a network with outputs of shape [B, N], got "
                f"{network.output_shape}."
            )
        for name, value in (
            ("inner_steps", inner_steps),
            ("evaluation_steps", evaluation_steps),
        ):
            if value is not None and (value != int(value) or value < 0):
                raise ValueError(f"expected {name} to be an integer >= 0, got {value}.")
        if not inner_rate > 0:
            raise ValueError(f"expected inner_rate to be above 0, got {inner_rate}.")
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"expected normalization to be one of {', '.join(NORMALIZATIONS)}, got "
                f"{normalization!r}."
            )
        if not network.trainable_variables:
            raise ValueError("expected a network with trainable weights, got none.")
        # Of the weights: a Keras model's own policy is not that of its layers.
        kwargs.setdefault("dtype", network.trainable_variables[0].dtype)
        super().__init__(
            loss=loss,
            example_shape=network.input_shape[1:],
            outputs=network.output_shape[-1],
            preprocess=preprocess,
            **kwargs,
        )
        self.network = network
        self.inner_rate = inner_rate
        self.inner_steps = inner_steps
        self.evaluation_steps = evaluation_steps
        self.normalization = normalization
        functional.make_twice_differentiable(network)
        self._norm_slots = functional.batch_norm_slots(network)
        self._seed_slots = functional.seed_slots(network)
        if normalization == "transductive" and self._seed_slots:
            raise ValueError(
                "expected a network without random layers for transductive "
                "normalization, which runs queries in training mode; use 'inductive'."
            )
        self.built = True

    def meta_variables(self):
        """The variables that meta-training learns, a nest with "weights" in it."""
        return {"weights": self.network.trainable_variables}

    def update(self, meta, weights, gradients):
        """One inner step.

        Args:
            meta: values of `meta_variables()`.
            weights: the task's weights.
            gradients: of the support loss, in the order of the weights.

        Returns:
            The new weights.
        """
        raise NotImplementedError

    # One task.

    def adapt_task(self, meta, statistics, support_x, support_y, training):
        """The state of one task; `statistics` are the network's non-trainables."""
        if training or self.evaluation_steps is None:
            steps = self.inner_steps
        else:
            steps = self.evaluation_steps
        classes = tf.zeros([], tf.int32)
        if self.classification:
            classes = tf.reduce_max(support_y) + 1

        def step(_, state):
            weights, statistics = state
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                outputs, statistics, penalty = functional.apply(
                    self.network, weights, statistics, support_x, training=True
                )
                outputs = self._masked(outputs, classes)
                loss = self.support_loss(support_y, outputs) + penalty
            gradients = tape.gradient(
                loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            if self.first_order:
                gradients = [tf.stop_gradient(gradient) for gradient in gradients]
            return self.update(meta, weights, gradients), statistics

        weights, _ = functional.repeat(
            step, (meta["weights"], statistics), steps, unroll=training
        )
        state = {"weights": weights, "statistics": [], "classes": classes}
        if self.normalization == "inductive":
            state["statistics"] = self._support_statistics(
                weights, statistics, support_x
            )
        return state

    def infer_task(self, state, statistics, query_x):
        """Logits `[Q, N]` or predictions `[Q, d_y]` of one task."""
        for slot, value in zip(self._norm_slots, state["statistics"], strict=False):
            statistics = [*statistics[:slot], value, *statistics[slot + 1 :]]
        outputs, _, _ = functional.apply(
            self.network,
            state["weights"],
            statistics,
            query_x,
            training=self.normalization == "transductive",
        )
        return self._masked(outputs, state["classes"])

    def _support_statistics(self, weights, statistics, support_x):
        """What each normalization layer measures on the support set."""
        if not self._norm_slots:
            return []
        # From zero, a moving average holds (1 - momentum) times the batch's value.
        statistics = [
            tf.zeros_like(value) if slot in self._norm_slots else value
            for slot, value in enumerate(statistics)
        ]
        _, measured, _ = functional.apply(
            self.network, weights, statistics, support_x, training=True
        )
        return [
            measured[slot] / (1 - momentum)
            for slot, momentum in self._norm_slots.items()
        ]

    def _masked(self, outputs, classes):
        """Logits with those of absent classes put out of reach."""
        if not self.classification:
            return outputs
        absent = tf.range(self.output_size) >= classes
        return outputs + tf.where(absent, tf.cast(learner.ABSENT, outputs.dtype), 0)

    # All tasks.

    def adapt_tasks(self, support_x, support_y, training=False):
        meta = self._meta_values()
        statistics = functional.values(self.network.non_trainable_variables)
        return functional.map_tasks(
            lambda task: self.adapt_task(meta, statistics, *task, training),
            (support_x, support_y),
        )

    def infer_tasks(self, state, query_x, training=False):
        statistics = functional.values(self.network.non_trainable_variables)
        return functional.map_tasks(
            lambda task: self.infer_task(task[0], statistics, task[1]),
            (state, query_x),
        )

    def task_model(self, x, y):
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        state = self.adapt(x[None], y[None])
        weights = [value[0] for value in state["weights"]]
        network = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(self.network)
        )
        network.set_weights(self.network.get_weights())
        for variable, value in zip(network.trainable_variables, weights, strict=True):
            variable.assign(value)
        measured = self._support_statistics(
            weights, functional.values(self.network.non_trainable_variables), x
        )
        for slot, value in zip(self._norm_slots, measured, strict=True):
            network.non_trainable_variables[slot].assign(value)
        classes = int(state["classes"][0])
        if self.classification and classes < self.output_size:
            network = keras.Model(network.inputs, network.outputs[0][:, :classes])
        return network, keras.optimizers.SGD(self.inner_rate)

    def meta_gradient(self, episode, query_y):
        values = self._meta_values()
        statistics = functional.values(self.network.non_trainable_variables)
        support_x = self._checked_x("support_x", episode["support_x"])
        support_y = self._checked_y(support_x, episode["support_y"])
        query_x = self._checked_x("query_x", episode["query_x"])

        def task(elements):
            support_x, support_y, query_x, query_y, index = elements
            # A tape watches tensors of its own graph.
            meta = tf.nest.map_structure(tf.identity, values)
            seeded = self._seeded(statistics, index)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(tf.nest.flatten(meta))
                state = self.adapt_task(meta, seeded, support_x, support_y, True)
                outputs = self.infer_task(state, seeded, query_x)
                loss = self.query_loss(query_y, outputs)
            gradients = tape.gradient(
                loss,
                tf.nest.flatten(meta),
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
            return loss, outputs, gradients

        loss, outputs, gradients = functional.map_tasks(
            task,
            (support_x, support_y, query_x, query_y, tf.range(tf.shape(query_x)[0])),
        )
        gradients = [tf.reduce_mean(gradient, axis=0) for gradient in gradients]
        variables = tf.nest.flatten(self.meta_variables())
        return tf.reduce_mean(loss), gradients, variables, outputs

    def _meta_values(self):
        return tf.nest.map_structure(
            lambda variable: tf.convert_to_tensor(variable.value),
            self.meta_variables(),
        )

    def _seeded(self, statistics, index):
        """The network's random layers draw anew for each meta-step and task."""
        if not self._seed_slots:
            return statistics
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        statistics = list(statistics)
        for slot in self._seed_slots:
            seed = tf.random.experimental.stateless_fold_in([step, slot], index)
            seed = tf.cast(tf.bitcast(seed, tf.uint32), statistics[slot].dtype)
            statistics[slot] = statistics[slot] + seed
        return statistics

    def get_config(self):
        config = super().get_config()
        config.update(
            network=keras.saving.serialize_keras_object(self.network),
            inner_rate=self.inner_rate,
            inner_steps=self.inner_steps,
            evaluation_steps=self.evaluation_steps,
            normalization=self.normalization,
        )
        return config
