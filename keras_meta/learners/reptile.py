"""Reptile."""

import keras
import tensorflow as tf

from keras_meta import keras_private, losses, settings
from keras_meta.learners import gradient

# Of Adam inside the inner loop; the paper sets beta1 to 0 (its table 5).
BETA2, EPSILON = 0.999, 1e-8
OPTIMIZERS = ("sgd", "adam")


@keras.saving.register_keras_serializable("keras_meta")
class Reptile(gradient.GradientLearner):
    """Moves the start towards the adapted weights (Nichol, Achiam, Schulman, 2018).

        phi <- phi + eps mean_t (theta_hat_t - phi)

    The meta-gradient is `phi - theta_hat`: compile with SGD at rate eps for the update
    as published. Adapted weights are not differentiated, so memory does not grow with
    the inner steps. The inner optimizer begins afresh with each task. Weight
    regularizers add their gradient to that, and `sample_weight` `[T]` weighs the mean.

    Args:
        network: see `GradientLearner`, as for all other arguments.
        inner_optimizer: "sgd", or "adam" with beta1 = 0 as published.
        joint: adapt on support and query examples together while meta-training, as
            published; otherwise on the support set alone.
        reported_tasks: with `joint`, `fit` reports what `evaluate` would, for which it
            adapts once more to the support set alone; on this many tasks of each batch,
            all by default.
        **kwargs: see `GradientLearner`.

    Reference:
        "On First-Order Meta-Learning Algorithms", 2018, arXiv 1803.02999, algorithm 2.
    """

    unrolled = False
    outer_loss = False

    inner_optimizer = settings.Setting(settings.choice(*OPTIMIZERS))
    joint = settings.Setting()
    reported_tasks = settings.Setting(settings.integer(1, optional=True))

    def __init__(
        self,
        network,
        loss="sparse_categorical_crossentropy",
        *,
        inner_optimizer="sgd",
        joint=True,
        reported_tasks=None,
        **kwargs,
    ):
        super().__init__(network, loss, **kwargs)
        self.inner_optimizer = inner_optimizer
        self.joint = joint
        self.reported_tasks = reported_tasks

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
            v + (tf.square(g) - v) * (1 - BETA2)
            for v, g in zip(squares, gradients, strict=True)
        ]
        # As TensorFlow's Adam, the authors': epsilon beside the uncorrected root.
        rate = self.inner_rate * tf.sqrt(1 - power)
        weights = [
            w - rate * g / (tf.sqrt(v) + EPSILON)
            for w, g, v in zip(weights, gradients, squares, strict=True)
        ]
        return weights, (power, squares)

    def task_gradient(self, meta, held, task, outer):
        x, y = task["support_x"], task["support_y"]
        if self.joint:
            x = tf.concat([x, task["query_x"]], axis=0)
            y = tf.concat([y, tf.cast(task["query_y"], y.dtype)], axis=0)
        state = self.adapt_task(meta, held, x, y, True)
        ends = dict(zip(map(id, self.adapted()), state["weights"], strict=True))
        gradients = [
            (phi - ends.get(id(v), phi)) * outer.factor(task)
            for v, phi in zip(self.bound.trainable, meta["weights"], strict=True)
        ]
        if self.joint:  # it has adapted to the queries: `meta_gradient` reports
            nothing = tf.zeros([], outer.scale.dtype)
            return nothing, nothing, gradients
        outputs, _ = self.infer_task(meta, held, state, task["query_x"])
        return outer.loss(task, outputs), outputs, gradients

    def meta_gradient(self, episode, query_y, weights=None, loss_scale=1.0):
        loss, gradients, variables, outputs = super().meta_gradient(
            episode, query_y, weights, loss_scale
        )
        if self.joint:  # what `evaluate` would report
            query_y = tf.convert_to_tensor(query_y)
            shown = slice(self.reported_tasks)
            outputs = self({key: x[shown] for key, x in episode.items()})
            weights = None if weights is None else weights[shown]
            loss = losses.of(self.query_loss, query_y[shown], outputs, weights)
            loss += self.penalty()
        return loss, gradients, variables, outputs

    def task_optimizer(self, variables, x, y):
        if self.inner_optimizer == "sgd":
            return super().task_optimizer(variables, x, y)
        optimizer = keras.optimizers.Adam(
            self.inner_rate, beta_1=0.0, beta_2=BETA2, epsilon=EPSILON
        )
        optimizer.build([copy for copy, _ in variables])
        count = self.steps_of(training=False)
        if count:  # it goes on with what the inner loop has seen
            run = tf.function(
                lambda: self.inner_loop(
                    self._meta_values(), self._held_values(), x, y, False
                )
            )
            _, (_, squares) = run()
            of_variable = dict(zip(map(id, self.adapted()), squares, strict=True))
            velocities = keras_private.adam_velocities(optimizer)
            for velocity, (_, source) in zip(velocities, variables, strict=True):
                if id(source) in of_variable:
                    velocity.assign(of_variable[id(source)])
            optimizer.iterations.assign(count)
        return optimizer

    def get_config(self):
        config = super().get_config()
        config.update(
            inner_optimizer=self.inner_optimizer,
            joint=self.joint,
            reported_tasks=self.reported_tasks,
        )
        return config
