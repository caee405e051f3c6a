"""MAML and first-order MAML."""

import keras
import tensorflow as tf

from keras_meta.learners import gradient


@keras.saving.register_keras_serializable("keras_meta")
class MAML(gradient.GradientLearner):
    """Model-agnostic meta-learning (Finn, Abbeel and Levine, 2017).

    Learns initial weights from which a few gradient steps on a task's support set do
    well on its queries, by differentiating through those steps:

        theta_0 = phi,  theta_k = theta_{k-1} - a grad L_support(theta_{k-1})
        phi <- phi - optimizer(grad_phi mean_t L_query(theta_K))

    Args:
        network: see `GradientLearner`, as for all that follow.
        loss: "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        inner_rate: a, on the mean loss of the support set.
        inner_steps: K while meta-training.
        evaluation_steps: K at all other times; `inner_steps` by default.
        normalization: "inductive" or "transductive".
        preprocess: an `ImagePreprocess` that the data came through, if any.
        **kwargs: for `keras.Model`.

    Example:
        >>> learner = MAML(networks.conv4(outputs=5), inner_rate=0.4)
        >>> learner.compile(keras.optimizers.Adam(1e-3))
        >>> learner.fit(episodes.batch(32), steps_per_epoch=1000, epochs=60)

    Reference:
        "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML 2017,
        equation 1 and algorithm 2.
    """


@keras.saving.register_keras_serializable("keras_meta")
class FOMAML(MAML):
    """First-order MAML: the meta-gradient is the query gradient where adaptation ends.

    Takes the inner gradients for constants, so that d theta_K / d phi = 1:

        phi <- phi - optimizer(mean_t grad_theta L_query(theta_K))

    Args:
        network: see `MAML`, whose arguments it takes.

    Reference:
        Finn, Abbeel and Levine, 2017, section 5.2; Nichol, Achiam and Schulman, "On
        First-Order Meta-Learning Algorithms", 2018, section 4.
    """

    unrolled = False

    def solve(self, meta, start, inputs, descend, support_loss, examples):
        @tf.custom_gradient
        def solved(*start):
            return descend(list(start), inputs), lambda *upstream: list(upstream)

        return solved(*start)
