"""A learner of one's own: matching networks, which keras-meta does not have."""

import keras
import tensorflow as tf

import keras_meta as km
from keras_meta import network as network_module
from keras_meta import settings

ABSENT = -1e9  # added to the similarity to examples of other classes


@keras.saving.register_keras_serializable("examples")
class MatchingNetwork(km.Learner):
    """Classifies by attention over the support set (Vinyals et al., 2016).

        a(x, x_s) = softmax_s(scale cos(f(x), f(x_s)))
        p(y = n | x) = sum of a(x, x_s) over the support examples of class n

    Args:
        network: f, a built Keras model from `[B, ...]` to features `[B, D]`.
        outputs: the most classes that a task may have, N.
        scale: factor of the cosines, above 0; 1 as published.
        preprocess: for images, the `ImagePreprocess` that converts raw images to x.
        **kwargs: for `keras.Model`.

    State:
        `{"features": [T, S, D], "labels": [T, S]}`.

    Reference:
        "Matching Networks for One Shot Learning", NeurIPS 2016, arXiv 1606.04080,
        equation 1 and section 2.1.1, without its full context embeddings.
    """

    scale = settings.Setting(settings.positive)

    def __init__(self, network, outputs=5, scale=10.0, preprocess=None, **kwargs):
        super().__init__(
            "sparse_categorical_crossentropy", network, outputs, preprocess, **kwargs
        )
        self.network = network
        self.bound = network_module.Network(network)
        self.scale = scale

    def features(self, x, training):
        """f(x), of length 1."""
        features = self.bound.each(x, training)
        return tf.math.l2_normalize(features, axis=-1)

    def adapt_tasks(self, support_x, support_y, training=False):
        return {"features": self.features(support_x, training), "labels": support_y}

    def infer_tasks(self, state, query_x, training=False):
        query = self.features(query_x, training)
        cosines = tf.matmul(query, state["features"], transpose_b=True)  # [T, Q, S]
        own = tf.one_hot(state["labels"], self.output_size, dtype=cosines.dtype)
        own = own[:, None]  # [T, 1, S, N]
        return tf.reduce_logsumexp(
            self.scale * cosines[..., None] + ABSENT * (1 - own), axis=2
        )

    def get_config(self):
        config = super().get_config()
        config["network"] = keras.saving.serialize_keras_object(self.network)
        return {**config, "outputs": self.output_size, "scale": self.scale}
