"""ClassPool: labelled images of many classes, from which episodes are drawn."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import tensorflow as tf

from keras_meta import checks, episodes, files, sources, streams
from keras_meta.images import ImagePreprocess
from keras_meta.typing_names import StrPath, TensorLike


class ClassPool:
    """Labelled images of many classes, from which episodes are drawn.

    The pool stores each image once, in memory or on disk. With `prepare`, images in
    memory are uint8 and have the network's size; images on disk are resized when they
    are read. Both are converted to float32 when an episode is drawn. `select`,
    `split_classes` and `with_rotations` return pools that share the images with this
    pool. Create a pool with `from_tfds`, `from_arrays` or `from_directory`.

    Args:
        images: all images, sorted by class: a tensor `[n, ...]` or a `sources.OnDisk`.
        table: int64 `[C, 4]`, a row for each class: label id, index of the first image,
            number of images, rotation in multiples of 90 degrees
            (`sources.class_table`).
        names: `{label id: name}`.
        prepare: an `ImagePreprocess` that converts the stored images to network inputs,
            or None. The methods `from_...` also resize images with it.

    Attributes:
        class_ids: int array `[C]`, the label id of each class; a rotated class has the
            id of the unrotated class.
        names: `{label id: name}`.
        shape: shape of one example x in an episode.
        sizes: int array `[C]`, the number of images of each class.

    Example:
        >>> images = np.zeros([40, 28, 28, 1], "uint8")
        >>> labels = np.repeat(np.arange(10), 4)
        >>> prepare = km.ImagePreprocess(28, 28, 1)
        >>> pool = km.ClassPool.from_arrays(images, labels, prepare=prepare)
        >>> train, test = pool.split_classes(6, 4, seed=0)
        >>> train
        ClassPool(6 classes, 24 images, (28, 28, 1))
        >>> episodes = train.with_rotations().episodes(ways=5, shots=1, queries=2)
        >>> episode, query_y = next(iter(episodes.batch(3)))
        >>> episode["support_x"].shape
        TensorShape([3, 5, 28, 28, 1])
    """

    def __init__(
        self,
        images: tf.Tensor | sources.OnDisk,
        table: np.ndarray,
        names: dict[int, str],
        prepare: ImagePreprocess | None,
    ) -> None:
        self._images = images  # tensor [n, ...] or OnDisk, sorted by class
        self._table = table  # int64 [C, 4]: label id, first image, images, turns
        self._prepare = prepare
        self.names = names

    @classmethod
    def from_arrays(
        cls,
        images: TensorLike,
        labels: TensorLike,
        prepare: ImagePreprocess | None = None,
        names: Mapping[int, str] | None = None,
    ) -> Self:
        """Creates a pool from examples in memory, or in a memory-mapped file.

        Args:
            images: with `prepare`, uint8 `[n, H, W, C]`. Without `prepare`, any numeric
                `[n, ...]`: uint8 is scaled to [0, 1], and other types are converted to
                float32. A `np.memmap`, as `np.load(path, mmap_mode="r")` returns it,
                must be uint8 and stays on disk: only the images of an episode are read.
            labels: integer ids `[n]`, any values.
            prepare: an `ImagePreprocess`, usually `learner.preprocess`.
            names: `{label id: name}`.

        Returns:
            A `ClassPool`.

        Raises:
            ValueError: different lengths, labels that are not integers, or examples
                that are not finite numbers.
        """
        if names is not None and not isinstance(names, Mapping):
            raise ValueError(f"expected names to be {{label: name}}, got {names!r}.")
        images, table = sources.read_arrays(images, labels, prepare)
        return cls(images, table, dict(names or {}), prepare)

    @classmethod
    def from_tfds(
        cls,
        name: str,
        split: str = "train",
        prepare: ImagePreprocess | None = None,
        data_dir: StrPath | None = None,
        label_key: str | None = None,
    ) -> Self:
        """Creates a pool from a TFDS image-classification data set.

        Args:
            name: TFDS name, such as "omniglot" or "cifar100".
            split: TFDS split expression, such as "train+test".
            prepare: an `ImagePreprocess` that resizes all images, or None.
            data_dir: folder of TFDS data; by default TFDS' own (`TFDS_DATA_DIR`).
            label_key: the feature that contains the label; by default the only
                `ClassLabel` feature, or "label" if there are several.

        Returns:
            A `ClassPool` in memory.

        Raises:
            ValueError: unknown data set or split, no image or label feature, data that
                cannot be downloaded, or images of different sizes without `prepare`.
        """
        images, labels, names = sources.read_tfds(
            name, split, prepare, data_dir, label_key
        )
        return cls.from_arrays(images, labels, prepare, names)

    @classmethod
    def from_directory(
        cls, directory: StrPath, prepare: ImagePreprocess, in_memory: bool = True
    ) -> Self:
        """Creates a pool from a folder with one sub-folder of images per class.

        The label id of a class is the index of its sub-folder in alphabetical order. A
        warning lists the files that are skipped, such as those without an image suffix.

        Args:
            directory: the folder.
            prepare: an `ImagePreprocess` that resizes all images.
            in_memory: if True, reads all images now. If False, reads images when an
                episode is drawn; a file that is not an image raises an error then.

        Returns:
            A `ClassPool`.

        Raises:
            ValueError: no such folder, no class in it, a class without images, or a
                file that is not an image.
        """
        paths, labels, names, skipped = sources.list_directory(directory)
        if skipped:
            warnings.warn("; ".join(files.notes(skipped)) + ".", stacklevel=2)
        images, table = sources.read_files(paths, labels, prepare, in_memory)
        return cls(images, table, names, prepare)

    @classmethod
    def joined(cls, pools: Mapping[str, Self]) -> Self:
        """Joins several pools into one. The images of all pools must be in memory.

        Classes get new label ids 0, 1, ..., ordered by pool and then by their previous
        label id. Classes of equal names in two pools stay two classes.

        Args:
            pools: `{name: ClassPool}`, with examples of one shape and type and equal
                `prepare`. The name of a class becomes `name/class`.

        Returns:
            A `ClassPool`.

        Raises:
            ValueError: pools of different shape, type or `prepare`, or on disk.
        """
        kinds = {(p.shape, type(p._images), p._images.dtype) for p in pools.values()}
        prepares = {str(p._prepare and p._prepare.get_config()) for p in pools.values()}
        if (
            len(kinds) != 1
            or len(prepares) != 1
            or any(isinstance(p._images, sources.OnDisk) for p in pools.values())
        ):
            raise ValueError(
                "expected pools in memory of one shape, type and prepare, got "
                f"{', '.join(map(repr, pools.values())) or 'none'}."
            )
        prepare = next(iter(pools.values()))._prepare
        images, table, names = sources.join(
            {name: (p._images, p._table, p.names) for name, p in pools.items()}
        )
        return cls(images, table, names, prepare)

    def __len__(self) -> int:
        return len(self._table)

    def __repr__(self) -> str:
        return f"ClassPool({len(self)} classes, {sum(self.sizes)} images, {self.shape})"

    @property
    def class_ids(self) -> np.ndarray:
        return self._table[:, 0]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._images.shape[1:])

    @property
    def sizes(self) -> np.ndarray:
        return self._table[:, 2]

    def _with_table(self, table):
        return ClassPool(self._images, table, self.names, self._prepare)

    def select(self, ids: Sequence[int] | np.ndarray) -> Self:
        """Returns the pool of the classes with the given label ids.

        Args:
            ids: label ids, a sequence of integers.

        Raises:
            ValueError: an id that the pool does not have.
        """
        ids = np.unique(ids)
        missing = np.setdiff1d(ids, self.class_ids)
        if len(missing) or not len(ids):
            raise ValueError(
                f"expected label ids among the pool's {len(np.unique(self.class_ids))} "
                f"classes, got {missing.tolist()[:10] or 'none'}."
            )
        return self._with_table(self._table[np.isin(self.class_ids, ids)])

    def split_classes(self, *sizes: int, seed: int = 0) -> list[Self]:
        """Returns disjoint pools of randomly chosen classes; the rest is dropped.

        Args:
            *sizes: numbers of classes; a class and its rotations count as one class.
            seed: seed of the choice; equal seeds give equal parts on every machine.

        Returns:
            A list of pools. All rotations of a class are in the same part.

        Raises:
            ValueError: sizes that sum to more than the number of classes.
        """
        ids = np.unique(self.class_ids)
        for size in sizes:
            checks.check_integer("each size", size, 1)
        if not sizes or sum(sizes) > len(ids):
            raise ValueError(
                f"expected sizes that sum to at most {len(ids)} classes, got "
                f"{list(sizes)}."
            )
        # NumPy freezes the stream of RandomState for all versions, not Generator's.
        shuffled = np.random.RandomState(seed).permutation(ids)
        ends = np.cumsum(sizes)
        parts = np.split(shuffled, ends)[: len(sizes)]
        return [self.select(part) for part in parts]

    def with_rotations(self) -> Self:
        """Returns a pool that also has each class rotated by 90, 180 and 270 degrees.

        Raises:
            ValueError: images that are not square, or a pool with rotations.
        """
        if len(self.shape) != 3 or self.shape[0] != self.shape[1]:
            raise ValueError(f"expected square images [H, H, C], got {self.shape}.")
        if self._table[:, 3].any():
            raise ValueError("expected a pool without rotations, it has them already.")
        turned = [self._table + [0, 0, 0, turns] for turns in range(4)]
        return self._with_table(np.concatenate(turned))

    def encoded(self, encode: Callable[[tf.Tensor], tf.Tensor]) -> "ClassPool":
        """Computes `encode(x)` for each example x; returns a pool of the results.

        For example, `encode` is a frozen network, and the new pool has its features.
        Rotated classes are encoded too.

        Args:
            encode: `[n, ...] -> [n, ...]`, such as a Keras model.
        """
        encode = tf.function(encode, reduce_retracing=True)
        features = []
        for row in self._table:
            x, turns = self._examples(row), row[3]
            features.append(encode(tf.image.rot90(x, turns) if turns else x))
        table = self._table.copy()
        table[:, 1] = np.cumsum(table[:, 2]) - table[:, 2]
        table[:, 3] = 0
        return ClassPool(tf.concat(features, axis=0), table, self.names, None)

    def images_of(self, class_id: int) -> tf.Tensor:
        """Returns all images of a class without rotation, as network inputs `[n, ...]`.

        Args:
            class_id: one of `class_ids`.

        Raises:
            ValueError: an id that the pool does not have.
        """
        return self._examples(self.select([class_id])._table[0])

    def _examples(self, row):
        """Returns all examples of a row of the table without rotation."""
        rows = tf.range(row[1], row[1] + row[2])
        return self._scaled(sources.gather(self._images, rows))

    def _scaled(self, images):
        """Converts stored images to network inputs."""
        if images.dtype != tf.uint8:
            return images
        if self._prepare is not None:
            return self._prepare.scale(images)
        return tf.cast(images, tf.float32) / 255.0

    def episodes(
        self,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        seed: int = 0,
        start: int = 0,
        groups: Mapping[int, Any] | None = None,
        labels: str = "onehot",
    ) -> tf.data.Dataset:
        """Returns an endless dataset of N-way K-shot episodes.

        Episode i depends on `seed` and its index i alone, and can be drawn again. The
        classes, their labels, the images, the order of the support set and the order of
        the queries are each uniformly random. Images of a class are drawn without
        replacement, so that no query image is in the support set.

        Args:
            ways: number of classes in an episode, N.
            shots: support examples per class, K.
            queries: query examples per class.
            seed: seed of the stream.
            start: index of the first episode.
            groups: `{class id: group}`, such as the alphabet of each character. Each
                episode then draws one group, uniformly among the groups with enough
                classes, and all its classes from this group.
            labels: "onehot": integer labels in [0, N), which sequence learners encode
                as one-hot vectors. "strings": five integers in [0, 5), another random
                string of symbols for each class of an episode (Santoro et al., 2016).

        Returns:
            A `tf.data.Dataset` of pairs: `({"support_x": [S, ...], "support_y": [S],
            "query_x": [Q, ...]}, query_y [Q])` with S = N * shots and Q = N * queries;
            images are float32 and labels int32. With "strings", `support_y` is `[S, 5]`
            and `query_y` is `[Q, 5]`.

        Raises:
            ValueError: fewer than `ways` classes, a class with fewer than `shots +
                queries` images, a class without a group in `groups`, or an unknown
                `labels`.
        """
        if labels not in episodes.LABELS:
            raise ValueError(
                f"expected labels to be one of {', '.join(episodes.LABELS)}, got "
                f"{labels!r}."
            )
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
            checks.check_integer(name, value, 1)
        members = episodes.group_members(self.class_ids, groups)
        members = members[members.sum(1) >= ways]
        if not len(members):
            raise ValueError(
                f"expected at least {ways} classes for {ways}-way episodes, the pool "
                f"has {len(self)}{' and no group has as many' if groups else ''}."
            )
        smallest = self._table[np.argmin(self.sizes)]
        if smallest[2] < shots + queries:
            raise ValueError(
                f"expected at least {shots} + {queries} images in each class, class "
                f"{self.names.get(int(smallest[0]), smallest[0])} has {smallest[2]}."
            )
        read = sources.reader(self._images, self._table, self._scaled)
        draw = episodes.sampler(self.sizes, members, read, ways, shots, queries, labels)
        return streams.stream(draw, seed, start)

    def batches(self, size: int, seed: int = 0, start: int = 0) -> tf.data.Dataset:
        """Returns an endless dataset of batches of labelled examples.

        Batch i depends on `seed` and its index i alone.

        Args:
            size: examples per batch, B; each is drawn uniformly from all examples of
                the pool, with replacement.
            seed: seed of the stream.
            start: index of the first batch.

        Returns:
            A `tf.data.Dataset` of pairs `(x [B, ...], y [B])`: float32 examples, and
            int32 indices of the class in the pool, in [0, len(pool)).

        Raises:
            ValueError: `size`, `seed` or `start` out of range, or a pool with
                rotations.
        """
        checks.check_integer("size", size, 1)
        if self._table[:, 3].any():
            raise ValueError("expected a pool without rotations, it has them.")
        draw = sources.batch_sampler(self._images, self._table, self._scaled, size)
        return streams.stream(draw, seed, start)
