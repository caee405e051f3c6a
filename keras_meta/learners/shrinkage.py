"""Modular meta-learning with shrinkage: its base class, sigma-MAML, sigma-iMAML."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, Unpack

import keras
import tensorflow as tf

from keras_meta import options, priors, settings, steps
from keras_meta.learners import gradient, imaml
from keras_meta.typing_names import Distribution


def _known_modules(learner, name, names):
    """The check of the names of modules that do not adapt."""
    names = names if isinstance(names, str) else list(names)
    if isinstance(names, str) or set(names) - set(learner.modules):
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

    The weights of a task have a prior (by default normal) around the initial weights,
    with one learned scale per module. Adaptation computes the MAP estimate. A module
    whose scale is zero has the same weights in all tasks. The model is:

        theta_m ~ Normal(phi_m, sigma_m^2)
        theta_hat = argmin 1/S [-sum_s log p(y_s | x_s, theta) - log p(theta | phi)]

    The inner loop takes proximal steps `theta <- phi + w_m (theta - a grad - phi)` with
    `w_m = S sigma_m^2 / (S sigma_m^2 + a)`. Meta-training minimises the query loss over
    sigma and, except in `SigmaReptile`, over phi. The subclasses differ in the
    meta-gradient.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        modules: the grouping of variables into modules, each with one sigma. "layer": a
            module for each layer. "weight": a module for each variable. A function:
            maps a variable's path, such as "conv1/kernel", to a module name. A list:
            the module of each path in `keras_meta.network.Network(network).paths()`.
        initial_scale: initial sigma of every module, in units of the weights.
        scale_rate: with Adam, `log sigma^2` is trained at `scale_rate` times the
            optimizer's learning rate: the trained variable is `log sigma^2 /
            scale_rate`.
        frozen: names of modules that do not adapt, whatever their scale; they learn
            from the outer loss alone. Assign the attribute later to freeze or unfreeze
            modules.
        prior: the family of the prior: "normal"; "laplace", whose proximal step
            soft-thresholds, so that many weights stay exactly at phi; or a function
            `(phi, scale) -> distribution` of TensorFlow Probability that is registered
            with `keras.saving.register_keras_serializable`, whose step is solved
            numerically. Only `SigmaMAML` accepts others than "normal". A Laplace prior
            of scale b has a dead zone: where `|grad| < 1 / (S b)` no weight changes and
            b has no gradient. Start with b well above `1 / (S |grad|)`.
        inner_rate: step size `a` of the inner loop. The inner loss is the mean over the
            support examples.
        inner_steps: number of inner steps during meta-training.
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
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        *,
        modules: priors.Modules = "layer",
        initial_scale: float = 1.0,
        scale_rate: float = 10.0,
        frozen: Sequence[str] = (),
        prior: priors.Family = "normal",
        **kwargs: Unpack[options.InnerOptions],
    ) -> None:
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

    def scales(self) -> dict[str, float]:
        """Returns `{module: sigma}`, each in units of the weights."""
        scales = self._sigmas(self.scaled_log_variances.value)
        return dict(zip(self.modules, map(float, scales), strict=True))

    def _sigmas(self, scaled_log_variances):
        """Sigma of each module, `[M]`."""
        return tf.exp(self.scale_rate * scaled_log_variances / 2)

    def freeze_below(self, scale: float) -> list[str]:
        """Freezes modules whose sigma is below `scale`.

        Frozen layers before the first layer that adapts run once for each task (without
        `inner_batch`); later ones still run in each inner step.

        Args:
            scale: a number above 0, in units of the weights.

        Returns:
            The names of all frozen modules, a list.

        Raises:
            ValueError: `scale` is not a number above 0.
        """
        steps.check_positive("scale", scale)
        scales, frozen = self.scales(), self.frozen
        self.frozen = [m for m in self.modules if m in frozen or scales[m] < scale]
        return list(self.frozen)

    def modules_of(self, variables: Iterable[keras.Variable]) -> list[str]:
        return self.each_of(variables, self.module_names)

    def adapted(self) -> list[keras.Variable]:
        trainable = self.bound.trainable
        pairs = zip(trainable, self.modules_of(trainable), strict=True)
        return [variable for variable, name in pairs if name not in self.frozen]

    def meta_variables(self) -> dict[str, Any]:
        variables = super().meta_variables()
        return {**variables, "scaled_log_variances": self.scaled_log_variances}

    def prior_scales(
        self, meta: Mapping[str, Any], examples: tf.Tensor
    ) -> list[tf.Tensor] | None:
        scales = tf.unstack(self._sigmas(meta["scaled_log_variances"]))
        of_module = dict(zip(self.modules, scales, strict=True))
        return [of_module[name] for name in self.modules_of(self.adapted())]

    def prior(self) -> Distribution:
        """Returns the prior of a task's weights at the learned phi and sigma.

        `adapt` computes the mode of the posterior under this prior. `prior().sample()`
        draws the weights of a task without support examples, `{module: {path:
        tensor}}`.

        Returns:
            A `tfp.distributions.JointDistributionNamed` over the modules that adapt.
            Each module is such a distribution over its weights, by path.

        Example:
            >>> learner = km.SigmaMAML(km.networks.mlp(), loss="mse", initial_scale=0.5)
            >>> head = learner.prior().model["head"].model["head/bias"].distribution
            >>> float(head.scale)
            0.5
        """
        meta = self.meta_values()
        start, _ = self._split(meta["weights"])
        return self.prior_at(meta, start, tf.constant(1))

    def shares(self, examples: int) -> dict[str, float]:
        """Returns `{module: w}`, the shrinkage factor of each module.

        `w_m = S sigma_m^2 / (S sigma_m^2 + a)` with inner rate a is the fraction of an
        inner step that remains under the prior. It is 0 for a module that does not
        adapt and tends to 1 as sigma grows. Unlike scales, it has no unit.

        Args:
            examples: S, the support examples of a task.

        Raises:
            ValueError: the prior is not normal, or S is not above 0.
        """
        steps.check_positive("examples", examples)
        if self.prior_family != "normal":
            raise ValueError(
                "expected a normal prior, the only one with a constant share for each "
                f"module, got {self.prior_family!r}."
            )
        odds = {m: examples * s**2 / self.inner_rate for m, s in self.scales().items()}
        frozen = self.frozen
        return {m: 0.0 if m in frozen else x / (1 + x) for m, x in odds.items()}

    def get_config(self) -> dict[str, Any]:
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
    def from_config(cls, config: dict[str, Any]) -> Self:
        prior = priors.family_from_config(config.get("prior", "normal"))
        return super().from_config({**config, "prior": prior})


@keras.saving.register_keras_serializable("keras_meta")
class SigmaMAML(Shrinkage):
    """Sigma-MAML: MAML with a prior on the adapted weights (Chen et al., 2020).

    The prior has one learned scale sigma for each module; for a normal prior, sigma is
    the standard deviation. The meta-gradient differentiates through every inner step.
    In the limit of infinite sigma the learner equals MAML. The weights of a module with
    sigma = 0 do not adapt.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        modules: the grouping of variables into modules, each with one sigma. "layer": a
            module for each layer. "weight": a module for each variable. A function:
            maps a variable's path, such as "conv1/kernel", to a module name. A list:
            the module of each path in `keras_meta.network.Network(network).paths()`.
        initial_scale: initial sigma of every module, in units of the weights.
        scale_rate: with Adam, `log sigma^2` is trained at `scale_rate` times the
            optimizer's learning rate: the trained variable is `log sigma^2 /
            scale_rate`.
        frozen: names of modules that adaptation does not change; meta-training still
            updates them.
        prior: family of the prior: "normal", "laplace", or a function `(phi, scale)`
            that returns a distribution of TensorFlow Probability; phi are the initial
            weights. Register the function with
            `keras.saving.register_keras_serializable`. The base class,
            `learners.shrinkage.Shrinkage`, describes the families.
        inner_rate: step size `a` of the inner loop. The inner loss is the mean over the
            support examples.
        inner_steps: number of inner steps during meta-training.
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
        >>> learner = km.SigmaMAML(km.networks.mlp(), loss="mse", inner_rate=0.01)
        >>> learner.scales()
        {'dense1': 1.0, 'dense2': 1.0, 'head': 1.0}

    Raises:
        ValueError: an argument out of range, or a network that is not built.

    Reference:
        Chen et al., 2020, arXiv 1909.05557; Finn, Abbeel and Levine, 2017.
    """


@keras.saving.register_keras_serializable("keras_meta")
class SigmaIMAML(Shrinkage, imaml.Implicit):
    """Shrinkage with iMAML's meta-gradient: differentiates the inner optimum.

        (H + P) v = grad L_query,  P = 1 / (S sigma^2)
        dL/dphi = P v,  dL/dlog sigma_m^2 = P_m v_m . (theta_m - phi_m)

    With all scales equal and fixed it is iMAML with lambda = 1 / (S sigma^2).

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        modules: the grouping of variables into modules, each with one sigma. "layer": a
            module for each layer. "weight": a module for each variable. A function:
            maps a variable's path, such as "conv1/kernel", to a module name. A list:
            the module of each path in `keras_meta.network.Network(network).paths()`.
        initial_scale: initial sigma of every module, in units of the weights.
        scale_rate: with Adam, `log sigma^2` is trained at `scale_rate` times the
            optimizer's learning rate: the trained variable is `log sigma^2 /
            scale_rate`.
        frozen: names of modules that adaptation does not change; meta-training still
            updates them.
        prior: "normal", the only family that this meta-gradient supports.
        inner_steps: number of proximal gradient steps during meta-training, enough to
            come near the inner optimum.
        conjugate_steps: steps of conjugate gradient per task.
        damping: added to P in the equation that conjugate gradient solves; >= 0.
        inner_rate: step size `a` of the inner loop. The inner loss is the mean over the
            support examples.
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
        Chen et al., 2020, arXiv 1909.05557; Rajeswaran et al., 2019, equation 6.
    """

    normal_only = True

    if TYPE_CHECKING:  # `**kwargs` of `Shrinkage` are those of `Implicit` here

        def __init__(
            self,
            network: keras.Model,
            loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
            *,
            conjugate_steps: int = 5,
            damping: float = 0.0,
            **kwargs: Unpack[options.ShrinkageOptions],
        ) -> None: ...
