"""Draws from Gaussian processes, and their exact posterior."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_meta.tasks.family import TaskFamily, check_pairs, check_range
from keras_meta.typing_names import TensorLike

KERNELS = {
    "rbf": "ExponentiatedQuadratic",
    "matern32": "MaternThreeHalves",
    "periodic": "ExpSinSquared",
}
# Variance of a further noise, relative to the process's own: rounding would otherwise
# make the covariance of hundreds of points indefinite where observations have none.
JITTER = 1e-8


def gaussian_process(
    kernel: str = "rbf",
    length: float | tuple[float, float] = 0.4,
    scale: float | tuple[float, float] = 1.0,
    noise: float = 0.02,
    x: tuple[float, float] = (-2.0, 2.0),
) -> GaussianProcess:
    """Returns the family of draws from a Gaussian process, observed with noise.

        y = f(x) + noise e,  f ~ GP(0, scale^2 k(d, length)),  e ~ Normal(0, 1)

    d is the distance of two points and k(d, l) is

    - "rbf": `exp(-d^2 / (2 l^2))`;
    - "matern32": `(1 + sqrt(3) d / l) exp(-sqrt(3) d / l)`;
    - "periodic": `exp(-2 sin^2(pi d) / l^2)`, of period 1.

    The first n points of a task do not depend on the number of points, up to rounding.

    Args:
        kernel: "rbf", "matern32" or "periodic".
        length: length of the kernel, in units of x; or `(low, high)`, the length of a
            task is then uniform between them.
        scale: standard deviation of f, in units of y; or `(low, high)`, likewise.
        noise: standard deviation of the observation noise, in units of y.
        x: `(low, high)`; the x of a point is uniform between them.

    Returns:
        A `GaussianProcess`, a `TaskFamily` with d_x = d_y = 1.

    Raises:
        ValueError: another kernel, a length or scale that is not above 0, a noise below
            0, or low not below high.

    Reference:
        Garnelo et al., Conditional Neural Processes, ICML 2018, section 4.1; the
        defaults are those of its authors' notebook.
    """
    if kernel not in KERNELS:
        raise ValueError(
            f"expected kernel to be one of {', '.join(KERNELS)}, got {kernel!r}."
        )
    for name, value in (("length", length), ("scale", scale)):
        if isinstance(value, tuple | list):
            check_range(name, *value)
        if not np.min(value) > 0:
            raise ValueError(f"expected {name} to be above 0, got {value}.")
    if not noise >= 0:
        raise ValueError(f"expected noise to be at least 0, got {noise}.")
    check_range("x", *x)
    return GaussianProcess(kernel, length, scale, noise, x)


class GaussianProcess(TaskFamily):
    """A family of Gaussian process draws with an exact posterior.

    `gaussian_process` validates the arguments and creates it.

    Args:
        kernel: "rbf", "matern32" or "periodic".
        length: length of the kernel, in units of x; or `(low, high)`.
        scale: standard deviation of f, in units of y; or `(low, high)`.
        noise: standard deviation of the observation noise, in units of y.
        x: `(low, high)`, the range of x.
    """

    def __init__(
        self,
        kernel: str,
        length: float | tuple[float, float],
        scale: float | tuple[float, float],
        noise: float,
        x: tuple[float, float],
    ) -> None:
        import tensorflow_probability as tfp

        super().__init__(self._draw)
        self._kernel = getattr(tfp.math.psd_kernels, KERNELS[kernel])
        self._process = tfp.distributions.GaussianProcessRegressionModel
        self._length = length
        self._scale = scale
        self._noise = noise
        self._x = x

    def parameters(self, seed: TensorLike) -> tuple[tf.Tensor, ...]:
        """Returns length and scale of the task of a seed `[2]`, float64 scalars."""
        seeds = tf.unstack(tf.random.split(seed, 5)[3:])
        return tuple(
            tf.random.stateless_uniform([], seed, *value, dtype=tf.float64)
            if isinstance(value, tuple | list)
            else tf.constant(value, tf.float64)
            for value, seed in zip((self._length, self._scale), seeds, strict=True)
        )

    def _draw(self, seed, n):
        seeds = tf.unstack(tf.random.split(seed, 5)[:2])
        length, scale = self.parameters(seed)
        x = tf.random.stateless_uniform([n, 1], seeds[0], *self._x)
        white = tf.random.stateless_normal([n, 1], seeds[1], dtype=tf.float64)
        wide = tf.cast(x, tf.float64)
        covariance = self._kernel(scale, length).matrix(wide, wide)
        noise = self._noise_variance(scale) * tf.eye(n, dtype=tf.float64)
        # A leading block of a Cholesky factor is the factor of the leading block, so
        # that further points leave the first ones alone.
        y = tf.linalg.cholesky(covariance + noise) @ white
        return x, tf.cast(y, tf.float32)

    def _noise_variance(self, scale):
        return self._noise**2 + JITTER * scale**2

    def posterior(
        self,
        support_x: TensorLike,
        support_y: TensorLike,
        query_x: TensorLike,
        length: TensorLike | None = None,
        scale: TensorLike | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Computes the exact posterior of each query's y with its noise, in float64.

        Args:
            support_x: `[T, S, 1]`, or `[S, 1]` for one task; S = 0 gives the prior.
            support_y: `[T, S, 1]`.
            query_x: `[T, Q, 1]`.
            length: length of the tasks, a number or `[T]`; by default the family's.
            scale: scale of the tasks, likewise.

        Returns:
            Mean and standard deviation, tensors `[T, Q, 1]`.

        Raises:
            ValueError: no length or scale, if the family draws it for each task; or
                different numbers of targets and examples.
        """
        check_pairs(support_x, support_y, 1)
        length = self._known("length", length, self._length)
        scale = self._known("scale", scale, self._scale)
        support_x, support_y, query_x = (
            tf.cast(v, tf.float64) for v in (support_x, support_y, query_x)
        )
        process = self._process(
            self._kernel(scale, length),
            index_points=query_x,
            observation_index_points=support_x,
            observations=support_y[..., 0],
            observation_noise_variance=self._noise_variance(scale),
            predictive_noise_variance=self._noise_variance(scale),
            jitter=0.0,
        )
        return process.mean()[..., None], process.stddev()[..., None]

    def _known(self, name, value, own):
        if value is None and isinstance(own, tuple | list):
            raise ValueError(
                f"expected {name}=, as this family draws another for each task: "
                "parameters(seed) gives it."
            )
        return tf.cast(own if value is None else value, tf.float64)
