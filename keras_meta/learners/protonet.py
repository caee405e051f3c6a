"""Prototypical networks."""

from typing import Any, Unpack

import keras
import numpy as np
import tensorflow as tf

from keras_meta import checks, learner, options
from keras_meta import network as network_module
from keras_meta.images import ImagePreprocess
from keras_meta.typing_names import TensorLike, TensorNest


@keras.saving.register_keras_serializable("keras_meta")
class ProtoNet(learner.Learner):
    """Classifies by the nearest class mean in a learned space (Snell et al., 2017).

        c_n = mean of f(x_s) over the support examples of class n
        p(y = n | x) = softmax_n(-|f(x) - c_n|^2)

    The logits omit `|f(x)|^2`, which is the same for all classes. They are therefore
    linear in f(x): `2 c_n . f(x) - |c_n|^2`.

    Args:
        network: f, a built Keras model from `[B, ...]` to features `[B, D]`. Its batch
            normalization works as in Keras: batch statistics during meta-training,
            moving averages otherwise.
        outputs: the number of logits N; None means the number of classes of the task.
            If N is set, tasks may have fewer classes, and the other logits are masked.
        preprocess: for images, the `ImagePreprocess` that converts raw images to x. The
            learner stores and exports it; `adapt` and `infer` do not apply it.
        point_units: None, because a classifier has no points.
        temperature: for classification, `infer` divides the logits by it, which
            calibrates the probabilities (Guo et al., 2017). Meta-training and
            fine-tuning use the logits themselves.
        trainable: if False, `fit` changes no weight.
        **kwargs: `name` and `dtype` of `keras.Model`.

    State:
        `{"prototypes": [T, N, D], "ways": [T]}`.

    Example:
        >>> learner = km.ProtoNet(km.networks.mlp((28, 28, 1), outputs=16))
        >>> learner.compile("adam")
        >>> history = learner.fit(episodes.batch(2), steps_per_epoch=1, verbose=0)

    Raises:
        ValueError: a network that is not built, or an argument out of range.

    Reference:
        Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning", NeurIPS
        2017, arXiv 1703.05175, equations 1 and 2.
    """

    def __init__(
        self,
        network: keras.Model,
        outputs: int | None = None,
        preprocess: ImagePreprocess | None = None,
        **kwargs: Unpack[options.LearnerOptions],
    ) -> None:
        bound = network_module.Network(network)
        super().__init__(
            "sparse_categorical_crossentropy", network, outputs, preprocess, **kwargs
        )
        self.network = network
        self.bound = bound

    def adapt_tasks(
        self, support_x: tf.Tensor, support_y: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        features = self.bound.each(support_x, training)
        prototypes, classes = network_module.class_means(
            features, support_y, self.output_size
        )
        return {"prototypes": prototypes, "ways": classes}

    def infer_tasks(
        self, state: TensorNest, query_x: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        features = self.bound.each(query_x, training)
        return self.masked(_logits(features, state["prototypes"]), state["ways"])

    def distances(self, state: TensorNest, query_x: TensorLike) -> tf.Tensor:
        """Computes the squared distances of queries to the prototypes.

        A query that is far from all prototypes belongs to no class of the task. The
        probabilities do not show this, because they depend on differences of distances.

        Args:
            state: the state that `adapt` returned for T tasks.
            query_x: `[T, Q, ...]`.

        Returns:
            `[T, Q, N]`; infinite for classes that the task does not have.

        Raises:
            ValueError: as `infer`.
        """
        state, query_x = checks.checked_query(self, self.checked_state(state), query_x)
        features = tf.cast(self.bound.each(query_x, False), self.variable_dtype)
        prototypes = tf.cast(state["prototypes"], self.variable_dtype)
        lengths = tf.reduce_sum(tf.square(features), axis=-1, keepdims=True)
        distances = lengths - _logits(features, prototypes)
        absent = tf.range(tf.shape(prototypes)[1]) >= state["ways"][:, None, None]
        return tf.where(absent, tf.constant(np.inf, distances.dtype), distances)

    def get_config(self) -> dict[str, Any]:
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network, "outputs": self.output_size}


def _logits(features, prototypes):
    """Logits `[T, Q, N]`: negative squared distances without `|f(x)|^2`."""
    products = tf.matmul(features, prototypes, transpose_b=True)
    return 2 * products - tf.reduce_sum(tf.square(prototypes), axis=-1)[:, None]
