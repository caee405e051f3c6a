"""Settings of learners: validated when set, and known to whatever was traced."""

import math
import numbers

from keras_meta import steps


class Setting:
    """An attribute that a trace reads; a new value causes a new trace.

    Args:
        check: `(learner, name, value) -> value`, which validates and may convert; it
            raises a ValueError of one sentence. None takes any value.
    """

    def __init__(self, check=None):
        self.check = check

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, learner, owner=None):
        if learner is None:
            return self
        if self.name not in learner.__dict__:
            raise AttributeError(self.name)
        return learner.__dict__[self.name]

    def __set__(self, learner, value):
        if self.check is not None:
            value = self.check(learner, self.name, value)
        learner.__dict__[self.name] = value


class Fixed(Setting):
    """An attribute that decides which variables a learner has: it cannot change."""

    def __set__(self, learner, value):
        if self.name in learner.__dict__:
            kind = type(learner).__name__
            raise AttributeError(
                f"expected {self.name} of {kind} to stay as it was made, with the "
                f"variables that depend on it: make a new {kind} with another "
                f"{self.name}."
            )
        super().__set__(learner, value)


def current(learner):
    """`((name, value), ...)` of all settings of a learner, hashable."""
    names = {
        name
        for kind in type(learner).__mro__
        for name, value in vars(kind).items()
        if isinstance(value, Setting) and name in learner.__dict__
    }
    return tuple((name, _hashable(learner.__dict__[name])) for name in sorted(names))


def _hashable(value):
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    try:
        hash(value)
    except TypeError:
        return id(value)
    return value


def integer(least, optional=False):
    """The check that a value is an integer of at least `least`, or None if optional."""

    def check(learner, name, value):
        if value is None and optional:
            return None
        whole = isinstance(value, numbers.Real) and float(value).is_integer()
        if isinstance(value, bool) or not whole or value < least:
            raise ValueError(
                f"expected {name} to be an integer >= {least}, got {value!r}."
            )
        return int(value)

    return check


def number(least):
    """The check that a value is a finite number of at least `least`."""

    def check(learner, name, value):
        if not isinstance(value, numbers.Real) or not least <= value < math.inf:
            raise ValueError(
                f"expected {name} to be a number >= {least}, got {value!r}."
            )
        return value

    return check


def between(low, high):
    """The check that a value is a number between two, these left out."""

    def check(learner, name, value):
        if not isinstance(value, numbers.Real) or not low < value < high:
            raise ValueError(
                f"expected {name} to be between {low} and {high}, got {value!r}."
            )
        return value

    return check


def choice(*known):
    """The check that a value is one of those known."""

    def check(learner, name, value):
        if value not in known:
            raise ValueError(
                f"expected {name} to be one of {', '.join(known)}, got {value!r}."
            )
        return value

    return check


def positive(learner, name, value):
    """The check that a value is a finite number above 0."""
    steps.check_positive(name, value)
    return value
