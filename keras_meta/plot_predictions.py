"""Figures of image tasks: the support set, and queries with their predictions."""

from collections.abc import Sequence

import matplotlib.figure
import matplotlib.patches
import numpy as np
from matplotlib.backends import backend_agg

from keras_meta import plot_text
from keras_meta.plot_colours import BLUE, GREY, INK, RIGHT, WRONG
from keras_meta.typing_names import TensorLike

# Inches. A query is an image with two captions below it.
IMAGE = 0.72
GAP = 0.10
CAPTION = IMAGE + 0.8 * GAP  # the width of a caption
LINE = 0.14
CAPTIONS = 0.34
MARGIN = 0.25
TITLE = 0.38
COLUMNS = 15
# Examples of a class that are drawn. If there are more, a caption states how many.
EXAMPLES = 6


def predictions(
    support_x: TensorLike,
    support_y: TensorLike,
    query_x: TensorLike,
    probabilities: TensorLike,
    names: Sequence[str] | None = None,
    query_y: TensorLike | None = None,
    unknown: TensorLike | None = None,
) -> matplotlib.figure.Figure:
    """Draws the support set of a task, and below it each query with its prediction.

    With `query_y`, the queries of each class form groups, and marks show correct and
    incorrect predictions. Without it, they stay in the order given.

    Args:
        support_x: images `[S, H, W, 1 or 3]`, uint8 or in [0, 1], drawn unchanged: 0 is
            black.
        support_y: integer labels `[S]`.
        query_x: images `[Q, H, W, 1 or 3]`.
        probabilities: class probabilities, `[Q, n]`.
        names: the n names of the classes; by default their labels.
        query_y: the correct labels `[Q]`, if known.
        unknown: booleans `[Q]`: queries that seem to belong to no class. Their caption
            is "unknown".

    Returns:
        A `matplotlib.figure.Figure`; `figure.savefig(path)` writes it.

    Raises:
        ValueError: no image, shapes that do not fit together, a negative label, or a
            probability that is not finite.
    """
    support_x, query_x = np.asarray(support_x), np.asarray(query_x)
    support_y, probabilities = np.asarray(support_y), np.asarray(probabilities)
    for name, x in {"support_x": support_x, "query_x": query_x}.items():
        if x.ndim != 4 or x.shape[-1] not in (1, 3) or not x.size:
            raise ValueError(
                f"expected {name} [n, H, W, 1 or 3] with an image, got {list(x.shape)}."
            )
    if support_y.ndim != 1 or support_y.dtype.kind not in "iu" or (support_y < 0).any():
        raise ValueError(
            f"expected support_y to be a list of labels 0, 1, ..., got {support_y}."
        )
    names = [str(n) for n in (range(support_y.max() + 1) if names is None else names)]
    if len(support_x) != len(support_y) or len(names) <= support_y.max():
        raise ValueError(
            f"expected a label for each image and a name for each label, got "
            f"{len(support_x)} images, {len(support_y)} labels up to "
            f"{support_y.max()} and {len(names)} names."
        )
    if probabilities.shape != (len(query_x), len(names)):
        raise ValueError(
            f"expected probabilities [{len(query_x)}, {len(names)}], got "
            f"{list(probabilities.shape)}."
        )
    if not np.isfinite(probabilities).all():
        raise ValueError("expected finite probabilities, got NaN or infinity.")
    unknown = np.zeros(len(query_x), bool) if unknown is None else np.asarray(unknown)
    if unknown.shape != (len(query_x),):
        raise ValueError(
            f"expected unknown [{len(query_x)}], got {list(unknown.shape)}."
        )
    if query_y is None:
        groups, title = _wrapped(range(len(query_x)), COLUMNS), "Predictions"
    else:
        query_y = np.asarray(query_y)
        if query_y.shape != (len(query_x),) or not np.isin(query_y, support_y).all():
            raise ValueError(
                f"expected query_y to be {len(query_x)} labels of support_y, got "
                f"{query_y.tolist()}."
            )
        right = int(np.sum(probabilities.argmax(1) == query_y))
        title = f"Predictions: {right} of {len(query_y)} right"
        groups = []
        for label in range(len(names)):
            groups += _wrapped(np.flatnonzero(query_y == label), COLUMNS)

    # Every class has a column of examples; many classes form blocks of equal width.
    wide = -(-len(names) // -(-len(names) // COLUMNS))
    blocks = _wrapped([np.flatnonzero(support_y == i) for i in range(len(names))], wide)
    heights = [min(EXAMPLES, max(map(len, block))) for block in blocks]
    cell = IMAGE + GAP
    longest = max(map(len, groups))
    columns = max(wide, longest, 5)
    # Small groups share a row, with an empty column between two of them.
    rows = _wrapped(groups, 1 if query_y is None else (columns + 1) // (longest + 1))
    width = columns * cell + 2 * MARGIN
    height = sum(heights) * cell + len(blocks) * (LINE + CAPTIONS)
    height += len(rows) * (cell + CAPTIONS) + 2 * TITLE + 2 * MARGIN
    figure = matplotlib.figure.Figure((width, height), dpi=120, facecolor="white")
    backend_agg.FigureCanvasAgg(figure)  # `plot_text.write` measures text with it
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")

    top = MARGIN
    _title(axes, top, "Learned from")
    top += TITLE
    label = 0
    for block, high in zip(blocks, heights, strict=True):
        for column, members in enumerate(block):
            left = MARGIN + column * cell
            _caption(axes, left, top, names[label], INK, "bold")
            for row, i in enumerate(members[:EXAMPLES]):
                _image(axes, support_x[i], left, top + LINE + row * cell, GREY)
            if len(members) > EXAMPLES:
                below = top + LINE + EXAMPLES * cell
                _caption(axes, left, below, f"of {len(members)}", GREY)
            label += 1
        top += high * cell + LINE + CAPTIONS

    _title(axes, top, title)
    top += TITLE
    for row in rows:
        for place, group in enumerate(row):
            start = MARGIN + place * (longest + 1) * cell
            if query_y is not None:
                x, y = start - 0.4 * MARGIN, top + IMAGE / 2
                name = names[query_y[group[0]]]
                plot_text.write(axes, name, x, y, CAPTION, GREY, rotation=90)
            for column, i in enumerate(group):
                left = start + column * cell
                guess = int(probabilities[i].argmax())
                colour, mark = BLUE, ""
                if query_y is not None:
                    good = guess == query_y[i]
                    colour, mark = (RIGHT, "✓ ") if good else (WRONG, "✗ ")
                caption, share = names[guess], f"{100 * probabilities[i, guess]:.0f}%"
                if unknown[i]:
                    colour, mark, caption, share = GREY, "", "unknown", ""
                _image(axes, query_x[i], left, top, colour)
                _caption(axes, left, top + cell, mark + caption, colour, "bold")
                _caption(axes, left, top + cell + LINE, share, GREY)
        top += cell + CAPTIONS
    axes.set(xlim=(0, width), ylim=(height, 0))
    return figure


def _wrapped(items, wide):
    """Splits a sequence into rows of at most `wide` items."""
    return [items[i : i + wide] for i in range(0, len(items), wide)]


def _title(axes, top, text):
    axes.text(MARGIN, top + 0.12, text, size=12, weight="bold", color=INK, va="center")


def _caption(axes, left, top, text, colour, weight="normal"):
    """Writes a line into a cell, shortened until it fits."""
    x, y = left + IMAGE / 2, top + LINE / 2 - GAP / 2
    plot_text.write(axes, text, x, y, CAPTION, colour, weight)


def _image(axes, image, left, top, colour):
    axes.imshow(
        image[..., 0] if image.shape[-1] == 1 else image,
        cmap="gray",
        vmin=0,
        vmax=255 if image.dtype == np.uint8 else 1,
        extent=(left, left + IMAGE, top + IMAGE, top),
        aspect="auto",
    )
    axes.add_patch(
        matplotlib.patches.Rectangle(
            (left, top), IMAGE, IMAGE, fill=False, edgecolor=colour, linewidth=1.5
        )
    )
