"""A pool of characters of an invented alphabet."""

from collections.abc import Sequence

import numpy as np

from keras_meta import checks, pool
from keras_meta.images import ImagePreprocess
from keras_meta.tasks import characters, handwriting

CLASSES_AT_ONCE = 50


def glyphs(
    classes: int | Sequence[int] = 1200,
    drawings: int = 20,
    seed: int = 0,
    prepare: ImagePreprocess | None = None,
) -> pool.ClassPool:
    """Draws a pool of characters of an invented alphabet, as by an unsteady hand.

    A class is a plan of one to four pen strokes. Strokes consist of straight pieces,
    arcs, loops and hooks, and start from, cross or stand beside one another. A drawing
    follows the plan with small random changes of lengths, turns and joints, under a
    mild affine map. Line width and variation resemble Omniglot's: 105x105, black ink
    (0) on white (255). A class depends on (seed, id) and a drawing on (seed, id, its
    number) alone.

    Args:
        classes: number of classes, with ids 0, 1, ..., or a sequence of ids >= 0.
        drawings: drawings per class.
        seed: seed of the alphabet.
        prepare: an `ImagePreprocess`; images are resized as they are drawn, so that a
            large pool is never stored at full size.

    Returns:
        A `ClassPool` of uint8 images: 105x105x1, or of the size of `prepare`.

    Raises:
        ValueError: no class, no drawing, or a number that is not an integer >= 0.

    Example:
        >>> tasks.glyphs(classes=3, drawings=2)
        ClassPool(3 classes, 6 images, (105, 105, 1))
    """
    ids = np.asarray(classes)
    ids = np.unique(ids) if ids.ndim else np.arange(ids.item())
    if not len(ids) or not np.issubdtype(ids.dtype, np.integer) or ids[0] < 0:
        raise ValueError(
            "expected classes to be an integer >= 1 or a sequence of integer ids >= 0, "
            f"got {classes}."
        )
    checks.check_integer("drawings", drawings, 1)
    checks.check_integer("seed", seed, 0)
    images = []
    for first in range(0, len(ids), CLASSES_AT_ONCE):
        chunk = []
        for class_id in ids[first : first + CLASSES_AT_ONCE]:
            strokes = characters.character(_random(seed, class_id, 0))
            planned = handwriting.traced(strokes)
            for drawing in range(1, drawings + 1):
                random = _random(seed, class_id, drawing)
                chunk.append(handwriting.drawing(strokes, planned, random))
        raw = np.stack(chunk)[..., None]
        images.append(prepare.resize(raw) if prepare else raw)
    return pool.ClassPool.from_arrays(
        np.concatenate(images), np.repeat(ids, drawings), prepare
    )


def _random(seed, class_id, stream):
    # A counter-based generator has a stream for each key and high counter word, and
    # RandomState's distributions are frozen for all NumPy versions.
    key = np.array([seed, class_id], np.uint64)
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.RandomState(np.random.Philox(key=key, counter=counter))
