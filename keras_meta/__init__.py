"""keras-meta: few-shot meta-learning for TensorFlow and Keras."""

import importlib
import json
import os
import pathlib
import sys


def _backend():
    """The name of the backend that Keras has, or would have once it is imported."""
    named = os.environ.get("KERAS_BACKEND")
    if named and "keras" not in sys.modules:
        return named
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


if (found := _backend()) != "tensorflow":
    raise ImportError(
        f"expected the TensorFlow backend of Keras, got {found}: set "
        "KERAS_BACKEND=tensorflow before Keras is imported."
    )
del found

from keras_meta import metrics as metrics
from keras_meta import networks as networks
from keras_meta import runtime as runtime
from keras_meta import tasks as tasks
from keras_meta.episodes import ClassPool as ClassPool
from keras_meta.export import export as export
from keras_meta.finetune import finetune as finetune
from keras_meta.images import ImagePreprocess as ImagePreprocess
from keras_meta.learner import Learner as Learner
from keras_meta.learners.anil import ANIL as ANIL
from keras_meta.learners.cnp import CNP as CNP
from keras_meta.learners.imaml import IMAML as IMAML
from keras_meta.learners.lstm import LSTMLearner as LSTMLearner
from keras_meta.learners.maml import FOMAML as FOMAML
from keras_meta.learners.maml import MAML as MAML
from keras_meta.learners.mann import MANN as MANN
from keras_meta.learners.meta_sgd import MetaSGD as MetaSGD
from keras_meta.learners.protonet import ProtoNet as ProtoNet
from keras_meta.learners.reptile import Reptile as Reptile
from keras_meta.learners.shrinkage import SigmaIMAML as SigmaIMAML
from keras_meta.learners.shrinkage import SigmaMAML as SigmaMAML
from keras_meta.learners.shrinkage import SigmaReptile as SigmaReptile


def __getattr__(name):
    if name == "plots":  # with Matplotlib, which not everybody waits for
        return importlib.import_module("keras_meta.plots")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
