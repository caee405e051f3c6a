"""`keras-meta info`."""

import json

import rich.table

from keras_meta import zoo
from keras_meta.zoo import console, facts, recipes

HELP = "show all facts about one entry"


def add(parser):
    console.add_name(parser)
    console.add_output(parser)


def run(arguments, output):
    name = arguments.name
    if name in [card.name for card in zoo.list_models()]:
        card = zoo.card(name)
        document, lines = facts.from_card(card), _trained(card)
    else:
        document, lines = (
            facts.from_recipe(name),
            _untrained(recipes.recipe(name), name),
        )
    grid = rich.table.Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for fact, text in lines.items():
        grid.add_row(fact, text)
    rows = [
        {"fact": fact, "value": _cell(value)}
        for fact, value in document.items()
        if value is not None
    ]
    output.print(f"{name}\n", style="bold")
    output.show(grid, rows=rows, document=document)


def _cell(value):
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _trained(card):
    lines = {
        **facts.described(card),
        "command": card.command,
        **_weights(card),
    }
    if card.test_classes:
        lines["unseen classes"] = (
            f"{len(card.test_classes)}, see zoo.card({card.name!r}).test_classes"
        )
    return lines


def _weights(card):
    """The place of the weights, and the hash of their file."""
    if not card.external:
        return {
            "weights": f"{card.weights} ({facts.size(card)})",
            "sha256": card.sha256,
        }
    return {
        "weights": f"{card.external['url']} ({facts.size(card)}); Keras downloads them "
        "on first use",
        "md5": card.external["md5"] or "none: Keras does not check the file",
        "licence of the weights": card.external["licence"],
    }


def _untrained(recipe, name):
    return {
        "for": facts.purpose(recipe.task.inputs, recipe.task.source.family),
        "weights": "none: an untrained recipe",
        "to be trained on": str(recipe.task),
        "data": recipe.task.source.title,
        "licence of the data": recipe.task.source.licence,
        "paper": recipe.paper,
        "command": facts.command(name),
    }
