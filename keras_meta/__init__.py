"""keras-meta: few-shot meta-learning for TensorFlow and Keras.

TensorFlow takes seconds to import. It is imported when a name of `keras_meta.api` is
first used, or together with Keras. Commands that run no model start without it.
"""

import importlib
import importlib.util
import sys
import typing

import wrapt

__version__ = "0.2.0"

if typing.TYPE_CHECKING:  # `__getattr__` would accept any name
    from keras_meta import augmentation as augmentation
    from keras_meta import batch_norm as batch_norm
    from keras_meta import check as check
    from keras_meta import files as files
    from keras_meta import images as images
    from keras_meta import learner as learner
    from keras_meta import learners as learners
    from keras_meta import losses as losses
    from keras_meta import memory as memory
    from keras_meta import network as network
    from keras_meta import ordered as ordered
    from keras_meta import plots as plots
    from keras_meta import priors as priors
    from keras_meta import settings as settings
    from keras_meta import solvers as solvers
    from keras_meta import steps as steps
    from keras_meta import streams as streams
    from keras_meta.api import *  # noqa: F403
else:

    def __getattr__(name):
        module = f"{__name__}.{name}"
        if not name.startswith("_"):
            if importlib.util.find_spec(module):
                imported = importlib.import_module(module)
                if "keras" in sys.modules:
                    _register()
                return imported
            api = importlib.import_module(f"{__name__}.api")
            if hasattr(api, name):
                # Stored, so that later uses do not search for a module of this name.
                return globals().setdefault(name, getattr(api, name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    api = importlib.import_module(f"{__name__}.api")
    return sorted({*globals(), *(name for name in vars(api) if name[0] != "_")})


def _register(_=None):
    """Registers the learners, so that Keras loads their files.

    It does nothing while a module of the library is being imported, because `api` needs
    complete modules. The first use of a public name then registers the learners.
    """
    library = [
        module
        for name, module in sys.modules.items()
        if name.startswith(f"{__name__}.")
        and not name.startswith((f"{__name__}.zoo", f"{__name__}.__main__"))
    ]
    if not any(getattr(m.__spec__, "_initializing", False) for m in library):
        importlib.import_module(f"{__name__}.api")


wrapt.register_post_import_hook(_register, "keras")
