"""A task of a curve: a visitor's points, the fitted curve, and its picture."""

import dataclasses
import math

import numpy as np

from keras_meta import zoo
from keras_meta.zoo import choice, points, predictions
from keras_meta.zoo import curves as fitting
from keras_meta.zoo.app import models

# The axes before there are points: x and y of meta-training of `maml.sinusoid`.
VIEW = (-5.0, 5.0, -5.0, 5.0)
# Room around the points of a file, as a share of their range.
ROOM = 0.1
# Inches and dots per inch of the picture; where its axes are: left, bottom, width and
# height as shares of it. They are fixed, so that a click has one meaning.
SIZE, DPI, AXES = (6.4, 4.8), 120, (0.1, 0.1, 0.87, 0.8)
# Places of the drawn curve.
GRID = 300


@dataclasses.dataclass(frozen=True, eq=False)
class Curve:
    """Points of a curve, and x to predict. Each method returns another curve.

    Attributes:
        points: `((x, y), ...)`.
        queries: the x to predict.
        base: the view, at least: low and high x, low and high y.
    """

    points: tuple = ()
    queries: tuple = (0.0,)
    base: tuple = VIEW

    def view(self):
        """Low and high x, low and high y of the picture's axes."""
        x = [*self.base[:2], *(x for x, _ in self.points), *self.queries]
        y = [*self.base[2:], *(y for _, y in self.points)]
        return min(x), max(x), min(y), max(y)

    def clicked(self, column, row):
        """Adds the point of a click.

        Args:
            column, row: of the click, in pixels of the picture from its upper left.

        Raises:
            ValueError: a click beside the axes.
        """
        left, bottom, width, height = AXES
        across = (column / (SIZE[0] * DPI) - left) / width
        up = (1 - row / (SIZE[1] * DPI) - bottom) / height
        if not (0 <= across <= 1 and 0 <= up <= 1):
            raise ValueError("expected a click between the axes, got one beside them.")
        low, high, bottom, top = self.view()
        point = low + across * (high - low), bottom + up * (top - bottom)
        point = tuple(map(float, point))
        return dataclasses.replace(self, points=(*self.points, point))

    def with_queries(self, text):
        """Replaces the x to predict.

        Args:
            text: numbers, with spaces, commas or semicolons between them.

        Raises:
            ValueError: a text that is none, or without a number.
        """
        words = text.replace(",", " ").replace(";", " ").split()
        if not words:
            raise ValueError("expected an x to predict, got none.")
        return dataclasses.replace(self, queries=tuple(map(_number, words)))

    def known(self):
        """The points, `[S, 2]`."""
        return np.array(self.points)


def _number(word):
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) <= float(np.finfo(np.float32).max):
        raise ValueError(f"expected numbers to predict, such as 1.5, got {word!r}.")
    return value


def read(path):
    """The curve of a file that `keras-meta learn` reads.

    Raises:
        ValueError: another file.
    """
    try:
        known, queries = points.read(path)
    except ValueError as error:
        # Not the folder that the browser's upload went to.
        raise ValueError(str(error).replace(str(path), path.name)) from error
    view = _around([*known[:, 0], *queries]) + _around(known[:, 1])
    return Curve(tuple(map(tuple, known.tolist())), tuple(queries.tolist()), view)


def _around(values):
    low, high = float(min(values)), float(max(values))
    room = ROOM * (high - low) or 1.0
    return low - room, high + room


@dataclasses.dataclass(frozen=True, eq=False)
class Fit:
    """What a learner predicts from the points of a curve.

    Attributes:
        entry: the name of the entry.
        steps: inner steps; None if the learner takes none.
        mean, scale: of the queries, `[Q]`; scale is None without a likelihood.
        grid, curve, band: x, mean and scale of the drawn curve.
        notes: sentences.
    """

    entry: str
    steps: int | None
    mean: np.ndarray
    scale: np.ndarray | None
    grid: np.ndarray
    curve: np.ndarray
    band: np.ndarray | None
    notes: list

    def table(self, queries):
        """The predictions as a table, in Markdown."""
        lines = ["| x | prediction | ± |", "|--:|--:|--:|"]
        for place, x in enumerate(queries):
            cells = f"{self.mean[place]:.4g}", ""
            if self.scale is not None:
                width = 2 * float(self.scale[place])
                cells = predictions.with_width(float(self.mean[place]), width)
            lines.append(f"| {x:g} | {cells[0]} | {cells[1]} |")
        return "\n".join(lines)


def predict(curve, name=None, steps=None):
    """Fits a curve to its points, with the code of `keras-meta learn`.

    Args:
        curve: a `Curve`.
        name: of the entry; by default the one that `keras-meta learn` takes.
        steps: inner steps; None for the learner's own.

    Returns:
        A `Fit`.

    Raises:
        ValueError: no points, or points that learning diverges on.
    """
    if not curve.points:
        raise ValueError("expected a point, click on the picture to add one.")
    name = name or choice.for_curves().name
    learner = models.curve_learner(name, steps)
    low, high, _, _ = curve.view()
    grid = np.linspace(low, high, GRID)
    queries = np.array(curve.queries)
    data = zoo.card(name).data
    try:
        mean, scale = fitting.predict(
            learner, curve.known(), np.concatenate([queries, grid])
        )
    except ValueError as error:  # they are finite: what is learned of them is not
        raise ValueError(
            f"expected points like those of {data}: learning these diverged."
        ) from error
    count = len(queries)
    notes = [f"It was trained on {data}; {fitting.units_note(learner.point_units)}."]
    if scale is not None:
        notes.append("± and the band are two standard deviations of a new point.")
    return Fit(
        name,
        models.inner_steps(learner),
        mean[:count],
        None if scale is None else scale[:count],
        grid,
        mean[count:],
        None if scale is None else scale[count:],
        notes,
    )


def picture(curve, fit=None):
    """The picture of a curve.

    Args:
        curve: a `Curve`.
        fit: its `Fit`; None draws the points alone.

    Returns:
        uint8 `[H, W, 3]`.
    """
    from matplotlib.backends import backend_agg

    from keras_meta import plots

    points = curve.known() if curve.points else np.zeros([0, 2])
    if fit is None:
        figure = plots.fit(*points.T, [], [])
    else:
        query = curve.queries, fit.mean
        figure = plots.fit(*points.T, fit.grid, fit.curve, fit.band, query=query)
    figure.set_layout_engine("none")
    figure.set_size_inches(SIZE)
    figure.set_dpi(DPI)
    (axes,) = figure.axes
    axes.set_position(AXES)
    low, high, bottom, top = curve.view()
    axes.set(xlim=(low, high), ylim=(bottom, top), xlabel="", ylabel="")
    canvas = backend_agg.FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def by_step_figure(curve, name, steps):
    """Draws the fitted curve by inner step.

    Args:
        curve: a `Curve` with points.
        name: of an entry whose learner takes inner steps.
        steps: the numbers of inner steps.
    """
    import matplotlib.figure

    from keras_meta import plot_colours, plots

    figure = matplotlib.figure.Figure(SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    for count in steps:
        fit = predict(curve, name, count)
        plots.band(axes, fit.grid, fit.curve, 0 * fit.curve, f"{count}")
    axes.plot(*curve.known().T, "o", color=plot_colours.ORANGE, zorder=3)
    low, high, bottom, top = curve.view()
    axes.set(xlim=(low, high), ylim=(bottom, top))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(steps), title="inner steps")
    return figure
