"""Conjugate gradient for equations that may be indefinite."""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keras_meta import steps as steps_module


def conjugate_gradient(
    product: Callable[[list[tf.Tensor]], list[tf.Tensor]],
    right: Sequence[tf.Tensor],
    precondition: Callable[[list[tf.Tensor]], list[tf.Tensor]],
    steps: int,
    unroll: bool = False,
) -> list[tf.Tensor]:
    """Solves `A v = right` by preconditioned conjugate gradient, from v = 0.

    Returns the iterate of the smallest residual `|right - A v|`, which need not be the
    last: residuals rise and fall in between, and A may be indefinite. It stops early
    where the curvature along the search direction is not positive; where that is so for
    the first direction, v is `precondition(right)`. All thresholds are relative, so the
    solution of `c right` is c times that of `right`.

    Args:
        product: `v -> A v`, on lists of tensors.
        right: a list of tensors.
        precondition: `r -> z`, an approximate and positive inverse of A.
        steps: iterations, a Python integer.
        unroll: write the iterations out in the graph; otherwise they are a loop.

    Returns:
        v, a list of tensors.

    Reference:
        Nocedal and Wright, "Numerical Optimization", 2006, algorithms 5.3 and 7.1.
    """

    def axpy(a, x, y):
        return [a * p + q for p, q in zip(x, y, strict=True)]

    def chosen(condition, ours, theirs):
        return [tf.where(condition, a, b) for a, b in zip(ours, theirs, strict=True)]

    def squared(x):
        return steps_module.inner_product(x, x)

    def step(_, state):
        solution, residual, direction, size, best, least, active = state
        ahead = product(direction)
        curvature = steps_module.inner_product(direction, ahead)
        active = active & (curvature > 0) & (size > rounding**2 * first)
        length = tf.where(active, size / tf.where(active, curvature, 1), 0)
        solution = axpy(length, direction, solution)
        residual = axpy(-length, ahead, residual)
        remains = squared(residual)
        better = active & (remains < least)
        best, least = chosen(better, solution, best), tf.where(better, remains, least)
        conditioned = precondition(residual)
        new_size = steps_module.inner_product(residual, conditioned)
        turn = tf.where(active, new_size / tf.where(active, size, 1), 0)
        direction = axpy(turn, direction, conditioned)
        return solution, residual, direction, new_size, best, least, active

    rounding = np.finfo(right[0].dtype.as_numpy_dtype).eps
    # Squares of small gradients underflow: scale them to a length of about one by a
    # power of two, which is exact.
    largest = tf.reduce_max([tf.reduce_max(tf.abs(r)) for r in right])
    power = tf.math.floor(tf.math.log(largest) / tf.math.log(tf.ones_like(largest) * 2))
    unit = tf.where(largest > 0, 2**power, tf.ones_like(largest))
    right = [r / unit for r in right]
    direction = precondition(right)
    first = steps_module.inner_product(right, direction)
    state = (
        [tf.zeros_like(r) for r in right],
        list(right),
        direction,
        first,
        direction,
        tf.constant(np.inf, first.dtype),
        tf.constant(True),
    )
    best = steps_module.repeat(step, state, steps, unroll)[4]
    return [unit * v for v in best]
