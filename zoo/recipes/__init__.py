"""Recipes: how the zoo's entries are trained. Importing this needs no TensorFlow."""

from keras_meta.zoo import cards
from keras_meta.zoo.recipes import gradient, photos, processes, prototypes, sequences

RECIPES = {
    **gradient.RECIPES,
    **prototypes.RECIPES,
    **processes.RECIPES,
    **sequences.RECIPES,
    **photos.RECIPES,
}


def recipe(name):
    """The recipe of an entry.

    Raises:
        ValueError: no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(cards.unknown("a recipe", name, RECIPES))
    return RECIPES[name]
