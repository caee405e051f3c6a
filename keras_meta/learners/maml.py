"""MAML and first-order MAML."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_meta import objectives
from keras_meta.learners import gradient
from keras_meta.typing_names import TensorNest


@keras.saving.register_keras_serializable("keras_meta")
class MAML(gradient.GradientLearner):
    """Model-agnostic meta-learning (Finn, Abbeel and Levine, 2017).

    Learns initial weights phi. A few gradient steps on a task's support set lead from
    phi to weights that predict the task's queries well. The meta-gradient
    differentiates through those steps:

        theta_0 = phi,  theta_k = theta_{k-1} - a grad L_support(theta_{k-1})
        phi <- phi - optimizer(grad_phi mean_t L_query(theta_M))

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        inner_rate: step size `a` of the inner loop. The inner loss is the mean over the
            support examples.
        inner_steps: number of inner steps M during meta-training.
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

    Example:
        >>> network = km.networks.mlp()  # for regression of sine waves
        >>> learner = km.MAML(network, loss="mse", inner_rate=0.01)
        >>> learner.compile("adam")
        >>> waves = km.tasks.sinusoid().episodes(shots=5).batch(2)
        >>> history = learner.fit(waves, steps_per_epoch=1, verbose=0)

    Raises:
        ValueError: an argument out of range, or a network that is not built.

    Reference:
        "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017,
        equation 1 and algorithm 2.
    """


@keras.saving.register_keras_serializable("keras_meta")
class FOMAML(MAML):
    """First-order MAML: the meta-gradient is the query gradient at the adapted weights.

    The inner gradients are treated as constants, so that d theta_M / d phi = 1:

        phi <- phi - optimizer(mean_t grad_theta L_query(theta_M))

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        inner_rate: step size `a` of the inner loop. The inner loss is the mean over the
            support examples.
        inner_steps: number of inner steps M during meta-training.
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
        Finn, Abbeel and Levine, 2017, section 5.2; Nichol, Achiam and Schulman, "On
        First-Order Meta-Learning Algorithms", 2018, section 4.
    """

    unrolled = False

    def solve(
        self,
        meta: Mapping[str, Any],
        start: list[tf.Tensor],
        inputs: TensorNest,
        descend: Callable[[list[tf.Tensor], TensorNest], list[tf.Tensor]],
        support_loss: objectives.SupportLoss,
        examples: tf.Tensor,
    ) -> list[tf.Tensor]:
        @tf.custom_gradient
        def solved(*start):
            return descend(list(start), inputs), lambda *upstream: list(upstream)

        return solved(*start)
