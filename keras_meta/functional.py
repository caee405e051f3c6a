"""Apply a Keras model with given weights, map over tasks, repeat a step."""

import functools

import keras
import tensorflow as tf

# Tasks under way at once in `map_tasks`: enough to keep every core of a small machine
# busy, few enough that memory does not grow with the number of tasks.
PARALLEL_TASKS = 8


def values(variables):
    """The current values of Keras variables, as a list of tensors.

    `convert_to_tensor(v.value)` and not `v` itself: a tape can then watch the value,
    and nothing assigns to a variable inside a tape, which would lose the second order.
    """
    return [tf.convert_to_tensor(variable.value) for variable in variables]


def apply(network, weights, statistics, x, training):
    """Runs `network` on `x` with the given weights.

    Args:
        network: a built Keras model.
        weights: tensors in the order of `network.trainable_variables`.
        statistics: tensors in the order of `network.non_trainable_variables`.
        x: `[B, ...]`.
        training: run the layers in training mode.

    Returns:
        `(outputs, statistics, penalty)`: outputs `[B, ...]`; the non-trainable values
        after the call; the sum of the network's own regularisation losses.
    """
    outputs, statistics, losses = network.stateless_call(
        weights, statistics, x, training=training, return_losses=True
    )
    return outputs, statistics, sum(losses)


def map_tasks(function, elements):
    """`tf.map_fn` over the task axis, with the result's signature found by tracing.

    Args:
        function: maps a nest of one task's tensors to a nest of tensors.
        elements: the nest with a leading task axis T.

    Returns:
        The nest of results, every leaf with a leading T.
    """
    specs = tf.nest.map_structure(
        lambda x: tf.TensorSpec(x.shape[1:], x.dtype), elements
    )
    traced = tf.function(function, autograph=False).get_concrete_function(specs)
    signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec(x.shape, x.dtype), traced.structured_outputs
    )
    return tf.map_fn(
        traced,
        elements,
        parallel_iterations=None if tf.executing_eagerly() else PARALLEL_TASKS,
        fn_output_signature=signature,
    )


def repeat(step, state, steps, unroll):
    """Applies `step` to a nest of tensors `steps` times.

    Args:
        step: `(index, state) -> state`, shapes unchanged.
        state: a nest of tensors.
        steps: how often, a Python integer.
        unroll: write the steps out in the graph, which a tape differentiates fastest;
            otherwise a `tf.while_loop`, whose graph does not grow with `steps`.
    """
    if unroll or steps <= 1:
        for index in range(steps):
            state = step(index, state)
        return state
    return tf.while_loop(
        lambda index, state: index < steps,
        lambda index, state: (index + 1, step(index, state)),
        (tf.constant(0), state),
        parallel_iterations=1,
    )[1]


def _batch_norms(network):
    return [
        layer
        for layer in network._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
    ]


def make_twice_differentiable(network):
    """Gives a network's batch normalization its right second derivative.

    `tf.nn.moments`, which Keras uses, stops the gradient from the variance to the mean.
    That is right once, where the term is zero, and wrong twice, where it is not: about
    1% of MAML's meta-gradient. The layers of this network get moments without it.
    """
    for layer in _batch_norms(network):
        moments = layer._moments
        if isinstance(moments, functools.partial):
            continue  # done before: one network may serve several learners
        layer._moments = functools.partial(_moments, moments, layer._reduction_axes)


def _moments(masked_moments, axes, inputs, mask):
    if mask is not None:
        return masked_moments(inputs, mask)
    mean = tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(inputs - mean), axes)
    return tf.squeeze(mean, axes), variance


def batch_norm_slots(network):
    """Where a network keeps its BatchNormalization statistics.

    Returns:
        `{position in network.non_trainable_variables: momentum}`, in order, for each
        layer that normalises with its batch's statistics when training. Frozen layers
        always use their own stored statistics and are left out.

    Raises:
        ValueError: a layer that does not record a batch's statistics: one of
            momentum 1, or of batch renormalization.
    """
    positions = {id(v): i for i, v in enumerate(network.non_trainable_variables)}
    slots = {}
    for layer in _batch_norms(network):
        if not layer.trainable:
            continue
        if layer.momentum >= 1 or layer.renorm:
            raise ValueError(
                "expected BatchNormalization layers whose batch statistics can be read "
                f"(momentum below 1, no renorm); layer '{layer.name}' has momentum "
                f"{layer.momentum} and renorm {layer.renorm}."
            )
        for variable in (layer.moving_mean, layer.moving_variance):
            slots[positions[id(variable)]] = layer.momentum
    return dict(sorted(slots.items()))


def seed_slots(network):
    """Positions in `network.non_trainable_variables` of random seed states."""
    return [
        position
        for position, variable in enumerate(network.non_trainable_variables)
        if variable.name == "seed_generator_state"
    ]
