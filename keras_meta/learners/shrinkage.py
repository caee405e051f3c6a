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


def _prior_family(learner, name, value):
    """The check of the family of the prior."""
    if learner.normal_only and value != "normal":
        raise ValueError(
            f"expected prior to be 'normal' for {type(learner).__name__}, whose "
            f"meta-gradient is that of a normal prior, got {value!r}: take SigmaMAML."
        )
    return priors.check_family("prior", value)


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
        prior: the family of the prior (`SigmaMAML` alone takes another than "normal"):
            "normal"; "laplace", under which a step soft-thresholds what has moved, so
            that weights stay exactly at their start; or a function `(phi, scale) ->
            distribution` of TensorFlow Probability that is registered with
            `keras.saving.register_keras_serializable`, whose step is solved
            numerically. A Laplace prior has a dead zone: where `|grad| < 1 / (S b)`
            nothing moves, b has no gradient and cannot recover. Start b well above
            `1 / (S |grad|)`.
        **kwargs: see `GradientLearner`.

    Raises:
        ValueError: an argument out of range.

    Reference:
        Chen, Friesen, Behbahani, Doucet, Budden, Hoffman and de Freitas, "Modular
        Meta-Learning with Shrinkage", NeurIPS 2020, arXiv 1909.05557.
    """

    # Whether meta-learning takes a normal prior alone.
    normal_only = False

    module_names = settings.Fixed()
    prior_family = settings.Fixed(_prior_family)
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
        prior="normal",
        **kwargs,
    ):
        super().__init__(network, loss, **kwargs)
        self.prior_family = prior
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
        scales = self._sigmas(self.scaled_log_variances.value)
        return dict(zip(self.modules, map(float, scales), strict=True))

    def _sigmas(self, scaled_log_variances):
        """Sigma of each module, `[M]`."""
        return tf.exp(self.scale_rate * scaled_log_variances / 2)

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
        return self.each_of(variables, self.module_names)

    def adapted(self):
        trainable = self.bound.trainable
        pairs = zip(trainable, self.modules_of(trainable), strict=True)
        return [variable for variable, name in pairs if name not in self.frozen]

    def meta_variables(self):
        variables = super().meta_variables()
        return {**variables, "scaled_log_variances": self.scaled_log_variances}

    def prior_scales(self, meta, examples):
        scales = tf.unstack(self._sigmas(meta["scaled_log_variances"]))
        of_module = dict(zip(self.modules, scales, strict=True))
        return [of_module[name] for name in self.modules_of(self.adapted())]

    def prior(self):
        """The prior of a task's weights at the learned phi and sigma.

        Returns:
            A `tfp.distributions.JointDistributionNamed` over the modules that adapt;
            each is one over its weights, by path. `adapt` finds the mode of the
            posterior under it, and `prior().sample()` is a network's weights before
            anything is known of the task, `{module: {path: tensor}}`.

        Example:
            >>> learner.prior().model["head"].model["head/kernel"].distribution.scale
        """
        meta = self._meta_values()
        start, _ = self._split(meta["weights"])
        return self.prior_at(meta, start, tf.constant(1))

    def shares(self, examples):
        """`{module: w}`: the part of an inner step that each module keeps.

        `w_m = S sigma_m^2 / (S sigma_m^2 + a)`, a the inner rate: 0 for a module that
        does not adapt, 1 for one without a prior. Scales of different modules are in
        different units, these are not.

        Args:
            examples: S, the examples of a task.

        Raises:
            ValueError: the prior is not normal, or S is not above 0.
        """
        steps.check_positive("examples", examples)
        if self.prior_family != "normal":
            raise ValueError(
                "expected a normal prior, under which a module keeps one part of every "
                f"step, got {self.prior_family!r}."
            )
        odds = {m: examples * s**2 / self.inner_rate for m, s in self.scales().items()}
        frozen = self.frozen
        return {m: 0.0 if m in frozen else x / (1 + x) for m, x in odds.items()}

    def get_config(self):
        config = super().get_config()
        config.update(
            modules=list(self.module_names),
            initial_scale=self.initial_scale,
            scale_rate=self.scale_rate,
            frozen=list(self.frozen),
            prior=priors.family_config(self.prior_family),
        )
        return config

    @classmethod
    def from_config(cls, config):
        prior = priors.family_from_config(config.get("prior", "normal"))
        return super().from_config({**config, "prior": prior})


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

    normal_only = True


@keras.saving.register_keras_serializable("keras_meta")
class SigmaReptile(Shrinkage):
    """Shrinkage whose start moves towards the adapted weights, as Reptile's does.

        phi <- phi + eps mean_t (theta_hat_t - phi)
        dL/dlog sigma_m^2 ~ (theta_m - phi_m) . grad_theta_m L_query

    The first is the gradient of the joint posterior, preconditioned by sigma^2; the
    scales follow the queries, because learning them by joint MAP collapses to zero. The
    second is the implicit gradient (`SigmaIMAML`) with a Hessian of zero; where it was
    compared with it, it was 2.5 to 5 times too large. With `scale_rule="implicit"` the
    scales follow the implicit gradient itself, `P_m v_m . (theta_m - phi_m)` with
    `(H + P) v = grad L_query`, and phi still follows Reptile's rule. As sigma goes to
    infinity the learner is Reptile on the support set with plain SGD inside.

    Args:
        network: see `Shrinkage`, as for all other arguments.
        scale_rule: "reptile", the implicit gradient with H = 0, or "implicit".
        conjugate_steps: of conjugate gradient, for the implicit rule.
        damping: added to P in the equation that conjugate gradient solves, for the
            implicit rule.
        **kwargs: see `Shrinkage`.

    Raises:
        ValueError: another rule, or an argument out of range.

    Reference:
        Chen et al., 2020; Nichol, Achiam and Schulman, 2018; for the implicit rule
        Rajeswaran et al., 2019, equation 6.
    """

    normal_only = True
    unrolled = False
    outer_loss = False

    scale_rule = settings.Setting(settings.choice("reptile", "implicit"))
    conjugate_steps = settings.Setting(settings.integer(1))
    damping = settings.Setting(settings.number(0))

    def __init__(
        self,
        network,
        loss="sparse_categorical_crossentropy",
        *,
        scale_rule="reptile",
        conjugate_steps=5,
        damping=0.0,
        **kwargs,
    ):
        super().__init__(network, loss, **kwargs)
        self.scale_rule = scale_rule
        self.conjugate_steps = conjugate_steps
        self.damping = damping

    def solve(self, meta, start, inputs, descend, support_loss, examples):
        count = len(start)

        @tf.custom_gradient
        def solved(*flat):
            start, log_precisions = list(flat[:count]), flat[count:]
            weights = descend(start, inputs)

            def grad(*upstream):
                # With H = 0, v is P^-1 times the gradient: P v is the gradient.
                direction, precisions = upstream, [1.0] * count
                if self.scale_rule == "implicit":
                    direction, precisions = imaml.implicit_direction(
                        weights,
                        inputs,
                        support_loss,
                        log_precisions,
                        upstream,
                        self.conjugate_steps,
                        self.damping,
                    )
                _, scales = imaml.pulled_moves(direction, precisions, start, weights)
                moves = [phi - w for w, phi in zip(weights, start, strict=True)]
                return [*moves, *scales]

            return weights, grad

        normals = self.weight_priors(meta, start, examples)
        return list(solved(*start, *priors.log_precisions(normals, examples)))

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

    def get_config(self):
        config = super().get_config()
        config.update(
            scale_rule=self.scale_rule,
            conjugate_steps=self.conjugate_steps,
            damping=self.damping,
        )
        return config
