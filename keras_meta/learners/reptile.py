"""Reptile."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import keras
import tensorflow as tf

from keras_meta import keras_private, losses, objectives, options, settings
from keras_meta.learners import gradient
from keras_meta.typing_names import TensorLike, TensorNest

# Settings of Adam in the inner loop; the paper sets beta1 to 0 (table 5).
BETA2, EPSILON = 0.999, 1e-8
OPTIMIZERS = ("sgd", "adam")


@keras.saving.register_keras_serializable("keras_meta")
class Reptile(gradient.GradientLearner):
    """Moves the initial weights towards the adapted weights (Nichol et al., 2018).

        phi <- phi + eps mean_t (theta_hat_t - phi)

    The meta-gradient is `phi - theta_hat`: compile with SGD at learning rate eps for
    the published update. The inner loop is not differentiated, so that memory does not
    grow with the inner steps. The inner optimizer restarts for each task. The gradients
    of weight regularizers are added to the meta-gradient, and a `sample_weight` of
    shape `[T]` weights the mean over tasks.

    Args:
        network: a built Keras model from `[B, ...]` to logits `[B, N]` or predictions
            `[B, d_y]`; layers with `trainable=False` keep their weights.
        loss: the support loss, and the query loss unless `compile` sets another:
            "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        inner_optimizer: "sgd", or "adam" with beta1 = 0 as published.
        joint: if True, meta-training adapts to support and query examples together, as
            published; if False, to the support set alone.
        reported_tasks: number of tasks of each batch whose query loss and metrics `fit`
            reports; by default all. With `joint`, `fit` adapts to the support sets of
            these tasks once more for the report, with `inner_steps` steps.
        inner_rate: step size of the inner loop. The inner loss is a mean over examples:
            those of the support set, and with `joint` the queries in meta-training.
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
        ValueError: an argument out of range, or a network that is not built.

    Reference:
        Nichol, Achiam and Schulman, "On First-Order Meta-Learning Algorithms", 2018,
        arXiv 1803.02999, algorithm 2.
    """

    unrolled = False
    outer_loss = False

    inner_optimizer = settings.Setting(settings.choice(*OPTIMIZERS))
    joint = settings.Setting(settings.boolean)
    reported_tasks = settings.Setting(settings.integer(1, optional=True))

    def __init__(
        self,
        network: keras.Model,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        *,
        inner_optimizer: str = "sgd",
        joint: bool = True,
        reported_tasks: int | None = None,
        **kwargs: Unpack[options.InnerOptions],
    ) -> None:
        super().__init__(network, loss, **kwargs)
        self.inner_optimizer = inner_optimizer
        self.joint = joint
        self.reported_tasks = reported_tasks

    def begin(self, start: list[tf.Tensor]) -> TensorNest:
        if self.inner_optimizer == "sgd":
            return ()
        one = tf.ones([], start[0].dtype)
        return one, [tf.zeros_like(weight) for weight in start]

    def update(
        self,
        meta: Mapping[str, Any],
        start: list[tf.Tensor],
        weights: list[tf.Tensor],
        gradients: list[tf.Tensor],
        examples: tf.Tensor,
        memory: TensorNest,
    ) -> tuple[list[tf.Tensor], TensorNest]:
        if self.inner_optimizer == "sgd":
            return super().update(meta, start, weights, gradients, examples, memory)
        power, squares = memory
        power = power * BETA2
        squares = [
            v + (tf.square(g) - v) * (1 - BETA2)
            for v, g in zip(squares, gradients, strict=True)
        ]
        # Like TensorFlow's Adam, which the authors use: epsilon is added to the root of
        # the squares before bias correction.
        rate = self.inner_rate * tf.sqrt(1 - power)
        weights = [
            w - rate * g / (tf.sqrt(v) + EPSILON)
            for w, g, v in zip(weights, gradients, squares, strict=True)
        ]
        return weights, (power, squares)

    def task_gradient(
        self,
        meta: Mapping[str, Any],
        held: Mapping[str, list[tf.Tensor]],
        task: dict[str, tf.Tensor],
        outer: objectives.OuterLoss,
    ) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
        x, y = task["support_x"], task["support_y"]
        if self.joint:
            x = tf.concat([x, task["query_x"]], axis=0)
            y = tf.concat([y, tf.cast(task["query_y"], y.dtype)], axis=0)
        state = self.adapt_task(meta, held, x, y, True)
        adapted = dict(zip(map(id, self.adapted()), state["weights"], strict=True))
        gradients = [
            (phi - adapted.get(id(v), phi)) * outer.factor(task, phi.dtype)
            for v, phi in zip(self.bound.trainable, meta["weights"], strict=True)
        ]
        if self.joint:  # `meta_gradient` computes the loss and the predictions
            zero = tf.zeros([], outer.scale.dtype)
            return zero, zero, gradients
        outputs, _ = self.infer_task(meta, held, state, task["query_x"])
        return outer.loss(task, outputs), outputs, gradients

    def meta_gradient(
        self,
        episode: Mapping[str, TensorLike],
        query_y: TensorLike,
        weights: TensorLike | None = None,
        loss_scale: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], list[keras.Variable], tf.Tensor]:
        loss, gradients, variables, outputs = super().meta_gradient(
            episode, query_y, weights, loss_scale
        )
        if self.joint or self.reported_tasks is not None:
            query_y = tf.convert_to_tensor(query_y)
            reported = slice(self.reported_tasks)
            if self.joint:  # adapts to the support set alone
                tasks = {key: x[reported] for key, x in episode.items()}
                outputs = self(tasks, training=True)
            else:
                outputs = outputs[reported]
            weights = None if weights is None else weights[reported]
            loss = losses.of_batch(self.query_loss, query_y[reported], outputs, weights)
            loss += tf.cast(self.penalty(), loss.dtype)
        return loss, gradients, variables, outputs

    def task_optimizer(
        self,
        variables: Sequence[tuple[keras.Variable, keras.Variable]],
        x: TensorLike,
        y: TensorLike,
    ) -> keras.optimizers.Optimizer:
        if self.inner_optimizer == "sgd":
            return super().task_optimizer(variables, x, y)
        optimizer = keras.optimizers.Adam(
            self.inner_rate, beta_1=0.0, beta_2=BETA2, epsilon=EPSILON
        )
        optimizer.build([copy for copy, _ in variables])
        count = self.steps_of(training=False)
        if count:  # continues with the memory of the inner loop
            run = tf.function(
                lambda: self.inner_loop(
                    self.meta_values(), self.held_values(), x, y, False
                )
            )
            _, (_, squares) = run()
            squares = dict(zip(map(id, self.adapted()), squares, strict=True))
            velocities = keras_private.adam_velocities(optimizer)
            for velocity, (_, source) in zip(velocities, variables, strict=True):
                if id(source) in squares:
                    velocity.assign(squares[id(source)])
            optimizer.iterations.assign(count)
        return optimizer

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            inner_optimizer=self.inner_optimizer,
            joint=self.joint,
            reported_tasks=self.reported_tasks,
        )
        return config
