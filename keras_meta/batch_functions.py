"""BatchFunctions: the functions of one batch that Keras compiles for a learner."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_meta import checks, keras_private, traces
from keras_meta.typing_names import TensorLike


class BatchFunctions(traces.Traced, keras_private.WorkersModel):
    """The part of a `Trainer` that runs one batch.

    Keras' functions are traced again when a setting, a trainable flag or the rank of
    the sample weights changes.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._functions = traces.Functions()
        # Keras' functions would otherwise accept any rank.
        self._weights_rank: int | None = None

    def train_on_batch(
        self,
        x: Mapping[str, TensorLike],
        y: TensorLike | None = None,
        sample_weight: TensorLike | None = None,
        class_weight: None = None,
        return_dict: bool = False,
    ) -> Any:
        """Runs one meta-step: `keras.Model.train_on_batch` on a batch of episodes.

        Args:
            x: an episode.
            y: query labels or targets.
            sample_weight: weights of tasks `[T]` or of queries `[T, Q]`.
            class_weight: not supported, because labels are permuted from task to task.
            return_dict: if True, returns a dict from metric names to values.

        Returns:
            The loss and the metrics: a list of numbers, or a dict.

        Raises:
            ValueError: `class_weight`, or data that are no batch of episodes.
        """
        refuse_class_weight(class_weight)
        checks.check_episodes(self, x)
        self._weights_rank = rank_of_weights(x, sample_weight)
        with checks.in_a_sentence():
            return super().train_on_batch(x, y, sample_weight, return_dict=return_dict)

    def test_on_batch(
        self,
        x: Mapping[str, TensorLike],
        y: TensorLike | None = None,
        sample_weight: TensorLike | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Evaluates one batch of episodes: `keras.Model.test_on_batch`.

        Args:
            x: an episode.
            y: query labels or targets.
            sample_weight: weights of tasks `[T]` or of queries `[T, Q]`.
            return_dict: if True, returns a dict from metric names to values.

        Returns:
            The loss and the metrics: a list of numbers, or a dict.

        Raises:
            ValueError: data that are no batch of episodes.
        """
        checks.check_episodes(self, x)
        self._weights_rank = rank_of_weights(x, sample_weight)
        with checks.in_a_sentence():
            return super().test_on_batch(x, y, sample_weight, return_dict=return_dict)

    def make_train_function(self, force: bool = False) -> Any:
        return super().make_train_function(force or self._is_stale("train"))

    def make_test_function(self, force: bool = False) -> Any:
        return super().make_test_function(force or self._is_stale("test"))

    def make_predict_function(self, force: bool = False) -> Any:
        return super().make_predict_function(force or self._is_stale("predict"))

    def _is_stale(self, name):
        """Returns whether Keras' function of a name has other settings or flags."""
        key = self.trace_key(), self.trainable, self._weights_rank
        return self._functions.is_stale(name, key)


def refuse_class_weight(class_weight: Any) -> None:
    """Raises a ValueError if there are class weights."""
    if class_weight is not None:
        raise ValueError(
            "expected no class_weight, because labels are permuted from task to "
            "task; use sample_weight, [T] or [T, Q]."
        )


def refuse_batch_size(x: Any, batch_size: int | None, argument: str) -> None:
    """Raises a ValueError for a batch size beside data that have one of their own.

    Args:
        x: an episode as a dict of arrays, or batches of episodes.
        batch_size: tasks per batch, None for Keras' default.
        argument: the name of the argument that sets it.
    """
    if batch_size is not None and not isinstance(x, Mapping):
        raise ValueError(
            f"expected {argument} beside a dict of arrays only, got {batch_size} "
            "beside batches of episodes; episodes.batch(...) sets their size."
        )


def refuse_unused_validation(
    validation_x: Any,
    validation_split: float,
    validation_steps: int | None,
    validation_batch_size: int | None,
    validation_freq: int,
) -> None:
    """Raises a ValueError for arguments of `fit` that no validation would use.

    Args:
        validation_x: episodes for validation, or None.
        validation_split: share of the tasks kept for validation.
        validation_steps: batches per validation, or None.
        validation_batch_size: tasks per batch of validation, or None.
        validation_freq: epochs from one validation to the next.
    """
    if validation_x is not None:
        if validation_split:
            raise ValueError(
                "expected validation_data or validation_split, got both of them."
            )
        refuse_batch_size(validation_x, validation_batch_size, "validation_batch_size")
    elif not validation_split:
        arguments = {
            "validation_steps": validation_steps,
            "validation_batch_size": validation_batch_size,
            "validation_freq": None if validation_freq == 1 else validation_freq,
        }
        given = [name for name, value in arguments.items() if value is not None]
        if given:
            raise ValueError(
                f"expected validation_data beside {', '.join(given)}, got None."
            )


def rank_of_weights(x: Any, sample_weight: TensorLike | None) -> int | None:
    """Returns the rank of the sample weights that Keras gets, None without any.

    Args:
        x: an episode, or batches of episodes with or without weights.
        sample_weight: weights beside x, or None.
    """
    if sample_weight is not None:
        return len(np.shape(sample_weight))
    spec = getattr(x, "element_spec", None)
    if isinstance(spec, tuple) and len(spec) > 2:
        return spec[2].shape.rank
    return None
