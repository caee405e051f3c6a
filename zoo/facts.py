"""Facts about trained entries and recipes, as `list` and `info` report them."""

import dataclasses

from keras_meta import zoo
from keras_meta.zoo import cards, recipes, scores


def from_card(card):
    """The fields of a card, a dict, with the path and size of its file."""
    return {
        "name": card.name,
        "trained": True,
        **dataclasses.asdict(card),
        "weights": str(card.weights),
        "bytes": _bytes(card),
    }


def from_recipe(name):
    """The facts about an entry without weights, a dict with keys of `from_card`."""
    recipe = recipes.recipe(name)
    task = recipe.task
    return {
        "name": name,
        "trained": False,
        "paper": recipe.paper,
        "source": task.source.id,
        "family": task.source.family,
        "data": task.source.title,
        "procedural": task.source.procedural,
        "photographs": task.source.photographs,
        "licence": task.source.licence,
        "protocol": recipe.protocol,
        "seed": recipe.seed,
        "command": command(name),
        "steps": recipe.steps,
        "inputs": task.inputs,
        "ways": task.ways,
        "shots": task.shots,
        "grid": [],
        "rejection": [],
        "figures": [],
        "bytes": None,
    }


def described(card):
    """The purpose, figures and training of an entry, `{fact: text}`."""
    initial = filter(None, (origin(card), initial_score(card)))
    return {
        "for": purpose(card.inputs, card.family),
        "protocol": card.protocol,
        "normalization": card.normalization,
        **{_setting(figure): scores.sentence(figure) for figure in card.figures},
        "data": card.data,
        "licence of the data": card.licence,
        "paper": card.paper,
        "training": f"{card.steps} meta-steps, the weights of {card.kept} stored, "
        f"{card.hours} hours on two cores, seed {card.seed}",
        "initial weights": "; ".join(initial),
    }


def _setting(figure):
    size = task(figure["ways"], figure["shots"])
    lake = ", Lake's" if figure.get("protocol") == "lake" else ""
    return f"{size}{lake}, {figure['normalization']}, {figure['episodes']} tasks"


def command(name):
    """The command that trains an entry."""
    return f"keras-meta train {name}"


def purpose(inputs, family):
    """The purpose of an entry, in a few words."""
    return f"{inputs}: {family}"


def origin(card, entry="{}"):
    """The initial weights of an entry, in words.

    Args:
        card: of an entry.
        entry: a format for the name of another entry.
    """
    if card.began_at_random:
        return "random weights"
    if card.initial_weights == cards.EXTERNAL:
        return "Keras' weights"
    return entry.format(card.initial_weights)


def initial_score(card):
    """The score of the initial weights in an entry's learner, in words; or ""."""
    figure = card.initial_figure
    if figure is None:
        return ""
    return (
        f"with those weights this learner scores {scores.sentence(figure)} "
        f"({scores.protocol(figure)}, {figure['normalization']}; "
        f"{figure['episodes']} tasks, seed {figure['seed']})"
    )


def task(ways, shots):
    """The size of a task, in words."""
    return f"{ways}-way {shots}-shot" if ways else f"{shots} points"


def size(card):
    """The size of an entry's file, or of its external weights, in words."""
    count = _bytes(card)
    where = ", external" if card.external else ""
    return "missing" if count is None else f"{count / 1e6:.2f} MB{where}"


def skipped():
    """A sentence for each entry that commands over all entries skip."""
    return [
        f"skipped: {card.name}, whose weights ({size(card)}) Keras downloads on first "
        "use"
        for card in zoo.list_models()
        if card.external
    ]


def _bytes(card):
    if card.external:
        return card.external["bytes"]
    try:
        return card.weights.stat().st_size
    except FileNotFoundError:
        return None
