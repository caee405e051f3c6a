"""GradientLearner: learns a task by gradient steps on its support set."""

import keras
import numpy as np
import tensorflow as tf

from keras_meta import (
    batch_norm,
    checks,
    keras_private,
    losses,
    objectives,
    ordered,
    priors,
    settings,
    steps,
)
from keras_meta import network as network_module

NORMALIZATIONS = ("inductive", "transductive")

# Scale of the prior of a weight that does not adapt while others of its layer do.
HELD = 3e-7

# More inner steps than this are a loop in the graph while meta-training too: written
# out, 200 steps take minutes to trace and then run no more than a quarter faster.
UNROLLED_STEPS = 10


def _normalization(learner, name, value):
    """The check of the normalization of queries."""
    settings.choice(*NORMALIZATIONS)(learner, name, value)
    if value == "transductive" and learner.bound.seeds:
        raise ValueError(
            "expected a network without random layers for transductive normalization, "
            "which runs queries in training mode; use 'inductive'."
        )
    return value


class GradientLearner(ordered.OrderedLearner):
    """Base class of learners that take gradient steps on the support loss.

    It implements the inner loop and the meta-gradient of the MAML family. The state of
    a task holds its adapted weights, the normalization statistics of its support set,
    and its number of classes. The meta-gradient of each task is computed inside the map
    over tasks, so that memory does not grow with the number of tasks.

    A subclass may override what is meta-trained (`meta_variables`), which weights adapt
    (`adapted`), the scales of the prior (`prior_scales`), the inner step (`update`) and
    the derivative of the adapted weights (`solve`). The defaults are MAML's.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`. Layers with `trainable=False` keep their weights.
            BatchNormalization always uses batch statistics, so that any momentum works.
            Dropout is active in the inner loop only; outside meta-training all tasks
            share one mask, so that predictions are reproducible, also after loading.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy" (labels), "mse" (targets), or a
            `keras.losses.Loss`.
        inner_rate: step size of the inner loop, for the mean loss of the support set.
        inner_steps: number of inner steps during meta-training.
        evaluation_steps: number of inner steps otherwise; `inner_steps` by default.
        inner_batch: support examples per inner step, taken in turn in the order of
            `support_order` and from the beginning again at the end; all by default.
        normalization: batch normalization of the queries. "inductive" uses the
            statistics of the support set, so that no prediction depends on other
            queries; "transductive" uses those of all queries of the task, as published
            for MAML.
        preprocess: the `ImagePreprocess` that produces x, if x are images.
        vectorize: if True, tasks run as one batch; if False, side by side. By default
            True for networks of dense layers, where it is several times faster.
        support_order: order in which inner batches take the support examples outside
            meta-training: "shuffled", a fixed order that depends on S alone
            (`ordered.permutation`), or "given". Meta-training takes them as given. The
            order has no effect without `inner_batch`.
        point_units: for regression, a `StandardUnits` that scales points of any units.
        trainable: if False, `fit` changes no weight.
        **kwargs: `name` and `dtype` of `keras.Model`.

    Raises:
        ValueError: an argument out of range, or a network that is not built.

    Reference:
        Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", ICML 2017, algorithm 1.
    """

    # Whether meta-training differentiates the inner loop, and so writes it out.
    unrolled = True
    allows_jit = False
    prior_family = "normal"
    # Whether the start learns from the queries' loss, which `[T, Q]` weights weigh.
    outer_loss = True

    inner_rate = settings.Setting(settings.positive)
    inner_steps = settings.Setting(settings.integer(0))
    evaluation_steps = settings.Setting(settings.integer(0, optional=True))
    inner_batch = settings.Setting(settings.integer(1, optional=True))
    normalization = settings.Setting(_normalization)
    vectorize = settings.Setting()

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
        support_order="shuffled",
        **kwargs,
    ):
        bound = network_module.Network(network)
        if not bound.adaptable:
            raise ValueError("expected a network with trainable weights, got none.")
        unread = [n for n in bound.norms if not batch_norm.is_inexact(n)]
        if unread:
            raise ValueError(
                "expected keras.layers.BatchNormalization without renorm, whose batch "
                f"statistics can be read, got layer '{unread[0].name}' of "
                f"{type(unread[0]).__name__}."
            )
        kwargs.setdefault("dtype", network_module.policy(network))
        super().__init__(
            loss=loss,
            example_shape=network.input_shape[1:],
            outputs=network.output_shape[-1],
            preprocess=preprocess,
            support_order=support_order,
            **kwargs,
        )
        if self.classification:
            network_module.require_logits(network)
        self.network = network
        self.bound = bound
        self.inner_rate = inner_rate
        self.inner_steps = inner_steps
        self.evaluation_steps = evaluation_steps
        self.inner_batch = inner_batch
        self.normalization = normalization
        self.vectorize = bound.vectorizes() if vectorize is None else vectorize
        self.built = True

    # Overridden by subclasses.

    def adapted(self):
        """Returns the network variables that adapt, in the network's order."""
        return self.bound.trainable

    def meta_variables(self):
        """Returns the meta-trained variables, a nest with the key "weights"."""
        return {"weights": self.bound.trainable}

    def prior_scales(self, meta, examples):
        """Returns the scale of each adapted weight's prior, or None for a flat prior.

        Args:
            meta: values of `meta_variables()`.
            examples: S, an integer tensor.

        Returns:
            A list of scalars, in units of the weights, in the order of `adapted()`.
        """
        return None

    def modules_of(self, variables):
        """Returns the module names of the given network variables, a list."""
        return self.paths_of(variables)

    def prior_at(self, meta, start, examples):
        """Returns the prior of the adapted weights, or None if it is flat.

        Args:
            meta: values of `meta_variables()`.
            start: the meta-learned values of the adapted weights, phi.
            examples: S, an integer tensor.

        Returns:
            A distribution as `priors.joint` returns it.
        """
        scales = self.prior_scales(meta, examples)
        if scales is None:
            return None
        adapted = self.adapted()
        modules = self.modules_of(adapted)
        of_module = dict(zip(modules, scales, strict=True))
        paths = self.paths_of(adapted)
        return priors.joint(self.prior_family, modules, paths, start, of_module)

    def weight_priors(self, meta, start, examples):
        """Returns `prior_at` as a list of distributions in the order of `start`."""
        prior = self.prior_at(meta, start, examples)
        if prior is None:
            return None
        return priors.by_weight(prior, self.paths_of(self.adapted()))

    def begin(self, start):
        """Returns the inner optimizer's initial memory, a nest of tensors."""
        return ()

    def update(self, meta, start, weights, gradients, examples, memory):
        """Computes one inner step; a proximal step if there is a prior.

        Args:
            meta: values of `meta_variables()`.
            start: the meta-learned values of the adapted weights, phi.
            weights: the adapted weights, theta.
            gradients: gradients of the mean support loss, in the order of `weights`.
            examples: S, an integer tensor.
            memory: the memory that the previous step, or `begin`, returned.

        Returns:
            `(weights, memory)` after the step.
        """
        moved = [
            weight - self.inner_rate * slope
            for weight, slope in zip(weights, gradients, strict=True)
        ]
        distributions = self.weight_priors(meta, start, examples)
        if distributions is not None:
            weight = self.inner_rate / tf.cast(examples, self.variable_dtype)
            moved = [
                priors.proximal(distribution, point, weight)
                for distribution, point in zip(distributions, moved, strict=True)
            ]
        return moved, memory

    def solve(self, meta, start, inputs, descend, support_loss, examples):
        """Computes the adapted weights, and defines their derivative.

        Args:
            meta: values of `meta_variables()`.
            start: the meta-learned values of the adapted weights.
            inputs: all other inputs of the support loss, as
                `objectives.SupportLoss.inputs` returns them.
            descend: `(start, inputs) -> weights`, the inner loop.
            support_loss: an `objectives.SupportLoss`.
            examples: S, an integer tensor.

        Returns:
            The adapted weights; by default differentiated through every step.
        """
        return descend(start, inputs)

    def moving_statistics(self):
        return []  # every task has its own

    def config_with(self, classes):
        network = network_module.with_outputs(self.network, classes)
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

    def steps_of(self, training):
        """Returns the number of inner steps, for meta-training or otherwise."""
        if training or self.evaluation_steps is None:
            return self.inner_steps
        return self.evaluation_steps

    def inner_loop(self, meta, held, support_x, support_y, training):
        """Computes the adapted weights of one task, and the inner optimizer's memory.

        Args:
            meta: values of `meta_variables()`.
            held: values of the variables that are not trained, see
                `objectives.SupportLoss`.
            support_x: `[S, ...]`.
            support_y: `[S]` or `[S, d_y]`.
            training: if True, takes `inner_steps` steps, on examples in the order
                given.

        Returns:
            `(weights, memory)`; only the weights have a derivative.
        """
        count = self.steps_of(training)
        ways, examples = self._ways(support_y), tf.shape(support_x)[0]
        order = None
        if self.inner_batch is not None:
            order = self.reading_order(examples, training)
        start, shared = self._split(meta["weights"])
        adapted, others = self._split(self.bound.trainable)
        support_loss = objectives.SupportLoss(
            self.bound,
            adapted,
            others,
            held,
            support_x,
            support_y,
            lambda y, z: losses.of(self.support_loss, y, self.masked(z, ways)),
            self.inner_batch,
            order,
        )
        memories = []

        def descend(start, inputs):
            def step(index, state):
                weights, buffers, memory = state
                gradients, buffers = support_loss.gradient(
                    weights, inputs, buffers, index
                )
                weights, memory = self.update(
                    meta, start, weights, gradients, examples, memory
                )
                return weights, buffers, memory

            weights, _, memory = steps.repeat(
                step,
                (start, held["buffers"], self.begin(start)),
                count,
                unroll=training and self.unrolled and count <= UNROLLED_STEPS,
            )
            memories.append(memory)
            return weights

        if not start:
            return [], ()
        inputs = support_loss.inputs(shared)
        weights = self.solve(meta, start, inputs, descend, support_loss, examples)
        return weights, memories[-1]

    def adapt_task(self, meta, held, support_x, support_y, training):
        """Computes the state of one task; arguments as for `inner_loop`."""
        weights, _ = self.inner_loop(meta, held, support_x, support_y, training)
        statistics = []
        if self.normalization == "inductive":
            pairs = self._pairs(meta, weights, held)
            statistics = self.bound.measure(pairs, support_x)
        ways = self._ways(support_y)
        return {"weights": weights, "statistics": statistics, "ways": ways}

    def infer_task(self, meta, held, state, query_x):
        """Predicts the queries of one task.

        Args:
            meta: values of `meta_variables()`.
            held: values of the variables that are not trained, see
                `objectives.SupportLoss`.
            state: the state that `adapt_task` returned.
            query_x: `[Q, ...]`.

        Returns:
            `(outputs, penalty)`: logits `[Q, N]` or predictions `[Q, d_y]`, and the sum
            of the activity regularizers, a scalar.
        """
        pairs = self._pairs(meta, state["weights"], held)
        if self.normalization == "inductive":
            pairs += zip(self.bound.statistics, state["statistics"], strict=True)
        outputs, penalty, _ = self.bound.apply(
            pairs, query_x, training=self.normalization == "transductive"
        )
        outputs = self.masked(outputs, state["ways"])
        return outputs, tf.cast(penalty, outputs.dtype)

    def task_gradient(self, meta, held, task, outer):
        """Computes the loss, the predictions and the meta-gradient of one task.

        Args:
            meta: values of `meta_variables()`.
            held: values of the variables that are not trained, see
                `objectives.SupportLoss`.
            task: a dict of support_x, support_y, query_x, query_y and optionally
                weights, a scalar or `[Q]`.
            outer: an `objectives.OuterLoss`.

        Returns:
            `(loss, outputs, gradients)`. The gradients are a flat list in the order of
            `meta`, scaled by `outer.scale`.
        """
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(tf.nest.flatten(meta))
            state = self.adapt_task(
                meta, held, task["support_x"], task["support_y"], True
            )
            outputs, penalty = self.infer_task(meta, held, state, task["query_x"])
            loss = outer.loss(task, outputs) + penalty
            scaled = loss * outer.scale
        gradients = tape.gradient(
            scaled,
            tf.nest.flatten(meta),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return loss, outputs, network_module.dense(gradients)

    def paths_of(self, variables):
        """Returns the paths of network variables, see `network.Network.paths`."""
        return self.each_of(variables, self.bound.paths())

    def each_of(self, variables, per_adaptable):
        """Selects from a list in the order of `bound.adaptable`, by variable."""
        sources = map(id, self.bound.adaptable)
        found = dict(zip(sources, per_adaptable, strict=True))
        return [found[id(variable)] for variable in variables]

    def _ways(self, support_y):
        """How many classes a task has, a scalar; 0 for regression."""
        if not self.classification:
            return tf.zeros([], tf.int32)
        return tf.reduce_max(support_y) + 1

    def _split(self, per_variable):
        """Splits a list by trainable variable: `(adapted ones, others)`."""
        adapted = {id(v) for v in self.adapted()}
        pairs = list(zip(map(id, self.bound.trainable), per_variable, strict=True))
        return (
            [value for key, value in pairs if key in adapted],
            [value for key, value in pairs if key not in adapted],
        )

    def _pairs(self, meta, weights, held):
        """Variables of the network and their values: a task's own, and shared ones."""
        pairs = list(zip(self.bound.trainable, meta["weights"], strict=True))
        pairs += zip(self.adapted(), weights, strict=True)  # the later value counts
        pairs += zip(self.bound.buffers, held["buffers"], strict=True)
        pairs += zip(self.bound.frozen, held["frozen"], strict=True)
        return pairs

    # All tasks.

    def adapt_tasks(self, support_x, support_y, training=False):
        meta, held = self._meta_values(), self._held_values()
        if not training:
            held = {**held, "buffers": self._unseeded(held["buffers"])}
        return steps.map_tasks(
            lambda task: self.adapt_task(meta, held, *task, training),
            (support_x, support_y),
            self.vectorize,
        )

    def infer_tasks(self, state, query_x, training=False):
        meta, held = self._meta_values(), self._held_values()
        outputs, penalties = steps.map_tasks(
            lambda task: self.infer_task(meta, held, *task),
            (state, query_x),
            self.vectorize,
        )
        # In the precision of Keras' own losses.
        self.add_loss(tf.cast(tf.reduce_mean(penalties), keras.config.floatx()))
        return outputs

    def meta_gradient(self, episode, query_y, weights=None, loss_scale=1.0):
        values, held = self._meta_values(), self._held_values()
        support_x, support_y = checks.checked_support(
            self, episode["support_x"], episode["support_y"]
        )
        query_y = tf.convert_to_tensor(query_y)
        tasks = {
            "support_x": support_x,
            "support_y": support_y,
            "query_x": checks.checked_x(self, "query_x", episode["query_x"]),
            "query_y": query_y,
        }
        if weights is not None:
            self._check_weights(weights)
            tasks["weights"] = weights
        outer = objectives.OuterLoss(self.query_loss, query_y, weights, loss_scale)

        def of_task(elements):
            task, index = elements
            # A tape watches tensors of its own graph.
            meta = tf.nest.map_structure(tf.identity, values)
            return self.task_gradient(meta, self._seeded(held, index), task, outer)

        loss, outputs, gradients = steps.map_tasks(
            of_task, (tasks, tf.range(tf.shape(support_x)[0])), self.vectorize
        )
        loss = tf.reduce_mean(loss)
        gradients = [tf.reduce_mean(gradient, axis=0) for gradient in gradients]
        variables = tf.nest.flatten(self.meta_variables())
        penalty, added = self._weight_penalty(values, outer.scale)
        gradients = [
            gradient if more is None else gradient + more
            for gradient, more in zip(gradients, added, strict=True)
        ]
        return loss + penalty, gradients, variables, outputs

    def _check_weights(self, weights):
        if weights.shape.rank == 2 and not self.outer_loss:
            raise ValueError(
                f"expected sample_weight of tasks, [T], for {type(self).__name__}, "
                "whose start follows no loss of queries, got [T, Q]."
            )

    def _weight_penalty(self, values, scale):
        """The weight regularizers, and their scaled gradient in the order of `meta`."""
        flat = tf.nest.flatten(values)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(flat)
            pairs = zip(self.bound.trainable, values["weights"], strict=True)
            penalty = self.bound.penalty(pairs)
            if not tf.is_tensor(penalty):
                return 0.0, [None] * len(flat)
            scaled = penalty * tf.cast(scale, penalty.dtype)
        return penalty, tape.gradient(scaled, flat)

    def _meta_values(self):
        variables = self.meta_variables()
        values = network_module.values(tf.nest.flatten(variables))
        return tf.nest.pack_sequence_as(variables, values)

    def _held_values(self):
        return {
            "buffers": network_module.values(self.bound.buffers),
            "frozen": network_module.values(self.bound.frozen),
        }

    def _unseeded(self, buffers):
        """Random layers draw alike for every task: states of seeds are not saved."""
        seeds = {id(seed) for seed in self.bound.seeds}
        pairs = zip(self.bound.buffers, buffers, strict=True)
        return [tf.zeros_like(v) if id(b) in seeds else v for b, v in pairs]

    def _seeded(self, held, index):
        """The network's random layers draw anew for each meta-step and task."""
        seeds = {id(seed) for seed in self.bound.seeds}
        if not seeds:
            return held
        if getattr(self, "optimizer", None) is None:
            raise ValueError(
                "expected a compiled learner, because random layers draw by the "
                "optimizer's step: call compile first."
            )
        step = tf.cast(self.optimizer.iterations.value, tf.int32)
        drawn = []
        for place, (variable, value) in enumerate(
            zip(self.bound.buffers, held["buffers"], strict=True)
        ):
            if id(variable) in seeds:
                fold = tf.random.experimental.stateless_fold_in([step, place], index)
                value += tf.cast(tf.bitcast(fold, tf.uint32), value.dtype)
            drawn.append(value)
        return {**held, "buffers": drawn}

    # One task's Keras model.

    def task_layers(self):
        """Returns the leaf layers that have a variable that adapts."""
        adapted = {id(v) for v in self.adapted()}
        return [
            layer
            for layer in keras_private.layers_of(self.network)
            if keras_private.is_leaf(layer)
            and adapted & {id(v) for v in layer.trainable_variables}
        ]

    def task_prior(self, sources, examples):
        """Returns the prior scale of given network variables, None for a flat prior.

        Args:
            sources: variables of `self.network`.
            examples: S.

        Returns:
            A scalar for each variable, `HELD` for those that do not adapt.
        """
        scales = self.prior_scales(self._meta_values(), tf.constant(examples))
        if scales is None:
            return None
        of_variable = dict(zip(map(id, self.adapted()), scales, strict=True))
        return [tf.cast(of_variable.get(id(v), HELD), v.dtype) for v in sources]

    def task_optimizer(self, variables, x, y):
        """Returns a Keras optimizer whose next step on all of x is an inner step.

        Args:
            variables: pairs `(copy, source)`: a trained variable of the task's network
                and the variable of `self.network` that it is a copy of.
            x: support examples `[S, ...]`.
            y: their labels `[S]` or targets `[S, d_y]`.
        """
        if self.prior_scales(self._meta_values(), tf.constant(len(y))) is None:
            return keras.optimizers.SGD(self.inner_rate)
        return priors.ProximalSGD(self.inner_rate)

    def task_model(self, x, y, optimizer=None):
        from keras_meta import task_network

        return task_network.build(self, x, y, optimizer)

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
