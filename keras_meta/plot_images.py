"""Figures of images whose pixels are partly known."""

from collections.abc import Sequence

import matplotlib.figure
import numpy as np

from keras_meta.typing_names import TensorLike


def placed(x: TensorLike, values: TensorLike, shape: Sequence[int]) -> np.ndarray:
    """Returns an image with values at some of its pixels.

    Args:
        x: rows and columns `[n, 2]`, each scaled to [0, 1], as in `tasks.completion`.
        values: values of the pixels, `[n]`.
        shape: `(H, W)` of the image.

    Returns:
        `[H, W]`, NaN where no value is known.
    """
    image = np.full(shape, np.nan)
    spans = np.array(shape) - 1
    image[tuple(np.rint(np.asarray(x) * spans).astype(int).T)] = values
    return image


def images(
    rows: Sequence[tuple[str, Sequence[TensorLike]]], titles: Sequence[str]
) -> matplotlib.figure.Figure:
    """Draws grey images in labelled rows: 0 is white, 1 is black, unknown is blue.

    Args:
        rows: `[(label, images)]`, each with one image `[H, W]` per title; NaN is
            unknown.
        titles: titles of the columns.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    figure = matplotlib.figure.Figure(
        (1.3 * len(titles), 1.15 * len(rows) + 0.4), layout="constrained"
    )
    grid = figure.subplots(len(rows), len(titles), squeeze=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=7)
    for (label, row), panels in zip(rows, grid, strict=True):
        panels[0].set_ylabel(label, fontsize=8)
        for axes, image in zip(panels, row, strict=True):
            axes.set_facecolor("lightsteelblue")
            axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
    return figure
