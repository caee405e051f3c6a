"""Keyword arguments that constructors of learners pass on, as types of `**kwargs`.

The docstrings of the learners describe the arguments. A constructor with an argument of
its own, such as `inner_rate` of `MetaSGD`, takes the options without this argument.
"""

from collections.abc import Sequence
from typing import TypedDict

import keras

from keras_meta import images, priors, units


class TrainerOptions(TypedDict, total=False):
    """Those of every Keras model that is a learner."""

    trainable: bool
    name: str | None
    dtype: str | keras.DTypePolicy | None


class PredictionOptions(TrainerOptions, total=False):
    """Those of every learner, without `point_units`."""

    temperature: float


class LearnerOptions(PredictionOptions, total=False):
    """Those of every learner."""

    point_units: units.StandardUnits | None


class LoopOptions(LearnerOptions, total=False):
    """Those of gradient learners, without `inner_rate` and `inner_steps`."""

    evaluation_steps: int | None
    inner_batch: int | None
    normalization: str
    preprocess: images.ImagePreprocess | None
    vectorize: bool | None
    support_order: str


class RateOptions(LoopOptions, total=False):
    """Those of gradient learners, without `inner_steps`."""

    inner_rate: float


class StepOptions(LoopOptions, total=False):
    """Those of gradient learners, without `inner_rate`."""

    inner_steps: int


class InnerOptions(RateOptions, StepOptions, total=False):
    """Those of gradient learners."""


class ImplicitOptions(InnerOptions, total=False):
    """Those of gradient learners that differentiate the inner optimum."""

    conjugate_steps: int
    damping: float


class ShrinkageOptions(InnerOptions, total=False):
    """Those of shrinkage learners."""

    modules: priors.Modules
    initial_scale: float
    scale_rate: float
    frozen: Sequence[str]
    prior: priors.Family


class ReadingOptions(LearnerOptions, total=False):
    """Those of sequence learners, without `skip`."""

    example_shape: Sequence[int | None] | None
    loss: keras.losses.Loss | str
    outputs: int
    labels: str
    unroll: bool
    target_mean: float
    target_scale: float
    preprocess: images.ImagePreprocess | None
    support_order: str


class SequenceOptions(ReadingOptions, total=False):
    """Those of sequence learners."""

    skip: bool
