"""Sine waves of random amplitude and phase."""

import math

import tensorflow as tf

from keras_meta.tasks.family import TaskFamily, check_range


def sinusoid(
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, math.pi),
    x: tuple[float, float] = (-5.0, 5.0),
) -> TaskFamily:
    """Returns the family of sine waves, `y = amplitude * sin(x - phase)`.

    There is no noise.

    Args:
        amplitude: `(low, high)`; the amplitude of a task is uniform between them.
        phase: `(low, high)` in radians, likewise.
        x: `(low, high)`; the x of a point is uniform between them.

    Returns:
        A `TaskFamily` with d_x = d_y = 1.

    Raises:
        ValueError: low is not below high.

    Reference:
        Finn, Abbeel and Levine, Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks, 2017, section 5.1.
    """
    for name, values in (("amplitude", amplitude), ("phase", phase), ("x", x)):
        check_range(name, *values)

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 3))
        scale = tf.random.stateless_uniform([], seeds[0], *amplitude)
        shift = tf.random.stateless_uniform([], seeds[1], *phase)
        points = tf.random.stateless_uniform([n, 1], seeds[2], *x)
        return points, scale * tf.sin(points - shift)

    return TaskFamily(sample)
