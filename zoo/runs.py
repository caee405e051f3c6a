"""The folder of a run: its stages, its lock, and the record of its settings."""

import contextlib
import dataclasses
import inspect
import json
import pathlib
import shutil
import sqlite3
import subprocess
import textwrap

from keras_meta.zoo import atomic

# Recorded, but not compared: the value does not change the result of a run.
NOT_COMPARED = ("commit",)
# Not recorded: names and descriptions, which do not change the result of a run.
NOT_RECORDED = ("name", "module", "registered_name", "build_config", "title", "licence")
# In the error about other settings: differences it lists, characters of a value.
SHOWN, WIDTH = 3, 80


def make(directory):
    """Creates the folder of a run, unless it exists.

    Raises:
        ValueError: the path, or one of its parents, is a file.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"expected a folder for the run, got {directory}, which is a file or has a "
            "file as its parent."
        ) from None


@contextlib.contextmanager
def claimed(directory):
    """Creates the folder of a run and locks it, so that one process trains in it.

    The lock is SQLite's, on a file that stays empty. The operating system releases it
    when the process ends, even if it is killed.

    Args:
        directory: a `pathlib.Path`.

    Raises:
        ValueError: another process trains in the folder, or the path is a file.
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
                    f"expected {directory} to be free, another process is training in "
                    "it."
                ) from None
            raise OSError(f"cannot lock {path}: {error}") from error
        yield


def stages(recipe, directory, steps, origin):
    """The runs of a recipe, one for each of its stages.

    The last stage is in `directory` itself, the stage before it in the folder
    `pretraining` of `directory`.

    Args:
        recipe: a `recipes.schema.Recipe`.
        directory: a `pathlib.Path`.
        steps: meta-steps of the last stage and of each stage before it; None for the
            values of the recipe.
        origin: the weights that the first stage begins from. A later stage begins from
            the best weights of the stage before it.

    Yields:
        `(stage, folder, steps, origin)` in the order of training.
    """
    folders = [directory]
    for _ in recipe.stages[1:]:
        folders.insert(0, folders[0] / "pretraining")
    last, earlier = steps
    for stage, folder in zip(recipe.stages, folders, strict=True):
        given = last if stage is recipe else earlier
        yield stage, folder, stage.steps if given is None else given, origin
        origin = str(folder / "best.keras")


def commit():
    """The commit of the code that trains; None outside a checkout, or without git."""
    if shutil.which("git") is None:
        return None
    path = pathlib.Path(__file__)

    def git(*words):
        command = ["git", *words]
        return subprocess.run(command, cwd=path.parent, capture_output=True, text=True)

    # An environment inside another repository contains files that git does not track.
    if git("ls-files", "--error-unmatch", path.name).returncode:
        return None
    return git("rev-parse", "HEAD").stdout.strip() or None


def record(directory, settings, write=True):
    """Records the settings of a run, or compares them with an existing record.

    Settings that the record lacks are not compared, nor is the "commit".

    Args:
        directory: a `pathlib.Path`; contains the record, run.json.
        settings: a dict that JSON can represent.
        write: whether to write a record if none exists.

    Raises:
        ValueError: the run began with other settings, or its record is damaged.
    """
    path = directory / "run.json"
    if not path.exists():
        if write:
            atomic.write_text(path, json.dumps(settings))
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
    """A setting as the record has it: dataclasses and functions by their content."""
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
