"""Priors of a network's weights: distributions of TensorFlow Probability.

All weights of a module m have priors of one family around their meta-learned values
phi, with the module's scale:

    theta_m ~ family(phi_m, sigma_m)

`joint` creates the distribution of all modules. The inner loop, fine-tuning and the
penalty of other optimizers use it. `proximal` applies the proximal operator of a
distribution.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self, TypeAlias

import keras
import tensorflow as tf

from keras_meta import keras_private, network
from keras_meta.typing_names import Distribution, TensorLike

# A family of priors: a name in `FAMILIES`, or `(phi, scale) -> distribution`.
Family: TypeAlias = str | Callable[[tf.Tensor, tf.Tensor], Distribution]
# The modules of variables, as `module_names` takes them.
Modules: TypeAlias = str | Callable[[str], str] | Sequence[str]
# Halvings of the interval of a numerical proximal step: below float64's precision.
HALVINGS = 60


def module_names(paths: Sequence[str], modules: Modules = "layer") -> list[str]:
    """Returns the module of each variable.

    Args:
        paths: paths of the variables, such as "conv1/kernel" (see
            `keras_meta.network.Network.paths`).
        modules: "layer", a module for each layer; "weight", one for each variable; a
            function from a variable's path to the name of its module; or a list of
            these names.

    Returns:
        A list of names in the order of the variables.

    Raises:
        ValueError: any other value, or a list of another length.

    Example:
        >>> from keras_meta import priors
        >>> priors.module_names(["conv1/kernel", "conv1/bias"])
        ['conv1', 'conv1']
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


def check_family(name: str, value: Any) -> Family:
    """Returns a family that `family_of` knows; raises a ValueError otherwise."""
    if value in FAMILIES:
        return value
    registered = callable(value) and keras.saving.get_registered_name(value)
    if not registered or keras.saving.get_registered_object(registered) is not value:
        raise ValueError(
            f"expected {name} to be {', '.join(map(repr, FAMILIES))} or a function "
            "(phi, scale) -> distribution that is registered with "
            f"keras.saving.register_keras_serializable, got {value!r}."
        )
    return value


def _normal(phi, scale):
    import tensorflow_probability as tfp

    return tfp.distributions.Normal(phi, scale)


def _laplace(phi, scale):
    import tensorflow_probability as tfp

    return tfp.distributions.Laplace(phi, scale)


FAMILIES = {"normal": _normal, "laplace": _laplace}


def family_of(prior: Family) -> Callable[[tf.Tensor, tf.Tensor], Distribution]:
    """Returns the function `(phi, scale) -> distribution` of a family."""
    return FAMILIES[prior] if isinstance(prior, str) else prior


def family_config(prior: Family) -> str | dict[str, Any]:
    """Returns a family in the form of a Keras configuration."""
    if isinstance(prior, str):
        return prior
    return keras.saving.serialize_keras_object(prior)


def family_from_config(config: str | dict[str, Any]) -> Family:
    """Returns the family of a configuration that `family_config` returned."""
    if isinstance(config, dict):
        return keras.saving.deserialize_keras_object(config)
    return config


def joint(
    prior: Family,
    modules: Iterable[str],
    paths: Iterable[str],
    start: Iterable[tf.Tensor],
    scales: Mapping[str, TensorLike],
) -> Distribution:
    """Returns `theta_m ~ family(phi_m, sigma_m)` for all modules m.

    Args:
        prior: the family: "normal", "laplace" or a function `(phi, scale) ->
            distribution`.
        modules: the module of each weight, as `module_names` returns them.
        paths: the name of each weight.
        start: phi, a list of tensors.
        scales: `{module: sigma_m}`, scalars in units of the weights.

    Returns:
        A `tfp.distributions.JointDistributionNamed` over modules; each module is such a
        distribution over its weights, by path. A sample is `{module: {path: tensor}}`.

    Reference:
        Chen et al., "Modular Meta-Learning with Shrinkage", NeurIPS 2020, section 2.
    """
    import tensorflow_probability as tfp

    family = family_of(prior)
    members: dict[str, dict[str, Distribution]] = {}
    for module, path, phi in zip(modules, paths, start, strict=True):
        distribution = family(phi, scales[module])
        rank = len(distribution.batch_shape)
        members.setdefault(module, {})[path] = tfp.distributions.Independent(
            distribution, reinterpreted_batch_ndims=rank
        )
    named = tfp.distributions.JointDistributionNamed
    return named({module: named(weights) for module, weights in members.items()})


def by_weight(distribution: Distribution, paths: Iterable[str]) -> list[Distribution]:
    """Returns the distribution of each weight of a `joint`, in the order of `paths`."""
    members = {}
    for module in distribution.model.values():
        members.update(module.model)
    return [members[path].distribution for path in paths]


@functools.cache
def operators() -> dict[
    type, Callable[[Distribution, tf.Tensor, tf.Tensor], tf.Tensor]
]:
    """Returns `{distribution class: proximal operator}`; see `proximal`."""
    import tensorflow_probability as tfp

    return {
        tfp.distributions.Normal: _shrunk,
        tfp.distributions.Laplace: _soft_threshold,
    }


def proximal(
    distribution: Distribution, point: tf.Tensor, weight: TensorLike
) -> tf.Tensor:
    """Computes `argmin_theta |theta - point|^2 / 2 - weight log p(theta)`, by element.

    It is exact for the classes in `operators`. For other classes, bisection between the
    point and the mode of the distribution computes the root of the derivative, which is
    the argmin for log-concave densities. Its gradient follows from the implicit
    function theorem.

    Args:
        distribution: a distribution of TensorFlow Probability with independent
            elements, of the shape of `point`.
        point: a tensor.
        weight: above 0; `a / S` for an inner step of rate a on the mean loss of S
            examples.

    Returns:
        theta, of the shape of `point`.

    Reference:
        Parikh and Boyd, "Proximal Algorithms", 2014, sections 1.1 and 6.
    """
    weight = tf.cast(weight, point.dtype)
    for kind, operator in operators().items():
        if isinstance(distribution, kind):
            return operator(distribution, point, weight)
    return _numerical(distribution, point, weight)


def _shrunk(normal, point, weight):
    """Returns `phi + w (point - phi)`, `w = sigma^2 / (sigma^2 + weight)`."""
    share = tf.sigmoid(2 * tf.math.log(normal.scale) - tf.math.log(weight))
    return normal.loc + share * (point - normal.loc)


def _soft_threshold(laplace, point, weight):
    """Shrinks the difference from phi by `weight / b`, to zero if it is smaller."""
    move = point - laplace.loc
    less = tf.nn.relu(tf.abs(move) - weight / laplace.scale)
    return laplace.loc + tf.sign(move) * less


def _score(distribution, value):
    """Returns `d log p / d theta`, by element."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(value)
        log_prob = distribution.log_prob(value)
    return tape.gradient(log_prob, value)


def _numerical(distribution, point, weight):
    def slope(theta):
        return theta - point - weight * _score(distribution, theta)

    mode = tf.broadcast_to(tf.cast(distribution.mode(), point.dtype), tf.shape(point))
    low = tf.stop_gradient(tf.minimum(point, mode))
    high = tf.stop_gradient(tf.maximum(point, mode))

    for _ in range(HALVINGS):
        middle = (low + high) / 2
        above = slope(middle) > 0
        low, high = tf.where(above, low, middle), tf.where(above, middle, high)
    root = tf.stop_gradient((low + high) / 2)
    # A step of Newton's, whose gradient is the implicit function's.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(root)
        value = slope(root)
    curvature = tf.stop_gradient(tape.gradient(value, root))
    return root - (value - tf.stop_gradient(value)) / curvature


def log_precisions(
    distributions: Iterable[Distribution], examples: int | tf.Tensor
) -> list[tf.Tensor]:
    """Returns `log P`, `P = 1 / (S sigma^2)`: the precision per support example.

    Args:
        distributions: distributions of TensorFlow Probability's class `Normal`.
        examples: S, an integer or a tensor.
    """
    scales = [normal.scale for normal in distributions]
    return [
        -tf.math.log(tf.cast(examples, scale.dtype)) - 2 * tf.math.log(scale)
        for scale in scales
    ]


@keras.saving.register_keras_serializable("keras_meta")
class ProximalSGD(keras.optimizers.Optimizer):
    """Gradient descent to the mode under a prior, stable for every scale.

        theta <- argmin |theta' - (theta - a grad)|^2 / 2 - a/S log p(theta')

    A `task_network.TaskNetwork` that is compiled with it sets its prior, as the models
    that `km.finetune` makes of learners with a prior do. Other models have none.

    Args:
        learning_rate: a, a number or a schedule.
        prior: the family: "normal", "laplace" or a registered function `(phi, scale) ->
            distribution`.
        examples: S, the number of examples that the gradient is a mean over.
        name: the optimizer's name.
        **kwargs: for `keras.optimizers.Optimizer`, such as `clipnorm`.

    Raises:
        ValueError: another family, or in the first step a model without a prior.

    Reference:
        Parikh and Boyd, "Proximal Algorithms", 2014, section 4.2.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.1,
        prior: Family = "normal",
        examples: int = 1,
        name: str = "proximal_sgd",
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        self.prior = check_family("prior", prior)
        self.examples = examples
        self._has_prior = False

    def build(self, variables: Sequence[keras.Variable]) -> None:
        if self.built:
            return
        super().build(variables)
        self.centres = [
            self.add_variable_from_reference(variable, name="centre")
            for variable in variables
        ]
        self.scales = [
            self.add_variable(
                shape=(), dtype=variable.dtype, initializer="ones", name="scale"
            )
            for variable in variables
        ]

    def set_prior(
        self,
        variables: Sequence[keras.Variable],
        prior: Family,
        examples: int,
        centres: Iterable[TensorLike],
        scales: Iterable[TensorLike],
    ) -> None:
        """Sets the prior of each variable.

        Args:
            variables: the variables that the optimizer trains.
            prior: the family, as for the constructor.
            examples: S.
            centres: phi of each variable, arrays.
            scales: sigma of each variable, scalars.
        """
        self.build(variables)
        self.prior, self.examples, self._has_prior = prior, examples, True
        network.assign(self.centres, centres)
        network.assign(self.scales, scales)

    def update_step(
        self, gradient: tf.Tensor, variable: keras.Variable, learning_rate: tf.Tensor
    ) -> None:
        if not self._has_prior:
            raise ValueError(
                "expected a model with a prior, as km.finetune makes of a learner with "
                "one, for ProximalSGD, got a model without: use keras.optimizers.SGD."
            )
        place = keras_private.place_of(self, variable)
        rate = keras.ops.cast(learning_rate, variable.dtype)
        centre, scale = network.values([self.centres[place], self.scales[place]])
        distribution = family_of(self.prior)(centre, scale)
        moved = tf.convert_to_tensor(variable) - rate * gradient
        self.assign(variable, proximal(distribution, moved, rate / self.examples))

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(prior=family_config(self.prior), examples=self.examples)
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: Mapping[str, Any] | None = None
    ) -> Self:
        config = {**config, "prior": family_from_config(config["prior"])}
        return super().from_config(config, custom_objects=custom_objects)


def negative_log_ratio(
    distribution: Distribution, weight: TensorLike, centre: TensorLike
) -> tf.Tensor:
    """Returns `-log p(theta) + log p(phi)` of one weight, a scalar.

    Args:
        distribution: distribution of the weight.
        weight: theta.
        centre: phi.
    """
    weight, centre = tf.convert_to_tensor(weight), tf.convert_to_tensor(centre)
    ratio = distribution.log_prob(centre) - distribution.log_prob(weight)
    return tf.reduce_sum(ratio)
