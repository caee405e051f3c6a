"""Apply a Keras model with given weights; map over tasks; steps and solvers."""

import functools
import itertools
import math
import numbers

import keras
import tensorflow as tf

# Tasks under way at once in `map_tasks`: enough to keep every core of a small machine
# busy, few enough that memory does not grow with the number of tasks.
PARALLEL_TASKS = 8


def check_positive(name, value):
    """Raises a ValueError unless `value` is a finite number above 0."""
    if not isinstance(value, numbers.Real) or not 0 < value < math.inf:
        raise ValueError(f"expected {name} to be a number above 0, got {value!r}.")


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


class Stage:
    """A part of a network, run with the weights and statistics of the whole.

    Args:
        part: a Keras model whose layers are layers of `network`.
        network: the whole.
    """

    def __init__(self, part, network):
        def positions(some, all):
            index = {id(variable): i for i, variable in enumerate(all)}
            return [index[id(variable)] for variable in some]

        self.part = part
        self.weights = positions(part.trainable_variables, network.trainable_variables)
        self.statistics = positions(
            part.non_trainable_variables, network.non_trainable_variables
        )

    def apply(self, weights, statistics, x, training):
        """As `apply`, from and to the statistics of the whole."""
        outputs, measured, penalty = apply(
            self.part,
            [weights[i] for i in self.weights],
            [statistics[i] for i in self.statistics],
            x,
            training,
        )
        statistics = list(statistics)
        for position, value in zip(self.statistics, measured, strict=True):
            statistics[position] = value
        return outputs, statistics, penalty


def split(network, positions):
    """Cuts a network before the first layer with a weight at `positions`.

    Returns:
        `(ahead, rest)`, each a `Stage`, one after the other: what comes before neither
        changes with those weights nor is random. `ahead` is None where the network has
        no such part, or no one place to cut it.
    """
    chosen = {id(network.trainable_variables[i]) for i in positions}
    random = {id(network.non_trainable_variables[i]) for i in seed_slots(network)}
    fixed = list(
        itertools.takewhile(
            lambda layer: not (chosen | random) & {id(v) for v in layer.variables},
            network.layers,
        )
    )
    for layer in reversed(network.layers[1 : len(fixed) + 1]):
        try:
            ahead = keras.Model(network.input, layer.input)
            rest = keras.Model(layer.input, network.output)
        except (AttributeError, ValueError):
            continue  # called twice, or passed by: one tensor does not carry it all
        if ahead.weights:
            return Stage(ahead, network), Stage(rest, network)
    return None, Stage(network, network)


def with_outputs(network, outputs):
    """An untrained copy of a network with another number of outputs.

    Raises:
        ValueError: the last layer is not a Dense one.
    """
    last = network.layers[-1]
    if not isinstance(last, keras.layers.Dense) or last.output is not network.output:
        raise ValueError(
            "expected a network that ends in a Dense layer, whose units can be other "
            f"in number; {network.name} ends in {type(last).__name__}."
        )
    config = network.get_config()
    config["layers"][-1]["config"]["units"] = outputs
    return type(network).from_config(config)


def require_built(network):
    """Raises a ValueError unless `network` is a built model with `[B, D]` outputs."""
    if not isinstance(network, keras.Model) or not network.built:
        raise ValueError(
            "expected network to be a built keras.Model (start it with a "
            f"keras.Input), got {type(network).__name__}."
        )
    if len(network.output_shape) != 2:
        raise ValueError(
            "expected a network with outputs of shape [B, N], got "
            f"{network.output_shape}."
        )


def each(network, x, training=False):
    """Runs `network` on every example: `[T, S, ...]` to `[T, S, D]`."""
    shape = tf.shape(x)
    outputs = network(tf.reshape(x, [-1, *x.shape[2:]]), training=training)
    return tf.reshape(outputs, [shape[0], shape[1], *outputs.shape[1:]])


def class_means(features, labels, classes):
    """Means of features `[T, S, D]` over the examples of each class.

    Returns:
        `(means [T, classes, D], present [T])`: zeros for a class without examples, and
        one more than the highest label.
    """
    members = tf.one_hot(labels, classes, axis=1, dtype=features.dtype)  # [T, N, S]
    count = tf.reduce_sum(members, axis=2, keepdims=True)
    means = tf.matmul(members, features) / tf.maximum(count, 1)
    return means, tf.reduce_max(labels, axis=1) + 1


# Layers that `tf.vectorized_map` turns into one batched operation over tasks; it has no
# such form for convolutions whose filters differ by task.
VECTORIZED_LAYERS = (
    keras.layers.InputLayer,
    keras.layers.Dense,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.BatchNormalization,
    keras.layers.Flatten,
    keras.Sequential,
    keras.Model,
)


def vectorizes(network):
    """Whether `map_tasks` gains by running the tasks of a network as one batch."""
    return all(
        isinstance(layer, VECTORIZED_LAYERS) for layer in network._flatten_layers()
    )


def map_tasks(function, elements, vectorize=False):
    """Maps a function over the task axis.

    Args:
        function: maps a nest of one task's tensors to a nest of tensors.
        elements: the nest with a leading task axis T.
        vectorize: run the tasks as one batch, which suits small dense networks; side
            by side otherwise, in memory that does not grow with T.

    Returns:
        The nest of results, every leaf with a leading T.
    """
    if vectorize:
        return tf.vectorized_map(function, elements, fallback_to_while_loop=False)
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


def proximal_step(start, weights, gradients, rate, log_precisions=None):
    """One step of gradient descent, and of its prior's proximal map.

        theta <- phi + w (theta - a grad - phi),  w = 1 / (1 + a P)

    The argmin of the linearised loss, the prior's `P/2 |theta - phi|^2` and the step's
    own `|theta' - theta|^2 / 2a`: stable for every P, plain descent where P = 0, and
    no step at all where P is infinite.

    Args:
        start: phi, a list of tensors.
        weights: theta, in the same order.
        gradients: of the mean loss.
        rate: a.
        log_precisions: log P for each weight, scalars; None for no prior.

    Returns:
        The new weights.
    """
    moved = [w - rate * g for w, g in zip(weights, gradients, strict=True)]
    if log_precisions is None:
        return moved
    shares = [tf.sigmoid(-log_p - math.log(rate)) for log_p in log_precisions]
    return [
        phi + share * (theta - phi)
        for phi, theta, share in zip(start, moved, shares, strict=True)
    ]


def inner_product(a, b):
    """Sum over two lists of tensors of the products of their elements."""
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)])


def conjugate_gradient(product, right, precondition, steps):
    """Solves `A v = right` by preconditioned conjugate gradient.

    Starts from `precondition(right)` and stops early, keeping the best solution so far,
    where the curvature along the search direction is not positive: A may be indefinite.

    Args:
        product: `v -> A v`, on lists of tensors.
        right: a list of tensors.
        precondition: `r -> z`, an approximate and positive inverse of A.
        steps: iterations, a Python integer.

    Returns:
        v, a list of tensors.

    Reference:
        Nocedal and Wright, "Numerical Optimization", 2006, algorithms 5.3 and 7.1.
    """

    def axpy(a, x, y):
        return [a * p + q for p, q in zip(x, y, strict=True)]

    def step(_, state):
        solution, residual, direction, size, active = state
        ahead = product(direction)
        curvature = inner_product(direction, ahead)
        active = active & (curvature > 0) & (size > 0)
        length = tf.where(active, size / tf.where(active, curvature, 1), 0)
        solution = axpy(length, direction, solution)
        residual = axpy(-length, ahead, residual)
        conditioned = precondition(residual)
        new_size = inner_product(residual, conditioned)
        turn = tf.where(active, new_size / tf.where(active, size, 1), 0)
        direction = axpy(turn, direction, conditioned)
        return solution, residual, direction, new_size, active

    solution = precondition(right)
    residual = axpy(-1.0, product(solution), right)
    direction = precondition(residual)
    size = inner_product(residual, direction)
    state = (solution, residual, direction, size, tf.constant(True))
    return repeat(step, state, steps, unroll=False)[0]


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


def mend_batch_norm(network):
    """Gives a network's batch normalization its right second derivative, and speed.

    `tf.nn.moments`, which Keras uses, stops the gradient from the variance to the mean.
    That is right once, where the term is zero, and wrong twice, where it is not: about
    1% of MAML's meta-gradient. The layers of this network get moments without it, and
    normalize a batch with one op, right twice too, in place of many that each read it.
    """
    for layer in _batch_norms(network):
        if isinstance(layer.call, functools.partial):
            continue  # done before: one network may serve several learners
        layer._moments = functools.partial(
            _moments, layer._moments, layer._reduction_axes
        )
        layer.call = functools.partial(_normalized, layer, layer.call)


def _moments(masked_moments, axes, inputs, mask):
    if mask is not None:
        return masked_moments(inputs, mask)
    mean = tf.reduce_mean(inputs, axes, keepdims=True)
    variance = tf.reduce_mean(tf.square(inputs - mean), axes)
    return tf.squeeze(mean, axes), variance


def _normalized(layer, call, inputs, training=None, mask=None):
    """`BatchNormalization.call`, by the fused op where it does the same."""
    fused = training and layer.trainable and mask is None and not layer.renorm
    fused = fused and inputs.dtype == tf.float32 and not layer.synchronized
    if not fused or layer.axis not in (-1, inputs.shape.rank - 1):
        return call(inputs, training=training, mask=mask)
    mean, variance = layer._moments(inputs, None)
    for moving, value in (
        (layer.moving_mean, mean),
        (layer.moving_variance, variance),
    ):
        moving.assign(moving * layer.momentum + value * (1 - layer.momentum))
    size = [inputs.shape[-1]]
    four = inputs.shape.rank == 4
    normalized = tf.raw_ops.FusedBatchNormV3(
        x=inputs if four else tf.reshape(inputs, [-1, 1, 1, *size]),
        scale=layer.gamma.value if layer.scale else tf.ones(size),
        offset=layer.beta.value if layer.center else tf.zeros(size),
        mean=tf.zeros([0]),
        variance=tf.zeros([0]),
        epsilon=layer.epsilon,
        is_training=True,
    )
    return normalized.y if four else tf.reshape(normalized.y, tf.shape(inputs))


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
