"""Entries for the page: their names, their cards and their learners."""

import functools
import threading

from keras_meta import zoo
from keras_meta.zoo import cards, console, facts, named

# Learners that stay loaded. Each number of inner steps has its own, because a learner
# drops its traces when a setting changes, and visitors use different settings at once.
LOADED = 16
# Inner steps of the plots, besides those of the slider.
STEPS = (0, 1, 2, 3, 5, 10)
MOST_STEPS = 50

_lock = threading.Lock()


def names(inputs):
    """The names of the entries of "images" or "curves" whose weights are here."""
    return [card.name for card in cards.stored() if card.inputs == inputs]


def description(name):
    """The card of an entry, in Markdown."""
    described = facts.described(zoo.card(name))
    lines = [f"- {fact}: {text}" for fact, text in described.items()]
    return "\n".join([f"**{name}**", "", *lines])


@functools.cache
def start_early():
    """Starts TensorFlow in a thread, once, so that the first prediction takes less."""
    threading.Thread(target=_start).start()


def _start():
    with _lock:
        console.start()


def image_learner(name, steps=None):
    """The learner of an entry of images, loaded once.

    Args:
        name: of the entry.
        steps: inner steps; None for the learner's own.

    Returns:
        A learner, which is shared: its settings must not change.
    """
    with _lock:
        return _loaded(named.image_learner, name, steps)


def curve_learner(name, steps=None):
    """The learner of an entry of curves: as `image_learner`."""
    with _lock:
        return _loaded(named.curve_learner, name, steps)


@functools.lru_cache(maxsize=LOADED)
def _loaded(load, name, steps):
    console.start()
    learner = load(name)
    if steps is not None:
        learner.evaluation_steps = steps
    return learner


def inner_steps(learner):
    """The number of inner steps that a learner takes; None if it takes none."""
    return learner.steps_of(training=False) if hasattr(learner, "steps_of") else None


def steps_shown(steps):
    """The numbers of inner steps of a plot.

    Args:
        steps: the number in use.
    """
    return sorted({*STEPS, steps})


def has_shares(learner):
    """Whether a learner has a shrinkage factor for each module."""
    return hasattr(learner, "shares") and learner.prior_family == "normal"
