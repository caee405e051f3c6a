"""Maps over tasks, loops over inner steps, and the steps themselves."""

import math
import numbers
from collections.abc import Callable, Iterable
from typing import Any

import tensorflow as tf

from keras_meta.typing_names import TensorNest

# Tasks that `map_tasks` runs in parallel: enough for every core of a small machine, and
# few enough that memory does not grow with the number of tasks.
PARALLEL_TASKS = 8

# Meta-training unrolls at most this many inner steps. Unrolling 200 steps takes minutes
# of tracing and saves at most a quarter of the time of a step.
UNROLLED_STEPS = 10


def is_real(value: Any) -> bool:
    """Returns whether a value is a real number; True and False are none."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_positive(name: str, value: Any) -> None:
    """Raises a ValueError unless `value` is a finite number above 0."""
    if not is_real(value) or not 0 < value < math.inf:
        raise ValueError(f"expected {name} to be a number above 0, got {value!r}.")


def map_tasks(
    function: Callable[[Any], TensorNest], elements: TensorNest, vectorize: bool = False
) -> TensorNest:
    """Maps a function over the task axis.

    Outside of graphs (`run_eagerly=True`) the function runs as Python, task by task.

    Args:
        function: maps a nest of one task's tensors to a nest of tensors.
        elements: the nest with a leading task axis T.
        vectorize: if True, runs the tasks as one batch, which is faster for small dense
            networks; if False, side by side, in memory that does not grow with T.

    Returns:
        The nest of results, every leaf with a leading T.
    """
    count = tf.nest.flatten(elements)[0].shape[0]
    if tf.executing_eagerly() and count:
        results = [
            function(tf.nest.map_structure(lambda x, t=task: x[t], elements))
            for task in range(count)
        ]
        return tf.nest.map_structure(lambda *leaves: tf.stack(leaves), *results)
    if vectorize:
        return tf.vectorized_map(function, elements, fallback_to_while_loop=True)
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


def repeat(
    step: Callable[[Any, Any], TensorNest], state: TensorNest, steps: int, unroll: bool
) -> TensorNest:
    """Applies `step` to a nest of tensors `steps` times.

    Args:
        step: `(index, state) -> state`, shapes unchanged.
        state: a nest of tensors.
        steps: number of steps, a Python integer.
        unroll: if True, unrolls the steps in the graph, which a tape differentiates
            fastest; if False, uses a `tf.while_loop`, whose graph does not grow with
            `steps`.
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


def inner_product(a: Iterable[tf.Tensor], b: Iterable[tf.Tensor]) -> tf.Tensor:
    """Returns the inner product of two lists of tensors, a scalar."""
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)])
