"""keras-meta: few-shot meta-learning for TensorFlow and Keras.

TensorFlow takes seconds to import. It is imported when a name of `keras_meta.api` is
first used, or together with Keras. Commands that run no model start without it.
"""

import importlib
import importlib.util
import sys
import typing

import wrapt

if typing.TYPE_CHECKING:
    from keras_meta.api import *  # noqa: F403

__version__ = "0.1.0"


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
