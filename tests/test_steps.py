"""Tests of maps over tasks, loops and steps against NumPy."""

import math

import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import steps
from tests import smooth

# map_tasks


def compute_results(task):
    """Returns a nest of results of a task: products, a sum and the labels."""
    x, labels = task["x"], task["y"][0]
    return {
        "gram": tf.matmul(x, x, transpose_a=True),
        "more": (tf.reduce_sum(x), labels),
    }


def random_tasks(count):
    random = np.random.RandomState(0)
    x = random.normal(size=[count, 4, 3]).astype("float32")
    return {"x": x, "y": (random.randint(0, 9, [count, 2]).astype("int32"),)}


def check_results(results, elements):
    assert set(results) == {"gram", "more"} and len(results["more"]) == 2
    total, labels = results["more"]
    gram = [x.T @ x for x in elements["x"]]
    assert results["gram"].shape == (len(elements["x"]), 3, 3)
    np.testing.assert_allclose(results["gram"], np.reshape(gram, [-1, 3, 3]), rtol=1e-5)
    np.testing.assert_allclose(total, [x.sum() for x in elements["x"]], rtol=1e-5)
    np.testing.assert_array_equal(labels, elements["y"][0])
    assert labels.dtype == tf.int32


@pytest.mark.thorough
@pytest.mark.parametrize("vectorize", [False, True])
def test_map_tasks_matches_a_loop_over_tasks(vectorize):
    for count in [5, 1] + [0] * (not vectorize):
        elements = random_tasks(count)
        tensors = tf.nest.map_structure(tf.constant, elements)
        check_results(steps.map_tasks(compute_results, tensors, vectorize), elements)

    specs = tf.nest.map_structure(
        lambda v: tf.TensorSpec([None, *v.shape[1:]], v.dtype), elements
    )
    graph = tf.function(
        lambda elements: steps.map_tasks(compute_results, elements, vectorize),
        input_signature=[specs],
    )
    shapes = graph.get_concrete_function().output_shapes
    assert shapes["gram"].as_list() == [None, 3, 3]
    # More tasks than run in parallel, one task and, unless vectorized, no task.
    for count in [steps.PARALLEL_TASKS + 3, 1] + [0] * (not vectorize):
        elements = random_tasks(count)
        check_results(graph(tf.nest.map_structure(tf.constant, elements)), elements)


@pytest.mark.thorough
def test_convolutions_have_equal_gradients_with_and_without_vectorization():
    results = []
    for vectorize in (False, True):
        with smooth.float64():
            network = smooth.network()
        learner = km.MAML(network, inner_rate=0.5, inner_steps=2, vectorize=vectorize)
        if results:
            learner.set_weights(results[0][0])
        episode, query_y = smooth.episode()
        gradients = tf.function(
            lambda e, y, learner=learner: learner.meta_gradient(e, y)[1]
        )
        values = [g.numpy() for g in gradients(episode, query_y)]
        results.append((learner.get_weights(), values))
    (_, mapped), (_, vectorized) = results
    assert max(np.abs(gradient).max() for gradient in mapped) > 1e-3
    for expected, actual in zip(mapped, vectorized, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("vectorize", [False, True])
def test_outside_of_graphs_a_map_runs_as_python(vectorize):
    """With `run_eagerly=True` a debugger therefore shows the tensors of each task."""
    calls = []

    def function(task):
        assert tf.executing_eagerly()
        calls.append(task)
        return 2 * task["x"]

    x = np.random.RandomState(0).normal(size=[3, 4])
    for call in (1, 2):  # the second call uses no trace either
        results = steps.map_tasks(function, {"x": tf.constant(x)}, vectorize)
        np.testing.assert_array_equal(results, 2 * x)
        assert len(calls) == 3 * call
    for task, expected in zip(calls, [*x, *x], strict=True):
        np.testing.assert_array_equal(task["x"].numpy(), expected)

    # A graph traces the function once, whatever T.
    calls.clear()

    def symbolic(task):
        calls.append(task)
        return 2 * task

    graph = tf.function(lambda x: steps.map_tasks(symbolic, x, vectorize))
    for _ in range(2):
        np.testing.assert_array_equal(graph(tf.constant(x)), 2 * x)
    assert len(calls) == 1 and tf.is_symbolic_tensor(calls[0])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("vectorize", [False, True])
def test_gradients_of_map_tasks_reach_captured_tensors(vectorize, graph):
    # d/dw of the sum of (w x_t)^2 is 2 w sum of x_t^2; d^2/dw^2 is 2 sum of x_t^2.
    x = tf.constant(np.random.RandomState(0).normal(size=[7]))

    def slopes(w):
        with tf.GradientTape() as outer:
            outer.watch(w)
            with tf.GradientTape() as tape:
                tape.watch(w)
                squares = steps.map_tasks(lambda x: (w * x) ** 2, x, vectorize)
                total = tf.reduce_sum(squares)
            first = tape.gradient(total, w)
        return first, outer.gradient(first, w)

    run = tf.function(slopes) if graph else slopes
    second = 2 * np.sum(np.square(x))
    np.testing.assert_allclose(
        run(tf.constant(3.0, tf.float64)), [3 * second, second], rtol=1e-12
    )


def test_unknown_sizes_within_a_task():
    spec = tf.TensorSpec([None, None, 2])
    graph = tf.function(
        lambda x: steps.map_tasks(lambda x: 2 * x, x), input_signature=[spec]
    )
    assert graph.get_concrete_function().output_shapes.as_list() == [None, None, 2]
    for shape in ([3, 4, 2], [5, 1, 2]):
        np.testing.assert_array_equal(graph(tf.ones(shape)), np.full(shape, 2))


# repeat


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_repeat_unrolled_or_not_matches_a_numpy_loop(count, graph):
    def step(index, state):
        position, (total, count) = state
        position = tf.sin(position) + 0.1 * tf.cast(index, tf.float64)
        return position, (total + position, count + 1)

    def run(x, unroll):
        state = (x, (tf.zeros_like(x), tf.constant(0)))
        with tf.GradientTape() as tape:
            tape.watch(x)
            position, (total, steps_taken) = steps.repeat(step, state, count, unroll)
        return position, total, steps_taken, tape.gradient(total, x)

    x = np.random.RandomState(0).normal(size=[4])
    position, total, slope, sensitivity = x, np.zeros(4), np.ones(4), np.zeros(4)
    for index in range(count):
        slope = slope * np.cos(position)
        position = np.sin(position) + 0.1 * index
        total, sensitivity = total + position, sensitivity + slope
    for unroll in (True, False):
        call = tf.function(run) if graph else run
        results = call(tf.constant(x), unroll)
        assert results[2] == count
        # The tolerances allow float64 rounding.
        np.testing.assert_allclose(results[0], position, rtol=1e-12)
        np.testing.assert_allclose(results[1], total, rtol=1e-12, atol=1e-15)
        if count:
            np.testing.assert_allclose(results[3], sensitivity, rtol=1e-12, atol=1e-15)


def test_the_graph_of_a_loop_does_not_grow_with_its_steps():
    def count_operations(count, unroll):
        graph = tf.function(
            lambda x: steps.repeat(lambda _, x: tf.sin(x), x, count, unroll)
        )
        traced = graph.get_concrete_function(tf.TensorSpec([])).graph
        return len(traced.get_operations())

    assert count_operations(5, unroll=False) == count_operations(50, unroll=False)
    assert count_operations(50, unroll=True) - count_operations(5, unroll=True) == 45


# Steps.


def test_inner_product_matches_a_hand_computed_value():
    a = [tf.constant([1.0, 2.0]), tf.constant([[3.0]])]
    b = [tf.constant([4.0, -5.0]), tf.constant([[6.0]])]
    assert float(steps.inner_product(a, b)) == 4 - 10 + 18
    with pytest.raises(ValueError):
        steps.inner_product(a, b[:1])


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan, "1", None, [1.0], 1j])
def test_check_positive_rejects_other_values(value):
    with pytest.raises(ValueError) as info:
        steps.check_positive("rate", value)
    assert str(info.value) == f"expected rate to be a number above 0, got {value!r}."


@pytest.mark.parametrize("value", [1, 1e-9, np.float32(0.5), np.int64(3)])
def test_check_positive_accepts_positive_numbers(value):
    steps.check_positive("rate", value)
