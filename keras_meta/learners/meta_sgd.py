"""Meta-SGD."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import keras
import tensorflow as tf

from keras_meta import keras_private, network, options, settings
from keras_meta.learners import gradient
from keras_meta.typing_names import TensorLike, TensorNest


@keras.saving.register_keras_serializable("keras_meta")
class MetaSGD(gradient.GradientLearner):
    """Learns the weights and an inner rate for every weight (Li et al., 2017).

        theta_k = theta_{k-1} - alpha * grad L_support(theta_{k-1}),  elementwise
        (phi, alpha) <- (phi, alpha) - optimizer(grad mean_t L_query(theta_M))

    Rates may become negative, as in the paper. With equal rates it is MAML.
    `inner_rate` is the initial value of the rates and cannot change afterwards.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        inner_rate: initial value of every element of alpha.
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
        Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot
        Learning", 2017, arXiv 1707.09835, equation 3 and algorithm 1.
    """

    inner_rate = settings.Fixed(settings.positive)

    def __init__(
        self,
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        *,
        inner_rate: float = 0.1,
        **kwargs: Unpack[options.StepOptions],
    ) -> None:
        super().__init__(network, loss, inner_rate=inner_rate, **kwargs)
        self.rates = [
            self.add_weight(
                shape=weight.shape,
                initializer=keras.initializers.Constant(inner_rate),
                name=f"rate_{position}",
            )
            for position, weight in enumerate(self.bound.adaptable)
        ]

    def rates_of(self, variables: Iterable[keras.Variable]) -> list[keras.Variable]:
        """Returns the rates of the given network variables, in the same order."""
        sources = map(id, self.bound.adaptable)
        of_variable = dict(zip(sources, self.rates, strict=True))
        return [of_variable[id(variable)] for variable in variables]

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        return self._without_idle_rates(super().trainable_variables)

    @property
    def trainable_weights(self) -> list[keras.Variable]:
        return self._without_idle_rates(super().trainable_weights)

    def _without_idle_rates(self, variables):
        """The variables without the rates of weights that are not trained."""
        trained = {id(rate) for rate in self.rates_of(self.bound.trainable)}
        idle = {id(rate) for rate in self.rates} - trained
        return [variable for variable in variables if id(variable) not in idle]

    def meta_variables(self) -> dict[str, Any]:
        rates = self.rates_of(self.bound.trainable)
        return {**super().meta_variables(), "rates": rates}

    def update(
        self,
        meta: Mapping[str, Any],
        start: list[tf.Tensor],
        weights: list[tf.Tensor],
        gradients: list[tf.Tensor],
        examples: tf.Tensor,
        memory: TensorNest,
    ) -> tuple[list[tf.Tensor], TensorNest]:
        rates, _ = self._split(meta["rates"])
        moved = [
            w - rate * g for w, rate, g in zip(weights, rates, gradients, strict=True)
        ]
        return moved, memory

    def task_optimizer(
        self,
        variables: Sequence[tuple[keras.Variable, keras.Variable]],
        x: TensorLike,
        y: TensorLike,
    ) -> keras.optimizers.Optimizer:
        optimizer = RatedSGD(1.0)
        rates = self.rates_of(source for _, source in variables)
        optimizer.set_rates([copy for copy, _ in variables], rates)
        return optimizer


@keras.saving.register_keras_serializable("keras_meta")
class RatedSGD(keras.optimizers.Optimizer):
    """Gradient descent with a separate rate for every weight.

        theta <- theta - learning_rate * alpha * grad,  elementwise

    Args:
        learning_rate: a factor of all rates alpha; a number or a schedule.
        name: the optimizer's name.
        **kwargs: for `keras.optimizers.Optimizer`, such as `clipnorm`.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1.0,
        name: str = "rated_sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.rates = [
            self.add_variable_from_reference(variable, name="rate")
            for variable in variables
        ]

    def set_rates(
        self, variables: Sequence[keras.Variable], rates: Sequence[TensorLike]
    ) -> None:
        """Sets alpha for each variable.

        Args:
            variables: the variables that the optimizer will train.
            rates: their alpha, arrays of the shapes of the variables.
        """
        self.build(variables)
        network.assign(self.rates, rates)

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        factor = keras.ops.cast(learning_rate, variable.dtype)
        rate = factor * self.rates[keras_private.place_of(self, variable)]
        self.assign_sub(variable, rate * gradient)
