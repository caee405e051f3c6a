"""Notes on images that a model was not trained for: photographs, other ink."""

import numpy as np

INKS = "dark ink on a light ground", "light ink on a dark ground"


def notes(name, preprocess, photographs, support, query):
    """The sentences on the images of a task, for a model of drawings.

    Args:
        name: of the model.
        preprocess: its `ImagePreprocess`.
        photographs: how many of the images seem to be photographs.
        support, query: the images, `[S, H, W, C]` and `[Q, H, W, C]`.

    Yields:
        Sentences without a period.
    """
    # About one photograph in five is not detected, and a few drawings are detected.
    drawings = photographs < (len(support) + len(query)) / 2
    if not drawings:
        yield (
            f"these look like photographs. {name} was trained on drawn characters; its "
            "predictions on photographs are unreliable"
        )
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
