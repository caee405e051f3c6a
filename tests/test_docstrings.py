"""Docstrings of public classes name every argument of the constructor."""

import importlib
import inspect
import pkgutil
import re
import typing

import keras
import pytest

import keras_meta as km
from keras_meta import task_model, task_network

NOT_READ = ("keras_meta.__main__", "keras_meta.conftest", "keras_meta.zoo")


def classes():
    """All public classes of the library, by their full names."""
    found = {}
    for info in pkgutil.walk_packages(km.__path__, "keras_meta."):
        if info.name.startswith(NOT_READ):
            continue
        for name, kind in inspect.getmembers(importlib.import_module(info.name)):
            if inspect.isclass(kind) and kind.__module__ == info.name:
                if not name.startswith("_"):
                    found[f"{info.name}.{name}"] = kind
    return found


CLASSES = classes()


def arguments(kind):
    """The names of a constructor's arguments, with those that it passes on."""
    if kind.__init__ is object.__init__:
        parameters = []
    elif issubclass(kind, km.Learner):
        parameters = inspect.signature(kind).parameters.values()
    else:
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in variadic]


def documented(text):
    """The names of the entries of a docstring's Args."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^ {4}(\**\w+):", section[1], re.MULTILINE) if section else []
    return [name for name in entries if not name.startswith("*")]


@pytest.mark.parametrize("name", CLASSES)
def test_class(name):
    kind = CLASSES[name]
    assert "__doc__" in vars(kind) and kind.__doc__, "no docstring of its own"
    expected = arguments(kind)
    assert sorted(documented(inspect.cleandoc(kind.__doc__))) == sorted(expected)


# Arguments without a default.
REQUIRED = {
    km.CNP: lambda: {
        "encoder": km.networks.mlp((2,), 4, (4,)),
        "decoder": km.networks.mlp((5,), 2, (4,)),
    },
    km.LSTMLearner: lambda: {"example_shape": [2]},
    km.MANN: lambda: {"example_shape": [2]},
}
LEARNERS = [
    kind
    for kind in vars(km.api).values()
    if inspect.isclass(kind) and issubclass(kind, km.Learner) and kind != km.Learner
]


@pytest.mark.parametrize("kind", LEARNERS)
def test_signature_lists_what_the_constructor_accepts(kind):
    required = REQUIRED.get(kind, lambda: {"network": km.networks.mlp((2,), 5, (4,))})
    parameters = inspect.signature(kind).parameters.values()
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    assert {p.name for p in named if p.default is p.empty} <= set(required())
    defaults = {p.name: p.default for p in named if p.default is not p.empty}
    learner = kind(**{**defaults, **required(), "name": "other", "dtype": "float32"})
    # All settings of the configuration are arguments.
    config = set(learner.get_config()) - {"layer_flags", "name", "dtype"}
    assert config <= {p.name for p in parameters}
    with pytest.raises((TypeError, ValueError)):
        kind(**required(), unheard_of=1)


@pytest.mark.parametrize("kind", LEARNERS)
def test_hints_list_what_the_constructor_accepts(kind):
    parameters = dict(inspect.signature(kind.__init__).parameters)
    (passed_on,) = typing.get_args(parameters.pop("kwargs").annotation)
    known = {*parameters, *passed_on.__annotations__} - {"self"}
    if kind is km.SigmaIMAML:  # its own `__init__` exists for type checkers alone
        known |= {"conjugate_steps", "damping"}
    accepted = {*inspect.signature(kind).parameters, "name", "dtype"} - {"kwargs"}
    assert known == accepted


def test_signature_of_an_instance_is_that_of_its_call():
    learner = km.MAML(km.networks.mlp(), loss="mse")
    assert not hasattr(learner, "__signature__")


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict", "compile"])
@pytest.mark.parametrize(
    "kind", [km.Learner, task_model.TaskModel, task_network.TaskNetwork]
)
def test_signatures_are_those_of_keras(kind, name):
    own, expected = (
        inspect.signature(getattr(base, name)).parameters
        for base in (kind, keras.Model)
    )
    assert list(own) == list(expected)
    own = {key: own[key].replace(annotation=own[key].empty) for key in own}
    assert all(own[key] == expected[key] for key in own if key != "optimizer")
