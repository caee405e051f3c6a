"""GradientLearner: learns a task by gradient steps on its support set."""

import keras
import numpy as np
import tensorflow as tf

from keras_meta import functional, learner, losses

NORMALIZATIONS = ("inductive", "transductive")

# More inner steps than this are a loop in the graph while meta-training too: written
# out, 200 steps take minutes to trace and then run no more than a quarter faster.
UNROLLED_STEPS = 10


class GradientLearner(learner.Learner):
    """Takes gradient steps on the support loss, from a meta-learned start.

    The inner loop and the meta-gradient of the MAML family. The state of a task is its
    adapted weights, the normalization statistics of its support set under them, and
    how many classes it has. The meta-gradient of each task is taken inside the map over
    tasks, so that memory does not grow with the number of tasks.

    A subclass says what it learns (`meta_variables`), which weights adapt (`adapted`),
    the prior's pull (`log_precisions`), the inner step (`update`) and what the
    derivative of the adapted weights is (`solve`); the defaults are MAML.

    Args:
        network: a built Keras model from `[B, ...]` to logits or predictions `[B, N]`.
            Layers with `trainable=False` keep their weights. BatchNormalization may
            have any momentum below 1: batch statistics are read, never its averages.
            Dropout is active in the inner loop only.
        loss: see `Learner`.
        inner_rate: step size of the inner loop, on the mean loss of the support set.
        inner_steps: inner steps while meta-training.
        evaluation_steps: inner steps at all other times; `inner_steps` by default.
        inner_batch: support examples of one inner step, taken in turn in their order,
            beginning again at the end; all of them by default.
        normalization: "inductive": queries are normalized with the statistics of the
            support set, so that no answer depends on other queries; "transductive":
            with those of all queries of the task, as MAML was published.
        preprocess: see `Learner`.
        vectorize: run tasks as one batch rather than side by side; by default for
            networks of dense layers, which it makes several times faster.
        **kwargs: for `keras.Model`.

    Raises:
        ValueError: an argument out of range, or a network that is not built.
    """

    # Whether meta-training differentiates the inner loop, and so writes it out.
    unrolled = True

    def __init__(
        self,
        network,
        loss="sparse_categorical_crossentropy",
        inner_rate=0.4,
        inner_steps=1,
        evaluation_steps=None,
        inner_batch=None,
        normalization="inductive",
        preprocess=None,
        vectorize=None,
        **kwargs,
    ):
        functional.require_built(network)
        if not network.trainable_variables:
            raise ValueError("expected a network with trainable weights, got none.")
        for name, value in (
            ("inner_steps", inner_steps),
            ("evaluation_steps", evaluation_steps),
        ):
            if value is not None and (value != int(value) or value < 0):
                raise ValueError(f"expected {name} to be an integer >= 0, got {value}.")
        if inner_batch is not None and (
            inner_batch != int(inner_batch) or inner_batch < 1
        ):
            raise ValueError(
                f"expected inner_batch to be an integer >= 1, got {inner_batch}."
            )
        functional.check_positive("inner_rate", inner_rate)
        if normalization not in NORMALIZATIONS:
            raise ValueError(
                f"expected normalization to be one of {', '.join(NORMALIZATIONS)}, got "
                f"{normalization!r}."
            )
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
        self.inner_batch = inner_batch
        self.normalization = normalization
        self.vectorize = (
            functional.vectorizes(network) if vectorize is None else vectorize
        )
        functional.mend_batch_norm(network)
        self._norm_slots = functional.batch_norm_slots(network)
        self._seed_slots = functional.seed_slots(network)
        if normalization == "transductive" and self._seed_slots:
            raise ValueError(
                "expected a network without random layers for transductive "
                "normalization, which runs queries in training mode; use 'inductive'."
            )
        self.built = True

    # What a subclass may change.

    @property
    def adapted(self):
        """Positions in `network.trainable_variables` of the weights that adapt."""
        return list(range(len(self.network.trainable_variables)))

    def meta_variables(self):
        """The variables that meta-training learns, a nest with "weights" in it."""
        return {"weights": self.network.trainable_variables}

    def log_precisions(self, meta, examples):
        """Log of the prior's pull `log P_m` on each adapted weight, None if flat.

        Args:
            meta: values of `meta_variables()`.
            examples: S, an integer tensor.
        """
        return None

    def begin(self, start):
        """What the inner optimizer remembers before its first step: a nest."""
        return ()

    def update(self, meta, start, weights, gradients, examples, memory):
        """One inner step, proximal where there is a prior.

        Args:
            meta: values of `meta_variables()`.
            start: the adapted weights' meta-learned values, phi.
            weights: the adapted weights, theta.
            gradients: of the mean support loss.
            examples: S, an integer tensor.
            memory: what the step before returned, or `begin`.

        Returns:
            `(weights, memory)` after the step.
        """
        weights = functional.proximal_step(
            start,
            weights,
            gradients,
            self.inner_rate,
            self.log_precisions(meta, examples),
        )
        return weights, memory

    def solve(self, meta, start, descend, gradient, examples):
        """The adapted weights, and what their derivative is.

        Args:
            meta: values of `meta_variables()`.
            start: the adapted weights' meta-learned values.
            descend: `(meta, start) -> weights`, the inner loop.
            gradient: `weights -> gradients` of the mean support loss.
            examples: S, an integer tensor.

        Returns:
            The adapted weights; here, differentiated through every step.
        """
        return descend(meta, start)

    def config_with(self, classes):
        network = functional.with_outputs(self.network, classes)
        network = keras.saving.serialize_keras_object(network)
        return {**self.get_config(), "network": network}

    def carried(self, weight, shape):
        if weight.shape == shape:
            return weight
        # Units of a last layer. A body that adapts learns nothing from equal ones.
        mean, scale = weight.mean(axis=-1, keepdims=True), weight.std(axis=-1, ddof=1)
        draws = np.random.RandomState(0).normal(size=shape)
        drawn = mean + scale[..., None] * draws
        return np.concatenate([weight, drawn], axis=-1)[..., : shape[-1]]

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
        examples = tf.shape(support_x)[0]
        # What comes before the first layer that adapts is run once.
        inputs, network = support_x, functional.Stage(self.network, self.network)
        if self.inner_batch is None:
            ahead, network = functional.split(self.network, self.adapted)
            if ahead is not None:
                inputs, statistics, _ = ahead.apply(
                    meta["weights"], statistics, support_x, training=True
                )

        def batch(index):
            if self.inner_batch is None:
                return inputs, support_y
            size = tf.minimum(self.inner_batch, examples)
            which = (index * size + tf.range(size)) % examples
            return tf.gather(inputs, which), tf.gather(support_y, which)

        def slope(weights, statistics, x, y):
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(weights)
                outputs, statistics, penalty = network.apply(
                    self._merged(meta, weights), statistics, x, training=True
                )
                outputs = self.masked(outputs, classes)
                loss = losses.of(self.support_loss, y, outputs) + penalty
            gradients = tape.gradient(
                loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
            )
            return gradients, statistics

        def descend(meta, start):
            def step(index, state):
                weights, statistics, memory = state
                gradients, statistics = slope(weights, statistics, *batch(index))
                weights, memory = self.update(
                    meta, start, weights, gradients, examples, memory
                )
                return weights, statistics, memory

            return functional.repeat(
                step,
                (start, statistics, self.begin(start)),
                steps,
                unroll=training and self.unrolled and steps <= UNROLLED_STEPS,
            )[0]

        start = [meta["weights"][i] for i in self.adapted]
        weights = start and self.solve(
            meta,
            start,
            descend,
            lambda weights: slope(weights, statistics, inputs, support_y)[0],
            examples,
        )
        state = {"weights": weights, "statistics": [], "ways": classes}
        if self.normalization == "inductive":
            state["statistics"] = self._support_statistics(
                self._merged(meta, weights), statistics, support_x
            )
        return state

    def infer_task(self, meta, statistics, state, query_x):
        """Logits `[Q, N]` or predictions `[Q, d_y]` of one task."""
        for slot, value in zip(self._norm_slots, state["statistics"], strict=False):
            statistics = [*statistics[:slot], value, *statistics[slot + 1 :]]
        outputs, _, _ = functional.apply(
            self.network,
            self._merged(meta, state["weights"]),
            statistics,
            query_x,
            training=self.normalization == "transductive",
        )
        return self.masked(outputs, state["ways"])

    def task_gradient(self, meta, statistics, task):
        """Loss, answers and meta-gradient (a flat list) of one task."""
        support_x, support_y, query_x, query_y = task
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf.nest.flatten(meta))
            state = self.adapt_task(meta, statistics, support_x, support_y, True)
            outputs = self.infer_task(meta, statistics, state, query_x)
            loss = losses.of(self.query_loss, query_y, outputs)
        gradients = tape.gradient(
            loss,
            tf.nest.flatten(meta),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return loss, outputs, gradients

    def _merged(self, meta, weights):
        """All weights of the network: a task's own, and the shared ones."""
        merged = list(meta["weights"])
        for position, value in zip(self.adapted, weights, strict=True):
            merged[position] = value
        return merged

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

    # All tasks.

    def adapt_tasks(self, support_x, support_y, training=False):
        meta = self._meta_values()
        statistics = functional.values(self.network.non_trainable_variables)
        return functional.map_tasks(
            lambda task: self.adapt_task(meta, statistics, *task, training),
            (support_x, support_y),
            self.vectorize,
        )

    def infer_tasks(self, state, query_x, training=False):
        meta = self._meta_values()
        statistics = functional.values(self.network.non_trainable_variables)
        return functional.map_tasks(
            lambda task: self.infer_task(meta, statistics, *task),
            (state, query_x),
            self.vectorize,
        )

    def task_positions(self):
        """Positions in `network.trainable_variables` of the layers that adapt."""
        adapted = set(self.adapted)
        positions = {id(v): i for i, v in enumerate(self.network.trainable_variables)}
        layers = [
            {positions[id(v)] for v in layer.trainable_variables}
            for layer in self.network._flatten_layers(include_self=False)
            if not list(layer._layers)
        ]
        return sorted(set().union(*(each for each in layers if each & adapted)))

    def task_model(self, x, y, optimizer=None):
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        state = self.adapt(x[None], y[None])
        weights = self._merged(
            self._meta_values(), [value[0] for value in state["weights"]]
        )
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
        kept = {id(network.trainable_variables[i]) for i in self.task_positions()}
        for layer in network._flatten_layers(include_self=False):
            if not kept & {id(variable) for variable in layer.trainable_variables}:
                layer.trainable = False
        classes = int(state["ways"][0])
        if self.classification and classes < self.output_size:
            network = keras.Model(network.inputs, network.outputs[0][:, :classes])
        return network, optimizer or keras.optimizers.SGD(self.inner_rate)

    def meta_gradient(self, episode, query_y):
        values = self._meta_values()
        statistics = functional.values(self.network.non_trainable_variables)
        support_x, support_y = self._checked_support(
            episode["support_x"], episode["support_y"]
        )
        query_x = self._checked_x("query_x", episode["query_x"])

        def task(elements):
            *task, index = elements
            # A tape watches tensors of its own graph.
            meta = tf.nest.map_structure(tf.identity, values)
            return self.task_gradient(meta, self._seeded(statistics, index), task)

        loss, outputs, gradients = functional.map_tasks(
            task,
            (support_x, support_y, query_x, query_y, tf.range(tf.shape(query_x)[0])),
            self.vectorize,
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
            inner_batch=self.inner_batch,
            normalization=self.normalization,
            vectorize=self.vectorize,
        )
        return config
