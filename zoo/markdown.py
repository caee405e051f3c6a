"""Rows of Markdown tables."""


def table(*columns):
    """The first two lines of a table."""
    return f"{line(*columns)}|{'---|' * len(columns)}\n"


def line(*cells):
    """A row of a table."""
    return f"| {' | '.join(map(str, cells))} |\n"
