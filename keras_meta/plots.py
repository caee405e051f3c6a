"""Figures: the examples of a task with their predictions, and fitted curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import matplotlib.patches
import matplotlib.ticker
import numpy as np
from matplotlib.backends import backend_agg

from keras_meta import plot_text
from keras_meta.plot_images import images as images
from keras_meta.plot_images import placed as placed
from keras_meta.typing_names import TensorLike

if TYPE_CHECKING:
    from keras_meta.learners.shrinkage import Shrinkage

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

INK, GREY, BLUE, ORANGE = "#222222", "#8a8a8a", "#0072b2", "#d55e00"
# Colours that colour-blind readers can distinguish (Okabe and Ito, 2008).
RIGHT, WRONG = "#009e73", "#d55e00"


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
        ValueError: shapes that do not fit together.
    """
    support_x, query_x = np.asarray(support_x), np.asarray(query_x)
    support_y, probabilities = np.asarray(support_y), np.asarray(probabilities)
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


def fit(
    x: TensorLike,
    y: TensorLike,
    grid: TensorLike,
    mean: TensorLike,
    scale: TensorLike | None = None,
    truth: TensorLike | None = None,
    query: tuple[TensorLike, TensorLike] | None = None,
) -> matplotlib.figure.Figure:
    """Draws a fitted curve and the support points.

    Args:
        x: x of the support points, `[S]` or `[S, 1]`.
        y: y of the support points, likewise.
        grid: x of the curve, `[G]` or `[G, 1]`, ascending.
        mean: y of the curve, likewise.
        scale: standard deviation of the curve, likewise; drawn as a band of two
            standard deviations to each side.
        truth: y of the true curve on the same grid, if known.
        query: `(x, y)` of query points, which are marked on the curve.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: different numbers of x and y.
    """
    x, y, grid, mean = (np.ravel(values) for values in (x, y, grid, mean))
    if len(x) != len(y) or len(grid) != len(mean):
        raise ValueError(
            f"expected as many x as y, got points {len(x)} and {len(y)}, curve "
            f"{len(grid)} and {len(mean)}."
        )
    figure = matplotlib.figure.Figure((8, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if scale is not None:
        band = 2 * np.ravel(scale)
        axes.fill_between(
            grid, mean - band, mean + band, color=BLUE, alpha=0.15, linewidth=0
        )
    if truth is not None:
        axes.plot(grid, np.ravel(truth), "--", color=GREY, label="truth")
    axes.plot(grid, mean, color=BLUE, linewidth=2, label="learned curve")
    if query is not None:
        axes.plot(
            *map(np.ravel, query),
            "D",
            color="white",
            markeredgecolor=BLUE,
            markersize=7,
            label="predicted",
        )
    axes.plot(x, y, "o", color=ORANGE, markersize=7, zorder=3, label="known points")
    axes.set(xlabel="x", ylabel="y")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    return figure


def scales(learner: Shrinkage, examples: int | None = None) -> matplotlib.figure.Figure:
    """Draws the learned scale of each module of a shrinkage learner.

    Args:
        learner: a learner with `scales()`, `{module: sigma}`; `initial_scale`; and
            `frozen`, names of modules.
        examples: S; if given, the shrinkage factor `learner.shares(S)` of each module
            is printed beside its scale.

    Returns:
        A `matplotlib.figure.Figure` with one point per module, the first on top, on a
        logarithmic axis. A line marks the initial scale. Modules that do not adapt are
        hollow.

    Raises:
        ValueError: a learner without scales, or as `learner.shares`.
    """
    if not hasattr(learner, "scales"):
        raise ValueError(
            "expected a learner that learns scales (SigmaMAML, SigmaIMAML or "
            f"SigmaReptile), got {type(learner).__name__}."
        )
    names, values = zip(*learner.scales().items(), strict=True)
    shares = learner.shares(examples) if examples is not None else {}
    start = learner.initial_scale
    figure = matplotlib.figure.Figure(
        (7, 1.3 + 0.32 * len(names)), dpi=120, layout="constrained"
    )
    axes = figure.add_subplot()
    axes.axvline(start, color=GREY, linewidth=1)
    for row, (name, value) in enumerate(zip(names, values, strict=True)):
        frozen = name in learner.frozen
        axes.plot([start, value], [row, row], color=GREY, linewidth=1)
        axes.plot(
            value,
            row,
            "o",
            color=GREY if frozen else BLUE,
            markerfacecolor="white" if frozen else BLUE,
        )
        note = f"{value:.3g}" + (f"   w = {shares[name]:.3f}" if shares else "")
        axes.text(
            1.02,
            row,
            note + (" (frozen)" if frozen else ""),
            transform=axes.get_yaxis_transform(),
            va="center",
            size=8,
            color=INK,
        )
    axes.set_xscale("log")
    low, high = min(*values, start), max(*values, start)
    # At least one decade, so that small differences from the start look small.
    room = max(10**0.5 / (high / low) ** 0.5, 1.3)
    axes.set_xlim(low / room, high * room)
    axes.xaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.set_yticks(range(len(names)), names, size=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(f"vertical line: initial scale of all modules, {start:.3g}", size=8)
    axes.set_xlabel("learned scale σ: how far a module's weights move from their start")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def band(
    axes: matplotlib.axes.Axes,
    x: TensorLike,
    mean: TensorLike,
    interval: TensorLike,
    label: str | None = None,
    **style: Any,
) -> matplotlib.lines.Line2D:
    """Draws a line and its interval into matplotlib axes.

    Args:
        axes: a `matplotlib.axes.Axes`.
        x: `[K]`.
        mean: `[K]`.
        interval: half-width of the interval, `[K]`.
        label: label in the legend.
        **style: style of the line, for `axes.plot`.

    Returns:
        The line.
    """
    mean, interval = np.asarray(mean), np.asarray(interval)
    (line,) = axes.plot(x, mean, label=label, **style)
    colour = line.get_color()
    axes.fill_between(
        x, mean - interval, mean + interval, color=colour, alpha=0.2, linewidth=0
    )
    return line


def curves(
    scores: Mapping[str, tuple[Any, Any, Any]],
    xlabel: str,
    ylabel: str,
    log: bool = False,
) -> matplotlib.figure.Figure:
    """Draws scores against inner steps, support examples or a similar axis.

    Args:
        scores: `{name: (x, mean, half-width of the interval)}`, each `[K]`.
        xlabel: label of the x axis.
        ylabel: label of the y axis.
        log: if True, the x axis is logarithmic above 1 and linear below.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = matplotlib.figure.Figure((7, 4), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    for name, (x, mean, interval) in scores.items():
        band(axes, x, mean, interval, name, marker="o", markersize=3)
    if log:
        axes.set_xscale("symlog", linthresh=1)
        ticks = sorted({value for x, *_ in scores.values() for value in x})
        axes.set_xticks(_apart(ticks))
        axes.xaxis.set_major_formatter(matplotlib.ticker.StrMethodFormatter("{x:g}"))
        axes.minorticks_off()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(scores) > 1:  # outside: inside it would cover a curve or its interval
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def _apart(ticks):
    """Returns the ticks whose labels do not touch on a logarithmic axis."""
    chosen = ticks[:1]
    for tick in ticks[1:]:
        if chosen[-1] < 1 or tick >= 1.5 * chosen[-1]:
            chosen.append(tick)
    return chosen
