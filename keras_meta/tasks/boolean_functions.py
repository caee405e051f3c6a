"""Boolean functions of two inputs, and the Bayes predictor."""

import numpy as np
import tensorflow as tf

from keras_meta.tasks.family import TaskFamily, check_pairs
from keras_meta.typing_names import TensorLike


def boolean(functions: int = 16) -> TaskFamily:
    """Returns the family of Boolean functions of two inputs, with equal probabilities.

    The paper does not specify the coding of inputs. Here x is uniform over {-1, 1}^2;
    -1 is false and 1 is true. Points may repeat. y is the label.

    Args:
        functions: 16, or 14 to exclude XOR and its complement, which are not linearly
            separable.

    Returns:
        A `TaskFamily` with d_x = 2 and int32 labels in {0, 1}.

    Raises:
        ValueError: another number of functions.

    Reference:
        Hochreiter, Younger and Conwell, Learning to Learn Using Gradient Descent, ICANN
        2001.
    """
    table = tf.constant(_truth_table(functions))

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 2))
        row = tf.random.stateless_uniform([], seeds[0], 0, len(table), tf.int32)
        bits = tf.random.stateless_uniform([n, 2], seeds[1], 0, 2, tf.int32)
        labels = tf.gather(table[row], 2 * bits[:, 0] + bits[:, 1])
        return tf.cast(2 * bits - 1, tf.float32), labels

    return TaskFamily(sample)


def _truth_table(functions):
    """Labels `[functions, 4]` of the inputs 00, 01, 10, 11, int32."""
    if functions not in (14, 16):
        raise ValueError(f"expected functions to be 14 or 16, got {functions}.")
    table = np.arange(16)[:, None] >> np.arange(4)[::-1] & 1
    if functions == 14:
        table = np.delete(table, [0b0110, 0b1001], axis=0)  # XOR, its complement
    return table.astype(np.int32)


def boolean_bayes(
    functions: int, support_x: TensorLike, support_y: TensorLike, query_x: TensorLike
) -> np.ndarray:
    """Computes the Bayes predictor of a Boolean function from support examples.

    All functions of the family that agree with the examples are equally probable. The
    probability of label 1 is the share of them that have it.

    Args:
        functions: 14 or 16, as for `boolean`.
        support_x: `[T, S, 2]`, or `[S, 2]` for one task; values below 0 are false.
        support_y: labels `[T, S]`.
        query_x: `[T, Q, 2]`.

    Returns:
        Probabilities of label 1, `[T, Q]`, float64.

    Raises:
        ValueError: another number of functions, examples that no function agrees with,
            or different numbers of labels and examples.

    Example:
        >>> tasks.boolean_bayes(16, [[-1, 1]], [1], [[-1, 1], [1, 1]]).tolist()
        [1.0, 0.5]
    """
    check_pairs(support_x, support_y, 0)
    table = _truth_table(functions)
    cell, query = ((np.asarray(x) > 0) @ np.array([2, 1]) for x in (support_x, query_x))
    agrees = (table[:, cell] == np.asarray(support_y)).all(-1)  # [functions, T]
    count = agrees.sum(0)
    if not count.all():
        raise ValueError(
            f"expected support_y to be of one of the {functions} functions, got "
            "examples that none agrees with."
        )
    return (agrees[..., None] & (table[:, query] == 1)).sum(0) / count[..., None]
