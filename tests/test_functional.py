"""Models with given weights, maps over tasks, loops and solvers against NumPy."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import functional, networks
from tests import smooth


def normalized(momentum, **kwargs):
    """A batch normalization of two features and nothing else."""
    norm = keras.layers.BatchNormalization(momentum=momentum, epsilon=1e-3, **kwargs)
    return keras.Sequential([keras.Input([2]), norm])


def tensors(variables, seed=0):
    """Random positive values in place of variables', as tensors."""
    random = np.random.RandomState(seed)
    return [tf.constant(random.uniform(0.5, 2, v.shape), v.dtype) for v in variables]


# apply


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_apply_threads_the_statistics_of_batches(momentum):
    network = normalized(momentum)
    gamma, beta = weights = tensors(network.trainable_variables)
    statistics = tensors(network.non_trainable_variables, seed=1)
    before = network.get_weights()
    expected = [value.numpy().astype("float64") for value in statistics]
    for seed in range(3):
        x = np.random.RandomState(seed).normal(seed, 1 + seed, [6, 2])
        outputs, statistics, penalty = functional.apply(
            network, weights, statistics, x.astype("float32"), training=True
        )
        mean, variance = x.mean(0), x.var(0)
        expected = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(expected, (mean, variance), strict=True)
        ]
        # float32: some roundings of numbers of a few units.
        np.testing.assert_allclose(statistics, expected, rtol=1e-5, atol=1e-6)
        scaled = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        np.testing.assert_allclose(outputs, scaled, rtol=1e-4, atol=1e-5)
        assert penalty == 0
    # Not in training: the statistics are used, and kept.
    outputs, kept, _ = functional.apply(
        network, weights, statistics, x.astype("float32"), training=False
    )
    mean, variance = (value.numpy() for value in statistics)
    scaled = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(outputs, scaled, rtol=1e-4, atol=1e-5)
    for one, other in zip(kept, statistics, strict=True):
        np.testing.assert_array_equal(one, other)
    # The network itself has not changed.
    for one, other in zip(network.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_apply_uses_the_weights_given_and_sums_the_penalties():
    layers = [
        keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)),
        keras.layers.Dense(1, bias_regularizer=keras.regularizers.L1(2.0)),
    ]
    network = keras.Sequential([keras.Input([4]), *layers])
    w, b, v, c = weights = tensors(network.trainable_variables)
    x = np.random.RandomState(3).normal(size=[5, 4]).astype("float32")
    outputs, statistics, penalty = functional.apply(
        network, weights, [], x, training=True
    )
    np.testing.assert_allclose(outputs, (x @ w + b) @ v + c, rtol=1e-5, atol=1e-6)
    assert statistics == []
    np.testing.assert_allclose(penalty, 0.1 * np.sum(w**2) + 2 * np.sum(c), rtol=1e-6)


def test_values_can_be_watched_and_differentiated():
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    values = functional.values(network.trainable_variables)
    for value, variable in zip(values, network.get_weights(), strict=True):
        np.testing.assert_array_equal(value, variable)
    x = np.random.RandomState(3).normal(size=[5, 4]).astype("float32")
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        outputs, _, _ = functional.apply(network, values, [], x, training=True)
        total = tf.reduce_sum(outputs)
    w, b = tape.gradient(total, values)
    np.testing.assert_allclose(w, np.repeat(x.sum(0)[:, None], 3, 1), rtol=1e-5)
    np.testing.assert_allclose(b, [5, 5, 5])


# map_tasks


def solved(task):
    """A nest of results of a task's nest: products, a sum and the labels."""
    x, labels = task["x"], task["y"][0]
    return {
        "gram": tf.matmul(x, x, transpose_a=True),
        "more": (tf.reduce_sum(x), labels),
    }


def some_tasks(count):
    random = np.random.RandomState(0)
    x = random.normal(size=[count, 4, 3]).astype("float32")
    return {"x": x, "y": (random.randint(0, 9, [count, 2]).astype("int32"),)}


def check_solved(found, elements):
    assert set(found) == {"gram", "more"} and len(found["more"]) == 2
    total, labels = found["more"]
    gram = [x.T @ x for x in elements["x"]]
    assert found["gram"].shape == (len(elements["x"]), 3, 3)
    np.testing.assert_allclose(found["gram"], np.reshape(gram, [-1, 3, 3]), rtol=1e-5)
    np.testing.assert_allclose(total, [x.sum() for x in elements["x"]], rtol=1e-5)
    np.testing.assert_array_equal(labels, elements["y"][0])
    assert labels.dtype == tf.int32


@pytest.mark.parametrize("vectorize", [False, True])
def test_map_tasks_is_a_loop_over_tasks(vectorize):
    elements = some_tasks(5)
    tensors = tf.nest.map_structure(tf.constant, elements)
    check_solved(functional.map_tasks(solved, tensors, vectorize), elements)

    specs = tf.nest.map_structure(
        lambda v: tf.TensorSpec([None, *v.shape[1:]], v.dtype), elements
    )
    graph = tf.function(
        lambda elements: functional.map_tasks(solved, elements, vectorize),
        input_signature=[specs],
    )
    shapes = graph.get_concrete_function().output_shapes
    assert shapes["gram"].as_list() == [None, 3, 3]
    # More tasks than run at once, one task and, without a batch to make, none.
    for count in [functional.PARALLEL_TASKS + 3, 1] + [0] * (not vectorize):
        elements = some_tasks(count)
        check_solved(graph(tf.nest.map_structure(tf.constant, elements)), elements)


@pytest.mark.parametrize("vectorize", [False, True])
def test_gradients_go_through_map_tasks_to_what_it_closes_over(vectorize):
    # d/dw of the sum of (w x_t)^2 is 2 w sum of x_t^2; a second time, 2 sum of x_t^2.
    x = tf.constant(np.random.RandomState(0).normal(size=[7]))

    @tf.function
    def slopes(w):
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as tape:
                tape.watch(w)
                squares = functional.map_tasks(lambda x: (w * x) ** 2, x, vectorize)
                total = tf.reduce_sum(squares)
            first = tape.gradient(total, w)
        return first, outer.gradient(first, w)

    second = 2 * np.sum(np.square(x))
    np.testing.assert_allclose(
        slopes(tf.constant(3.0, tf.float64)), [3 * second, second], rtol=1e-12
    )


def test_unknown_sizes_within_a_task():
    spec = tf.TensorSpec([None, None, 2])
    graph = tf.function(
        lambda x: functional.map_tasks(lambda x: 2 * x, x), input_signature=[spec]
    )
    assert graph.get_concrete_function().output_shapes.as_list() == [None, None, 2]
    for shape in ([3, 4, 2], [5, 1, 2]):
        np.testing.assert_array_equal(graph(tf.ones(shape)), np.full(shape, 2))


def test_only_dense_networks_run_as_one_batch():
    dense = networks.mlp(input_shape=(3, 2))
    assert functional.vectorizes(dense)
    norm = keras.layers.BatchNormalization()
    nested = keras.Sequential([keras.Input([3, 2]), dense, norm, keras.layers.ReLU()])
    assert functional.vectorizes(nested)
    assert not functional.vectorizes(networks.conv4(filters=2))
    nested.add(keras.layers.Dropout(0.5))
    assert not functional.vectorizes(nested)


# repeat


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_repeat_unrolled_is_its_loop(steps, graph):
    def step(index, state):
        position, (total, count) = state
        position = tf.sin(position) + 0.1 * tf.cast(index, tf.float64)
        return position, (total + position, count + 1)

    def run(x, unroll):
        state = (x, (tf.zeros_like(x), tf.constant(0)))
        with tf.GradientTape() as tape:
            tape.watch(x)
            position, (total, count) = functional.repeat(step, state, steps, unroll)
        return position, total, count, tape.gradient(total, x)

    x = np.random.RandomState(0).normal(size=[4])
    position, total, slope, sensitivity = x, np.zeros(4), np.ones(4), np.zeros(4)
    for index in range(steps):
        slope = slope * np.cos(position)
        position = np.sin(position) + 0.1 * index
        total, sensitivity = total + position, sensitivity + slope
    for unroll in (True, False):
        call = tf.function(run) if graph else run
        found = call(tf.constant(x), unroll)
        assert found[2] == steps
        # float64: rounding alone.
        np.testing.assert_allclose(found[0], position, rtol=1e-12)
        np.testing.assert_allclose(found[1], total, rtol=1e-12, atol=1e-15)
        if steps:
            np.testing.assert_allclose(found[3], sensitivity, rtol=1e-12, atol=1e-15)


def test_a_loop_does_not_grow_with_its_steps():
    def size(steps, unroll):
        graph = tf.function(
            lambda x: functional.repeat(lambda _, x: tf.sin(x), x, steps, unroll)
        )
        traced = graph.get_concrete_function(tf.TensorSpec([])).graph
        return len(traced.get_operations())

    assert size(5, unroll=False) == size(50, unroll=False)
    assert size(50, unroll=True) - size(5, unroll=True) == 45


# Where a network keeps what.


def test_batch_norm_slots_are_positions_of_moving_statistics():
    inner = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.BatchNormalization(momentum=0.5, name="nested"),
            keras.layers.Dropout(0.5),
        ]
    )
    frozen = keras.layers.BatchNormalization(name="frozen")
    frozen.trainable = False
    network = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dropout(0.3),
            keras.layers.BatchNormalization(momentum=0.9, name="first"),
            frozen,
            inner,
            keras.layers.Dense(3),
            keras.layers.BatchNormalization(scale=False, momentum=0.0, name="last"),
        ]
    )
    slots = functional.batch_norm_slots(network)
    variables = network.non_trainable_variables
    found = {
        "/".join(variables[slot].path.split("/")[-2:]): momentum
        for slot, momentum in slots.items()
    }
    assert found == {
        f"{name}/{kind}": momentum
        for name, momentum in {"first": 0.9, "nested": 0.5, "last": 0.0}.items()
        for kind in ("moving_mean", "moving_variance")
    }
    assert list(slots) == sorted(slots)

    seeds = functional.seed_slots(network)
    dropouts = [network.layers[0], inner.layers[1]]
    states = [layer.seed_generator.state for layer in dropouts]
    assert len(seeds) == 2
    assert {id(variables[slot]) for slot in seeds} == {id(state) for state in states}

    inner.trainable = False
    slots = functional.batch_norm_slots(network)
    variables = network.non_trainable_variables
    layers = {variables[slot].path.split("/")[-2] for slot in slots}
    assert layers == {"first", "last"}
    assert functional.batch_norm_slots(networks.mlp()) == {}
    assert functional.seed_slots(networks.conv4(filters=2)) == []


@pytest.mark.parametrize(
    "arguments, came",
    [
        ({"momentum": 1.0}, "momentum 1.0 and renorm False"),
        ({"momentum": 0.5, "renorm": True}, "momentum 0.5 and renorm True"),
    ],
)
def test_statistics_that_cannot_be_read_are_refused(arguments, came):
    network = normalized(**arguments, name="odd")
    with pytest.raises(ValueError) as info:
        functional.batch_norm_slots(network)
    assert str(info.value) == (
        "expected BatchNormalization layers whose batch statistics can be read "
        f"(momentum below 1, no renorm); layer 'odd' has {came}."
    )
    network.layers[0].trainable = False
    assert functional.batch_norm_slots(network) == {}


@pytest.mark.parametrize("times", [1, 2])
def test_the_second_derivative_of_batch_normalization(times):
    # The mean of x^2 / 2 over a batch of three, normalized: against float64 differences
    # of the first derivative, which stock Keras has right.
    x = np.random.RandomState(0).normal(size=[3, 2])
    weights = np.random.RandomState(1).normal(size=[3, 2])

    def network():
        return keras.Sequential(
            [
                keras.Input([2], dtype="float64"),
                keras.layers.BatchNormalization(momentum=0.0, dtype="float64"),
            ]
        )

    def slope(network, x):
        x = tf.constant(x)
        values = functional.values(network.trainable_variables)
        statistics = functional.values(network.non_trainable_variables)
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch(x)
                y, statistics, _ = functional.apply(
                    network, values, statistics, x, training=True
                )
                total = tf.reduce_sum(weights * y**3)
            first = tape.gradient(total, x)
            along = tf.reduce_sum(first * weights)
        return first, outer.gradient(along, x), statistics

    stock, mended = network(), network()
    for _ in range(times):
        functional.mend_batch_norm(mended)
    first, second, statistics = slope(mended, x)
    plain, _, expected = slope(stock, x)
    np.testing.assert_allclose(first, plain, rtol=1e-12)
    for one, other in zip(statistics, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    # The Hessian is symmetric: its product with a direction is the slope's change.
    width = 1e-5
    ahead, behind = (slope(stock, x + sign * width * weights)[0] for sign in (1, -1))
    change = (ahead - behind) / (2 * width)
    # Central differences are off by width^2 times the third derivative.
    np.testing.assert_allclose(second, change, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("shape", [[7, 3], [4, 3, 2, 3]])
def test_fused_batch_normalization_is_the_exact_one(shape, scale):
    """One op in float32 against float64, which takes moments apart."""
    rng = np.random.RandomState(0)
    x, upstream, direction = rng.normal(1.0, 0.1, [3, *shape])

    def found(dtype):
        layer = keras.layers.BatchNormalization(
            momentum=0.5, scale=scale, center=scale, dtype=dtype
        )
        network = keras.Sequential([keras.Input(shape[1:], dtype=dtype), layer])
        functional.mend_batch_norm(network)
        for variable in layer.trainable_variables:
            variable.assign([0.5, 1.0, 2.0])
        weights = functional.values(network.trainable_variables)
        statistics = functional.values(network.non_trainable_variables)

        @tf.function
        def slopes(point):
            with tf.GradientTape() as outer:
                outer.watch(point)
                with tf.GradientTape() as tape:
                    tape.watch([point, *weights])
                    y, moved, _ = functional.apply(
                        network, weights, statistics, point, training=True
                    )
                    total = tf.reduce_sum(tf.constant(upstream, dtype) * y)
                first = tape.gradient(total, [point, *weights])
                along = tf.reduce_sum(first[0] * tf.constant(direction, dtype))
            return [y, *moved, *first, outer.gradient(along, point)]

        point = tf.constant(x, dtype)
        graph = slopes.get_concrete_function(point).graph
        kinds = {operation.type for operation in graph.get_operations()}
        return "FusedBatchNormV3" in kinds, slopes(point)

    (fused, found_values), (other, expected) = found("float32"), found("float64")
    assert fused and not other
    for one, exact in zip(found_values, expected, strict=True):
        np.testing.assert_allclose(one, exact, rtol=1e-4, atol=1e-4)


# Steps and solvers.


def test_a_proximal_step_by_hand():
    start, weights, gradients = [[1.0, 2.0]], [[3.0, 2.0]], [[1.0, -4.0]]
    arguments = [[tf.constant(v[0])] for v in (start, weights, gradients)]
    moved = np.array([2.5, 4.0])  # at rate 1/2
    (found,) = functional.proximal_step(*arguments, 0.5)
    np.testing.assert_array_equal(found, moved)
    for precision, share in ((0.0, 1.0), (2.0, 0.5), (6.0, 0.25), (np.inf, 0.0)):
        (found,) = functional.proximal_step(
            *arguments, 0.5, [tf.math.log(tf.constant(precision))]
        )
        expected = np.array(start[0]) + share * (moved - start[0])
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def solve(matrix, right, steps, scales=None):
    """Conjugate gradient on a list of a vector and a matrix, from one flat vector."""
    scales = np.ones(len(right)) if scales is None else scales

    def split(v):
        return [v[:2], tf.reshape(v[2:], [-1, 2])]

    def join(parts):
        return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

    found = functional.conjugate_gradient(
        lambda v: split(tf.linalg.matvec(matrix, join(v))),
        split(tf.constant(right)),
        lambda r: split(join(r) / scales),
        steps,
    )
    return join(found).numpy()


def positive(seed=0):
    """A positive matrix `[6, 6]` of eigenvalues between 1 and 50."""
    random = np.random.RandomState(seed)
    axes, _ = np.linalg.qr(random.normal(size=[6, 6]))
    return axes * np.geomspace(1, 50, 6) @ axes.T


def test_conjugate_gradient_ends_after_as_many_steps_as_unknowns():
    matrix, right = positive(), np.random.RandomState(1).normal(size=6)
    exact = np.linalg.solve(matrix, right)
    scales = np.diag(matrix)
    for preconditioner in (None, scales):
        np.testing.assert_allclose(
            solve(matrix, right, 6, preconditioner), exact, rtol=1e-8
        )
    # Nothing is left to do after an exact solution, and of nothing comes nothing.
    np.testing.assert_allclose(solve(matrix, right, 60), exact, rtol=1e-8)
    np.testing.assert_array_equal(solve(matrix, np.zeros(6), 3), np.zeros(6))
    np.testing.assert_allclose(solve(np.diag(scales), right, 3, scales), right / scales)


def test_conjugate_gradient_keeps_its_best_at_negative_curvature():
    # Its first direction has none: what it started from, the preconditioned right side.
    right = np.random.RandomState(1).normal(size=6)
    scales = np.arange(1.0, 7.0)
    np.testing.assert_allclose(
        solve(-positive(), right, 9, scales), right / scales, rtol=1e-12
    )
    # Later, each step solves the system on a Krylov space (Galerkin's condition) as
    # long as the matrix is positive on it, and the last such solution is kept.
    matrix = positive() - 1.9 * np.eye(6)  # one eigenvalue below zero
    first = right - matrix @ right
    basis = np.stack([np.linalg.matrix_power(matrix, k) @ first for k in range(6)], 1)
    kept = right
    for steps in range(1, 7):
        space, _ = np.linalg.qr(basis[:, :steps])
        inside = space.T @ matrix @ space
        if np.linalg.eigvalsh(inside)[0] <= 0:
            break
        kept = right + space @ np.linalg.solve(inside, space.T @ first)
        np.testing.assert_allclose(solve(matrix, right, steps), kept, rtol=1e-6)
    assert 1 < steps < 7
    for more in (steps, steps + 1, 50):
        np.testing.assert_allclose(solve(matrix, right, more), kept, rtol=1e-6)


def two_paths():
    """A network whose head sees its input past the layers before."""
    inputs = keras.Input([4])
    x = keras.layers.Dense(4)(keras.layers.Dense(4)(inputs))
    joined = keras.layers.Concatenate()([inputs, x])
    return keras.Model(inputs, keras.layers.Dense(2)(joined))


def test_a_network_is_cut_before_the_first_layer_that_adapts():
    network = smooth.network()
    x = np.random.RandomState(0).normal(size=[5, 6, 6, 1])
    weights = functional.values(network.trainable_variables)
    statistics = functional.values(network.non_trainable_variables)
    expected = functional.apply(network, weights, statistics, x, training=True)
    for positions, first in (([4, 5], "head"), ([2], "norm")):
        ahead, rest = functional.split(network, positions)
        assert rest.part.layers[1].name == first
        features, found, _ = ahead.apply(weights, statistics, x, training=True)
        outputs, found, _ = rest.apply(weights, found, features, training=True)
        np.testing.assert_allclose(outputs, expected[0])
        for a, b in zip(found, expected[1], strict=True):
            np.testing.assert_allclose(a, b)


@pytest.mark.parametrize(
    ("make", "positions"),
    [
        (smooth.network, [0, 4]),  # the first layer adapts
        (two_paths, [2, 3]),
        (
            lambda: keras.Sequential(
                [
                    keras.Input([4]),
                    keras.layers.Dropout(0.5),
                    keras.layers.Dense(4),
                    keras.layers.Dense(2),
                ]
            ),
            [2, 3],
        ),
    ],
)
def test_a_network_that_cannot_be_cut_stays_whole(make, positions):
    network = make()
    ahead, rest = functional.split(network, positions)
    assert ahead is None
    assert rest.part is network
