"""Figures: the examples of a task with their predictions, and fitted curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import matplotlib.ticker
import numpy as np

from keras_meta.plot_colours import BLUE, GREY, INK, ORANGE
from keras_meta.plot_images import images as images
from keras_meta.plot_images import placed as placed
from keras_meta.plot_predictions import predictions as predictions
from keras_meta.typing_names import TensorLike

if TYPE_CHECKING:
    from keras_meta.learners.shrinkage import Shrinkage


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
    pairs = {"points": (x, y), "curve": (grid, mean)}
    pairs |= {"scale": (grid, scale), "truth": (grid, truth)}
    pairs["query"] = ((), ()) if query is None else query
    for name, (along, values) in pairs.items():
        if values is not None and np.size(along) != np.size(values):
            raise ValueError(
                f"expected as many y as x, got {name} of {np.size(along)} x and "
                f"{np.size(values)} y."
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
