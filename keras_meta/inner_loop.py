"""The inner loop: learns one task by steps on the gradient of its support loss."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from keras_meta import losses, objectives, priors, steps
from keras_meta import network as network_module
from keras_meta.typing_names import Distribution, TensorNest


class InnerLoop:
    """The part of a `GradientLearner` that learns one task.

    With L the mean support loss, and m the memory of the inner optimizer:

        theta_0 = phi,  m_0 = begin(phi)
        theta_k, m_k = update(theta_{k-1}, grad L(theta_{k-1}), m_{k-1})

    The defaults are those of MAML: `update` is a step of gradient descent, followed by
    the proximal operator of the prior if there is one, and `solve` differentiates
    through all steps.
    """

    if TYPE_CHECKING:  # the attributes and methods of the learner

        def __getattr__(self, name: str) -> Any: ...

    def begin(self, start: list[tf.Tensor]) -> TensorNest:
        """Returns the inner optimizer's initial memory, a nest of tensors."""
        return ()

    def update(
        self,
        meta: Mapping[str, Any],
        start: list[tf.Tensor],
        weights: list[tf.Tensor],
        gradients: list[tf.Tensor],
        examples: tf.Tensor,
        memory: TensorNest,
    ) -> tuple[list[tf.Tensor], TensorNest]:
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
            weight - self.inner_rate * gradient
            for weight, gradient in zip(weights, gradients, strict=True)
        ]
        distributions = self.weight_priors(meta, start, examples)
        if distributions is not None:
            weight = self.inner_rate / tf.cast(examples, self.variable_dtype)
            moved = [
                priors.proximal(distribution, point, weight)
                for distribution, point in zip(distributions, moved, strict=True)
            ]
        return moved, memory

    def solve(
        self,
        meta: Mapping[str, Any],
        start: list[tf.Tensor],
        inputs: TensorNest,
        descend: Callable[[list[tf.Tensor], TensorNest], list[tf.Tensor]],
        support_loss: objectives.SupportLoss,
        examples: tf.Tensor,
    ) -> list[tf.Tensor]:
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

    def inner_loop(
        self,
        meta: Mapping[str, Any],
        held: Mapping[str, list[tf.Tensor]],
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        training: bool,
    ) -> tuple[list[tf.Tensor], TensorNest]:
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
        if not start:
            return [], ()
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

            state = start, held["buffers"], self.begin(start)
            unroll = training and self.unrolled and count <= steps.UNROLLED_STEPS
            weights, _, memory = steps.repeat(step, state, count, unroll)
            memories.append(memory)
            return weights

        inputs = support_loss.inputs(shared)
        weights = self.solve(meta, start, inputs, descend, support_loss, examples)
        return weights, memories[-1]

    def steps_of(self, training: bool) -> int:
        """Returns the number of inner steps, for meta-training or otherwise."""
        if training or self.evaluation_steps is None:
            return self.inner_steps
        return self.evaluation_steps

    def adapt_task(
        self,
        meta: Mapping[str, Any],
        held: Mapping[str, list[tf.Tensor]],
        support_x: tf.Tensor,
        support_y: tf.Tensor,
        training: bool,
    ) -> dict[str, Any]:
        """Computes the state of one task; arguments as for `inner_loop`."""
        weights, _ = self.inner_loop(meta, held, support_x, support_y, training)
        statistics = []
        if self.normalization == "inductive":
            pairs = self._pairs(meta, weights, held)
            statistics = self.bound.measure(pairs, support_x)
        ways = self._ways(support_y)
        return {"weights": weights, "statistics": statistics, "ways": ways}

    def infer_task(
        self,
        meta: Mapping[str, Any],
        held: Mapping[str, list[tf.Tensor]],
        state: Mapping[str, Any],
        query_x: tf.Tensor,
    ) -> tuple[tf.Tensor, tf.Tensor]:
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

    def task_gradient(
        self,
        meta: Mapping[str, Any],
        held: Mapping[str, list[tf.Tensor]],
        task: dict[str, tf.Tensor],
        outer: objectives.OuterLoss,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
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
            loss = outer.loss(task, outputs)
            loss += tf.cast(penalty, loss.dtype)
            scaled = loss * outer.scale
        gradients = tape.gradient(
            scaled,
            tf.nest.flatten(meta),
            unconnected_gradients=tf.UnconnectedGradients.ZERO,
        )
        return loss, outputs, network_module.dense(gradients)

    # Priors.

    def prior_at(
        self, meta: Mapping[str, Any], start: list[tf.Tensor], examples: tf.Tensor
    ) -> Distribution | None:
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
        scales = dict(zip(modules, scales, strict=True))
        paths = self.paths_of(adapted)
        return priors.joint(self.prior_family, modules, paths, start, scales)

    def weight_priors(
        self, meta: Mapping[str, Any], start: list[tf.Tensor], examples: tf.Tensor
    ) -> list[Distribution] | None:
        """Returns `prior_at` as a list of distributions in the order of `start`."""
        prior = self.prior_at(meta, start, examples)
        if prior is None:
            return None
        return priors.by_weight(prior, self.paths_of(self.adapted()))

    # Variables and their values.

    def _ways(self, support_y):
        """Returns the number of classes of a task, a scalar; 0 for regression."""
        if not self.classification:
            return tf.zeros([], tf.int32)
        return tf.reduce_max(support_y) + 1

    def _split(self, per_variable):
        """Splits a list in the order of `bound.trainable`: `(adapted, others)`."""
        adapted = {id(v) for v in self.adapted()}
        pairs = list(zip(map(id, self.bound.trainable), per_variable, strict=True))
        return (
            [value for key, value in pairs if key in adapted],
            [value for key, value in pairs if key not in adapted],
        )

    def _pairs(self, meta, weights, held):
        """Returns pairs of all variables and their values in a task."""
        pairs = list(zip(self.bound.trainable, meta["weights"], strict=True))
        pairs += zip(self.adapted(), weights, strict=True)  # the later value counts
        pairs += zip(self.bound.buffers, held["buffers"], strict=True)
        pairs += zip(self.bound.frozen, held["frozen"], strict=True)
        return pairs
