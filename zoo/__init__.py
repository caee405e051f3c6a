"""The zoo: pretrained learners, each with a card."""

from keras_meta.zoo.cards import Card as Card
from keras_meta.zoo.cards import card as card
from keras_meta.zoo.cards import list_models as list_models


def load(name):
    """A pretrained learner, compiled and with its own preprocessing.

    Learners whose result depends on the order of the support set have the setting
    `support_order="shuffled"`: all entries were trained on sets in random order.

    Of an entry with external weights (`card.external`) Keras downloads them on first
    use.

    Args:
        name: of an entry, as `list_models()` has it.

    Returns:
        A `keras_meta.Learner`.

    Raises:
        ValueError: no such entry, a file whose sha256 is not the card's, or external
            weights that cannot be had.
    """
    found = card(name)
    from keras_meta import api, ordered  # noqa: F401  api registers the learners

    found.check()
    import keras

    if found.external:
        from keras_meta.zoo import recipes

        learner = recipes.recipe(name).learner()
    else:
        learner = keras.models.load_model(found.weights, compile=False)
    if isinstance(learner, ordered.OrderedLearner):
        learner.support_order = "shuffled"  # files older than the setting have "given"
    learner.compile()
    return learner
