"""The folder of a run: one process trains in it, with the settings it began with."""

import contextlib
import dataclasses
import inspect
import json
import os
import sqlite3
import textwrap

# Recorded, but another value does not change the run.
NOT_COMPARED = ("commit",)
# Names of things and prose about them, which change no result.
NOT_RECORDED = ("name", "module", "registered_name", "build_config", "title", "licence")
SHOWN = 3  # differences that a sentence lists
WIDTH = 80  # of a value in it


def make(directory):
    """Makes the folder of a run unless it is there.

    Raises:
        ValueError: it, or a folder that is to hold it, is a file.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"expected a folder for the run, got {directory}, which is a file or lies "
            "below one."
        ) from None


@contextlib.contextmanager
def claimed(directory):
    """Makes the folder of a run, and keeps other processes from training in it.

    The lock is SQLite's, on a file that stays empty: the system releases it when the
    process ends, even if it is killed.

    Args:
        directory: a `pathlib.Path`.

    Raises:
        ValueError: another process trains there, or it is a file.
        OSError: the lock cannot be written.
    """
    make(directory)
    path = directory / "run.lock"
    with contextlib.ExitStack() as stack:
        try:
            lock = sqlite3.connect(path, timeout=0, isolation_level=None)
            stack.callback(lock.close)
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            if error.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise ValueError(
                    f"expected {directory} to be free, another process is training "
                    "there."
                ) from None
            raise OSError(f"cannot lock {path}: {error}") from error
        yield


def record(directory, settings, write=True):
    """Records the settings of a run, or compares them with those it began with.

    Settings that the record lacks are not compared, nor is the "commit".

    Args:
        directory: a `pathlib.Path`; holds the record, run.json.
        settings: a dict that JSON can hold.
        write: whether to record them if there is no record.

    Raises:
        ValueError: the run began with other settings, or its record is damaged.
    """
    path = directory / "run.json"
    if not path.exists():
        if write:
            text = json.dumps(settings)
            replace(path, lambda draft: draft.write_text(text, encoding="utf-8"))
        return
    try:
        begun = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"expected the settings of a run in {path}, got no JSON: {error}."
        ) from error
    differing = list(differences(begun, json.loads(json.dumps(settings))))
    if differing:
        more = len(differing) - SHOWN
        before, now = (
            ", ".join(
                f"{name} = {textwrap.shorten(json.dumps(values[when]), WIDTH)}"
                for name, *values in differing[:SHOWN]
            )
            for when in (0, 1)
        )
        rest = f" ({more} more differ)" if more > 0 else ""
        raise ValueError(
            f"expected the settings that the run in {directory} began with, {before}, "
            f"got {now}{rest}: a new run needs another folder."
        )


def differences(begun, now, name=""):
    """`(name, begun, now)` of each recorded setting that differs, nested ones too."""
    if isinstance(begun, dict) and isinstance(now, dict):
        for key, value in begun.items():
            if key not in NOT_COMPARED:
                inner = f"{name}.{key}" if name else key
                yield from differences(value, now.get(key), inner)
    elif isinstance(begun, list) and isinstance(now, list) and len(begun) == len(now):
        for index, pair in enumerate(zip(begun, now, strict=True)):
            yield from differences(*pair, f"{name}[{index}]")
    elif begun != now:
        yield name, begun, now


def described(value):
    """What a record holds of a setting: dataclasses and functions by their content."""
    if dataclasses.is_dataclass(value):
        value = {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
        }
    if inspect.isfunction(value):
        captured = inspect.getclosurevars(value).nonlocals
        captured = {key: described(inner) for key, inner in captured.items()}
        return {"function": value.__name__, "captured": captured}
    if isinstance(value, dict):
        return {
            key: described(inner)
            for key, inner in value.items()
            if key not in NOT_RECORDED
        }
    if isinstance(value, list | tuple):
        return [described(inner) for inner in value]
    return value


def replace(path, write):
    """Has a draft written, `write(draft)`, and puts it in the place of `path`."""
    draft = path.with_name(f"draft-{path.name}")
    write(draft)
    os.replace(draft, path)
