"""Downloads of TFDS data sets: announced, and without leftovers if they fail."""

import contextlib
import io
import logging
import os
import pathlib
import shutil
import sys


def folder():
    """The folder of TFDS data: `TFDS_DATA_DIR`, or TFDS' default."""
    home = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    return pathlib.Path(home).expanduser()


def is_prepared(name):
    """Whether the folder of TFDS data contains a data set; uses no network."""
    return any(folder().glob(f"{name}/*/dataset_info.json"))


@contextlib.contextmanager
def quiet(name):
    """A context that reads a TFDS data set, and may download it.

    One sentence, on terminals only, replaces TFDS' own output. If the download fails,
    partial files and empty folders that it created are removed; complete archives
    remain.

    Args:
        name: of the data set.

    Raises:
        ValueError: the data set is not prepared, and reading it failed.
    """
    if is_prepared(name):
        yield
        return
    import tensorflow_datasets as tfds

    root = folder()
    if sys.stderr.isatty():
        print(f"{name} is not in {root} (TFDS_DATA_DIR): downloading", file=sys.stderr)
    before = _paths(root, name)
    # Not restored: TFDS' other threads retry after the first one has failed.
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS announces the size
            yield
    except BaseException as error:
        _clean(root, name, before)
        if not isinstance(error, ValueError):
            raise
        cause = str(error.__cause__ or error).strip().split("\n")[0]
        raise ValueError(
            f"expected the TFDS data set {name} in {root} (set TFDS_DATA_DIR to the "
            f"folder that contains it) or a network to download it, got: {cause}"
        ) from error
    finally:
        tfds.enable_progress_bar()


def _paths(root, name):
    """The paths that a download of a data set may create, `root` included."""
    downloads, data = root / "downloads", root / name
    return {
        path
        for path in (root, downloads, data, *downloads.rglob("*"), *data.rglob("*"))
        if path.exists()
    }


def _clean(root, name, before):
    """Removes partial downloads and empty folders that did not exist before."""
    for path in sorted(_paths(root, name) - before, reverse=True):
        if ".tmp." in path.name or path.name.startswith("incomplete."):
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
