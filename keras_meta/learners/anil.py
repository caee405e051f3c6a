"""ANIL: almost no inner loop."""

import keras

from keras_meta import keras_private, settings
from keras_meta.learners import gradient


@keras.saving.register_keras_serializable("keras_meta")
class ANIL(gradient.GradientLearner):
    """MAML whose inner loop adapts the head alone (Raghu et al., 2020).

    The body's features are shared by all tasks and learned by the outer loop; adapting
    costs the head's gradient only.

        theta_head <- theta_head - a grad_head L_support(phi_body, theta_head)

    Args:
        network: see `GradientLearner`, as for all other arguments.
        layers: names of the layers that adapt; by default the last with weights.
        **kwargs: see `GradientLearner`.

    Raises:
        ValueError: a layer that the network does not have, or that has no weights.

    Reference:
        Raghu, Raghu, Bengio and Vinyals, "Rapid Learning or Feature Reuse? Towards
        Understanding the Effectiveness of MAML", ICLR 2020, section 4.
    """

    layers_adapted = settings.Setting()

    def __init__(
        self, network, loss="sparse_categorical_crossentropy", *, layers=None, **kwargs
    ):
        super().__init__(network, loss, **kwargs)
        with_weights = [
            layer
            for layer in keras_private.layers_of(network)
            if keras_private.made_to_train(layer) and keras_private.is_leaf(layer)
        ]
        names = [layer.name for layer in with_weights]
        self.layers_adapted = list(layers) if layers else names[-1:]
        missing = sorted(set(self.layers_adapted) - set(names))
        if missing:
            raise ValueError(
                f"expected names of layers with weights ({', '.join(names)}), got "
                f"{', '.join(missing)}."
            )

    def adapted(self):
        chosen = {
            id(variable)
            for layer in keras_private.layers_of(self.network)
            if layer.name in self.layers_adapted
            for variable in keras_private.made_to_train(layer)
        }
        return [v for v in self.bound.trainable if id(v) in chosen]

    def carried(self, weight, shape):
        if weight.shape == shape:
            return weight
        return weight.mean(axis=-1, keepdims=True).repeat(shape[-1], axis=-1)

    def get_config(self):
        return {**super().get_config(), "layers": self.layers_adapted}
