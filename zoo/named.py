"""The model that a command is given by name: an entry, or a `.keras` file."""

import pathlib
import zipfile

from keras_meta import zoo
from keras_meta.zoo import console

SUFFIX = ".keras"


def is_file(name):
    """Whether a name is that of a file."""
    return pathlib.Path(name).suffix == SUFFIX


def short(name):
    """The name of an entry, or of a file without its folder and suffix."""
    return pathlib.Path(name).stem if is_file(name) else name


def check(name):
    """Checks a name without loading anything; needs no TensorFlow.

    Args:
        name: of an entry, or of a file that ends in `.keras`.

    Raises:
        ValueError: no such entry or file, or an entry without weights.
    """
    if not is_file(name):
        console.trained_card(name)
    elif not pathlib.Path(name).is_file():
        raise ValueError(f"expected a file, found none at {name}.")


def model(name):
    """The Keras model of an entry or a file.

    Args:
        name: as of `check`.

    Raises:
        ValueError: no such entry or file, or a file that Keras cannot load.
    """
    check(name)
    if not is_file(name):
        return zoo.load(name)
    import keras

    from keras_meta import api  # noqa: F401  registers the learners

    try:
        return keras.models.load_model(name, compile=False)
    except TypeError as error:
        raise ValueError(
            f"expected a file of layers that Keras has, {pathlib.Path(name).name} has "
            "others: use a network with layers of your own from Python."
        ) from error
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"expected a model that Keras saved in {name}: the file is damaged or is "
            "no such file."
        ) from error


def learner(name):
    """The learner of an entry or a file.

    Args:
        name: as of `check`.

    Raises:
        ValueError: as of `model`, or a file of a model that is no learner.
    """
    import keras_meta as km

    loaded = model(name)
    if not isinstance(loaded, km.Learner):
        raise ValueError(
            f"expected a keras-meta learner in {name}, got a {type(loaded).__name__}."
        )
    if is_file(name):
        loaded.compile()
    return loaded


def image_learner(name):
    """The learner of an entry or a file, which must classify images.

    Args:
        name: as of `check`.

    Raises:
        ValueError: as of `learner`, or one that learns something else.
    """
    found = learner(name)
    if not (found.classification and found.preprocess is not None):
        raise ValueError(f"expected a model of classes of images, {name} is none.")
    return found


def curve_learner(name):
    """The learner of an entry or a file, which must learn a curve `y(x)`.

    Args:
        name: as of `check`.

    Raises:
        ValueError: as of `learner`, or one that learns something else.
    """
    found = learner(name)
    if found.classification or (*found.example_shape, found.output_size) != (1, 1):
        raise ValueError(f"expected a model of curves y(x), {name} is none.")
    return found


def check_ways(found, name, ways):
    """Checks that a learner can tell so many classes apart.

    Raises:
        ValueError: it has fewer outputs; classes named by strings have no bound.
    """
    most = None if found.label_shape else found.output_size
    if most is not None and ways > most:
        raise ValueError(f"expected at most {most} classes for {name}, got {ways}.")
