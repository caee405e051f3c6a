"""Whitening of features within classes, as a Keras layer."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_meta.typing_names import TensorLike

# Smallest ratio of the eigenvalues of a covariance that has an inverse.
SMALLEST = 1e-12


@keras.saving.register_keras_serializable("keras_meta")
class Whitening(keras.layers.Layer):
    """Scales features so that they vary more equally in all directions within a class.

    It reduces directions with a large variance within classes, and enlarges directions
    with a small one:

        y = (x - mean) ((1 - a) C + a (tr(C) / D) I)^(-1/2)

    C is the covariance of the features within classes, and `a` the shrinkage. `adapt`
    computes the mean and the matrix from labelled examples, usually the training
    classes of the encoder. Before `adapt`, the layer returns x. Training does not
    change its weights.

    Args:
        shrinkage: `a`, from 0 to 1. With 1, all directions have the same factor.
        **kwargs: for `keras.layers.Layer`.

    Call arguments:
        x: features `[B, D]`.

    Returns:
        `[B, D]`.

    Raises:
        ValueError: a shrinkage outside [0, 1], or inputs that are not `[B, D]`.

    Example:
        >>> layer = km.networks.Whitening(shrinkage=0.0)
        >>> features = np.array([[0.0, 0], [2, 0], [5, 4], [5, 8]])
        >>> layer.adapt(features, [0, 0, 1, 1])
        >>> print(np.asarray(layer(features)).round(2))
        [[-4.24 -2.12]
         [-1.41 -2.12]
         [ 2.83  0.71]
         [ 2.83  3.54]]

    Reference:
        Hatch, Kajarekar and Stolcke, "Within-Class Covariance Normalization for
        SVM-based Speaker Recognition", Interspeech 2006. The shrinkage is that of
        Friedman, "Regularized Discriminant Analysis", 1989.
    """

    def __init__(self, shrinkage: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"expected a shrinkage from 0 to 1, got {shrinkage}.")
        self.shrinkage = float(shrinkage)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        if len(input_shape) != 2 or input_shape[1] is None:
            raise ValueError(f"expected features [B, D], got {input_shape}.")
        size = input_shape[1]
        self.mean = self.add_weight(
            shape=[size], initializer="zeros", trainable=False, name="mean"
        )
        self.kernel = self.add_weight(
            shape=[size, size],
            initializer=keras.initializers.Identity(),
            trainable=False,
            name="kernel",
        )

    def adapt(self, features: TensorLike, labels: TensorLike) -> None:
        """Computes the mean and the matrix from labelled examples.

        Args:
            features: `[n, D]`, inputs of this layer.
            labels: `[n]`, the class of each example, any integers.

        Raises:
            ValueError: other shapes, values that are not finite, or features that vary
                within classes in no direction or, with a shrinkage of 0, not in all.
        """
        x, y = np.asarray(features, "float64"), np.asarray(labels)
        if x.ndim != 2 or y.shape != x.shape[:1]:
            raise ValueError(
                f"expected features [n, D] and labels [n], got {list(x.shape)} and "
                f"{list(y.shape)}."
            )
        if not np.isfinite(x).all():
            raise ValueError("expected finite features, got NaN or infinity.")
        if not self.built:
            self.build(x.shape)
        _, classes, counts = np.unique(y, return_inverse=True, return_counts=True)
        size = x.shape[1]
        sums = np.zeros([len(counts), size])
        np.add.at(sums, classes, x)
        deviations = x - (sums / counts[:, None])[classes]
        covariance = deviations.T @ deviations / len(x)
        isotropic = np.trace(covariance) / size * np.eye(size)
        shrunk = (1 - self.shrinkage) * covariance + self.shrinkage * isotropic
        values, vectors = np.linalg.eigh(shrunk)
        if values[0] <= SMALLEST * values[-1]:
            raise ValueError(
                "expected features that vary within classes in every direction, or "
                f"another shrinkage than {self.shrinkage}; got a covariance with "
                f"eigenvalues from {values[0]:.2g} to {values[-1]:.2g}."
            )
        self.mean.assign(x.mean(axis=0))
        self.kernel.assign((vectors / np.sqrt(values)) @ vectors.T)

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x - self.mean, self.kernel)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shrinkage": self.shrinkage}
