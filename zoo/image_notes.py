"""Notes on images that a model was not trained for: photographs, other ink."""

import numpy as np

from keras_meta import files
from keras_meta.zoo import photographs

INKS = "dark ink on a light background", "light ink on a dark background"
# The files of a folder that are examined for photographs, evenly spaced.
SAMPLE = 50
# An image is squeezed if one side is longer than the other by more than this factor.
OBLONG = 1.1


def kinds(preprocess, image):
    """What `notes` counts, of one image at its full size.

    Args:
        preprocess: the `ImagePreprocess` of the model.
        image: `[H, W, C]`.

    Returns:
        Integers `[2]`, 0 or 1: whether it seems to be a photograph (0 for a model of
        photographs), and whether resizing it to a square changes its proportions.
    """
    # A model that does not invert its images was trained on photographs.
    photograph = preprocess.invert and photographs.is_photograph(image)
    return np.array([photograph, is_oblong(*image.shape[:2])], int)


def is_oblong(height, width):
    """Whether resizing an image to a square changes its proportions visibly."""
    return max(height, width) > OBLONG * min(height, width)


def squeezed(oblong, count):
    """Yields a sentence on images that are not square, if there are some.

    Args:
        oblong: how many of them `is_oblong`.
        count: how many images there are.
    """
    if oblong:
        yield (
            f"{oblong} of {count} images are not square, and resizing squeezes them: "
            "crop them to a square around the drawing or object"
        )


def of_files(paths):
    """The sentences on image files whose pixels are not loaded here; see `squeezed`.

    Args:
        paths: of readable images.
    """
    import PIL.Image

    oblong = 0
    for path in paths:
        with PIL.Image.open(path) as file:  # reads the header alone
            oblong += is_oblong(*file.size)
    return squeezed(oblong, len(paths))


def of_folder(name, preprocess, paths):
    """Yields the sentences on a folder of classes, of which a sample is loaded.

    Args:
        name: of the model.
        preprocess: its `ImagePreprocess`.
        paths: of readable images.
    """
    sample = paths[:: -(-len(paths) // SAMPLE)]
    images = map(files.load_image, sample)
    detected = sum(kinds(preprocess, image)[0] for image in images)
    if detected >= len(sample) / 2:
        yield unreliable(name)
    else:
        yield from of_files(paths)


def unreliable(name):
    """Returns the sentence on photographs that a model of drawings got."""
    return (
        f"these look like photographs. {name} was trained on drawn characters; its "
        "predictions on photographs are unreliable"
    )


def notes(name, preprocess, counts, support, query):
    """The sentences on the images of a task.

    Args:
        name: of the model.
        preprocess: its `ImagePreprocess`.
        counts: the sum of `kinds` over the images.
        support, query: the images, `[S, H, W, C]` and `[Q, H, W, C]`.

    Yields:
        Sentences without a period.
    """
    # About one photograph in five is not detected, and a few drawings are detected.
    detected, oblong = counts
    drawings = detected < (len(support) + len(query)) / 2
    if not drawings:
        yield unreliable(name)
    elif preprocess.height == preprocess.width:
        yield from squeezed(oblong, len(support) + len(query))
    yield from _inks(preprocess, support, query, drawings)


def _inks(preprocess, support, query, drawings):
    """Sentences on ink that is lighter than its ground, in all images or in some."""
    from keras_meta import images

    inverts = bool(preprocess.inverts(support[None])[0])
    examples, others = INKS if inverts else INKS[::-1]
    if inverts != preprocess.invert:
        yield (
            f"most examples are {examples}; all images were inverted, because the "
            f"model was trained on {others}"
        )
    tones = images.ink_tones(np.concatenate([support, query])).numpy()
    unlike = int(np.sum(tones == (1 if inverts else -1)))
    if drawings and preprocess.detect and unlike:
        yield (
            f"{unlike} of {len(tones)} images seem to be {others}, unlike most "
            "examples: predictions on them are unreliable"
        )
