"""The model of one task that fine-tuning a gradient learner trains."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Self

import keras
import tensorflow as tf

from keras_meta import batch_norm, keras_private, priors, task_model
from keras_meta.network import assign, values
from keras_meta.typing_names import Distribution, TensorLike

if TYPE_CHECKING:
    from keras_meta.learners.gradient import GradientLearner

# Scale of the prior of a weight that does not adapt while others of its layer do.
HELD = 3e-7


def build(
    learner: GradientLearner,
    x: TensorLike,
    y: TensorLike,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> tuple[keras.Model, keras.optimizers.Optimizer]:
    """Returns a Keras model that starts at a gradient learner's adapted weights.

    Args:
        learner: a `GradientLearner`.
        x: support examples `[S, ...]`.
        y: their labels `[S]` or targets `[S, d_y]`.
        optimizer: a Keras optimizer; by default the learner's inner step.

    Returns:
        `(model, optimizer)`: a copy of the learner's network, wrapped in a
        `TaskNetwork` if the learner has a prior.
    """
    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    state = learner.adapt(x[None], y[None])
    adapting = set(map(id, _adapting_layers(learner)))
    fixed = _fixed_norms(learner, adapting)
    network = _copy(learner.network, fixed)
    sources = {}
    for copy, source in zip(network.variables, learner.network.variables, strict=True):
        copy.assign(source.value)
        sources[id(source)] = copy
    keras_private.finalize(network)
    weights = [value[0] for value in state["weights"]]
    adapted = learner.adapted()
    assign([sources[id(source)] for source in adapted], weights)
    pairs = list(zip(adapted, weights, strict=True))
    statistics = learner.bound.statistics
    x = tf.cast(x, learner.variable_dtype)
    copies = [sources[id(source)] for source in statistics]
    assign(copies, learner.bound.measure(pairs, x))
    layers = zip(
        keras_private.layers_of(network),
        keras_private.layers_of(learner.network),
        strict=True,
    )
    for copy, source in layers:
        if keras_private.is_leaf(source) and id(source) not in adapting | fixed:
            copy.trainable = False
    scaled = learner.prior_scales(learner.meta_values(), tf.constant(len(y)))
    if scaled is None:  # a prior holds the other weights of a layer that adapts
        for key in sources.keys() - set(map(id, adapted)):
            sources[key].trainable = False
    trained = {id(v) for v in network.trainable_variables}
    variables = [
        (copy, source)
        for copy, source in zip(
            network.variables, learner.network.variables, strict=True
        )
        if id(copy) in trained
    ]
    classes = int(state["ways"][0])
    if learner.classification and classes < learner.output_size:
        network = keras.Model(network.inputs[0], network.outputs[0][:, :classes])
    if optimizer is None:
        y = tf.cast(y, learner.y_spec("y").dtype)
        optimizer = learner.task_optimizer(variables, x, y)
    originals = [source for _, source in variables]
    scales = prior_scales(learner, originals, len(y))
    if variables and scales is not None:
        network = TaskNetwork(
            network, learner.prior_family, len(y), dtype=learner.dtype_policy
        )
        network.set_prior(values(originals), scales)
    return network, optimizer


def _copy(network, fixed):
    """A copy of a network; `fixed` are the ids of `_fixed_norms`."""
    if not fixed:
        config = keras.saving.serialize_keras_object(network)
        return keras.saving.deserialize_keras_object(config)

    def copied(layer):
        kind = batch_norm.ConstantAffine if id(layer) in fixed else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(network, clone_function=copied, recursive=True)


def _fixed_norms(learner, adapting):
    """Batch normalizations that do not adapt, after a layer that adapts, as ids.

    Like the inner loop, `fit` has to normalize by the batch in these layers. `adapting`
    are the ids of the layers that adapt.
    """
    layers = map(id, keras_private.in_order(learner.network))
    after = set(itertools.dropwhile(lambda layer: layer not in adapting, layers))
    norms = {id(norm) for norm in learner.bound.norms if norm.trainable}
    return (norms & after) - adapting


def _names(variables):
    """A different name for each variable; nested networks may have equal paths."""
    return [f"{index}:{variable.path}" for index, variable in enumerate(variables)]


def _adapting_layers(learner):
    """Returns the leaf layers of a learner's network with a variable that adapts."""
    adapted = {id(v) for v in learner.adapted()}
    return [
        layer
        for layer in keras_private.layers_of(learner.network)
        if keras_private.is_leaf(layer)
        and adapted & {id(v) for v in layer.trainable_variables}
    ]


def prior_scales(
    learner: GradientLearner, sources: Iterable[keras.Variable], examples: int
) -> list[tf.Tensor] | None:
    """Returns the prior scale of given network variables, None for a flat prior.

    Args:
        learner: a `GradientLearner`.
        sources: variables of its network.
        examples: S.

    Returns:
        A scalar for each variable, `HELD` for those that do not adapt.
    """
    scales = learner.prior_scales(learner.meta_values(), tf.constant(examples))
    if scales is None:
        return None
    by_variable = dict(zip(map(id, learner.adapted()), scales, strict=True))
    return [tf.cast(by_variable.get(id(v), HELD), v.dtype) for v in sources]


@keras.saving.register_keras_serializable("keras_meta")
class TaskNetwork(task_model.OneTask):
    """A network with a prior of its weights around their meta-learned values.

        loss = mean loss of the data - (log p(theta) - log p(phi)) / S

    The prior is part of the model and saved with it. It applies with every optimizer: a
    `priors.ProximalSGD` applies it in its step, for any other it is a term of the loss.

    Args:
        network: a built Keras model.
        prior: the family of the prior: "normal", "laplace" or a registered function
            `(phi, scale) -> distribution`.
        examples: S, the support examples of the task.
        **kwargs: for `keras.Model`.

    Call arguments:
        x: `[B, ...]`.
    """

    def __init__(
        self,
        network: keras.Model,
        prior: priors.Family = "normal",
        examples: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.network = network
        self.prior_family = prior
        self.examples = examples
        self.example_shape = tuple(network.input_shape[1:])
        self.centres = []
        self.scales = []
        for position, variable in enumerate(network.trainable_variables):
            settings = {"trainable": False, "dtype": variable.dtype}
            self.centres.append(
                self.add_weight(
                    shape=variable.shape, name=f"centre_{position}", **settings
                )
            )
            self.scales.append(
                self.add_weight(
                    shape=(),
                    initializer="ones",
                    name=f"scale_{position}",
                    **settings,
                )
            )
        self.built = True

    def set_prior(
        self, centres: Iterable[TensorLike], scales: Iterable[TensorLike]
    ) -> None:
        """Sets phi (an array) and sigma (a scalar) for each trainable variable."""
        assign(self.centres, centres)
        assign(self.scales, scales)

    def prior(self) -> Distribution:
        """Returns the prior, a `priors.joint` with one module per trained weight."""
        paths = _names(self.trainable_variables)
        scales = dict(zip(paths, values(self.scales), strict=True))
        centres = values(self.centres)
        return priors.joint(self.prior_family, paths, paths, centres, scales)

    def call(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return self.network(x, training=training)

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "adam",
        loss: Any = None,
        loss_weights: Any = None,
        metrics: Any = None,
        weighted_metrics: Any = None,
        run_eagerly: bool = False,
        steps_per_execution: int = 1,
        jit_compile: bool | str = "auto",
        auto_scale_loss: bool = True,
    ) -> None:
        super().compile(
            optimizer=optimizer,
            loss=loss,
            loss_weights=loss_weights,
            metrics=metrics,
            weighted_metrics=weighted_metrics,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=auto_scale_loss,
        )
        optimizer = self._proximal_optimizer()
        if optimizer is not None:
            optimizer.set_prior(
                self.trainable_variables,
                self.prior_family,
                self.examples,
                self.centres,
                self.scales,
            )

    def _proximal_optimizer(self):
        """The optimizer that applies the prior in its step, or None.

        Keras wraps the optimizer of a network in float16.
        """
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        return optimizer if isinstance(optimizer, priors.ProximalSGD) else None

    def compile_from_config(self, config: dict[str, Any]) -> None:
        # Keras skips this for a class with its own `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(
        self,
        x: Any = None,
        y: TensorLike | None = None,
        y_pred: tf.Tensor | None = None,
        sample_weight: TensorLike | None = None,
        training: bool = True,
    ) -> tf.Tensor:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if self._proximal_optimizer() is not None:
            return loss
        # Keras divides its losses so too, because it sums the gradients of replicas.
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return loss + tf.cast(self.prior_penalty(), loss.dtype) / replicas

    def prior_penalty(self) -> tf.Tensor:
        """Returns `-(log p(theta) - log p(phi)) / S`, a scalar that is zero at phi."""
        variables = self.trainable_variables
        paths = _names(variables)
        distributions = priors.by_weight(self.prior(), paths)
        ratios = [
            priors.negative_log_ratio(distribution, theta, phi)
            for distribution, theta, phi in zip(
                distributions, values(variables), values(self.centres), strict=True
            )
        ]
        return tf.add_n(ratios) / self.examples

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            network=keras.saving.serialize_keras_object(self.network),
            prior=priors.family_config(self.prior_family),
            examples=self.examples,
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        network = keras.saving.deserialize_keras_object(config["network"])
        prior = priors.family_from_config(config["prior"])
        return cls(**{**config, "network": network, "prior": prior})
