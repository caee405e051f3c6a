"""Functions that are linear in known features, and their least-squares fit."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_meta.tasks.family import TaskFamily, check_pairs
from keras_meta.typing_names import TensorLike

# Float32 targets say nothing about directions that vary less than this among the
# features, relative to the one that varies most.
LEAST_VARIATION = 1e-6


def semilinear() -> TaskFamily:
    """Returns the family of squashed planes, `y = (1 + tanh(w1 x1 + w2 x2 + w3)) / 2`.

    The weights w are uniform in [-1, 1] and x in [-1, 1]^2. There is no noise.

    Returns:
        A `TaskFamily` with d_x = 2 and d_y = 1.

    Reference:
        Hochreiter, Younger and Conwell, Learning to Learn Using Gradient Descent, ICANN
        2001.
    """
    return _weighted(semilinear_features, 3, lambda z: (1 + tf.tanh(z)) / 2)


def quadratic() -> TaskFamily:
    """Returns the family of quadratic functions of two inputs, scaled to [0.2, 0.8].

        y = 0.5 + 0.05 (a x1^2 + b x2^2 + c x1 x2 + d x1 + e x2 + f)

    The coefficients a to f are uniform in [-1, 1] and x in [-1, 1]^2. There is no
    noise.

    Returns:
        A `TaskFamily` with d_x = 2 and d_y = 1.

    Reference:
        Hochreiter, Younger and Conwell, Learning to Learn Using Gradient Descent, ICANN
        2001.
    """
    return _weighted(quadratic_features, 6, lambda z: 0.5 + 0.05 * z)


def _weighted(features, count, output):
    """The family `y = output(features(x) . w)` with `count` weights w."""

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 2))
        weights = tf.random.stateless_uniform([count, 1], seeds[0], -1, 1)
        x = tf.random.stateless_uniform([n, 2], seeds[1], -1, 1)
        return x, output(features(x) @ weights)

    return TaskFamily(sample)


def semilinear_features(x: TensorLike) -> tf.Tensor:
    """Returns the features x1, x2 and 1: `[..., 2] -> [..., 3]`."""
    x1, x2 = tf.unstack(x, axis=-1)
    return tf.stack([x1, x2, tf.ones_like(x1)], axis=-1)


def quadratic_features(x: TensorLike) -> tf.Tensor:
    """Returns x1^2, x2^2, x1 x2, x1, x2 and 1: `[..., 2] -> [..., 6]`."""
    x1, x2 = tf.unstack(x, axis=-1)
    return tf.stack([x1**2, x2**2, x1 * x2, x1, x2, tf.ones_like(x1)], axis=-1)


def least_squares(
    features: Callable[[tf.Tensor], tf.Tensor],
    support_x: TensorLike,
    support_y: TensorLike,
    query_x: TensorLike,
    squashed: bool = False,
) -> np.ndarray:
    """Predicts queries by least squares on the true features, in float64.

    Fits `y = 0.5 + features(x) . w` (quadratic tasks), or with `squashed` `y = (1 +
    tanh(features(x) . w)) / 2` through arctanh (semi-linear tasks). Among equally good
    w it selects the shortest, so that without examples it predicts 0.5, the mean of
    both families. With as many examples as features, in general position, it is exact.

    Args:
        features: `semilinear_features`, `quadratic_features` or another function `x
            [..., d_x] -> [..., features]`.
        support_x: `[T, S, d_x]`, or `[S, d_x]` for one task.
        support_y: `[T, S, d_y]`.
        query_x: `[T, Q, d_x]`.
        squashed: whether y is squashed by tanh.

    Returns:
        Predictions `[T, Q, d_y]`.

    Raises:
        ValueError: with `squashed`, a target outside (0, 1); or different numbers of
            targets and examples.
    """
    check_pairs(support_x, support_y, 1)
    support_features, query_features = (
        np.asarray(features(tf.cast(x, tf.float64))) for x in (support_x, query_x)
    )
    targets = 2 * np.float64(support_y) - 1
    if squashed:
        if not (np.abs(targets) < 1).all():
            raise ValueError("expected squashed targets in (0, 1), got some outside.")
        targets = np.arctanh(targets)
    weights = np.linalg.pinv(support_features, rcond=LEAST_VARIATION) @ targets
    outputs = query_features @ weights
    return (1 + (np.tanh(outputs) if squashed else outputs)) / 2
