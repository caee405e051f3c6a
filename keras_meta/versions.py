"""Versions of an exported model: each a directory that appears whole or not at all."""

import contextlib
import os
import pathlib
import re
import shutil
import tempfile

import tensorflow as tf

from keras_meta import checks

# Files that stand beside the versions and belong to the newest of them.
BESIDE = ("model.keras", "README.md")


def choose(base, version=None):
    """The version to write below `base`.

    Args:
        base: `pathlib.Path` of the folder of versions, which need not exist.
        version: an integer >= 1; None for the next free one.

    Raises:
        ValueError: it is no such integer.
        FileExistsError: it is there already.
    """
    if version is None:
        return _newest(base) + 1
    checks.check_integer("version", version, 1)
    if (base / str(version)).exists():
        raise FileExistsError(
            f"expected a free version, {base / str(version)} is there already."
        )
    return int(version)


def install(base, version, write):
    """Puts a version in its place, and the files beside it if it is the newest.

    If anything fails, all that `base` held is as it was.

    Args:
        base: `pathlib.Path` of the folder of versions, made if need be.
        version: what `choose` gave.
        write: `write(folder)` writes the version and the files `BESIDE`, all into one
            empty folder.

    Returns:
        The `pathlib.Path` of the version's directory.

    Raises:
        OSError: it cannot be written.
    """
    target = base / str(version)
    begins = not base.exists()
    draft = None
    try:
        base.mkdir(parents=True, exist_ok=True)
        draft = pathlib.Path(tempfile.mkdtemp(prefix=".draft-", dir=base))
        new, old = draft / "new", draft / "old"
        for folder in (new, old, draft / "version"):
            folder.mkdir()
        write(draft / "version")
        for name in BESIDE:
            os.rename(draft / "version" / name, new / name)
            if (base / name).exists():
                shutil.copy2(base / name, old / name)
        os.rename(draft / "version", target)
        if version == _newest(base):
            _replace_beside(base, new, old, target)
    except (OSError, tf.errors.OpError) as error:
        raise OSError(
            f"cannot write {target}: {_reason(error)}; what was in {base} is as before."
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)
        if begins:
            with contextlib.suppress(OSError):
                base.rmdir()  # unless there is something in it
    return target


def _newest(base):
    return max((int(p.name) for p in base.glob("*") if p.name.isdecimal()), default=0)


def _replace_beside(base, new, old, target):
    """Replaces the files beside the versions by new ones, or takes the version back."""
    try:
        for name in BESIDE:
            os.replace(new / name, base / name)
    except BaseException:
        shutil.rmtree(target)
        for name in BESIDE:
            if (new / name).exists():
                continue  # it was not replaced
            if (old / name).exists():
                os.replace(old / name, base / name)
            else:
                os.remove(base / name)
        raise


def _reason(error):
    if isinstance(error, OSError):
        return error.strerror or str(error)
    # TensorFlow's message contains the operation and the file before the system's
    # reason.
    message = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", error.message)
    return message.rpartition("; ")[2].strip()
