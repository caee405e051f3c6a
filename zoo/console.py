"""Output and options that commands share, and the start of TensorFlow."""

import argparse
import codecs
import contextlib
import csv
import errno
import io
import json
import math
import os
import pathlib
import subprocess
import sys

import rich.box
import rich.console
import rich.measure
import rich.table

from keras_meta.zoo import atomic, recipes

# Messages that TensorFlow's native code writes at each start before it reads its log
# level, on every machine without a GPU, and at the first operation on integers.
START_NOISE = (
    r"^[IW]0000 |^WARNING: All log messages before absl::|failed call to cuInit"
    r"|oneDNN supports DT_INT32 only on"
)

# A filter of lines that reads to the end of its input, even after an interrupt.
FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not noise.search(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""

# For terminals whose encoding lacks a character; other characters become escapes.
SUBSTITUTES = {"±": "+-", "✓": "+", "✗": "x", "·": ".", "→": ">"}
PIPE_WIDTH = 160
INTERRUPTED = 130  # an exit code
STDOUT = pathlib.Path("-")


class Output:
    """Reports results: tables and notes for people, or CSV and JSON for programs.

    Standard output has one kind at a time. With `--json` or `--csv -` it has only the
    data, and notes go to standard error.

    Args:
        arguments: parsed, with the options of `add_output`; without these, results are
            for people.

    Raises:
        ValueError: both JSON and CSV to standard output.
        OSError: the CSV file cannot be written.
    """

    def __init__(self, arguments):
        self.json = getattr(arguments, "json", False)
        self.csv = getattr(arguments, "csv", None)
        self.quiet = getattr(arguments, "quiet", False)
        to_stdout = self.csv == STDOUT
        self.data = self.json or to_stdout  # on standard output
        if self.json and to_stdout:
            raise ValueError(
                "expected --json or --csv -, not both: each takes standard output."
            )
        self.file = None
        if self.csv not in (None, STDOUT):
            self.file = self.csv.resolve()
            _check_writable(self.file)

    def print(self, text, style=None):
        """Prints a note."""
        if not self.quiet:
            console(sys.stderr if self.data else sys.stdout).print(text, style=style)

    def status(self, text):
        """A context that shows a spinner with a text on standard error."""
        if self.quiet:
            return contextlib.nullcontext()
        return rich.console.Console(stderr=True).status(text)

    def keep_apart(self, *paths):
        """Raises ValueError if the CSV file would replace one of these files."""
        if self.file and self.file in [pathlib.Path(path).resolve() for path in paths]:
            raise ValueError(f"expected --csv to be a file of its own, got {self.csv}.")

    def show(self, *parts, rows, document=None, width=None):
        """Reports a command's result.

        Args:
            parts: for people: tables and sentences. With data on standard output, the
                sentences are notes.
            rows: for CSV: a list of dicts with equal keys; in full precision.
            document: for JSON, a dict or list; by default the rows.
            width: of tables if standard output is no terminal.
        """
        rows = [{key: _plain(value) for key, value in row.items()} for row in rows]
        if self.json:
            document = _plain(rows if document is None else document)
            print(json.dumps(document, indent=1, allow_nan=False))
        if self.csv is not None:
            text = _csv(rows)
            if self.file is None:
                _print_bytes(text)
            elif self.file.exists() and not self.file.is_file():
                self.file.write_bytes(text)  # a pipe or a device
            else:
                atomic.write_bytes(self.file, text)
        if self.data or (self.quiet and self.file):
            for part in parts:
                if isinstance(part, str):
                    self.print(part)
        else:
            for part in parts:
                console(width=width).print(part)


def add_output(parser):
    """Adds the options of `Output` to a command."""
    parser.add_argument(
        "--json", action="store_true", help="JSON to standard output, notes to stderr"
    )
    parser.add_argument(
        "--csv",
        metavar="FILE",
        type=pathlib.Path,
        help="write the rows as CSV; -: to standard output, notes to stderr",
    )
    parser.add_argument(
        "--quiet",
        action="store_true",
        help="no notes and no progress; with --csv FILE no table either",
    )


def add_name(parser, text="an entry of `keras-meta list`", **kwargs):
    """Adds the name of an entry, with completion in shells."""
    action = parser.add_argument("name", metavar="NAME", help=text, **kwargs)
    names = " ".join(recipes.RECIPES)
    action.complete = {"bash": "_keras_meta_entries", "zsh": f"({names})"}


def integer(least=0):
    """A type of arguments: an integer >= `least`, below 2^63."""

    def parse(text):
        if not text.isdecimal() or not least <= int(text) < 2**63:
            limit = "" if len(text) < 19 else " and below 2^63"
            raise argparse.ArgumentTypeError(
                f"expected an integer >= {least}{limit}, got {text}"
            )
        return int(text)

    return parse


def add_out(parser, default, metavar, text):
    """Adds `--out`."""
    parser.add_argument(
        "--out",
        metavar=metavar,
        type=pathlib.Path,
        default=pathlib.Path(default),
        help=f"{text} (default: {default})",
    )


def warn(sentence):
    """Prints a warning to standard error."""
    print(f"keras-meta: warning: {sentence}", file=sys.stderr)


def console(file=None, width=None):
    """A console on a stream, without markup: names may have brackets."""
    file = file or sys.stdout
    # A pipe has no width; rich would fold tables to 80 columns.
    width = None if file.isatty() else width or PIPE_WIDTH
    return Console(file=file, width=width, markup=False, emoji=False, highlight=False)


class Console(rich.console.Console):
    """Leaves a closed pipe to the command, whose exit code states it."""

    def on_broken_pipe(self):
        raise  # the BrokenPipeError that rich caught


def table(*columns):
    """A table with these headings; a ">" in front aligns a column to the right."""
    result = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in columns:
        justify = "right" if heading.startswith(">") else "left"
        result.add_column(heading.lstrip(">"), justify=justify, overflow="fold")
    return result


def fitting(wide, narrow, width=None):
    """The wide table if it fits into standard output, or the narrow one."""
    screen = console(width=width)
    unbounded = screen.options.update(max_width=10_000)
    needed = rich.measure.Measurement.get(screen, unbounded, wide).maximum
    return wide if needed <= screen.width else narrow


def confusion(counts, names):
    """A table of `counts [N, N]`: a row a true class, a column a predicted one."""
    result = table("true class", *(f">predicted {name}" for name in names))
    for name, row in zip(names, counts, strict=True):
        result.add_row(name, *(str(count or "·") for count in row))
    return result


def _substitute(error):
    """An error handler of encodings: `SUBSTITUTES`, or escapes such as `\\xe9`."""
    error.end = error.start + 1  # one character at a time
    substitute = SUBSTITUTES.get(error.object[error.start])
    if substitute:
        return substitute, error.end
    return codecs.backslashreplace_errors(error)


codecs.register_error("keras_meta_substitute", _substitute)


def encode_anything():
    """Allows all characters on standard output and error, in every encoding."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="keras_meta_substitute")


def _plain(value):
    """A value of JSON's types; infinite numbers and NaN become None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, os.PathLike):
        return str(value)
    return value


def _csv(rows):
    """The content of a CSV file; names of files keep bytes that are no UTF-8."""
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0] if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _print_bytes(text):
    if hasattr(sys.stdout, "buffer"):
        sys.stdout.flush()
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()
    else:
        sys.stdout.write(text.decode("utf-8", "surrogateescape"))


def _check_writable(path):
    """Raises OSError unless `atomic` can replace or create the file."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if path.exists():
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        if not path.is_file():
            return
    try:
        atomic.draft_of(path).touch()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    atomic.draft_of(path).unlink()


def save(figure, path):
    """Writes a figure; an existing file is replaced completely or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower())
    atomic.write_bytes(path, picture.getvalue())


def start(*threads, operation=True):
    """Imports `keras_meta` and sets its threads, without TensorFlow's start messages.

    Args:
        threads: of `runtime.configure`.
        operation: whether to run a first operation, whose messages are dropped too.
            After it, threads cannot be set and a strategy of several workers cannot be
            created.

    Returns:
        The module.
    """
    level = os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    noise = contextlib.nullcontext()
    # Levels 0 and 1 show messages. TensorFlow writes them when it is first imported.
    if level.strip() not in ("", "0", "1") and "tensorflow" not in sys.modules:
        noise = start_noise_dropped()
    with noise:
        import tensorflow as tf

        import keras_meta as km
        from keras_meta import api  # noqa: F401  some seconds

        km.runtime.configure(*threads)
        tf.config.list_physical_devices()
        if operation:
            tf.transpose([[0]])  # oneDNN reports once that it has no integer kernels
    return km


@contextlib.contextmanager
def start_noise_dropped():
    """Filters `START_NOISE` from stderr; the filter outlives a crash of the process."""
    sys.stderr.flush()
    stderr = os.dup(2)
    command = [sys.executable, "-I", "-S", "-c", FILTER, START_NOISE]
    filtering = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr)
    os.dup2(filtering.stdin.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(stderr, 2)
        os.close(stderr)
        filtering.communicate()
