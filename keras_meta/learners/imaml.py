"""iMAML: the meta-gradient by implicit differentiation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

import keras
import tensorflow as tf

from keras_meta import network, objectives, options, priors, settings, solvers, steps
from keras_meta.learners import gradient
from keras_meta.typing_names import TensorNest

# Outside this range, float32 products of precisions and their inverses overflow.
LOG_PRECISION_RANGE = (-40.0, 40.0)


def implicit_direction(
    weights: list[tf.Tensor],
    inputs: TensorNest,
    support_loss: objectives.SupportLoss,
    log_precisions: list[tf.Tensor],
    right: Sequence[tf.Tensor],
    count: int,
    damping: float,
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Solves `(H + P + damping) v = g` for v by conjugate gradient.

    H is the Hessian of the mean support loss at theta. Hessian-vector products are
    gradients of gradients, and nothing of the inner loop is stored for them.

    Args:
        weights: theta, a list of tensors.
        inputs: as `objectives.SupportLoss.inputs` returns it.
        support_loss: an `objectives.SupportLoss`.
        log_precisions: log P for each weight, scalars.
        right: g, a list of tensors.
        count: steps of conjugate gradient.
        damping: a number.

    Returns:
        `(v, P)`, lists of tensors; P is clipped to `exp(LOG_PRECISION_RANGE)`.

    Reference:
        Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients",
        NeurIPS 2019, equation 6 and algorithm 2.
    """
    precisions = [
        tf.exp(tf.clip_by_value(p, *LOG_PRECISION_RANGE)) for p in log_precisions
    ]

    def taped_gradient():
        tape = tf.GradientTape(persistent=True, watch_accessed_variables=False)
        with tape:
            tape.watch(weights)
            slope, _ = support_loss.gradient(weights, inputs)
        return tape, slope

    # Unrolled, all products share one gradient; a loop computes its own.
    unroll = count <= steps.UNROLLED_STEPS
    shared = taped_gradient() if unroll else None

    def product(direction):
        tape, slope = shared or taped_gradient()
        products = network.dense(
            tape.gradient(
                slope,
                weights,
                output_gradients=direction,
                unconnected_gradients=tf.UnconnectedGradients.ZERO,
            )
        )
        return [
            h + (p + damping) * v
            for h, p, v in zip(products, precisions, direction, strict=True)
        ]

    def precondition(residual):
        return [r / (p + damping) for r, p in zip(residual, precisions, strict=True)]

    direction = solvers.conjugate_gradient(
        product, network.dense(right), precondition, count, unroll
    )
    return direction, precisions


def pulled_moves(
    direction: list[tf.Tensor],
    precisions: Sequence[float | tf.Tensor],
    start: list[tf.Tensor],
    weights: list[tf.Tensor],
) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    """Returns the gradients with respect to phi and log P.

    They are `P v` and `-P_m v_m . (theta_m - phi_m)`.
    """
    pulled = [p * v for p, v in zip(precisions, direction, strict=True)]
    scales = [
        -tf.reduce_sum(pull * (theta - phi))
        for pull, theta, phi in zip(pulled, weights, start, strict=True)
    ]
    return pulled, scales


def solve_implicitly(
    start: list[tf.Tensor],
    inputs: TensorNest,
    descend: Callable[[list[tf.Tensor], TensorNest], list[tf.Tensor]],
    support_loss: objectives.SupportLoss,
    log_precisions: list[tf.Tensor],
    count: int,
    damping: float,
    shares: bool,
) -> list[tf.Tensor]:
    """Returns adapted weights that have the derivative of the inner optimum.

    At theta = argmin L(theta, psi) + sum_m P_m/2 |theta_m - phi_m|^2, with H the
    Hessian of the mean support loss L in theta, psi all other inputs of L, and g the
    gradient of the query loss J in theta, the derivatives of J through theta are:

        (H + P) v = g,  dJ/dphi = P v,  dJ/dlog P_m = -P_m v_m . (theta_m - phi_m)
        dJ/dpsi = -d(v . grad_theta L)/dpsi

    Args:
        start: phi, a list of tensors.
        inputs: psi, as `objectives.SupportLoss.inputs` returns it.
        descend: `(start, inputs) -> theta`, the inner loop.
        support_loss: an `objectives.SupportLoss`.
        log_precisions: log P for each weight, scalars.
        count: steps of conjugate gradient.
        damping: added to P in the equation for v.
        shares: whether any part of psi is meta-trained.

    Returns:
        theta, a list of tensors.

    Reference:
        Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients",
        NeurIPS 2019, equation 6 and algorithm 2.
    """
    structure = (start, list(log_precisions), inputs)

    @tf.custom_gradient
    def solved(*flat):
        start, log_precisions, inputs = tf.nest.pack_sequence_as(structure, flat)
        weights = descend(start, inputs)

        def grad(*upstream):
            direction, precisions = implicit_direction(
                weights, inputs, support_loss, log_precisions, upstream, count, damping
            )
            pulled, scales = pulled_moves(direction, precisions, start, weights)
            others = tf.nest.flatten(inputs)
            mixed = [tf.zeros_like(value) for value in others]
            if shares:
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(others)
                    slope, _ = support_loss.gradient(
                        weights, tf.nest.pack_sequence_as(inputs, others)
                    )
                mixed = tape.gradient(
                    slope,
                    others,
                    output_gradients=[-v for v in direction],
                    unconnected_gradients=tf.UnconnectedGradients.ZERO,
                )
            return [*pulled, *scales, *mixed]

        return weights, grad

    return list(solved(*tf.nest.flatten(structure)))


class Implicit(gradient.GradientLearner):
    """A `GradientLearner` that differentiates the inner optimum, not the path to it.

    Memory does not grow with the inner steps. A subclass implements `prior_scales`.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        inner_steps: number of proximal gradient steps during meta-training, enough to
            come near the inner optimum.
        conjugate_steps: steps of conjugate gradient per task.
        damping: d >= 0; conjugate gradient solves `(H + P + d) v = grad L_query`, H
            being the Hessian of the support loss and P the precision of the prior.
        inner_rate: step size of the inner loop, for the mean loss of the support set.
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
        ValueError: an argument out of range, or a network that is not built.

    Reference:
        Rajeswaran, Finn, Kakade and Levine, "Meta-Learning with Implicit Gradients",
        NeurIPS 2019, equation 6.
    """

    unrolled = False

    conjugate_steps = settings.Setting(settings.integer(1))
    damping = settings.Setting(settings.number(0))

    def __init__(
        self,
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        *,
        inner_steps: int = 16,
        conjugate_steps: int = 5,
        damping: float = 0.0,
        **kwargs: Unpack[options.RateOptions],
    ) -> None:
        super().__init__(network, loss, inner_steps=inner_steps, **kwargs)
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
        normals = self.weight_priors(meta, start, examples)
        assert normals is not None  # a subclass implements `prior_scales`
        return solve_implicitly(
            start,
            inputs,
            descend,
            support_loss,
            priors.log_precisions(normals, examples),
            self.conjugate_steps,
            self.damping,
            shares=len(start) < len(meta["weights"]),
        )

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(conjugate_steps=self.conjugate_steps, damping=self.damping)
        return config


@keras.saving.register_keras_serializable("keras_meta")
class IMAML(Implicit):
    """Implicit MAML (Rajeswaran, Finn, Kakade and Levine, 2019).

    Adapts to the optimum of a support loss with a penalty on the distance from the
    initial weights, and differentiates that optimum:

        theta_hat = argmin L_support(theta) + lambda/2 |theta - phi|^2
        dL_query/dphi = (I + H/lambda)^-1 grad L_query(theta_hat)

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        regularization: lambda, above 0.
        inner_steps: number of proximal gradient steps during meta-training, enough to
            come near the inner optimum.
        conjugate_steps: steps of conjugate gradient per task.
        damping: d >= 0; conjugate gradient solves `(H + P + d) v = grad L_query`, H
            being the Hessian of the support loss and P the precision of the prior.
        inner_rate: step size of the inner loop, for the mean loss of the support set.
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
        ValueError: an argument out of range, or a network that is not built.

    Reference:
        "Meta-Learning with Implicit Gradients", NeurIPS 2019, equations 3 and 6.
    """

    regularization = settings.Setting(settings.positive)

    def __init__(
        self,
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        *,
        regularization: float = 2.0,
        **kwargs: Unpack[options.ImplicitOptions],
    ) -> None:
        super().__init__(network, loss, **kwargs)
        self.regularization = regularization

    def prior_scales(
        self, meta: Mapping[str, Any], examples: tf.Tensor
    ) -> list[tf.Tensor] | None:
        # The inner loss is a mean over S examples: lambda = 1 / (S sigma^2).
        precision = self.regularization * tf.cast(examples, self.variable_dtype)
        return [tf.math.rsqrt(precision)] * len(self.adapted())

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "regularization": self.regularization}
