"""Modular meta-learning with shrinkage: sigma-MAML, sigma-iMAML, sigma-Reptile."""

import math

import keras
import tensorflow as tf

from keras_meta import priors, settings, steps
from keras_meta.learners import gradient, imaml


def _known_modules(learner, name, names):
    """The check of the names of modules that do not adapt."""
    unknown = [names] if isinstance(names, str) else set(names) - set(learner.modules)
    if unknown:
        raise ValueError(
            f"expected {name} to be a list of modules ({', '.join(learner.modules)}), "
            f"got {names!r}."
        )
    return tuple(names)


class Shrinkage(gradient.GradientLearner):
    """Learns which modules of a network adapt, and how far (Chen et al., 2020).

    A task's weights have a Gaussian prior around the start, with one learned scale a
    module; adapting is inference of their mode. A module whose scale goes to zero is
    shared by all tasks:

        theta_m ~ Normal(phi_m, sigma_m^2)
        theta_hat = argmin 1/S [-sum_s log p(y_s | x_s, theta) - log p(theta | phi)]

    by proximal steps `theta <- phi + w_m (theta - a grad - phi)` with
    `w_m = S sigma_m^2 / (S sigma_m^2 + a)`. Both phi and sigma minimise the loss of the
    queries. The subclasses differ in how they are differentiated.

    Args:
        network: see `GradientLearner`, as for all other arguments.
        modules: "layer", "weight", a function from a variable's path (see
            `network.Network.paths`) to the name of its module, or a name for each
            trainable variable.
        initial_scale: sigma of every module to begin with.
        scale_rate: how many times faster than a weight `log sigma^2` moves under Adam.
            What is trained is `log sigma^2 / scale_rate`.
        frozen: names of modules that do not adapt, whatever their scale; they learn
            from the outer loss alone. Set it later to freeze and to thaw.
        **kwargs: see `GradientLearner`.

    Raises:
        ValueError: an argument out of range.

    Reference:
        Chen, Friesen, Behbahani, Doucet, Budden, Hoffman and de Freitas, "Modular
        Meta-Learning with Shrinkage", NeurIPS 2020, arXiv 1909.05557.
    """

    module_names = settings.Fixed()
    frozen = settings.Setting(_known_modules)
    initial_scale = settings.Fixed(settings.positive)
    scale_rate = settings.Fixed(settings.positive)

    def __init__(
        self,
        network,
        loss="sparse_categorical_crossentropy",
        *,
        modules="layer",
        initial_scale=1.0,
        scale_rate=10.0,
        frozen=(),
        **kwargs,
    ):
        super().__init__(network, loss, **kwargs)
        self.module_names = priors.module_names(self.bound.paths(), modules)
        self.modules = list(dict.fromkeys(self.module_names))
        self.initial_scale = initial_scale
        self.scale_rate = scale_rate
        self.frozen = frozen
        self.scaled_log_variances = self.add_weight(
            shape=[len(self.modules)],
            initializer=keras.initializers.Constant(
                2 * math.log(initial_scale) / scale_rate
            ),
            name="scaled_log_variances",
        )

    def scales(self):
        """`{module: sigma}`: how far, in units of the weights, each module adapts."""
        scales = tf.exp(self.scale_rate * self.scaled_log_variances.value / 2)
        return dict(zip(self.modules, map(float, scales), strict=True))

    def freeze_below(self, scale):
        """Freezes the modules whose sigma is below `scale` too: they cost nothing.

        Returns:
            The names of all frozen modules.

        Raises:
            ValueError: `scale` is no number above 0.
        """
        steps.check_positive("scale", scale)
        scales, frozen = self.scales(), self.frozen
        self.frozen = [m for m in self.modules if m in frozen or scales[m] < scale]
        return list(self.frozen)

    def modules_of(self, variables):
        """The names of the modules that variables of the network belong to, a list."""
        sources = map(id, self.bound.adaptable)
        names = dict(zip(sources, self.module_names, strict=True))
        return [names[id(variable)] for variable in variables]

    def adapted(self):
        trainable = self.bound.trainable
        pairs = zip(trainable, self.modules_of(trainable), strict=True)
        return [variable for variable, name in pairs if name not in self.frozen]

    def meta_variables(self):
        variables = super().meta_variables()
        return {**variables, "scaled_log_variances": self.scaled_log_variances}

    def log_variances(self, meta):
        """`{module: log sigma_m^2}`, scalars."""
        values = tf.unstack(self.scale_rate * meta["scaled_log_variances"])
        return dict(zip(self.modules, values, strict=True))

    def log_precisions(self, meta, examples):
        # The objective is a mean over the support set, so the prior's pull is
        # 1 / (S sigma^2): more examples, less shrinkage.
        log_variances = self.log_variances(meta)
        log_examples = tf.math.log(tf.cast(examples, self.variable_dtype))
        return [
            -log_examples - log_variances[name]
            for name in self.modules_of(self.adapted())
        ]

    def get_config(self):
        config = super().get_config()
        config.update(
            modules=list(self.module_names),
            initial_scale=self.initial_scale,
            scale_rate=self.scale_rate,
            frozen=list(self.frozen),
        )
        return config


@keras.saving.register_keras_serializable("keras_meta")
class SigmaMAML(Shrinkage):
    """Shrinkage differentiated through every inner step, as MAML is.

    As sigma goes to infinity it is MAML; at zero, nothing adapts.

    Args:
        network: see `Shrinkage`, as for all other arguments.

    Reference:
        Chen et al., 2020; Finn, Abbeel and Levine, 2017.
    """


@keras.saving.register_keras_serializable("keras_meta")
class SigmaIMAML(Shrinkage, imaml.Implicit):
    """Shrinkage differentiated at the inner optimum, as iMAML is.

        (H + P) v = grad L_query,  P = 1 / (S sigma^2)
        dL/dphi = P v,  dL/dlog sigma_m^2 = P_m v_m . (theta_m - phi_m)

    With all scales equal and fixed it is iMAML with lambda = 1 / (S sigma^2).

    Args:
        network: see `Shrinkage` and `imaml.Implicit`, as for all other arguments.

    Reference:
        Chen et al., 2020; Rajeswaran et al., 2019, equation 6.
    """


@keras.saving.register_keras_serializable("keras_meta")
class SigmaReptile(Shrinkage):
    """Shrinkage whose start moves towards the adapted weights, as Reptile's does.

        phi <- phi + eps mean_t (theta_hat_t - phi)
        dL/dlog sigma_m^2 ~ (theta_m - phi_m) . grad_theta_m L_query

    The first is the gradient of the joint posterior, preconditioned by sigma^2; the
    scales follow the queries, because learning them by joint MAP collapses to zero. As
    sigma goes to infinity it is Reptile on the support set with plain SGD inside.

    Args:
        network: see `Shrinkage`, as for all other arguments.

    Reference:
        Chen et al., 2020; Nichol, Achiam and Schulman, 2018.
    """

    unrolled = False
    outer_loss = False

    def solve(self, meta, start, inputs, descend, support_loss, examples):
        count = len(start)

        @tf.custom_gradient
        def solved(*flat):
            start = list(flat[:count])
            weights = descend(start, inputs)

            def grad(*upstream):
                moves = [w - phi for w, phi in zip(weights, start, strict=True)]
                scales = [
                    -tf.reduce_sum(move * slope)
                    for move, slope in zip(moves, upstream, strict=True)
                ]
                return [*(-move for move in moves), *scales]

            return weights, grad

        return list(solved(*start, *self.log_precisions(meta, examples)))

    def task_gradient(self, meta, held, task, outer):
        loss, outputs, gradients = super().task_gradient(meta, held, task, outer)
        # The rule for phi is no gradient of the loss, whose factors it has not seen.
        adapted = {id(variable) for variable in self.adapted()}
        variables = tf.nest.flatten(self.meta_variables())
        gradients = [
            gradient * outer.factor(task) if id(variable) in adapted else gradient
            for gradient, variable in zip(gradients, variables, strict=True)
        ]
        return loss, outputs, gradients
