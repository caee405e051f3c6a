"""The zoo: pretrained learners, each with a card."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from keras_meta.zoo.cards import Card as Card
from keras_meta.zoo.cards import card as card
from keras_meta.zoo.cards import list_models as list_models

if TYPE_CHECKING:
    from keras_meta.learner import Learner


def load(name: str) -> Learner:
    """A pretrained learner, compiled and with its own preprocessing.

    Learners whose result depends on the order of the support set have the setting
    `support_order="shuffled"`: all entries were trained on sets in random order.

    If the weights of an entry are external (`card.external`), Keras downloads them on
    first use.

    Args:
        name: the name of an entry, see `list_models()`.

    Returns:
        A `keras_meta.Learner`.

    Raises:
        ValueError: no such entry, a file whose sha256 is not the card's, or external
            weights that are not available.
    """
    entry = card(name)
    from keras_meta import api, ordered  # noqa: F401  api registers the learners

    entry.check()
    import keras

    if entry.external:
        from keras_meta.zoo import recipes

        with contextlib.redirect_stdout(sys.stderr):  # Keras reports its download
            learner = recipes.recipe(name).learner()
    else:
        learner = keras.models.load_model(entry.weights, compile=False)
    if isinstance(learner, ordered.OrderedLearner):
        learner.support_order = "shuffled"  # files older than the setting have "given"
    learner.compile()
    return learner
