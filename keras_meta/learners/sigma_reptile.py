"""sigma-Reptile: shrinkage with Reptile's update."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack

import keras
import tensorflow as tf

from keras_meta import network, objectives, options, priors, settings
from keras_meta.learners import imaml, shrinkage
from keras_meta.typing_names import TensorNest


@keras.saving.register_keras_serializable("keras_meta")
class SigmaReptile(shrinkage.Shrinkage):
    """Shrinkage with Reptile's update of the initial weights.

        phi <- phi + eps mean_t (theta_hat_t - phi)
        dL/dlog sigma_m^2 ~ (theta_m - phi_m) . grad_theta_m L_query

    The rule for phi is the gradient of the log joint posterior, multiplied by sigma^2.
    The scales minimise the query loss, because the joint MAP estimate of the scales is
    zero. Their rule is the implicit gradient (`SigmaIMAML`) with a Hessian H of zero;
    in the cases compared it was 2.5 to 5 times too large. With `scale_rule="implicit"`
    the scales follow the implicit gradient, `P_m v_m . (theta_m - phi_m)` with `(H + P)
    v = grad L_query` and `P = 1 / (S sigma^2)`; phi still follows Reptile's rule. As
    sigma goes to infinity the learner becomes Reptile on the support set with plain SGD
    as inner optimizer.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        modules: the grouping of variables into modules, each with one sigma. "layer": a
            module for each layer. "weight": a module for each variable. A function:
            maps a variable's path, such as "conv1/kernel", to a module name. A list:
            the module of each path in `keras_meta.network.Network(network).paths()`.
        initial_scale: initial sigma of every module, in units of the weights.
        scale_rate: with Adam, `log sigma^2` is trained at `scale_rate` times the
            optimizer's learning rate: the trained variable is `log sigma^2 /
            scale_rate`.
        frozen: names of modules that adaptation does not change; meta-training still
            updates them.
        prior: "normal", the only family that this meta-gradient supports.
        scale_rule: "reptile", the implicit gradient with H = 0, or "implicit".
        conjugate_steps: steps of conjugate gradient per task, for the implicit rule.
        damping: added to P in the equation that conjugate gradient solves, for the
            implicit rule; >= 0.
        inner_rate: step size `a` of the inner loop. The inner loss is the mean over the
            support examples.
        inner_steps: number of inner steps during meta-training.
        evaluation_steps: number of inner steps in `evaluate`, `predict`, `adapt` and
            exports; `inner_steps` by default.
        inner_batch: mini-batch size of an inner step; by default all support examples.
        normalization: batch normalization of the queries: "inductive" (statistics of
            the support set) or "transductive" (statistics of the task's queries).
        preprocess: for images, the `ImagePreprocess` that converts raw images to x. The
            learner stores and exports it; `adapt` and `infer` do not apply it.
        vectorize: if True, all tasks of a batch run as one vectorized computation; if
            False, they run separately, several in parallel. By default True for
            networks of dense layers and False for others, because a vectorized
            computation runs convolutions one task after another.
        support_order: the order of the support examples in inner batches. "shuffled": a
            fixed permutation, the same for all support sets of S examples. "given": the
            order of the input. Meta-training takes the order of the input in both
            cases. No effect without `inner_batch`.
        point_units: for regression, a `StandardUnits`, which scales x of a task to a
            fixed range, standardizes y, and scales predictions back. `keras-meta learn`
            and the signatures `*_points` of an export apply it; `adapt` and `infer` do
            not.
        temperature: for classification, `infer` divides the logits by it, which
            calibrates the probabilities (Guo et al., 2017). Meta-training and
            fine-tuning use the logits themselves.
        trainable: if False, `fit` changes no weight.
        **kwargs: `name` and `dtype` of `keras.Model`.

    Raises:
        ValueError: another rule, an argument out of range, or a network that is not
            built.

    Reference:
        Chen et al., 2020, arXiv 1909.05557; Nichol, Achiam and Schulman, 2018; for the
        implicit rule Rajeswaran et al., 2019, equation 6.
    """

    normal_only = True
    unrolled = False
    outer_loss = False

    scale_rule = settings.Setting(settings.choice("reptile", "implicit"))
    conjugate_steps = settings.Setting(settings.integer(1))
    damping = settings.Setting(settings.number(0))

    def __init__(
        self,
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        *,
        scale_rule: str = "reptile",
        conjugate_steps: int = 5,
        damping: float = 0.0,
        **kwargs: Unpack[options.ShrinkageOptions],
    ) -> None:
        super().__init__(network, loss, **kwargs)
        self.scale_rule = scale_rule
        self.conjugate_steps = conjugate_steps
        self.damping = damping

    def solve(
        self,
        meta: Mapping[str, Any],
        start: list[tf.Tensor],
        inputs: TensorNest,
        descend: Callable[[list[tf.Tensor], TensorNest], list[tf.Tensor]],
        support_loss: objectives.SupportLoss,
        examples: tf.Tensor,
    ) -> list[tf.Tensor]:
        count = len(start)

        @tf.custom_gradient
        def solved(*flat):
            start, log_precisions = list(flat[:count]), flat[count:]
            weights = descend(start, inputs)

            def grad(*upstream):
                # With H = 0, v is P^-1 times the gradient: P v is the gradient.
                direction, precisions = network.dense(upstream), [1.0] * count
                if self.scale_rule == "implicit":
                    direction, precisions = imaml.implicit_direction(
                        weights,
                        inputs,
                        support_loss,
                        log_precisions,
                        upstream,
                        self.conjugate_steps,
                        self.damping,
                    )
                _, scales = imaml.pulled_moves(direction, precisions, start, weights)
                moves = [phi - w for w, phi in zip(weights, start, strict=True)]
                return [*moves, *scales]

            return weights, grad

        normals = self.weight_priors(meta, start, examples)
        assert normals is not None  # `Shrinkage` has scales
        return list(solved(*start, *priors.log_precisions(normals, examples)))

    def task_gradient(
        self,
        meta: Mapping[str, Any],
        held: Mapping[str, list[tf.Tensor]],
        task: dict[str, tf.Tensor],
        outer: objectives.OuterLoss,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        loss, outputs, gradients = super().task_gradient(meta, held, task, outer)
        # The rule for phi is no gradient of the loss, whose factors it has not seen.
        adapted = {id(variable) for variable in self.adapted()}
        variables = tf.nest.flatten(self.meta_variables())
        gradients = [
            gradient * outer.factor(task, gradient.dtype)
            if id(variable) in adapted
            else gradient
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        return loss, outputs, gradients

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            scale_rule=self.scale_rule,
            conjugate_steps=self.conjugate_steps,
            damping=self.damping,
        )
        return config
