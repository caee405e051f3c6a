"""The backend of Keras, which has to be TensorFlow."""

import json
import os
import pathlib
import sys


class BackendError(ImportError):
    """Keras has another backend than TensorFlow."""


def of_keras():
    """The name of the backend that Keras has, or would have once it is imported."""
    name = os.environ.get("KERAS_BACKEND")
    if name and "keras" not in sys.modules:
        return name
    try:
        import keras

        return keras.config.backend()
    except (ImportError, ValueError):  # the backend is not installed, or another reason
        home = os.environ.get("KERAS_HOME", "~/.keras")
        try:
            settings = (
                pathlib.Path(home, "keras.json")
                .expanduser()
                .read_text(encoding="utf-8")
            )
            name = json.loads(settings).get("backend", "tensorflow")
        except (OSError, ValueError):
            name = "tensorflow"
        if name == "tensorflow":
            raise
        return name


def check():
    """Raises `BackendError` where Keras has another backend than TensorFlow.

    Keras is not imported for it if the environment names another backend.
    """
    name = of_keras()
    if name != "tensorflow":
        raise BackendError(
            f"expected the TensorFlow backend of Keras, got {name}: set "
            "KERAS_BACKEND=tensorflow before Keras is imported."
        )
