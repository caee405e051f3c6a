"""Task families that need no download, with exact references for most."""

from keras_meta.tasks.boolean_functions import boolean, boolean_bayes
from keras_meta.tasks.family import TaskFamily
from keras_meta.tasks.gaussian_processes import GaussianProcess, gaussian_process
from keras_meta.tasks.glyph_pool import glyphs
from keras_meta.tasks.image_completion import completion
from keras_meta.tasks.linear_models import (
    least_squares,
    quadratic,
    quadratic_features,
    semilinear,
    semilinear_features,
)
from keras_meta.tasks.sine_waves import sinusoid

__all__ = [
    "GaussianProcess",
    "TaskFamily",
    "boolean",
    "boolean_bayes",
    "completion",
    "gaussian_process",
    "glyphs",
    "least_squares",
    "quadratic",
    "quadratic_features",
    "semilinear",
    "semilinear_features",
    "sinusoid",
]
