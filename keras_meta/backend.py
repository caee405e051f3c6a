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
    except (ImportError, ValueError):  # for want of its backend, or for another reason
        home = os.environ.get("KERAS_HOME", "~/.keras")
        try:
            settings = (
                pathlib.Path(home, "keras.json")
                .expanduser()
                .read_text(encoding="utf-8")
            )
            found = json.loads(settings).get("backend", "tensorflow")
        except (OSError, ValueError):
            found = "tensorflow"
        if found == "tensorflow":
            raise
        return found


def check():
    """Raises `BackendError` where Keras has another backend than TensorFlow.

    Keras is not imported for it if the environment names another backend.
    """
    found = of_keras()
    if found != "tensorflow":
        raise BackendError(
            f"expected the TensorFlow backend of Keras, got {found}: set "
            "KERAS_BACKEND=tensorflow before Keras is imported."
        )
