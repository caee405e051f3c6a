"""`keras-meta list`."""

from keras_meta import zoo
from keras_meta.zoo import console, facts, recipes, scores

HELP = "list all entries with their figures"
# Of the table, if standard output is no terminal.
WIDTH = 80


def add(parser):
    console.add_output(parser)


def run(arguments, output):
    cards = zoo.list_models()
    trained = [card.name for card in cards]
    untrained = [name for name in recipes.RECIPES if name not in trained]
    rows = [_row(facts.from_card(card)) for card in cards]
    rows += [_row(facts.from_recipe(name)) for name in untrained]

    wide = console.table("name", "for", "task", "on unseen tasks", ">size")
    narrow = console.table("name", "task", "on unseen tasks", "norm.")
    narrow.padding = 0, 1, 0, 0
    for table in (wide, narrow):
        table.columns[0].no_wrap = True
    for card in cards:
        figure = scores.sentence(card.figures[0]) if card.figures else "not measured"
        task = facts.task(card.ways, card.shots)
        wide.add_row(
            card.name,
            facts.purpose(card.inputs, card.family),
            task,
            f"{figure}, {card.normalization}",
            facts.size(card),
        )
        short = {"inductive": "ind.", "transductive": "trans."}[card.normalization]
        narrow.add_row(card.name, task, figure, short)
    for name in untrained:
        protocol = recipes.RECIPES[name].task
        task = facts.task(protocol.ways, protocol.shots)
        purpose = facts.purpose(protocol.inputs, protocol.source.family)
        wide.add_row(name, purpose, task, "untrained recipe", style="dim")
        narrow.add_row(name, task, "untrained recipe", style="dim")
    output.show(console.fitting(wide, narrow, WIDTH), rows=rows, width=WIDTH)


def _row(entry):
    """The columns of an entry in CSV and JSON: some facts and its first figure."""
    figure = entry["figures"][0] if entry["figures"] else {}
    columns = "name", "trained", "inputs", "data", "licence", "ways", "shots"
    measured = "metric", "mean", "interval", "episodes", "normalization"
    return (
        {name: entry[name] for name in columns}
        | {name: figure.get(name) for name in measured}
        | {name: entry[name] for name in ("bytes", "paper", "command")}
    )
