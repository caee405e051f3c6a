"""Points of a curve, read from a .csv file."""

import csv

import numpy as np


def read(path):
    """Reads the points of a file with the columns x and y.

    Args:
        path: a `pathlib.Path`.

    Returns:
        The known points `[S, 2]`, and the x `[Q]` of the rows with an empty y.

    Raises:
        ValueError: no text file, other columns, a cell that is no number, or no row of
            one kind.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = [str(name).strip().lower() for name in reader.fieldnames or []]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"expected {path} to be a text file of x,y rows.") from error
    if sorted(columns) != ["x", "y"]:
        raise ValueError(
            f"expected {path} to begin with the line x,y, got "
            f"{' '.join(','.join(columns).split()) or 'nothing'}."
        )
    known, queries = [], []
    for line, row in rows:
        if None in row:
            raise ValueError(f"expected two cells in line {line} of {path}, got more.")
        row = {name.strip().lower(): (text or "").strip() for name, text in row.items()}
        x = _number(row["x"], "x", line, path)
        if row["y"]:
            known.append((x, _number(row["y"], "y", line, path)))
        else:
            queries.append(x)
    if not known:
        raise ValueError(f"expected at least one row with x and y in {path}, got none.")
    if not queries:
        raise ValueError(
            f"expected at least one row without y in {path}, an x to predict, such as "
            f"`{known[0][0]:g},`; got none."
        )
    return np.array(known), np.array(queries)


def _number(text, column, line, path):
    try:
        number = float(text.replace("_", "?"))  # Python reads 1_0 as 10
    except ValueError:
        number = np.nan
    if not abs(number) <= float(np.finfo(np.float32).max):
        raise ValueError(
            f"expected a number for {column} in line {line} of {path}, got {text!r}."
        )
    return number
