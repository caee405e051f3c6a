"""Settings of learners: validated when set, and part of the key of every trace."""

import difflib
import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import keras
import numpy as np

from keras_meta import checks, steps

# The similarity of two names (`difflib`) from which one counts as a misspelling of the
# other: `iner_rate` and `inner_lr` are alike enough, no attribute of Keras is.
MISSPELLED = 0.77

# Names of arguments in other libraries, and their equivalents here.
ELSEWHERE = {
    "first_order": "km.FOMAML",
    "lr": "inner_rate",
    "learning_rate": "inner_rate",
    "inner_lr": "inner_rate",
    "adaptation_steps": "inner_steps",
    "num_steps": "inner_steps",
    "steps": "inner_steps",
    "model": "network",
}

# `(learner, name, value) -> value`: validates a setting and may convert it.
Check: TypeAlias = Callable[[Any, str, Any], Any]


class Setting:
    """An attribute that a trace reads; a new value causes a new trace.

    Args:
        check: `(learner, name, value) -> value`, which validates and may convert. It
            raises a ValueError of one sentence. None accepts any value.
    """

    def __init__(self, check: Check | None = None) -> None:
        self.check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, learner: Any, owner: type | None = None) -> Any:
        if learner is None:
            return self
        if self.name not in learner.__dict__:
            raise AttributeError(self.name)
        return learner.__dict__[self.name]

    def __set__(self, learner: Any, value: Any) -> None:
        if self.check is not None:
            value = self.check(learner, self.name, value)
        learner.__dict__[self.name] = value


class Fixed(Setting):
    """A setting that cannot change after construction.

    Args:
        check: as for `Setting`.
    """

    def __set__(self, learner: Any, value: Any) -> None:
        if self.name in learner.__dict__:
            raise _constant_error(learner, self.name)
        super().__set__(learner, value)


class Signature:
    """A class attribute: the constructor's arguments, for `help` and documentation."""

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        # The signature of an instance is that of its call.
        if instance is not None or not issubclass(owner, keras.Model):
            raise AttributeError("__signature__")
        return signature(owner)


class Spelled:
    """A Keras model that has settings and refuses misspelled ones.

    Assigning an argument of the constructor that is not a setting raises an
    AttributeError, because the learner was built with its value (`constants`). So does
    a public attribute that neither the class nor the instance has, if its name is close
    to that of a setting. All other attributes can be assigned.
    """

    __signature__ = Signature()
    _made = False

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _marking(cls.__init__)

    def __setattr__(self, name, value):
        kind = type(self)
        if self._made and name in constants(kind):
            raise _constant_error(self, name)  # before Keras tracks the value
        new = not (name.startswith("_") or name in vars(self) or hasattr(kind, name))
        if new and self._made:
            near = difflib.get_close_matches(name, names(kind), cutoff=MISSPELLED)
            if near:
                raise AttributeError(
                    f"expected a setting that {kind.__name__} has, such as "
                    f"{' or '.join(near)}, got {name}."
                )
        super().__setattr__(name, value)


def _marking(init):
    """Wraps an `__init__` to set `_made` at its end, unless a subclass continues."""

    @functools.wraps(init)
    def marking(self, *args, **kwargs):
        init(self, *args, **kwargs)
        if type(self).__init__ is marking:
            self._made = True

    # Keras reads `inspect.getfullargspec`, which follows no `__wrapped__`.
    marking.__signature__ = inspect.signature(init)
    return marking


def signature(kind: type) -> inspect.Signature:
    """The signature of a model's constructor, with the arguments that it passes on.

    An `__init__` with `**kwargs` passes them to the next class. A required argument of
    that class, which the first does not have, is one that the first supplies itself.

    Args:
        kind: a subclass of `keras.Model`.

    Returns:
        An `inspect.Signature` without `self`.
    """
    known: dict[str, inspect.Parameter] = {}
    rest = None
    for base in kind.__mro__[: kind.__mro__.index(keras.Model)]:
        if "__init__" not in vars(base):
            continue
        _, *arguments = inspect.signature(vars(base)["__init__"]).parameters.values()
        first, rest = not known, None
        for argument in arguments:
            if argument.kind is argument.VAR_KEYWORD:
                rest = argument
            elif first:
                known[argument.name] = argument
            elif argument.default is not argument.empty:
                argument = argument.replace(kind=argument.KEYWORD_ONLY)
                known.setdefault(argument.name, argument)
        if rest is None:
            break
    return inspect.Signature([*known.values(), *([rest] if rest else [])])


def accepts(kind: type, name: str) -> bool:
    """Returns whether a model's constructor has an argument, see `signature`."""
    return name in signature(kind).parameters


def check_names(kind: type, names: Iterable[str]) -> None:
    """Raises a ValueError for an argument's name in other libraries.

    Args:
        kind: the class of a learner.
        names: names of arguments that its constructor passes on.
    """
    for name in ELSEWHERE.keys() & set(names):
        own = ELSEWHERE[name]
        hint = f": use {own}" if own.startswith("km.") or accepts(kind, own) else ""
        raise ValueError(
            f"expected the arguments of {kind.__name__}, got {name}{hint}."
        )


def names(kind: type) -> list[str]:
    """Returns the names of all settings of a class, sorted."""
    return sorted(
        {
            name
            for base in kind.__mro__
            for name, value in vars(base).items()
            if isinstance(value, Setting)
        }
    )


@functools.cache
def constants(kind: type) -> frozenset[str]:
    """Returns the names that keep their value after construction.

    They are the `Fixed` settings and the constructor's arguments that are neither
    settings nor properties.

    Args:
        kind: the class of a learner.
    """
    arguments = signature(kind).parameters.keys() - {"loss"}  # Keras' `compile` sets it
    attributes = {
        name: getattr(kind, name, None) for name in {*arguments, *names(kind)}
    }
    return frozenset(
        name
        for name, attribute in attributes.items()
        if isinstance(attribute, Fixed) or not isinstance(attribute, Setting | property)
    )


def _constant_error(learner, name):
    kind = type(learner).__name__
    return AttributeError(
        f"expected {name} of {kind} to keep the value that it was constructed with: "
        f"construct a new {kind} to change it."
    )


def current(learner: Any) -> tuple[tuple[str, Any], ...]:
    """Returns `((name, value), ...)` of all settings of a learner, hashable."""
    values = vars(learner)
    return tuple(
        (name, _hashable(values[name]))
        for name in names(type(learner))
        if name in values
    )


def _hashable(value):
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def integer(least: int, optional: bool = False) -> Check:
    """Returns a check: an integer >= `least`, or also None if `optional`."""

    def check(learner, name, value):
        if value is None and optional:
            return None
        whole = steps.is_real(value) and float(value).is_integer()
        if not whole or value < least:
            raise ValueError(
                f"expected {name} to be an integer >= {least}, got {value!r}."
            )
        return int(value)

    return check


def sizes(name: str, values: Iterable[int], least: int = 0) -> list[int]:
    """Returns the sizes of layers as a list, after validation.

    Args:
        name: of the argument.
        values: integers >= 1.
        least: least number of layers.

    Raises:
        ValueError: one number instead of a sequence, too few, or others than these.
    """
    if not isinstance(values, Iterable) or isinstance(values, str):
        raise ValueError(
            f"expected {name} to be a sequence of integers, got {values!r}."
        )
    values = list(values)
    if len(values) < least:
        raise ValueError(f"expected {name} of at least {least} layer, got none.")
    for value in values:
        checks.check_integer(f"each of {name}", value, 1)
    return list(map(int, values))


def number(least: float) -> Check:
    """Returns a check: a finite number >= `least`."""

    def check(learner, name, value):
        if not steps.is_real(value) or not least <= value < math.inf:
            raise ValueError(
                f"expected {name} to be a number >= {least}, got {value!r}."
            )
        return value

    return check


def between(low: float, high: float) -> Check:
    """Returns a check: a number in the open interval from `low` to `high`."""

    def check(learner, name, value):
        if not steps.is_real(value) or not low < value < high:
            raise ValueError(
                f"expected {name} to be between {low} and {high}, got {value!r}."
            )
        return value

    return check


def boolean(owner: Any, name: str, value: Any) -> bool:
    """Checks that a value is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"expected {name} to be True or False, got {value!r}.")
    return bool(value)


def choice(*known: str) -> Check:
    """Returns a check: one of the `known` values."""

    def check(learner, name, value):
        if value not in known:
            raise ValueError(
                f"expected {name} to be one of {', '.join(known)}, got {value!r}."
            )
        return value

    return check


def positive(learner: Any, name: str, value: Any) -> Any:
    """Checks that a value is a finite number above 0."""
    steps.check_positive(name, value)
    return value
