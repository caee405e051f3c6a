"""Gaussian priors on a network's weights, one learned scale a module."""

import tensorflow as tf


def module_names(variables, modules="layer"):
    """The module that each variable belongs to.

    Args:
        variables: Keras variables.
        modules: "layer", a module for each layer; "weight", one for each variable; a
            function from a variable's path, such as "conv1/kernel", to the name of its
            module; or those names as a list.

    Returns:
        A list of names in the order of the variables.

    Raises:
        ValueError: none of these, or a list of another length.
    """
    paths = [variable.path for variable in variables]
    if modules == "layer":
        return [path.rpartition("/")[0] or path for path in paths]
    if modules == "weight":
        return paths
    if callable(modules):
        return [str(modules(path)) for path in paths]
    if isinstance(modules, list | tuple) and len(modules) == len(paths):
        return list(modules)
    raise ValueError(
        "expected modules to be 'layer', 'weight', a function from a variable's path to "
        f"a name, or {len(paths)} names, got {modules!r}."
    )


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
