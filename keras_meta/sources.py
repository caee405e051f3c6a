"""Labelled images of many classes: from TFDS, arrays or a folder, sorted by class."""

import atexit
import contextlib
import gc
import itertools
import logging
import math
import pathlib

import numpy as np
import tensorflow as tf

from keras_meta import checks, files

DOWNLOAD_RETRIES = 3
# Images of one size are resized together, which saves most of the time: at most so many
# of TFDS, and at most so many bytes of files.
TOGETHER, BYTES_TOGETHER = 256, 2**24


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
            f"expected '{name}' with split '{split}' to be available from TFDS "
            f"(splits {sorted(builder.info.splits)}), prepared in "
            f"{builder.data_dir} (set TFDS_DATA_DIR to change it) or by download: "
            f"{_first_line(error)}"
        ) from error
    (image_key,) = image_keys
    resize = prepare.resize if prepare else tf.identity
    one_size = None not in features[image_key].shape
    dataset = dataset.map(lambda example: (example[image_key], example[label_key]))
    dataset = dataset.batch(TOGETHER) if one_size else dataset
    dataset = dataset.map(lambda x, y: (resize(x), y), tf.data.AUTOTUNE)
    dataset = dataset if one_size else dataset.batch(TOGETHER)
    try:
        batches = list(dataset.as_numpy_iterator())
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


def read_arrays(images, labels, prepare=None):
    """Sorts examples in memory, or in a memory-mapped file, by class.

    Args:
        images: as for `ClassPool.from_arrays`.
        labels: integer ids `[n]`.
        prepare: an `ImagePreprocess` that resizes all images, or None.

    Returns:
        `(images, table)`: a tensor `[n, ...]` or an `OnDisk`, and the `class_table`.

    Raises:
        ValueError: as `ClassPool.from_arrays`.
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
    order, table = class_table(labels)
    if mapped:
        images = OnDisk(images.__getitem__, order, images.dtype, prepare)
    elif (np.diff(order) != 1).any():
        images = tf.gather(images, order)
    return images, table


def list_directory(directory):
    """Lists a folder with one sub-folder of images per class.

    Args:
        directory: the folder.

    Returns:
        `(paths, labels, names, skipped)`: the image files, their labels, `{label:
        folder name}`, and the skipped files as `[(path, reason)]`.

    Raises:
        ValueError: as `ClassPool.from_directory`.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        raise ValueError(f"expected a folder of classes, found none at {directory}")
    folders, skipped = files.listed(directory, folders=True)
    if not folders:
        raise ValueError(
            f"expected a sub-folder of images for each class in {directory}, "
            "found no sub-folder."
        )
    paths, labels = [], []
    for label, folder in enumerate(folders):
        members, others = files.listed(folder)
        if not members:
            raise ValueError(files.none_found("images", folder, others))
        paths += members
        skipped += others
        labels += [label] * len(members)
    names = {label: folder.name for label, folder in enumerate(folders)}
    return paths, labels, names, skipped


def read_files(paths, labels, prepare, in_memory=True):
    """Reads image files, or prepares to read them.

    Args:
        paths: the files, a list.
        labels: their integer ids `[n]`.
        prepare: an `ImagePreprocess` that resizes all images.
        in_memory: if False, images stay on disk.

    Returns:
        `(images, table)`: a uint8 tensor `[n, H, W, C]` or an `OnDisk`, and the
        `class_table`.

    Raises:
        ValueError: a file that is not an image.
    """

    def read(places):
        return resized((files.load_image(paths[i]) for i in places), prepare)

    order, table = class_table(np.array(labels))
    images = OnDisk(read, order, np.uint8, None)
    if in_memory:
        images = tf.constant(images.at(np.arange(len(paths))))
    return images, table


def resized(images, prepare):
    """Resizes images, those of one size that follow each other together.

    Args:
        images: uint8 `[H, W, 1 or 3]` of any sizes, an iterable.
        prepare: an `ImagePreprocess`.

    Returns:
        uint8 `[n, height, width, channels]`, an array.
    """
    parts = []
    for shape, same in itertools.groupby(images, np.shape):
        most = max(BYTES_TOGETHER // math.prod(shape), 1)
        while some := list(itertools.islice(same, most)):
            parts.append(prepare.resize(np.stack(some)).numpy())
    return np.concatenate(parts)


class OnDisk:
    """Images that stay on disk until they are needed.

    Args:
        read: `indices [n] -> images [n, ...]`.
        order: the indices of the images, class by class, `[n]`.
        dtype: dtype of an image.
        prepare: an `ImagePreprocess` that resizes all images, or None.
    """

    def __init__(self, read, order, dtype, prepare):
        # An error can keep an iterator alive until the interpreter exits. The exit then
        # waits forever for the iterator's threads, which call Python. Collecting the
        # iterator earlier, at exit, avoids the deadlock.
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


def gather(images, rows):
    """Returns images `[..., H, W, C]` at rows `[...]`, a tensor.

    Args:
        images: a tensor `[n, ...]` or an `OnDisk`.
        rows: an integer tensor, in a graph too.
    """
    if not isinstance(images, OnDisk):
        return tf.gather(images, rows)
    if not tf.is_symbolic_tensor(rows):
        return tf.constant(images.at(rows.numpy()))
    types = images.dtype, tf.string
    values, fault = tf.numpy_function(images.at_or_fault, [rows], types)
    values = tf.ensure_shape(values, [*rows.shape, *images.shape[1:]])
    return checks.required(values, (tf.equal(fault, b""), fault))


def rotate(x, turns):
    """Rotates the images of each class by its quarter turns.

    Args:
        x: square images `[N, n, H, H, C]`.
        turns: integers in 0..3, `[N]`.

    Returns:
        Images of the shape of `x`.
    """
    places = np.arange(np.prod(x.shape[2:])).reshape(x.shape[2:])
    places = tf.constant(np.stack([np.rot90(places, k).ravel() for k in range(4)]))
    flat = tf.reshape(x, [*x.shape[:2], -1])
    order = tf.gather(places, turns)
    return tf.reshape(tf.gather(flat, order, axis=2, batch_dims=1), x.shape)


def reader(images, table, scaled):
    """Returns `(classes [N], indices [N, n]) -> x [N, n, ...]`, as in episodes.

    Args:
        images: all images, as for `gather`.
        table: the classes, see `class_table`.
        scaled: a function from stored images to those of episodes.
    """
    first, turns = tf.constant(table[:, 1]), tf.constant(table[:, 3])
    rotated = table[:, 3].any()

    def read(classes, indices):
        rows = tf.gather(first, classes)[:, None] + indices
        x = gather(images, rows)
        if rotated:
            x = rotate(x, tf.gather(turns, classes))
        return scaled(x)

    return read


def batch_sampler(images, table, scaled, size):
    """Returns the function `seed [2] -> (x [B, ...], y [B])`, see `ClassPool.batches`.

    Args:
        images: all images, as for `gather`.
        table: the classes, see `class_table`.
        scaled: a function from stored images to those of batches.
        size: examples per batch, B.
    """
    ends = np.cumsum(table[:, 2])
    # The row of an image minus its place among all examples of these classes.
    shifts = tf.constant(table[:, 1] + table[:, 2] - ends)
    total, ends = int(ends[-1]), tf.constant(ends)

    def draw(seed):
        places = tf.random.stateless_uniform([size], seed, maxval=total, dtype=tf.int64)
        y = tf.searchsorted(ends, places, side="right")
        return scaled(gather(images, places + tf.gather(shifts, y))), y

    return draw


def class_table(labels):
    """Sorts examples by class.

    Args:
        labels: integer ids `[n]`.

    Returns:
        `(order, table)`: the indices of the examples, class by class, `[n]`; and int64
        `[C, 4]`, for each class its label id, the index of its first example in this
        order, its number of examples, and quarter turns, which are 0.
    """
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
    log.setLevel(logging.ERROR)  # `read_tfds` reports the last error in one sentence
    try:
        yield
    finally:
        downloader.MAX_RETRIES = retries
        log.setLevel(level)


def _first_line(error):
    return str(error).strip().split("\n")[0]


def join(parts):
    """Joins the images of several pools in memory.

    Args:
        parts: `{name: (images, table, {label id: name})}`; see `ClassPool`.

    Returns:
        `(images, table, names)` with new label ids, and the names `name/class`.
    """
    tables, names, count = [], {}, 0
    for key, (images, table, class_names) in parts.items():
        ids, places = np.unique(table[:, 0], return_inverse=True)
        table = table + [0, count, 0, 0]
        table[:, 0] = places + len(names)
        tables.append(table)
        joined = [f"{key}/{class_names.get(int(i), i)}" for i in ids]
        names.update(enumerate(joined, len(names)))
        count += images.shape[0]
    images = tf.concat([images for images, _, _ in parts.values()], axis=0)
    return images, np.concatenate(tables), names
