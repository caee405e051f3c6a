"""Tests that docstrings of public classes list every constructor argument."""

import importlib
import inspect
import pkgutil
import re
import typing

import keras
import pytest

import keras_meta as km
from keras_meta import task_model, task_network

SKIPPED = ("keras_meta.__main__", "keras_meta.conftest", "keras_meta.zoo")


def public_classes():
    """Returns all public classes of the library by full name."""
    classes = {}
    for info in pkgutil.walk_packages(km.__path__, "keras_meta."):
        if info.name.startswith(SKIPPED):
            continue
        for name, kind in inspect.getmembers(importlib.import_module(info.name)):
            if inspect.isclass(kind) and kind.__module__ == info.name:
                if not name.startswith("_"):
                    classes[f"{info.name}.{name}"] = kind
    return classes


CLASSES = public_classes()


def constructor_arguments(kind):
    """Returns the names of arguments, including those that a constructor forwards."""
    if kind.__init__ is object.__init__:
        parameters = []
    elif issubclass(kind, km.Learner):
        parameters = inspect.signature(kind).parameters.values()
    else:
        parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.kind not in variadic]


def documented(text):
    """Returns the names in a docstring's section Args."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE)
    entries = re.findall(r"^ {4}(\**\w+):", section[1], re.MULTILINE) if section else []
    return [name for name in entries if not name.startswith("*")]


@pytest.mark.parametrize("name", CLASSES)
def test_docstring_lists_the_constructor_arguments(name):
    kind = CLASSES[name]
    assert "__doc__" in vars(kind) and kind.__doc__, "no docstring of its own"
    expected = constructor_arguments(kind)
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
def test_signature_lists_the_accepted_arguments(kind):
    required = REQUIRED.get(kind, lambda: {"network": km.networks.mlp((2,), 5, (4,))})
    parameters = inspect.signature(kind).parameters.values()
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    assert {p.name for p in named if p.default is p.empty} <= set(required())
    defaults = {p.name: p.default for p in named if p.default is not p.empty}
    learner = kind(**{**defaults, **required(), "name": "other", "dtype": "float32"})
    # Every setting of the configuration is an argument.
    config = set(learner.get_config()) - {"layer_flags", "name", "dtype"}
    assert config <= {p.name for p in parameters}
    with pytest.raises((TypeError, ValueError)):
        kind(**required(), unheard_of=1)


@pytest.mark.parametrize("kind", LEARNERS)
def test_hints_list_the_accepted_arguments(kind):
    parameters = dict(inspect.signature(kind.__init__).parameters)
    (forwarded,) = typing.get_args(parameters.pop("kwargs").annotation)
    hinted = {*parameters, *forwarded.__annotations__} - {"self"}
    if kind is km.SigmaIMAML:  # its `__init__` exists for type checkers only
        hinted |= {"conjugate_steps", "damping"}
    accepted = {*inspect.signature(kind).parameters, "name", "dtype"} - {"kwargs"}
    assert hinted == accepted


def test_instances_have_no_signature_attribute():
    learner = km.MAML(km.networks.mlp(), loss="mse")
    assert not hasattr(learner, "__signature__")


@pytest.mark.parametrize("name", ["fit", "evaluate", "predict", "compile"])
@pytest.mark.parametrize(
    "kind", [km.Learner, task_model.TaskModel, task_network.TaskNetwork]
)
def test_signatures_match_keras(kind, name):
    own, expected = (
        inspect.signature(getattr(base, name)).parameters
        for base in (kind, keras.Model)
    )
    assert list(own) == list(expected)
    own = {key: own[key].replace(annotation=own[key].empty) for key in own}
    assert all(own[key] == expected[key] for key in own if key != "optimizer")
