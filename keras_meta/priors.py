"""Gaussian priors on a network's weights, one learned scale a module."""

import keras
import tensorflow as tf

from keras_meta import keras_private, network


def module_names(paths, modules="layer"):
    """The module that each variable belongs to.

    Args:
        paths: of the variables, such as "conv1/kernel" (see `network.Network.paths`).
        modules: "layer", a module for each layer; "weight", one for each variable; a
            function from a variable's path to the name of its module; or those names
            as a list.

    Returns:
        A list of names in the order of the variables.

    Raises:
        ValueError: none of these, or a list of another length.
    """
    if modules == "layer":
        return [path.rpartition("/")[0] for path in paths]
    if modules == "weight":
        return list(paths)
    names = list(map(modules, paths)) if callable(modules) else modules
    if not isinstance(names, list | tuple) or len(names) != len(paths):
        raise ValueError(
            "expected modules to be 'layer', 'weight', a function from a variable's "
            f"path to a name, or {len(paths)} names, got {modules!r}."
        )
    for name in names:
        if not isinstance(name, str):
            raise ValueError(f"expected names of modules, strings, got {name!r}.")
    return list(names)


def module_priors(names, start, log_variances):
    """`theta_m ~ Normal(phi_m, sigma_m^2)` for each module m.

    Args:
        names: module of each weight, as `module_names` gives them.
        start: phi, a list of tensors.
        log_variances: `{module: log sigma_m^2}`, scalars.

    Returns:
        `{module: tfp.distributions.Independent}`, each over the module's weights,
        flattened and joined in order.

    Reference:
        Chen et al., "Modular Meta-Learning with Shrinkage", NeurIPS 2020.
    """
    import tensorflow_probability as tfp

    return {
        name: tfp.distributions.Independent(
            tfp.distributions.Normal(
                loc=joined(names, start, name), scale=tf.exp(log_variance / 2)
            ),
            reinterpreted_batch_ndims=1,
        )
        for name, log_variance in log_variances.items()
    }


def joined(names, tensors, name):
    """The tensors of one module, flattened and joined in order."""
    return tf.concat(
        [
            tf.reshape(tensor, [-1])
            for owner, tensor in zip(names, tensors, strict=True)
            if owner == name
        ],
        axis=0,
    )


@keras.saving.register_keras_serializable("keras_meta")
class ProximalSGD(keras.optimizers.Optimizer):
    """Gradient descent to the mode under a Gaussian prior, stable for every scale.

        theta <- phi + w (theta - a grad - phi),  w = 1 / (1 + a P)

    Args:
        learning_rate: a.
        **kwargs: for `keras.optimizers.Optimizer`.
    """

    def __init__(self, learning_rate=0.1, name="proximal_sgd", **kwargs):
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self.centres = [
            self.add_variable_from_reference(variable, name="centre")
            for variable in variables
        ]
        self.log_precisions = [
            self.add_variable(shape=(), dtype=variable.dtype, name="log_precision")
            for variable in variables
        ]

    def set_prior(self, variables, centres, log_precisions):
        """Gives each variable its phi (an array) and log P (a scalar)."""
        self.build(variables)
        network.assign(self.centres, centres)
        network.assign(self.log_precisions, log_precisions)

    def update_step(self, gradient, variable, learning_rate):
        place = keras_private.place_of(self, variable)
        centre = self.centres[place]
        rate = keras.ops.cast(learning_rate, variable.dtype)
        log_rate = keras.ops.log(rate)
        share = keras.ops.sigmoid(-self.log_precisions[place] - log_rate)
        moved = variable - rate * gradient - centre
        self.assign(variable, centre + share * moved)


def negative_log_ratio(weight, centre, log_precision):
    """`-log p(theta) + log p(phi)` of a weight under `Normal(phi, 1 / P)`, a scalar.

    Args:
        weight: theta.
        centre: phi.
        log_precision: log P, with P = 1 / (S sigma^2) for a mean over S examples.
    """
    import tensorflow_probability as tfp

    weight, centre = tf.convert_to_tensor(weight), tf.convert_to_tensor(centre)
    scale = tf.exp(-tf.convert_to_tensor(log_precision) / 2)
    prior = tfp.distributions.Normal(centre, scale)
    return tf.reduce_sum(prior.log_prob(centre) - prior.log_prob(weight))
