"""Prototypical networks."""

import keras
import tensorflow as tf

from keras_meta import learner
from keras_meta import network as network_module


@keras.saving.register_keras_serializable("keras_meta")
class ProtoNet(learner.Learner):
    """Classifies by the nearest class mean in a learned space (Snell et al., 2017).

        c_n = mean of f(x_s) over the support examples of class n
        p(y = n | x) = softmax_n(-|f(x) - c_n|^2)

    The logits leave out `|f(x)|^2`, which is the same for all classes: they are linear
    in f(x), `2 c_n . f(x) - |c_n|^2`.

    Args:
        network: f, a built Keras model from `[B, ...]` to features `[B, D]`. Its batch
            normalization works as Keras' does: with the batch's statistics while
            meta-training, with the moving averages at all other times.
        outputs: the number of logits; None for as many as the task has classes. With a
            number, tasks may have fewer classes, whose logits are out of reach.
        preprocess: an `ImagePreprocess` that the data came through, if any.
        **kwargs: for `keras.Model`.

    State:
        `{"prototypes": [T, N, D], "ways": [T]}`.

    Example:
        >>> learner = ProtoNet(networks.conv4((28, 28, 1), outputs=64))
        >>> learner.compile("adam")
        >>> learner.fit(pool.episodes(ways=20).batch(4), steps_per_epoch=1000)

    Reference:
        Snell, Swersky and Zemel, "Prototypical Networks for Few-shot Learning",
        NeurIPS 2017, arXiv 1703.05175, equations 1 and 2.
    """

    def __init__(self, network, outputs=None, preprocess=None, **kwargs):
        bound = network_module.Network(network)
        kwargs.setdefault("dtype", network_module.policy(network))
        super().__init__(
            "sparse_categorical_crossentropy",
            network.input_shape[1:],
            outputs,
            preprocess,
            **kwargs,
        )
        self.network = network
        self.bound = bound
        self.built = True

    def adapt_tasks(self, support_x, support_y, training=False):
        features = self.bound.each(support_x, training)
        prototypes, classes = network_module.class_means(
            features, support_y, self.output_size
        )
        return {"prototypes": prototypes, "ways": classes}

    def infer_tasks(self, state, query_x, training=False):
        features = self.bound.each(query_x, training)
        prototypes = state["prototypes"]
        products = tf.matmul(features, prototypes, transpose_b=True)
        lengths = tf.reduce_sum(tf.square(prototypes), axis=-1)[:, None]
        return self.masked(2 * products - lengths, state["ways"])

    def get_config(self):
        config = super().get_config()
        del config["loss"]
        config["network"] = keras.saving.serialize_keras_object(self.network)
        return {**config, "outputs": self.output_size}
