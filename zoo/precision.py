"""Precision: dtype policies of training, and float16 weights in a model's file."""

import contextlib
import io
import zipfile

import h5py
import keras
import numpy as np

from keras_meta.zoo import atomic

WEIGHTS = "model.weights.h5"  # in a .keras file


@contextlib.contextmanager
def policy(name):
    """Layers that are made inside have Keras' dtype policy of this name."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def halve(path):
    """Rewrites a .keras file with float16 kernels, about half as large.

    Vectors (biases, statistics, scales) keep their precision: they are small and have
    wide ranges. Keras loads the file into float32 variables.

    Args:
        path: a `pathlib.Path`; the file is replaced.

    Raises:
        ValueError: a kernel with values beyond the range of float16.
    """

    def write(draft):
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(draft, "w") as new:
            for entry in old.infolist():
                content = old.read(entry)
                if entry.filename == WEIGHTS:
                    content = _halved(content)
                new.writestr(entry, content)

    atomic.replace(path, write)


def _halved(content):
    """The bytes of an HDF5 file, its float32 arrays of rank 2 and more in float16."""
    halved = io.BytesIO()
    with h5py.File(io.BytesIO(content)) as old, h5py.File(halved, "w") as new:
        new.attrs.update(old.attrs)

        def copy(name, item):
            if isinstance(item, h5py.Group):
                copied = new.require_group(name)
            else:
                copied = new.create_dataset(name, data=_reduced(name, item[()]))
            copied.attrs.update(item.attrs)

        old.visititems(copy)
    return halved.getvalue()


def _reduced(name, values):
    if values.dtype != np.float32 or values.ndim < 2:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(
            f"expected weights that float16 holds, {name} has larger ones."
        )
    return half
