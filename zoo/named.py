"""The model that a command is given by name: an entry, or a `.keras` file."""

import pathlib
import zipfile

from keras_meta import zoo
from keras_meta.zoo import recipes

SUFFIX = ".keras"


def is_file(name):
    """Whether a name is the path of a file rather than the name of an entry."""
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
    if is_file(name):
        if not pathlib.Path(name).is_file():
            raise ValueError(f"expected a file, got none at {name}.")
    elif name in recipes.RECIPES and name not in [c.name for c in zoo.list_models()]:
        raise ValueError(
            f"expected a trained model, {name} is a recipe without weights: "
            "`keras-meta list` lists both."
        )
    else:
        zoo.card(name)


def model(name):
    """The Keras model of an entry or a file.

    Args:
        name: see `check`.

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
            f"expected a file with layers of Keras only, {pathlib.Path(name).name} has "
            "others: use a network with layers of your own from Python."
        ) from error
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        if _has_lambda(name):
            raise ValueError(
                f"expected a file without Python functions, {pathlib.Path(name).name} "
                "has a Lambda layer, which Keras runs only with safe_mode=False: use "
                "this network from Python."
            ) from error
        raise ValueError(
            f"expected a model that Keras saved in {name}, got a damaged file or a "
            "file of another kind."
        ) from error


def _has_lambda(path):
    """Whether a file is a Keras model with a Lambda layer."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = archive.read("config.json")
    except (OSError, KeyError, zipfile.BadZipFile):
        return False
    return b'"class_name": "Lambda"' in config


def learner(name):
    """The learner of an entry or a file.

    Args:
        name: see `check`.

    Raises:
        ValueError: as `model`, or a file of a model that is no learner.
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


def _learner_of(name, kind, accepts):
    """The learner of a name, or a ValueError if `accepts(learner)` is False."""
    loaded = learner(name)
    if not accepts(loaded):
        raise ValueError(f"expected a model of {kind}, {name} is none.")
    return loaded


def image_learner(name):
    """The learner of an entry or a file that classifies images.

    Args:
        name: see `check`.

    Raises:
        ValueError: as `learner`, or a learner of another kind.
    """
    return _learner_of(
        name,
        "classes of images",
        lambda learner: learner.classification and learner.preprocess is not None,
    )


def curve_learner(name):
    """The learner of an entry or a file that learns a curve `y(x)`.

    Args:
        name: see `check`.

    Raises:
        ValueError: as `learner`, or a learner of another kind.
    """
    return _learner_of(
        name,
        "curves y(x)",
        lambda learner: (
            not learner.classification
            and (*learner.example_shape, learner.output_size) == (1, 1)
        ),
    )


def check_ways(learner, name, ways):
    """Checks that a learner has enough outputs for the classes of a task.

    Args:
        learner: a learner of classes; string labels have no limit.
        name: of the model, for the error.
        ways: the classes of the task.

    Raises:
        ValueError: it has fewer outputs.
    """
    most = None if learner.label_shape else learner.output_size
    if most is not None and ways > most:
        raise ValueError(f"expected at most {most} classes for {name}, got {ways}.")
