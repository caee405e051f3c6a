"""The outer loop: the loss of a batch of tasks and its meta-gradient."""

import tensorflow as tf

from keras_meta import checks, objectives, random_layers, steps


def meta_gradient(learner, episode, query_y, weights=None, loss_scale=1.0):
    """Computes the mean over tasks of the loss and of its gradient.

    The gradient of each task is computed inside the map over tasks, so that memory does
    not grow with their number.

    Args:
        learner: a `GradientLearner`.
        episode: as for `Learner.meta_gradient`, as are the other arguments.
        query_y: labels `[T, Q]` or targets `[T, Q, d_y]`.
        weights: `[T]`, `[T, Q]` or None.
        loss_scale: a factor of the gradients.

    Returns:
        As `Learner.meta_gradient`.

    Raises:
        ValueError: weights `[T, Q]` for a learner that does not learn from the query
            loss.
    """
    values, held = learner.meta_values(), learner.held_values()
    support_x, support_y = checks.checked_support(
        learner, episode["support_x"], episode["support_y"]
    )
    query_y = tf.convert_to_tensor(query_y)
    tasks = {
        "support_x": support_x,
        "support_y": support_y,
        "query_x": checks.checked_x(learner, "query_x", episode["query_x"]),
        "query_y": query_y,
    }
    if weights is not None:
        weights = tf.convert_to_tensor(weights)
        _check_weights(learner, weights)
        tasks["weights"] = weights
    outer = objectives.OuterLoss(learner.query_loss, query_y, weights, loss_scale)

    def task_gradient(elements):
        task, index = elements
        # A tape watches only tensors of its own graph.
        meta = tf.nest.map_structure(tf.identity, values)
        own = random_layers.seeded(learner, held, index)
        return learner.task_gradient(meta, own, task, outer)

    loss, outputs, gradients = steps.map_tasks(
        task_gradient, (tasks, tf.range(tf.shape(support_x)[0])), learner.vectorize
    )
    loss = tf.reduce_mean(loss)
    gradients = [tf.reduce_mean(gradient, axis=0) for gradient in gradients]
    variables = tf.nest.flatten(learner.meta_variables())
    penalty, penalty_gradients = _weight_penalty(learner.bound, values, outer.scale)
    gradients = [
        gradient if added is None else gradient + added
        for gradient, added in zip(gradients, penalty_gradients, strict=True)
    ]
    return loss + tf.cast(penalty, loss.dtype), gradients, variables, outputs


def _check_weights(learner, weights):
    if weights.shape.rank == 2 and not learner.outer_loss:
        raise ValueError(
            f"expected sample_weight of tasks, [T], for {type(learner).__name__}, "
            "whose initial weights do not learn from the query loss, got [T, Q]."
        )


def _weight_penalty(network, values, scale):
    """Returns the weight regularizers, and their scaled gradient in `values`' order."""
    flat = tf.nest.flatten(values)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(flat)
        pairs = zip(network.trainable, values["weights"], strict=True)
        penalty = network.penalty(pairs)
        if not tf.is_tensor(penalty):
            return 0.0, [None] * len(flat)
        scaled = penalty * tf.cast(scale, penalty.dtype)
    return penalty, tape.gradient(scaled, flat)
