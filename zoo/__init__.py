"""The zoo: pretrained learners, each with a card."""

from zoo.cards import Card as Card
from zoo.cards import card as card
from zoo.cards import list_models as list_models


def load(name):
    """A pretrained learner, compiled and with its own preprocessing.

    Args:
        name: of an entry, as `list_models()` has it.

    Returns:
        A `keras_meta.Learner`.

    Raises:
        ValueError: no such entry, or a file whose sha256 is not the card's.
    """
    found = card(name)
    import keras_meta  # noqa: F401  registers the learners, checks Keras' backend

    found.check()
    import keras

    learner = keras.models.load_model(found.weights, compile=False)
    learner.compile()
    return learner
