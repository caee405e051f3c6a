"""Names of types for hints. Importing this imports neither TensorFlow nor Keras."""

import os
from typing import Any, TypeAlias

TensorLike: TypeAlias = Any
"""A tensor, an array, or nested lists of numbers: what TensorFlow converts."""

TensorNest: TypeAlias = Any
"""Tensors in dicts, lists and tuples, as `tf.nest` takes them."""

Predictions: TypeAlias = Any
"""Logits or predictions, a tensor; or mean and scale, a pair of tensors."""

Distribution: TypeAlias = Any
"""A `tfp.distributions.Distribution`; TensorFlow Probability is imported on use."""

StrPath: TypeAlias = str | os.PathLike[str]
"""The path of a file or folder."""
