"""Files that are replaced completely or not at all."""

import os


def replace(path, write):
    """Writes a draft beside `path` and moves it to `path`.

    If writing fails, an existing file stays as it was and no draft remains.

    Args:
        path: a `pathlib.Path`.
        write: a function that writes the file at the path it is given. That path has
            the suffix of `path`.

    Raises:
        OSError: the file cannot be written; whatever `write` raises.
    """
    draft = draft_of(path)
    try:
        write(draft)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_bytes(path, data):
    """Writes bytes to `path`, see `replace`."""
    replace(path, lambda draft: draft.write_bytes(data))


def write_text(path, text):
    """Writes text to `path` in UTF-8, see `replace`."""
    replace(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def draft_of(path):
    """The path of the draft of a file; each process has its own."""
    return path.with_name(f".{os.getpid()}-{path.name}")
