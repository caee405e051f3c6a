"""Learners with the weights that training begins from."""

import keras

from keras_meta import zoo
from keras_meta.zoo import named, precision, recipes, training, transfer


def begin(recipe, seed, origin):
    """The learner of a recipe before its first meta-step.

    Args:
        recipe: a `recipes.schema.Recipe`.
        seed: of random weights.
        origin: the zoo entry or the .keras file to start from; None for random weights.
    """
    keras.utils.set_random_seed(seed)
    with precision.policy(recipe.dtype_policy):
        learner = recipe.learner()
    if origin:
        new = warm_start(learner, recipe, origin)
        print(f"starting from {origin}" + (f", new: {', '.join(new)}" if new else ""))
    return learner


def warm_start(learner, recipe, origin):
    """Copies the weights of a zoo entry or of a .keras file into a learner.

    Returns:
        The paths of the variables that `origin` lacks and that keep their own weights.
    """
    new = transfer.copy_common(named.model(origin), learner)
    if len(new) == len(learner.weights):
        raise ValueError(
            f"expected {origin} to have weights of the paths and shapes of the "
            "recipe's learner, got none."
        )
    if recipe.adjust and origin == recipe.warm_start:
        recipe.adjust(learner)
    return new


def recreate(name):
    """An entry's learner with the weights that its training began from.

    Raises:
        ValueError: no such entry, an entry that began with random weights, or initial
            weights that no longer exist.
    """
    card = zoo.card(name)
    if card.began_at_random:
        raise ValueError(
            f"expected an entry that began from another's weights, {name} began from "
            "random ones."
        )
    origin = card.initial_weights
    if training.sha256_of(origin) != card.initial_sha256:
        raise ValueError(
            f"expected the weights that {name} began from, of sha256 "
            f"{card.initial_sha256}: {origin} has other weights now."
        )
    trained = zoo.load(name)
    keras.utils.set_random_seed(card.seed)
    learner = type(trained).from_config(trained.get_config())
    warm_start(learner, recipes.recipe(name), origin)
    return learner
