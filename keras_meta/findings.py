"""Findings of checks, and the comparison of derivatives with finite differences."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from keras_meta.typing_names import TensorLike

# Half-width of central differences. In float64 their error is about 1e-8.
WIDTH = 1e-6
# Largest relative error of a correct derivative.
TOLERANCE = 1e-4
# A direction may cross a kink of a ReLU or a maximum, so that the smallest error of
# several directions counts.
DIRECTIONS = 3


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: the name of a layer, or of a part of the learner.
        state: "right", "wrong" or "note".
        sentence: the result in words.
    """

    what: str
    state: str
    sentence: str


def relative_error(
    values: Iterable[TensorLike], expected: Iterable[TensorLike]
) -> float:
    """Returns the largest difference, relative to the largest value.

    Args:
        values: a list of tensors.
        expected: a list of tensors of the same shapes.
    """
    values, expected = (
        np.concatenate([np.ravel(value) for value in side])
        for side in (values, expected)
    )
    largest = max(np.abs(expected).max(), np.abs(values).max())
    return float(np.abs(values - expected).max() / largest) if largest > 1e-8 else 0.0
