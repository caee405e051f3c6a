"""Stream: a reproducible dataset of episodes whose indices workers divide."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from keras_meta import checks, keras_private

# `(dataset, indices, size) -> dataset`, a transformation of a stream; `size` elements
# are in a batch.
Step: TypeAlias = Callable[[Any, Any, Any], tf.data.Dataset]
END = np.iinfo(np.int64).max


def fold_seed(seed: int | tf.Tensor, index: int | tf.Tensor) -> tf.Tensor:
    """Returns the seed of episode `index` of stream `seed`, int64 `[2]`."""
    return tf.random.experimental.stateless_fold_in(
        tf.constant([seed, 0], tf.int64), tf.cast(index, tf.int64)
    )


def stream(draw: Callable[[tf.Tensor], Any], seed: int, start: int) -> Stream:
    """Returns the endless dataset of `draw(fold_seed(seed, i))` for i >= start.

    Args:
        draw: `seed [2] -> element`.
        seed: an integer >= 0.
        start: index of the first element.

    Returns:
        A `Stream`.
    """
    checks.check_integer("seed", seed, 0)
    checks.check_integer("start", start, 0)
    indices = range(start, END)

    def elements(_, numbers, size=None):
        return numbers.map(
            lambda index: draw(fold_seed(seed, index)),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    return Stream(elements(None, _dataset(indices)), indices, [elements])


def seeded_map(
    dataset: tf.data.Dataset, function: Callable[..., Any], seed: int, start: int
) -> tf.data.Dataset:
    """Maps `function(fold_seed(seed, i), *element)` over a dataset from i = start on.

    For example, a random augmentation of the episodes of a stream that begins at
    `start`.

    Args:
        dataset: a `tf.data.Dataset` of tuples, not batched.
        function: `(seed [2], *element) -> element`.
        seed: an integer.
        start: index of the first element.

    Returns:
        A `tf.data.Dataset`; a `Stream` if `dataset` is one.
    """

    def mapped(dataset, numbers):
        return tf.data.Dataset.zip(numbers, dataset).map(
            lambda index, element: function(fold_seed(seed, index), *element),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    result = mapped(dataset, _dataset(range(start, END)))
    if not isinstance(dataset, Stream) or dataset.size:
        return result
    shift = start - dataset.indices.start
    return dataset.followed(
        result,
        lambda dataset, numbers, _: mapped(dataset, numbers.map(lambda i: i + shift)),
    )


def divided(dataset: Any, strategy: tf.distribute.Strategy) -> Any:
    """Returns a dataset for `fit` whose indices the workers of a strategy divide.

    Args:
        dataset: data as given to `fit` or `evaluate`.
        strategy: the `tf.distribute.Strategy` of the model.

    Returns:
        A distributed dataset; `dataset` itself with one worker, or if it is no
        `Stream`, or if a batch does not divide into equal shares. Then TensorFlow
        distributes it: each worker computes all elements and keeps its share.
    """
    workers = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
    if not workers or not isinstance(dataset, Stream):
        return dataset
    if not dataset.divides(strategy.num_replicas_in_sync):
        return dataset
    return strategy.distribute_datasets_from_function(
        lambda context: dataset.part(
            context.num_input_pipelines,
            context.input_pipeline_id,
            context.get_per_replica_batch_size(dataset.size),
        )
    )


class Stream(keras_private.WrappedDataset):
    """A dataset of elements that are functions of their index.

    Several workers divide the indices before any element is computed: `part` returns
    the dataset of one worker. The methods `map`, `take`, `skip`, `batch`, `prefetch`,
    `cache` and `with_options` return a stream. The other methods of `tf.data.Dataset`
    return a dataset of another class, which workers do not divide: each computes all
    elements and keeps its share.

    Args:
        dataset: the `tf.data.Dataset` of all elements.
        indices: the `range` of their indices.
        steps: functions `(dataset, indices, size) -> dataset` that compute the dataset
            in turn; the first ignores its dataset, and `batch` takes `size` elements.
        size: elements of a batch; None before `batch`.
    """

    def __init__(
        self,
        dataset: tf.data.Dataset,
        indices: range,
        steps: Iterable[Step],
        size: int | None = None,
    ) -> None:
        super().__init__(dataset)
        self.indices = indices
        self.size = size
        self._steps = list(steps)

    def divides(self, parts: int) -> bool:
        """Whether every batch consists of `parts` equal shares."""
        if not self.size or self.size % parts:
            return False
        endless = len(self.indices) > END // 2
        return endless or len(self.indices) % self.size % parts == 0

    def part(self, workers: int, worker: int, size: int) -> tf.data.Dataset:
        """Returns the dataset of one worker, which computes its elements alone.

        The workers' nth batches hold together the elements of batch n of this stream.

        Args:
            workers: number of workers.
            worker: index of this one.
            size: elements of a batch of the result.
        """
        numbers = _dataset(self.indices).shard(workers, worker)
        return self._computed(numbers, size)

    def _computed(self, numbers, size):
        dataset = numbers
        for step in self._steps:
            dataset = step(dataset, numbers, size)
        return dataset

    def followed(self, dataset: tf.data.Dataset, step: Step) -> Stream:
        """Returns the stream of `dataset`, which `step` computes from this stream."""
        return Stream(dataset, self.indices, [*self._steps, step], self.size)

    def _limited(self, dataset, indices):
        return Stream(dataset, indices, self._steps, self.size)

    def map(self, map_func: Callable[..., Any], *args: Any, **kwargs: Any) -> Stream:
        return self.followed(
            super().map(map_func, *args, **kwargs),
            lambda dataset, *_: dataset.map(map_func, *args, **kwargs),
        )

    def prefetch(self, *args: Any, **kwargs: Any) -> Stream:
        return self.followed(
            super().prefetch(*args, **kwargs),
            lambda dataset, *_: dataset.prefetch(*args, **kwargs),
        )

    def with_options(self, *args: Any, **kwargs: Any) -> Stream:
        return self.followed(
            super().with_options(*args, **kwargs),
            lambda dataset, *_: dataset.with_options(*args, **kwargs),
        )

    def cache(self, filename: str = "", name: str | None = None) -> tf.data.Dataset:
        dataset = super().cache(filename, name)
        if filename:  # one file cannot hold the parts of several workers
            return dataset
        return self.followed(dataset, lambda dataset, *_: dataset.cache(name=name))

    def take(self, count: int, name: str | None = None) -> Stream:
        indices = self.indices if count < 0 else self.indices[: count * self._unit()]
        return self._limited(super().take(count, name), indices)

    def skip(self, count: int, name: str | None = None) -> Stream:
        """Returns the stream from element `count` on; it computes none before that."""
        if count == 0:
            return self
        end = len(self.indices) if count < 0 else count * self._unit()
        indices = self.indices[end:]
        return self._limited(self._computed(_dataset(indices), self.size), indices)

    def _unit(self):
        return self.size or 1

    def batch(
        self,
        batch_size: int | tf.Tensor,
        drop_remainder: bool = False,
        *args: Any,
        **kwargs: Any,
    ) -> tf.data.Dataset:
        dataset = super().batch(batch_size, drop_remainder, *args, **kwargs)
        size = tf.get_static_value(batch_size)
        if self.size or size is None:
            return dataset
        size, indices = int(size), self.indices
        if drop_remainder:
            indices = indices[: len(indices) // size * size]

        def batched(dataset, _, size):
            return dataset.batch(size, drop_remainder, *args, **kwargs)

        return Stream(dataset, indices, [*self._steps, batched], size)


def _dataset(indices):
    return tf.data.Dataset.range(indices.start, indices.stop)
