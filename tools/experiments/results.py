"""Flags, tables, pictures, CSV files and stored results of the experiments."""

import csv
import json
import pathlib
import sys

import numpy as np
import rich.console
import rich.table
from absl import app, flags

import keras_meta as km
from keras_meta.zoo import atomic, runs

FLAGS = flags.FLAGS
WIDTH = 160  # characters of a printed table


def define_flags(name, tasks, unit="Test tasks.", models=None):
    """Defines the flags of an experiment that scores entries of the zoo.

    Args:
        name: name of the experiment and of its default folder.
        tasks: default number of tasks.
        unit: help text of the number of tasks.
        models: default entries; None defines no flag for entries.
    """
    flags.DEFINE_string("out", f"runs/{name}", "Folder for the results.")
    flags.DEFINE_integer("tasks", tasks, unit, lower_bound=2)
    flags.DEFINE_integer("seed", 0, "Seed of the tasks.")
    if models is not None:
        flags.DEFINE_list("models", models, "Entries to score.")


def start(main, intra_op=1, folder=lambda: FLAGS.out):
    """Parses the flags of an experiment and runs it.

    Args:
        main: a function of the folder for the results, a `pathlib.Path` that exists.
        intra_op: threads per operation.
        folder: a function that returns the folder after the flags are parsed.
    """
    km.runtime.configure(intra_op)

    def run(argv):
        if argv[1:]:
            raise app.UsageError(f"expected flags alone, got {' '.join(argv[1:])}.")
        out = pathlib.Path(folder())
        try:
            runs.make(out)
        except ValueError as error:
            stop(error)
        main(out)

    app.run(run)


def stop(error):
    """Exits with an error message of one sentence."""
    sys.exit(f"{pathlib.Path(sys.argv[0]).stem}: error: {error}")


def chosen(flag, known):
    """Returns the names that a flag lists, or all known names if it lists none."""
    names = FLAGS[flag].value or list(known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        stop(f"expected {flag} of {list(known)}, got {unknown}.")
    return names


def cell(mean, interval, digits=2):
    """Formats a mean and the half-width of its 95% interval."""
    return f"{mean:.{digits}f} ± {interval:.{digits}f}"


def show(title, columns, rows, width=WIDTH):
    """Prints a table.

    Args:
        title: unit, number of tasks, seed and interval.
        columns: headings.
        rows: sequences of cells.
        width: width in characters.
    """
    table = rich.table.Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(str(column), justify="right" if index else "left")
    for row in rows:
        table.add_row(*map(str, row), end_section=any("\n" in str(c) for c in row))
    rich.console.Console(width=width).print(table)


def plain(axes):
    """Adds a light grid to the axes and removes their top and right borders."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


# Files are replaced atomically, so that a reader never reads a partial file.


def write_csv(path, rows):
    """Writes dicts with equal keys to a CSV file; writes no file without rows."""

    def draft(path):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    if rows:
        atomic.replace(path, draft)
        print(f"wrote {path}", flush=True)


def write_picture(path, figure):
    """Writes a matplotlib figure as PNG."""
    atomic.replace(path, lambda draft: figure.savefig(draft, dpi=120, format="png"))
    print(f"wrote {path}", flush=True)


def write_json(path, value):
    text = json.dumps(value)
    atomic.replace(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def read_json(path, default=None):
    """Reads the value of a JSON file; returns the default if the file is missing."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else default


def stored(path, compute):
    """Reads a JSON file; computes and writes its value first if it is missing."""
    if not path.exists():
        write_json(path, compute())
    return read_json(path)


def stored_arrays(path, compute):
    """Reads an NPZ file; computes and writes its arrays first if it is missing."""

    def draft(path):
        with path.open("wb") as file:
            np.savez(file, **arrays)

    if not path.exists():
        arrays = compute()
        atomic.replace(path, draft)
    with np.load(path) as arrays:
        return dict(arrays)
