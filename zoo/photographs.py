"""Detection of photographs among images that should be drawings."""

import itertools

import numpy as np

# Examples of each class that decide whether a task has photographs or drawings.
JUDGED = 3


def is_photograph(image):
    """Whether an image seems to be a photograph rather than a drawing.

    A drawing has ink of one tone on a ground of one tone, and all ink is darker than
    the ground, or all ink is lighter. The thresholds were set by eye on Omniglot's
    characters (also as pencil, chalk, scans and badly lit paper), of which at most a
    few in a hundred are detected as photographs, and on crops of photographs, of which
    four in five are.

    Args:
        image: uint8 `[H, W, 1 or 3]`.
    """
    from keras_meta import images

    pixels = images.ImagePreprocess(28, 28, 3).resize(image).numpy().astype(float)
    places = np.insert(np.indices([28, 28]), 0, 1, axis=0).transpose(1, 2, 0)
    for _ in range(2):
        tone = pixels.mean(axis=-1)
        tone -= np.median(tone)
        contrast = max(np.abs(tone).max(), 1.0)
        dark, light = tone < -contrast / 3, tone > contrast / 3
        ground = _interior(~(dark | light))
        if not ground.any():
            return True
        # Light from one side adds a plane; the second pass is without it.
        plane = np.linalg.lstsq(places[ground], pixels[ground], rcond=None)[0]
        pixels = pixels - places @ plane
    ink = _interior(light if light.sum() > dark.sum() else dark)
    return (
        min(dark.mean(), light.mean()) > 0.05
        or pixels[ground].std(axis=0).mean() > 0.1 * contrast
        or (ink.mean() > 0.05 and pixels[ink].std(axis=0).mean() > 0.1 * contrast)
    )


def are_examples(classes):
    """Whether at least half of the first examples of each class seem to be photographs.

    Args:
        classes: the examples of each class, iterables of uint8 `[H, W, 1 or 3]`.
    """
    first = [image for images in classes for image in itertools.islice(images, JUDGED)]
    return bool(np.mean([is_photograph(image) for image in first]) >= 0.5)


def _interior(mask):
    """The places of a mask `[H, W]` whose eight neighbours are in the mask too."""
    padded = np.pad(mask, 1)
    return np.lib.stride_tricks.sliding_window_view(padded, (3, 3)).all(axis=(2, 3))
