"""Reptile."""

import keras
import tensorflow as tf

from keras_meta import losses
from keras_meta.learners import gradient

# Of Adam inside the inner loop; the paper sets beta1 to 0 (its table 5).
BETA2, EPSILON = 0.999, 1e-8


@keras.saving.register_keras_serializable("keras_meta")
class Reptile(gradient.GradientLearner):
    """Moves the start towards the adapted weights (Nichol, Achiam, Schulman, 2018).

        phi <- phi + eps mean_t (theta_hat_t - phi)

    The meta-gradient is `phi - theta_hat`: compile with SGD at rate eps for the update
    as published. Adapted weights are not differentiated, so memory does not grow with
    the inner steps. The inner optimizer begins afresh with each task.

    Args:
        network: see `GradientLearner`, as for all other arguments.
        inner_optimizer: "sgd", or "adam" with beta1 = 0 as published.
        joint: adapt on support and query examples together while meta-training, as
            published; otherwise on the support set alone.
        **kwargs: see `GradientLearner`.

    Reference:
        "On First-Order Meta-Learning Algorithms", 2018, arXiv 1803.02999, algorithm 2.
    """

    unrolled = False

    def __init__(
        self,
        network,
        loss="sparse_categorical_crossentropy",
        *,
        inner_optimizer="sgd",
        joint=True,
        **kwargs,
    ):
        super().__init__(network, loss, **kwargs)
        if inner_optimizer not in ("sgd", "adam"):
            raise ValueError(
                f"expected inner_optimizer to be sgd or adam, got {inner_optimizer!r}."
            )
        self.inner_optimizer = inner_optimizer
        self.joint = joint

    def begin(self, start):
        if self.inner_optimizer == "sgd":
            return ()
        one = tf.ones([], start[0].dtype)
        return one, [tf.zeros_like(weight) for weight in start]

    def update(self, meta, start, weights, gradients, examples, memory):
        if self.inner_optimizer == "sgd":
            return super().update(meta, start, weights, gradients, examples, memory)
        power, squares = memory
        power = power * BETA2
        squares = [
            BETA2 * v + (1 - BETA2) * tf.square(g)
            for v, g in zip(squares, gradients, strict=True)
        ]
        weights = [
            w - self.inner_rate * g / (tf.sqrt(v / (1 - power)) + EPSILON)
            for w, g, v in zip(weights, gradients, squares, strict=True)
        ]
        return weights, (power, squares)

    def task_gradient(self, meta, statistics, task):
        support_x, support_y, query_x, query_y = task
        x, y = support_x, support_y
        if self.joint:
            x = tf.concat([support_x, query_x], axis=0)
            y = tf.concat([support_y, tf.cast(query_y, support_y.dtype)], axis=0)
        state = self.adapt_task(meta, statistics, x, y, True)
        outputs = self.infer_task(meta, statistics, state, query_x)
        adapted = self._merged(meta, state["weights"])
        gradients = [p - q for p, q in zip(meta["weights"], adapted, strict=True)]
        return losses.of(self.query_loss, query_y, outputs), outputs, gradients

    def get_config(self):
        config = super().get_config()
        config.update(inner_optimizer=self.inner_optimizer, joint=self.joint)
        return config
