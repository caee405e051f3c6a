"""GradientLearner: learns a task by gradient steps on its support set."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf

from keras_meta import (
    batch_norm,
    inner_loop,
    network_checks,
    options,
    ordered,
    outer_loop,
    priors,
    random_layers,
    settings,
    steps,
)
from keras_meta import network as network_module
from keras_meta.images import ImagePreprocess
from keras_meta.typing_names import TensorLike, TensorNest

NORMALIZATIONS = ("inductive", "transductive")


def _normalization(learner, name, value):
    """Checks the setting `normalization`."""
    settings.choice(*NORMALIZATIONS)(learner, name, value)
    if value == "transductive" and learner.bound.seeds:
        raise ValueError(
            "expected a network without random layers for transductive normalization, "
            "which runs queries in training mode; use 'inductive'."
        )
    return value


class GradientLearner(inner_loop.InnerLoop, ordered.OrderedLearner):
    """Base class of learners that take gradient steps on the support loss.

    It implements the inner loop and the meta-gradient of the MAML family. The state of
    a task holds its adapted weights, the normalization statistics of its support set,
    and its number of classes. The meta-gradient of each task is computed inside the map
    over tasks, so that memory does not grow with the number of tasks.

    A subclass may override what is meta-trained (`meta_variables`), which weights adapt
    (`adapted`), the scales of the prior (`prior_scales`), the inner step (`update`) and
    the derivative of the adapted weights (`solve`). The defaults are MAML's.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`. Layers with `trainable=False` keep their weights.
            BatchNormalization uses statistics of the task, whatever its momentum; a
            frozen layer uses its stored statistics.
            Dropout is active in the inner loop only; outside meta-training all tasks
            share one mask, so that predictions are reproducible, also after loading.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy" (labels), "mse" (targets), or a
            `keras.losses.Loss`.
        inner_rate: step size of the inner loop, for the mean loss of the support set.
        inner_steps: number of inner steps during meta-training.
        evaluation_steps: number of inner steps in `evaluate`, `predict`, `adapt` and
            exports; `inner_steps` by default.
        inner_batch: support examples per inner step, taken in turn in the order of
            `support_order` and from the beginning again at the end; all by default.
        normalization: batch normalization of the queries. "inductive" uses the
            statistics of the support set, so that no prediction depends on other
            queries; "transductive" uses those of all queries of the task, as published
            for MAML.
        preprocess: for images, the `ImagePreprocess` that converts raw images to x. The
            learner stores and exports it; `adapt` and `infer` do not apply it.
        vectorize: if True, tasks run as one batch; if False, side by side. By default
            True for networks of dense layers, where it is several times faster.
        support_order: the order of the support examples in inner batches. "shuffled": a
            fixed order that depends on S alone (`ordered.permutation`). "given": the
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
        Finn, Abbeel and Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks", ICML 2017, algorithm 1.
    """

    # Whether meta-training differentiates the inner loop, which is then unrolled.
    unrolled = True
    allows_jit = False
    prior_family = "normal"
    # Whether the initial weights learn from the query loss, which accepts weights of
    # queries `[T, Q]`.
    outer_loss = True

    inner_rate = settings.Setting(settings.positive)
    inner_steps = settings.Setting(settings.integer(0))
    evaluation_steps = settings.Setting(settings.integer(0, optional=True))
    inner_batch = settings.Setting(settings.integer(1, optional=True))
    normalization = settings.Setting(_normalization)
    vectorize = settings.Setting(settings.boolean)

    def __init__(
        self,
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        inner_rate: float = 0.4,
        inner_steps: int = 1,
        evaluation_steps: int | None = None,
        inner_batch: int | None = None,
        normalization: str = "inductive",
        preprocess: ImagePreprocess | None = None,
        vectorize: bool | None = None,
        support_order: str = "shuffled",
        **kwargs: Unpack[options.LearnerOptions],
    ) -> None:
        bound = network_module.Network(network)
        if not bound.adaptable:
            raise ValueError("expected a network with trainable weights, got none.")
        batch_norm.require_exact_form(bound.norms)
        super().__init__(
            loss=loss,
            example_shape=network,
            outputs=network.output_shape[-1],
            preprocess=preprocess,
            support_order=support_order,
            **kwargs,
        )
        if self.classification:
            network_checks.require_logits(network)
        self.network = network
        self.bound = bound
        self.inner_rate = inner_rate
        self.inner_steps = inner_steps
        self.evaluation_steps = evaluation_steps
        self.inner_batch = inner_batch
        self.normalization = normalization
        self.vectorize = bound.vectorizes() if vectorize is None else vectorize

    # Overridden by subclasses.

    def adapted(self) -> list[keras.Variable]:
        """Returns the network variables that adapt, in the network's order."""
        return self.bound.trainable

    def meta_variables(self) -> dict[str, Any]:
        """Returns the meta-trained variables, a nest with the key "weights"."""
        return {"weights": self.bound.trainable}

    def prior_scales(
        self, meta: Mapping[str, Any], examples: tf.Tensor
    ) -> list[tf.Tensor] | None:
        """Returns the scale of each adapted weight's prior, or None for a flat prior.

        Args:
            meta: values of `meta_variables()`.
            examples: S, an integer tensor.

        Returns:
            A list of scalars, in units of the weights, in the order of `adapted()`.
        """
        return None

    def modules_of(self, variables: Iterable[keras.Variable]) -> list[str]:
        """Returns the module names of the given network variables, a list."""
        return self.paths_of(variables)

    def moving_statistics(self) -> list[keras.Variable]:
        return []  # every task computes its own statistics

    def config_with(self, classes: int) -> dict[str, Any]:
        network = network_module.with_outputs(self.network, classes)
        network = keras.saving.serialize_keras_object(network)
        return {**self.get_config(), "network": network}

    def carried(self, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if weight.shape == shape:
            return weight
        # Units of a last layer. They must differ, or the body gets no gradient.
        mean, scale = weight.mean(axis=-1, keepdims=True), weight.std(axis=-1, ddof=1)
        draws = np.random.RandomState(0).normal(size=shape)
        drawn = mean + scale[..., None] * draws
        return np.concatenate([weight, drawn], axis=-1)[..., : shape[-1]]

    def paths_of(self, variables: Iterable[keras.Variable]) -> list[str]:
        """Returns the paths of network variables, see `network.Network.paths`."""
        return self.each_of(variables, self.bound.paths())

    def each_of(
        self, variables: Iterable[keras.Variable], per_adaptable: Iterable[Any]
    ) -> list[Any]:
        """Selects from a list in the order of `bound.adaptable`, by variable."""
        sources = map(id, self.bound.adaptable)
        values = dict(zip(sources, per_adaptable, strict=True))
        return [values[id(variable)] for variable in variables]

    # All tasks.

    def adapt_tasks(
        self, support_x: tf.Tensor, support_y: tf.Tensor, training: bool = False
    ) -> dict[str, Any]:
        meta, held = self.meta_values(), self.held_values()
        if not training:
            buffers = random_layers.unseeded(self.bound, held["buffers"])
            held = {**held, "buffers": buffers}
        return steps.map_tasks(
            lambda task: self.adapt_task(meta, held, task[0], task[1], training),
            (support_x, support_y),
            self.vectorize,
        )

    def infer_tasks(
        self, state: TensorNest, query_x: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        meta, held = self.meta_values(), self.held_values()
        outputs, penalties = steps.map_tasks(
            lambda task: self.infer_task(meta, held, *task),
            (state, query_x),
            self.vectorize,
        )
        # In the precision of Keras' own losses.
        self.add_loss(tf.cast(tf.reduce_mean(penalties), keras.config.floatx()))
        return outputs

    def meta_gradient(
        self,
        episode: Mapping[str, TensorLike],
        query_y: TensorLike,
        weights: TensorLike | None = None,
        loss_scale: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], list[keras.Variable], tf.Tensor]:
        return outer_loop.meta_gradient(self, episode, query_y, weights, loss_scale)

    def meta_values(self) -> dict[str, Any]:
        """Returns the values of `meta_variables()`, a nest of tensors."""
        variables = self.meta_variables()
        values = network_module.values(tf.nest.flatten(variables))
        return tf.nest.pack_sequence_as(variables, values)

    def held_values(self) -> dict[str, list[tf.Tensor]]:
        """Returns the values of the variables that are not trained."""
        return {
            "buffers": network_module.values(self.bound.buffers),
            "frozen": network_module.values(self.bound.frozen),
        }

    # One task's Keras model.

    def task_optimizer(
        self,
        variables: Sequence[tuple[keras.Variable, keras.Variable]],
        x: TensorLike,
        y: TensorLike,
    ) -> keras.optimizers.Optimizer:
        """Returns a Keras optimizer whose next step on all of x is an inner step.

        Args:
            variables: pairs `(copy, source)`: a trained variable of the task's network
                and the variable of `self.network` that it is a copy of.
            x: support examples `[S, ...]`.
            y: their labels `[S]` or targets `[S, d_y]`.
        """
        if self.prior_scales(self.meta_values(), tf.constant(len(y))) is None:
            return keras.optimizers.SGD(self.inner_rate)
        return priors.ProximalSGD(self.inner_rate)

    def task_model(
        self,
        x: TensorLike,
        y: TensorLike,
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> tuple[keras.Model, keras.optimizers.Optimizer]:
        from keras_meta import task_network

        return task_network.build(self, x, y, optimizer)

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            network=keras.saving.serialize_keras_object(self.network),
            inner_rate=self.inner_rate,
            inner_steps=self.inner_steps,
            evaluation_steps=self.evaluation_steps,
            inner_batch=self.inner_batch,
            normalization=self.normalization,
            vectorize=self.vectorize,
        )
        return config
