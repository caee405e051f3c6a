"""Meta-SGD."""

import keras

from keras_meta import keras_private, network, settings
from keras_meta.learners import gradient


@keras.saving.register_keras_serializable("keras_meta")
class MetaSGD(gradient.GradientLearner):
    """Learns the inner rate of each single weight beside the weights (Li et al., 2017).

        theta_k = theta_{k-1} - alpha * grad L_support(theta_{k-1}),  elementwise
        (phi, alpha) <- (phi, alpha) - optimizer(grad mean_t L_query(theta_K))

    Rates are free to turn negative, as published. While they are all equal it is MAML.
    `inner_rate` is where they start; setting it later changes nothing, so it is fixed.

    Args:
        network: see `GradientLearner`, as for all other arguments.
        inner_rate: that every weight's rate starts from.
        **kwargs: see `GradientLearner`.

    Reference:
        Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot
        Learning", 2017, arXiv 1707.09835, equation 3 and algorithm 1.
    """

    inner_rate = settings.Fixed(settings.positive)

    def __init__(
        self,
        network,
        loss="sparse_categorical_crossentropy",
        *,
        inner_rate=0.1,
        **kwargs,
    ):
        super().__init__(network, loss, inner_rate=inner_rate, **kwargs)
        self.rates = [
            self.add_weight(
                shape=weight.shape,
                initializer=keras.initializers.Constant(inner_rate),
                name=f"rate_{position}",
            )
            for position, weight in enumerate(self.bound.adaptable)
        ]

    def rates_of(self, variables):
        """The rate variables of some of the network's, in their order."""
        sources = map(id, self.bound.adaptable)
        of_variable = dict(zip(sources, self.rates, strict=True))
        return [of_variable[id(variable)] for variable in variables]

    def meta_variables(self):
        rates = self.rates_of(self.bound.trainable)
        return {**super().meta_variables(), "rates": rates}

    def update(self, meta, start, weights, gradients, examples, memory):
        rates, _ = self._split(meta["rates"])
        moved = [
            w - rate * g for w, rate, g in zip(weights, rates, gradients, strict=True)
        ]
        return moved, memory

    def task_optimizer(self, variables, x, y):
        optimizer = RatedSGD(1.0)
        rates = self.rates_of(source for _, source in variables)
        optimizer.set_rates([copy for copy, _ in variables], rates)
        return optimizer


@keras.saving.register_keras_serializable("keras_meta")
class RatedSGD(keras.optimizers.Optimizer):
    """Gradient descent with a rate of its own for each single weight.

        theta <- theta - learning_rate * alpha * grad,  elementwise

    Args:
        learning_rate: a factor of all rates alpha.
        name: of the optimizer.
        **kwargs: for `keras.optimizers.Optimizer`.
    """

    def __init__(self, learning_rate=1.0, name="rated_sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.rates = [
            self.add_variable_from_reference(variable, name="rate")
            for variable in variables
        ]

    def set_rates(self, variables, rates):
        """Gives each variable its alpha, an array of its shape."""
        self.build(variables)
        network.assign(self.rates, rates)

    def update_step(self, gradient, variable, learning_rate):
        factor = keras.ops.cast(learning_rate, variable.dtype)
        rate = factor * self.rates[keras_private.place_of(self, variable)]
        self.assign_sub(variable, rate * gradient)
