"""Meta-SGD."""

import keras

from keras_meta.learners import gradient


@keras.saving.register_keras_serializable("keras_meta")
class MetaSGD(gradient.GradientLearner):
    """Learns the inner rate of each single weight beside the weights (Li et al., 2017).

        theta_k = theta_{k-1} - alpha * grad L_support(theta_{k-1}),  elementwise
        (phi, alpha) <- (phi, alpha) - optimizer(grad mean_t L_query(theta_K))

    Rates are free to turn negative, as published. While they are all equal it is MAML.

    Args:
        network: see `GradientLearner`, as for all other arguments.
        inner_rate: that every weight's rate starts from.
        **kwargs: see `GradientLearner`.

    Reference:
        Li, Zhou, Chen and Li, "Meta-SGD: Learning to Learn Quickly for Few-Shot
        Learning", 2017, arXiv 1707.09835, equation 3 and algorithm 1.
    """

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
            for position, weight in enumerate(network.trainable_variables)
        ]

    def meta_variables(self):
        return {**super().meta_variables(), "rates": self.rates}

    def update(self, meta, start, weights, gradients, examples, memory):
        moved = [
            w - rate * g
            for w, rate, g in zip(weights, meta["rates"], gradients, strict=True)
        ]
        return moved, memory
