"""TaskFamily: a distribution over tasks, and the checks that all families share."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_meta import checks, episodes
from keras_meta.typing_names import TensorLike


class TaskFamily:
    """A distribution over tasks, from which episodes are drawn.

    Args:
        sample: function `(seed [2], n) -> (x [n, d_x], y)` that draws one task and n
            points of it with stateless random ops. y is float32 `[n, d_y]`, or int32
            labels `[n]` for classification. The task must depend on the seed alone and
            not on n, so that `sample(episodes.fold_seed(seed, i), n)` returns any
            number of points of the task of episode i, for example to draw its curve.
        points: number of points of a task; None if unlimited.

    Example:
        >>> family = km.tasks.sinusoid()
        >>> episodes = family.episodes(shots=10, queries=5)
        >>> episode, query_y = next(iter(episodes.batch(25)))
        >>> query_y.shape
        TensorShape([25, 5, 1])
    """

    def __init__(
        self,
        sample: Callable[[tf.Tensor, int], tuple[tf.Tensor, tf.Tensor]],
        points: int | None = None,
    ) -> None:
        self._sample = sample
        self._points = points

    def sample(self, seed: TensorLike, n: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Draws n points of the task of a seed.

        Args:
            seed: `[2]`, as `episodes.fold_seed` returns it.
            n: number of points.

        Returns:
            `(x [n, d_x], y [n, d_y] or [n])`.

        Raises:
            ValueError: more points than a task has.
        """
        self._check_points(n)
        return self._sample(seed, n)

    def _check_points(self, n):
        if self._points is not None and n > self._points:
            raise ValueError(
                f"expected at most {self._points} points, which is all that a task "
                f"has, got {n}."
            )

    def episodes(
        self,
        shots: int | tuple[int, int] = 10,
        queries: int = 10,
        seed: int = 0,
        start: int = 0,
        block: int = 1,
    ) -> tf.data.Dataset:
        """Returns an endless dataset of episodes; episode i depends on (seed, i).

        Args:
            shots: number of support points, S; or `(low, high)`, S is then uniform in
                low..high.
            queries: number of query points, Q.
            seed: seed of the stream.
            start: index of the first episode.
            block: number of consecutive episodes that share an S drawn from `(low,
                high)`: S depends on (seed, i // block). `.batch(block)` then has one S
                per batch.

        Returns:
            A `tf.data.Dataset` of pairs: `({"support_x": [S, d_x], "support_y": [S,
            d_y], "query_x": [Q, d_x]}, query_y [Q, d_y])`, all float32; for
            classification, y is int32 labels, `[S]` and `[Q]`.

        Raises:
            ValueError: shots or start below 0, queries or block below 1, or not
                integers; low above high; more points than a task has; with `(low,
                high)`, a start that is not a multiple of block.
        """
        drawn = isinstance(shots, tuple | list)
        if isinstance(shots, tuple | list):
            if len(shots) != 2 or shots[0] > shots[1]:
                raise ValueError(
                    "expected shots to be an integer or (low, high) with low <= high, "
                    f"got {shots}."
                )
            for value in shots:
                checks.check_integer("each of shots", value, 0)
            low, high = shots
        else:
            checks.check_integer("shots", shots, 0)
            low = high = shots
        checks.check_integer("queries", queries, 1)
        checks.check_integer("start", start, 0)
        checks.check_integer("block", block, 1)
        if drawn and start % block:
            raise ValueError(
                f"expected start to be a multiple of block, {block}, got {start}."
            )
        self._check_points(high + queries)

        def split(x, y, shots):
            episode = {"support_x": x[:shots], "support_y": y[:shots]}
            return {**episode, "query_x": x[high:]}, y[high:]

        def draw(seed):
            x, y = self.sample(seed, high + queries)
            return (x, y) if drawn else split(x, y, shots)

        def cut(index, points):
            # No episode has an index below 0, so that S is independent of all tasks.
            fold = episodes.fold_seed(seed, -1 - index // block)
            return split(
                *points,
                tf.random.stateless_uniform([], fold, low, high + 1, tf.int32),
            )

        stream = episodes.stream(draw, seed, start)
        return stream.enumerate(start).map(cut) if drawn else stream


def check_range(name: str, low: float, high: float) -> None:
    if not low < high:
        raise ValueError(
            f"expected {name} to be (low, high) with low < high, got ({low}, {high})."
        )


def check_pairs(support_x: TensorLike, support_y: TensorLike, target_axes: int) -> None:
    x, y = np.shape(support_x), np.shape(support_y)
    if not x or len(y) != len(x) - 1 + target_axes or y[: len(x) - 1] != x[:-1]:
        raise ValueError(
            f"expected support_x [T, S, d_x] and support_y [T, S{', d_y' * target_axes}"
            f"], got shapes {list(x)} and {list(y)}."
        )
