"""Pools of classes, and endless, replayable streams of episodes drawn from them."""

import atexit
import contextlib
import gc
import logging
import pathlib
import warnings

import numpy as np
import tensorflow as tf

from keras_meta import checks, files
from keras_meta.streams import fold_seed as fold_seed
from keras_meta.streams import seeded_map as seeded_map
from keras_meta.streams import stream as stream

DOWNLOAD_RETRIES = 3
LABELS = ("onehot", "strings")
# Of a label that is a string: five characters, each one of five.
SYMBOLS = 5


def read_tfds(name, split, prepare=None, data_dir=None, label_key=None):
    """Reads a TFDS data set in its own order.

    Args:
        name: TFDS name, such as "omniglot".
        split: TFDS split expression, such as "train+test".
        prepare: an `ImagePreprocess` that resizes all images, or None.
        data_dir: folder of TFDS data; by default TFDS' own (`TFDS_DATA_DIR`).
        label_key: the label feature; by default the only one, or "label".

    Returns:
        `(images, labels, names)`: images `[n, H, W, C]`, labels `[n]` and `{label:
        name}`.

    Raises:
        ValueError: as `ClassPool.from_tfds`.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except Exception as error:  # TFDS raises many kinds, as below
        raise ValueError(
            f"expected the name of a TFDS data set, got '{name}': {_first_line(error)}"
        ) from error
    features = builder.info.features
    image_keys = [k for k, f in features.items() if type(f) is tfds.features.Image]
    label_keys = [
        k for k, f in features.items() if isinstance(f, tfds.features.ClassLabel)
    ]
    if label_key is None:
        label_key = label_keys[0] if len(label_keys) == 1 else "label"
    if len(image_keys) != 1 or label_key not in label_keys:
        raise ValueError(
            f"expected '{name}' to have one image and a label '{label_key}', its "
            f"images are {image_keys} and its labels {label_keys}."
        )
    try:
        with _few_retries():
            builder.download_and_prepare()
        dataset = builder.as_dataset(split=split)
    except Exception as error:  # TFDS raises many kinds, network errors among them
        raise ValueError(
            f"expected '{name}' with split '{split}' to be had from TFDS "
            f"(splits {sorted(builder.info.splits)}), prepared in "
            f"{builder.data_dir} (TFDS_DATA_DIR says where) or by download: "
            f"{_first_line(error)}"
        ) from error
    (image_key,) = image_keys
    resize = prepare.resize if prepare else tf.identity
    dataset = dataset.map(
        lambda example: (resize(example[image_key]), example[label_key]),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    try:
        batches = list(dataset.batch(1024).as_numpy_iterator())
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(
            f"expected the images of '{name}' to share one size, they do not: "
            "give prepare=ImagePreprocess(height, width, channels)."
        ) from error
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    label_name = features[label_key].int2str
    names = {int(label): label_name(int(label)) for label in np.unique(labels)}
    return images, labels, names


class OnDisk:
    """Images that stay on disk until they are needed.

    Args:
        read: `indices [n] -> images [n, ...]`.
        order: the indices of the images, class by class, `[n]`.
        dtype: dtype of an image.
        prepare: an `ImagePreprocess` that resizes all images, or None.
    """

    def __init__(self, read, order, dtype, prepare):
        # An iterator that an error keeps alive must go while Python still runs what
        # its threads call: at the interpreter's end it would wait for them for good.
        atexit.unregister(gc.collect)
        atexit.register(gc.collect)
        self.read = read
        self.order = order
        self.dtype = tf.as_dtype(dtype)
        self.prepare = prepare
        self.shape = tf.TensorShape([len(order), *self.at(np.arange(1)).shape[1:]])

    def at(self, rows):
        """Returns images `[..., H, W, C]` at rows `[...]`, an array."""
        images = self.read(self.order[rows.ravel()])
        if self.prepare:
            images = self.prepare.resize(images).numpy()
        return images.reshape(*rows.shape, *images.shape[1:])

    def at_or_fault(self, rows):
        """Returns images as `at`, and b"" or the reason why they are unreadable."""
        try:
            return self.at(rows), b""
        except ValueError as error:
            # Not raised: TensorFlow would put the traceback into its error.
            images = np.zeros([*rows.shape, *self.shape[1:]], self.dtype.as_numpy_dtype)
            return images, f"{' '.join(str(error).split()).rstrip('.')}.".encode()


class ClassPool:
    """Labelled images of many classes, from which episodes are drawn.

    The images are stored once and unchanged (uint8 for images), in memory or on disk.
    Pools that `select`, `split_classes` and `with_rotations` return share them. Create
    a pool with `from_tfds`, `from_arrays` or `from_directory`; these call the
    constructor.

    Args:
        images: all images, sorted by class: a tensor `[n, ...]` or an `OnDisk`.
        table: int64 `[C, 4]`, for each class its label id, the index of its first
            image, its number of images, and quarter turns.
        names: `{label id: name}`.
        prepare: an `ImagePreprocess` that scales the images of an episode, or None.

    Attributes:
        class_ids: int array `[C]`, the label id of each class; a rotated class has the
            id of the unrotated class.
        names: `{label id: name}`.
        shape: shape of one example, as in episodes.
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

    def __init__(self, images, table, names, prepare):
        self._images = images  # tensor [n, ...] or OnDisk, sorted by class
        self._table = table  # int64 [C, 4]: label id, first image, images, turns
        self._prepare = prepare
        self.names = names

    @classmethod
    def from_arrays(cls, images, labels, prepare=None, names=None):
        """Creates a pool from examples in memory, or in a memory-mapped file.

        Args:
            images: uint8 `[n, H, W, C]` with `prepare`; without it also any numeric
                `[n, ...]` (uint8 is scaled to [0, 1], other types are converted to
                float32). A `np.memmap`, as `np.load(path, mmap_mode="r")` returns it,
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
        labels = np.asarray(labels)
        if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            hint = f"{checks.NUMBERED} numbers them"
            if labels.ndim == 2:
                hint = checks.ONE_HOT
            raise ValueError(
                f"expected integer labels [n], got {labels.dtype} of shape "
                f"{list(labels.shape)}: {hint}."
            )
        mapped = isinstance(images, np.memmap)
        if mapped and images.dtype != np.uint8:
            raise ValueError(f"expected uint8 in a np.memmap, got {images.dtype}.")
        if not mapped:
            try:
                images = tf.convert_to_tensor(images)
            except ValueError as error:
                raise ValueError(
                    f"expected examples [n, ...] of one shape, got others: {error}"
                ) from error
            if prepare:
                images = prepare.resize(images)
        shape = list(images.shape)
        if len(shape) < 2 or shape[0] != len(labels) or not len(labels):
            raise ValueError(
                f"expected as many examples [n, ...] as labels [n], at least one; got "
                f"examples of shape {shape} and {len(labels)} labels."
            )
        dtype = tf.as_dtype(images.dtype)
        if not (dtype.is_floating or dtype.is_integer or dtype.is_bool):
            raise ValueError(f"expected examples that are numbers, got {dtype.name}.")
        if dtype != tf.uint8:
            images = tf.cast(images, tf.float32)
            if not np.isfinite(images).all():
                raise ValueError("expected finite examples, got NaN or infinity.")
        order, table = _sorted(labels)
        if mapped:
            images = OnDisk(images.__getitem__, order, images.dtype, prepare)
        elif (np.diff(order) != 1).any():
            images = tf.gather(images, order)
        return cls(images, table, dict(names or {}), prepare)

    @classmethod
    def from_tfds(
        cls, name, split="train", prepare=None, data_dir=None, label_key=None
    ):
        """Creates a pool from a TFDS image-classification data set.

        Args:
            name: TFDS name, such as "omniglot" or "cifar100".
            split: TFDS split expression, such as "train+test".
            prepare: an `ImagePreprocess` that resizes all images, or None.
            data_dir: folder of TFDS data; by default TFDS' own (`TFDS_DATA_DIR`).
            label_key: the label feature; by default the only one, or "label".

        Returns:
            A `ClassPool` in memory.

        Raises:
            ValueError: unknown data set or split, no image or label feature, data that
                cannot be downloaded, or images of different sizes without `prepare`.
        """
        images, labels, names = read_tfds(name, split, prepare, data_dir, label_key)
        return cls.from_arrays(images, labels, prepare, names)

    @classmethod
    def from_directory(cls, directory, prepare, in_memory=True):
        """Creates a pool from a folder with one sub-folder of images per class.

        Label ids number the sub-folders in alphabetical order. A warning lists the
        files that are skipped, such as those without an image suffix.

        Args:
            directory: the folder.
            prepare: an `ImagePreprocess` that resizes all images.
            in_memory: if True, reads all images now. If False, reads the images of an
                episode when it is drawn, which fails then if a file is not an image.

        Returns:
            A `ClassPool`.

        Raises:
            ValueError: no such folder, no class in it, a class without images, or a
                file that is not an image.
        """
        directory = pathlib.Path(directory)
        if not directory.is_dir():
            raise ValueError(f"expected a folder of classes, found none at {directory}")
        classes, skipped = files.listed(directory, folders=True)
        if not classes:
            raise ValueError(
                f"expected a sub-folder of images for each class in {directory}, "
                "found no sub-folder."
            )
        paths, labels = [], []
        for label, folder in enumerate(classes):
            found, others = files.listed(folder)
            if not found:
                raise ValueError(files.none_found("images", folder, others))
            paths += found
            skipped += others
            labels += [label] * len(found)
        if skipped:
            warnings.warn("; ".join(files.notes(skipped)) + ".", stacklevel=2)
        names = {label: folder.name for label, folder in enumerate(classes)}

        def read(places):
            return np.stack(
                [prepare.resize(files.load_image(paths[i])) for i in places]
            )

        order, table = _sorted(np.array(labels))
        images = OnDisk(read, order, np.uint8, None)
        if in_memory:
            images = tf.constant(images.at(np.arange(len(paths))))
        return cls(images, table, names, prepare)

    @classmethod
    def joined(cls, pools):
        """Creates a pool with the classes of several pools in memory.

        Label ids are new: 0, 1, ... in the order of the pools, and of label ids within
        each. Classes of equal names in two pools stay two classes.

        Args:
            pools: `{name: ClassPool}`, with examples of one shape and type. The name of
                a class becomes `name/class`.

        Returns:
            A `ClassPool`.

        Raises:
            ValueError: examples of different shapes or types, or on disk.
        """
        kinds = {
            (pool.shape, type(pool._images), pool._images.dtype)
            for pool in pools.values()
        }
        if len(kinds) != 1 or any(
            isinstance(p._images, OnDisk) for p in pools.values()
        ):
            raise ValueError(
                "expected pools in memory with examples of one shape and kind, got "
                f"{', '.join(map(repr, pools.values())) or 'none'}."
            )
        tables, names, images = [], {}, 0
        for key, pool in pools.items():
            ids, places = np.unique(pool.class_ids, return_inverse=True)
            table = pool._table + [0, images, 0, 0]
            table[:, 0] = places + len(names)
            tables.append(table)
            called = [f"{key}/{pool.names.get(int(i), i)}" for i in ids]
            names.update(enumerate(called, len(names)))
            images += pool._images.shape[0]
        joined = tf.concat([pool._images for pool in pools.values()], axis=0)
        prepare = next(iter(pools.values()))._prepare
        return cls(joined, np.concatenate(tables), names, prepare)

    def __len__(self):
        return len(self._table)

    def __repr__(self):
        return f"ClassPool({len(self)} classes, {sum(self.sizes)} images, {self.shape})"

    @property
    def class_ids(self):
        return self._table[:, 0]

    @property
    def shape(self):
        return tuple(self._images.shape[1:])

    @property
    def sizes(self):
        return self._table[:, 2]

    def _with_table(self, table):
        return ClassPool(self._images, table, self.names, self._prepare)

    def select(self, ids):
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

    def split_classes(self, *sizes, seed=0):
        """Returns disjoint pools of randomly chosen classes; the rest is dropped.

        Args:
            *sizes: number of label ids in each part.
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
        # RandomState and not Generator: its stream is frozen for all NumPy versions.
        shuffled = np.random.RandomState(seed).permutation(ids)
        ends = np.cumsum(sizes)
        parts = np.split(shuffled, ends)[: len(sizes)]
        return [self.select(part) for part in parts]

    def with_rotations(self):
        """Returns the pool with 90, 180 and 270 degree rotations as new classes.

        Raises:
            ValueError: images that are not square, or a pool with rotations.
        """
        if len(self.shape) != 3 or self.shape[0] != self.shape[1]:
            raise ValueError(f"expected square images [H, H, C], got {self.shape}.")
        if self._table[:, 3].any():
            raise ValueError("expected a pool without rotations, it has them already.")
        turned = [self._table + [0, 0, 0, turns] for turns in range(4)]
        return self._with_table(np.concatenate(turned))

    def encoded(self, encode):
        """Returns the pool with `encode(x)` in place of each example x, computed once.

        For example, the features of a frozen network. Rotated classes are encoded too.

        Args:
            encode: `[n, ...] -> [n, ...]`, such as a Keras model.
        """
        encode = tf.function(encode, reduce_retracing=True)
        found = []
        for row in self._table:
            x, turns = self._examples(row), row[3]
            found.append(encode(tf.image.rot90(x, turns) if turns else x))
        table = self._table.copy()
        table[:, 1] = np.cumsum(table[:, 2]) - table[:, 2]
        table[:, 3] = 0
        return ClassPool(tf.concat(found, axis=0), table, self.names, None)

    def images_of(self, class_id):
        """Returns all unrotated images of a class, as in episodes, `[n, ...]`.

        Args:
            class_id: the label id.

        Raises:
            ValueError: an id that the pool does not have.
        """
        return self._examples(self.select([class_id])._table[0])

    def _examples(self, row):
        """Returns all examples of a row of the table, unrotated, as in episodes."""
        return self._scaled(self._at(tf.range(row[1], row[1] + row[2])))

    def _at(self, rows):
        """Images at rows `[...]`, as they are kept."""
        if not isinstance(self._images, OnDisk):
            return tf.gather(self._images, rows)
        if not tf.is_symbolic_tensor(rows):
            return tf.constant(self._images.at(rows.numpy()))
        types = self._images.dtype, tf.string
        images, fault = tf.numpy_function(self._images.at_or_fault, [rows], types)
        images = tf.ensure_shape(images, [*rows.shape, *self.shape])
        return checks.required(images, (tf.equal(fault, b""), fault))

    def _scaled(self, images):
        if images.dtype != tf.uint8:
            return images
        if self._prepare is not None:
            return self._prepare.scale(images)
        return tf.cast(images, tf.float32) / 255.0

    def episodes(
        self,
        ways=5,
        shots=1,
        queries=15,
        seed=0,
        start=0,
        groups=None,
        labels="onehot",
    ):
        """Returns an endless dataset of N-way K-shot episodes, replayable by (seed, i).

        Episode i depends on (seed, i) alone. The classes, their labels, the images, the
        order of the support set and the order of the queries are each uniformly random.
        Images of a class are drawn without replacement, so that no query image is in
        the support set.

        Args:
            ways: number of classes in an episode, N.
            shots: support examples per class, K.
            queries: query examples per class.
            seed: seed of the stream.
            start: index of the first episode.
            groups: `{label id: group}`, such as the alphabet of each character. The
                classes of an episode are then from one group, drawn uniformly from the
                groups with enough classes.
            labels: "onehot", or "strings": each class of an episode gets a different
                string of five symbols out of five, drawn uniformly (Santoro et al.,
                2016).

        Returns:
            A `tf.data.Dataset` of pairs: `({"support_x": [S, ...], "support_y": [S],
            "query_x": [Q, ...]}, query_y [Q])` with S = N K and Q = N queries; images
            are float32 and labels int32 in [0, N). Strings are `[S, 5]` and `[Q, 5]`,
            in [0, 5).

        Raises:
            ValueError: too few classes, a class with fewer than shots + queries images
                or without a group, or other labels.
        """
        if labels not in LABELS:
            raise ValueError(
                f"expected labels to be one of {', '.join(LABELS)}, got {labels!r}."
            )
        for name, value in (("ways", ways), ("shots", shots), ("queries", queries)):
            checks.check_integer(name, value, 1)
        members = self._grouped(groups)  # [G, C]
        members = tf.constant(members[members.sum(1) >= ways])
        if not len(members):
            raise ValueError(
                f"expected at least {ways} classes for {ways}-way episodes, the pool "
                f"has {len(self)}{' and no group so many' if groups else ''}."
            )
        each = shots + queries
        smallest = self._table[np.argmin(self._table[:, 2])]
        if smallest[2] < each:
            raise ValueError(
                f"expected at least {shots} + {queries} images in each class, class "
                f"{self.names.get(int(smallest[0]), smallest[0])} has {smallest[2]}."
            )
        first = tf.constant(self._table[:, 1])
        count = tf.constant(self._table[:, 2])
        turns = tf.constant(self._table[:, 3])
        most = int(self._table[:, 2].max())
        places = _turned_places(self.shape) if self._table[:, 3].any() else None

        def names(seed):
            if labels == "onehot":
                return tf.range(ways, dtype=tf.int32)
            chance = tf.random.stateless_uniform([SYMBOLS**SYMBOLS], seed)
            _, strings = tf.math.top_k(chance, ways)
            return strings[:, None] // SYMBOLS ** tf.range(SYMBOLS)[::-1] % SYMBOLS

        def draw(seed):
            seeds = tf.unstack(tf.random.split(seed, 6))
            group = tf.random.stateless_uniform(
                [], seeds[4], maxval=len(members), dtype=tf.int32
            )
            # The largest of uniform numbers are a uniform sample without replacement,
            # in uniformly random order: the order is the labelling.
            chance = tf.random.stateless_uniform(
                [len(self)], seeds[0], dtype=tf.float64
            )
            _, chosen = tf.math.top_k(tf.where(members[group], chance, -1.0), ways)
            chance = tf.random.stateless_uniform(
                [ways, most], seeds[1], dtype=tf.float64
            )
            there = tf.range(most, dtype=tf.int64) < tf.gather(count, chosen)[:, None]
            _, picks = tf.math.top_k(tf.where(there, chance, -1.0), each)
            rows = tf.gather(first, chosen)[:, None] + tf.cast(picks, tf.int64)
            x = self._at(rows)  # [N, K + queries, ...]
            if places is not None:
                flat = tf.reshape(x, [ways, each, -1])
                turned = tf.gather(places, tf.gather(turns, chosen))
                x = tf.reshape(tf.gather(flat, turned, axis=2, batch_dims=1), x.shape)
            x = self._scaled(x)
            y = tf.repeat(names(seeds[5])[:, None], each, axis=1)
            support_x, support_y = _shuffled(x[:, :shots], y[:, :shots], seeds[2])
            query_x, query_y = _shuffled(x[:, shots:], y[:, shots:], seeds[3])
            episode = {"support_x": support_x, "support_y": support_y}
            return {**episode, "query_x": query_x}, query_y

        return stream(draw, seed, start)

    def batches(self, size, seed=0, start=0):
        """Returns an endless dataset of labelled examples, replayable by (seed, i).

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
        ends = tf.constant(np.cumsum(self.sizes))
        # From a place among all examples of these classes to a row of the images.
        shifts = tf.constant(self._table[:, 1] + self.sizes - np.cumsum(self.sizes))

        def draw(seed):
            places = tf.random.stateless_uniform(
                [size], seed, maxval=int(sum(self.sizes)), dtype=tf.int64
            )
            y = tf.searchsorted(ends, places, side="right")
            x = self._scaled(self._at(places + tf.gather(shifts, y)))
            return x, y

        return stream(draw, seed, start)

    def _grouped(self, groups):
        """Which classes `[C]` are in each group, a boolean `[G, C]`."""
        if groups is None:
            return np.ones([1, len(self)], bool)
        missing = sorted(set(self.class_ids.tolist()) - set(groups))
        if missing:
            raise ValueError(
                f"expected groups to have every class of the pool, {missing[:10]} are "
                "missing."
            )
        of = [groups[int(class_id)] for class_id in self.class_ids]
        _, of = np.unique(of, return_inverse=True)
        return np.arange(of.max() + 1)[:, None] == of


def _sorted(labels):
    """The order that puts classes one after another, and a pool's table of them."""
    order = np.argsort(labels, kind="stable")
    ids, first, count = np.unique(labels[order], return_index=True, return_counts=True)
    table = np.stack([ids, first, count, np.zeros_like(first)], 1).astype(np.int64)
    return order, table


@contextlib.contextmanager
def _few_retries():
    """Limits TFDS' retries, which take minutes without a network."""
    from tensorflow_datasets.core.download import downloader

    retries, log = downloader.MAX_RETRIES, logging.getLogger("urllib3")
    level = log.level
    downloader.MAX_RETRIES = DOWNLOAD_RETRIES
    log.setLevel(logging.ERROR)  # the last error is told, in one sentence
    try:
        yield
    finally:
        downloader.MAX_RETRIES = retries
        log.setLevel(level)


def _first_line(error):
    return str(error).strip().split("\n")[0]


def _turned_places(shape):
    """Flat positions `[4, H * W * C]` that turn an image by 0, 90, 180, 270 degrees."""
    places = np.arange(np.prod(shape)).reshape(shape)
    return tf.constant(np.stack([np.rot90(places, k).ravel() for k in range(4)]))


def _shuffled(x, y, seed):
    """`[N, k, ...]` each -> `[N k, ...]` each, in one random order."""
    n = y.shape[0] * y.shape[1]
    _, order = tf.math.top_k(
        tf.random.stateless_uniform([n], seed, dtype=tf.float64), n
    )
    return [tf.gather(tf.reshape(v, [n, *v.shape[2:]]), order) for v in (x, y)]
