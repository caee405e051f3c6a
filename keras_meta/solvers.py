"""Conjugate gradient for equations that may be indefinite."""

import tensorflow as tf

from keras_meta import steps as steps_module

# Of the first residual's square: below it a solution is exact to float32.
RELATIVE_TOLERANCE = 1e-14


def conjugate_gradient(product, right, precondition, steps):
    """Solves `A v = right` by preconditioned conjugate gradient, from v = 0.

    Returns the iterate of the smallest residual `|right - A v|`, which need not be the
    last: residuals rise and fall in between, and A may be indefinite. It stops early
    where the curvature along the search direction is not positive. Where that is so for
    the first direction, or no iterate has a smaller residual than v = 0, nothing is
    known of A along it, and v is `precondition(right)`. All thresholds are relative,
    so the solution of `c right` is c times that of `right`.

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

    def chosen(condition, ours, theirs):
        return [tf.where(condition, a, b) for a, b in zip(ours, theirs, strict=True)]

    def squared(x):
        return steps_module.inner_product(x, x)

    def step(_, state):
        solution, residual, direction, size, best, least, active = state
        ahead = product(direction)
        curvature = steps_module.inner_product(direction, ahead)
        active = active & (curvature > 0) & (size > RELATIVE_TOLERANCE * first)
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

    direction = precondition(right)
    first = steps_module.inner_product(right, direction)
    state = (
        [tf.zeros_like(r) for r in right],
        list(right),
        direction,
        first,
        direction,
        squared(right),
        tf.constant(True),
    )
    return steps_module.repeat(step, state, steps, unroll=False)[4]
