"""`keras-meta list`."""

from keras_meta import zoo
from keras_meta.zoo import console, facts, recipes, scores

HELP = "what the zoo has, with measured figures"
# Of a table that no terminal shows.
WIDTH = 80


def add(parser):
    console.add_output(parser)


def run(arguments, output):
    cards = zoo.list_models()
    trained = [card.name for card in cards]
    untrained = [name for name in recipes.RECIPES if name not in trained]
    rows = [_row(facts.of_card(card)) for card in cards]
    rows += [_row(facts.of_recipe(name)) for name in untrained]

    wide = console.table("name", "for", "task", "on unseen tasks", ">size")
    narrow = console.table("name", "task", "on unseen tasks", "norm.")
    narrow.padding = 0, 1, 0, 0
    for made in (wide, narrow):
        made.columns[0].no_wrap = True
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
        about = recipes.RECIPES[name].task
        task = facts.task(about.ways, about.shots)
        purpose = facts.purpose(about.inputs, about.source.family)
        wide.add_row(name, purpose, task, "untrained recipe", style="dim")
        narrow.add_row(name, task, "untrained recipe", style="dim")
    output.show(console.fitting(wide, narrow, WIDTH), rows=rows, width=WIDTH)


def _row(about):
    """The facts of an entry that have a column each; its first figure among them."""
    figure = about["figures"][0] if about["figures"] else {}
    columns = "name", "trained", "inputs", "data", "licence", "ways", "shots"
    measured = "metric", "mean", "interval", "episodes", "normalization"
    return (
        {name: about[name] for name in columns}
        | {name: figure.get(name) for name in measured}
        | {name: about[name] for name in ("bytes", "paper", "command")}
    )
