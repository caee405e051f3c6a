"""ANIL: almost no inner loop."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
import numpy as np

from keras_meta import keras_private, options, settings
from keras_meta.learners import gradient


def _with_weights(network):
    """The names of the leaf layers with trainable weights, in the network's order."""
    return [
        layer.name
        for layer in keras_private.in_order(network)
        if keras_private.made_to_train(layer) and keras_private.is_leaf(layer)
    ]


def _known_layers(learner, name, layers):
    """The check of the names of the layers that adapt."""
    known = _with_weights(learner.network)
    names = [] if isinstance(layers, str) else list(layers)
    missing = [layers] if isinstance(layers, str) else sorted(set(names) - set(known))
    if missing or not names:
        raise ValueError(
            f"expected {name} to be a list of layers with weights ("
            f"{', '.join(known)}), got {', '.join(missing) or 'none'}."
        )
    for layer in names:
        if known.count(layer) > 1:
            raise ValueError(
                f"expected {name} of unique names, got {layer!r}, the name of "
                f"{known.count(layer)} layers: construct the network with other names."
            )
    return tuple(names)


@keras.saving.register_keras_serializable("keras_meta")
class ANIL(gradient.GradientLearner):
    """MAML whose inner loop adapts only the head of the network (Raghu et al., 2020).

    All tasks share the body, which the outer loop trains. An inner step computes the
    gradient of the head alone:

        theta_head <- theta_head - a grad_head L_support(phi_body, theta_head)

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        layers: names of the layers that adapt; by default the last layer with weights.
            The attribute is `layers_adapted`, because `layers` is Keras' own.
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
        ValueError: a layer that the network does not have or that has no weights, or an
            argument out of range.

    Reference:
        Raghu, Raghu, Bengio and Vinyals, "Rapid Learning or Feature Reuse? Towards
        Understanding the Effectiveness of MAML", ICLR 2020, section 4.
    """

    layers_adapted = settings.Setting(_known_layers)

    def __init__(
        self,
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        *,
        layers: Sequence[str] | None = None,
        **kwargs: Unpack[options.InnerOptions],
    ) -> None:
        super().__init__(network, loss, **kwargs)
        if layers is None:
            layers = _with_weights(network)[-1:]
        self.layers_adapted = layers

    def adapted(self) -> list[keras.Variable]:
        chosen = {
            id(variable)
            for layer in keras_private.layers_of(self.network)
            if layer.name in self.layers_adapted
            for variable in keras_private.made_to_train(layer)
        }
        return [v for v in self.bound.trainable if id(v) in chosen]

    def carried(self, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        if weight.shape == shape:
            return weight
        return weight.mean(axis=-1, keepdims=True).repeat(shape[-1], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "layers": list(self.layers_adapted)}
