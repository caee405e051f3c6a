"""Supervised pretraining of an encoder, validated on few-shot tasks."""

import keras
import tensorflow as tf

from keras_meta import logits
from keras_meta.learners import protonet


@keras.saving.register_keras_serializable("keras_meta.zoo")
class SmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy of integer labels with label smoothing.

        -(1 - e) log p(y) - e / N sum_n log p(n)

    The sum is over the classes that a task has.

    Args:
        smoothing: e, in [0, 1).
        **kwargs: for Keras' loss.

    Reference:
        Szegedy, Vanhoucke, Ioffe, Shlens and Wojna, "Rethinking the Inception
        Architecture for Computer Vision", CVPR 2016, section 7.
    """

    def __init__(self, smoothing=0.1, from_logits=True, **kwargs):
        super().__init__(from_logits=from_logits, **kwargs)
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        logs = tf.nn.log_softmax(y_pred)
        present = tf.cast(logits.present(y_pred), logs.dtype)
        mean = tf.reduce_sum(present * logs, -1) / tf.reduce_sum(present, -1)
        y_true = tf.cast(y_true, tf.int32)
        right = tf.gather(logs, y_true, axis=-1, batch_dims=len(y_true.shape))
        return -(1 - self.smoothing) * right - self.smoothing * mean

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}


@keras.saving.register_keras_serializable("keras_meta.zoo")
class Supervised(protonet.ProtoNet):
    """An encoder trained as a classifier of all training classes, with a linear head.

    It trains on the cross-entropy of the queries' logits and ignores the support set.
    Outside training it is a prototypical network: validation tasks of unseen classes
    measure how well the features serve few-shot learning.

    Args:
        network: the encoder, see `ProtoNet`.
        outputs: the number of training classes.
        smoothing: of the labels, see `SmoothedCrossentropy`.
        **kwargs: for `ProtoNet`.

    Reference:
        Tian, Wang, Krishnan, Tenenbaum and Isola, "Rethinking Few-Shot Image
        Classification: a Good Embedding Is All You Need?", ECCV 2020; Chen, Liu, Xu,
        Darrell and Wang, "Meta-Baseline", ICCV 2021, for the two stages.
    """

    gapless = False  # a batch has only some of the classes

    def __init__(self, network, outputs, smoothing=0.1, **kwargs):
        super().__init__(network, outputs, **kwargs)
        self.smoothing = smoothing
        self.query_loss = SmoothedCrossentropy(smoothing)
        self.head = keras.layers.Dense(outputs, name="classes", dtype=self.dtype_policy)
        self.head.build([None, network.output_shape[-1]])

    def adapt_tasks(self, support_x, support_y, training=False):
        if not training:
            return super().adapt_tasks(support_x, support_y)
        tasks, size = tf.shape(support_x)[0], self.network.output_shape[-1]
        return {
            "prototypes": tf.zeros([tasks, self.output_size, size]),
            "ways": tf.fill([tasks], self.output_size),
        }

    def infer_tasks(self, state, query_x, training=False):
        if not training:
            return super().infer_tasks(state, query_x)
        return self.head(self.bound.each(query_x, True))

    def get_config(self):
        return {**super().get_config(), "smoothing": self.smoothing}
