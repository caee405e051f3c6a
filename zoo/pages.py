"""The page of an entry: purpose, figures, use, and how to train it again."""

import inspect

import keras

from keras_meta import networks, zoo
from keras_meta.checks import named_shape
from keras_meta.zoo import (
    atomic,
    cards,
    console,
    facts,
    modularity,
    pictures,
    published,
    recipes,
    scores,
)
from keras_meta.zoo.markdown import line, table
from keras_meta.zoo.transfer import has_fixed_encoder

CODE = "`{}`"  # the names of entries in Markdown
IMAGES = ("images", "images with string labels")
# By the kind of the inputs (`Card.kind`); each text continues "Learns ...".
PURPOSES = {
    "photographs": "up to {ways} classes of photographs from about {shots} of each "
    "class",
    "images": "up to {ways} classes of small drawings from about {shots} of each class",
    "images with string labels": "{ways} classes of small drawings, whose labels are "
    "strings of five characters, from a stream of about {shots} of each class",
    "curves": "a curve `y(x)` from about {shots} of its points",
    "points": "a function of two inputs from a stream of about {shots} examples",
    "pixels": "a complete small drawing from about {shots} of its pixels",
}
OTHER_DATA = (
    "unlike its training data. `examples/own_images.py` trains a model on other data."
)
LIMITS = {
    "photographs": f"drawings, or photographs {OTHER_DATA}",
    "images": f"photographs, or other images {OTHER_DATA}",
    "curves": "curves of another kind, x outside the range of its data, or fewer "
    "points than it was trained with.",
    "points": "functions of another family, or inputs outside the range of its data.",
    "pixels": "drawings of another kind or size.",
}
LIMITS["images with string labels"] = LIMITS["images"]
TRANSDUCTIVE = (
    "predicting one query at a time, as many served models do: it normalizes with all "
    "queries of a task, so that a prediction depends on the other queries. Use an "
    "inductive entry instead."
)


def write(name):
    """Writes `README.md` and the pictures beside a card; the figures are the card's.

    Raises:
        ValueError: no such entry, or data that are not available.
    """
    card = zoo.card(name)
    learner = zoo.load(name)
    titles = {}
    for file, title, figure in pictures.pictured(learner, card):
        console.save(figure, card.directory / file)
        titles[title] = file
    for path in card.directory.glob("*.png"):
        if path.name not in titles.values():
            path.unlink()
    text = page(learner, card, titles)
    atomic.write_text(card.directory / "README.md", text)


def page(learner, card, titles):
    """The text of the page.

    Args:
        learner: the learner of the entry.
        card: of the entry.
        titles: `{title: file}` of its pictures.
    """
    summary = inspect.getdoc(type(learner)).partition("\n")[0]
    images, initial = card.inputs in IMAGES, facts.initial_score(card)
    learns = PURPOSES[card.kind].format(ways=card.ways, shots=_shots(card, images))
    verdict = modularity.sentence(card) + " " if hasattr(learner, "scales") else ""
    lines = [f"# `{card.name}`", "", f"{verdict}{summary} Learns {learns}.", ""]
    if card.inputs == "images" and learner.output_size > card.ways:
        lines[2] += f" It accepts up to {learner.output_size} classes."
    for title, file in titles.items():
        lines += [f"![{title}]({file})", "", f"*{title}.*", ""]
    lines += ["## Figures", "", "On unseen classes or tasks:", ""]
    for figure in card.figures:
        paper = published.sentence(published.figure(card, figure["shots"]))
        paper = f"; published: {paper}%" if paper else ""
        lines.append(
            f"- {scores.sentence(figure)} ({scores.protocol(figure)}, "
            f"{figure['normalization']}; 95% interval over {figure['episodes']} tasks, "
            f"seed {figure['seed']}{paper})"
        )
    if published.below(card):
        reason = published.REASONS.get(card.name, "the reason is not known.")
        lines += ["", f"Below the published figure: {reason}"]
    lines += grid(card)
    lines += ["", "Not suitable for:", "", f"- {LIMITS[card.kind]}"]
    if card.normalization == "transductive":
        lines.append(f"- {TRANSDUCTIVE}")
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "import keras_meta as km",
        "from keras_meta import zoo",
        "",
        "km.runtime.configure()",
        f'learner = zoo.load("{card.name}")',
        f"state = learner.adapt(support_x, support_y)  # "
        f"{named_shape(learner.x_spec('x'), 'T', 'S')}, "
        + named_shape(learner.y_spec("y"), "T", "S"),
        "predictions = learner.infer(state, query_x)",
        "```",
        "",
        *(["Convert images with `learner.preprocess` first.", ""] if images else []),
        f"To serve it: `keras-meta export {card.name} served`.",
        "",
        "## Train it again",
        "",
        "```sh",
        f"{facts.command(card.name)} --publish",
        f"python tools/make_results.py --models={card.name}",
        "```",
        "",
        *present_recipe(card),
        f"- Paper: {card.paper}",
        f"- Data: {card.data}; seed {card.seed}",
        f"- Protocol: {card.protocol}",
        *encoder(learner),
        *inner_loop(learner),
        *scale_rule(learner),
        *temperature(card, learner),
        f"- Initial weights: {facts.origin(card, CODE)}{unchanged_encoder(learner)}"
        + (f"; {initial}" if initial else ""),
        f"- Training: {card.steps} meta-steps, {card.hours} hours on two cores; the "
        f"weights of meta-step {card.kept}, the best on validation tasks, are stored"
        + logs(card),
        f"- Licence of the weights: Apache-2.0; of the data: {card.licence}",
        f"- sha256 of `model.keras`: `{card.sha256}`",
    ]
    return "\n".join(lines) + "\n"


def present_recipe(card):
    """How the recipe differs from that of the stored weights, lines of a page."""
    recipe = recipes.recipe(card.name)
    origin = recipe.stages[0].warm_start or cards.RANDOM
    if card.external or (recipe.steps, origin) == (card.steps, card.initial_weights):
        return []
    origin = "random weights" if origin == cards.RANDOM else CODE.format(origin)
    return [
        "The recipe has changed since these weights were trained: it now has "
        f"{recipe.steps} meta-steps from {origin}.",
        "",
    ]


def temperature(card, learner):
    """The temperature of a learner, lines of a page; none if it is 1."""
    if learner.temperature == 1:
        return []
    return [
        f"- Temperature of the logits: {learner.temperature:.3g}, chosen on "
        f"{facts.task(card.ways, card.shots)} validation tasks"
    ]


def logs(card):
    """Links to the logs of a card, half a sentence; empty if none is stored."""
    links = [f"[{stage}]({path.name})" for stage, path in card.logs.items()]
    return f"; validation by step: {', '.join(links)}" if links else ""


def grid(card):
    """The table of validation accuracy by ways and shots, lines of a page; or none."""
    if not card.grid:
        return []
    figures = {(figure["ways"], figure["shots"]): figure for figure in card.grid}
    every_shots = sorted({shots for _, shots in figures})
    text = table("classes", *every_shots)
    for ways in sorted({ways for ways, _ in figures}):
        cells = [figures[ways, shots] for shots in every_shots]
        text += line(
            ways, *(f"{100 * x['mean']:.1f} ± {100 * x['interval']:.1f}" for x in cells)
        )
    first = card.grid[0]
    return [
        "",
        "Accuracy on validation classes in percent, by the number of classes (rows) "
        "and of examples of each class (columns); 95% intervals over "
        f"{first['episodes']} tasks, seed {first['seed']}, {first['normalization']}:",
        "",
        text.removesuffix("\n"),
    ]


def inner_loop(learner):
    """The inner steps of a gradient learner, a line of its page."""
    if not hasattr(learner, "inner_steps"):
        return
    steps, later = learner.inner_steps, learner.evaluation_steps
    batch = learner.inner_batch
    yield (
        f"- Inner steps: {steps} at a rate of {learner.inner_rate:g} in training"
        + (f", on batches of {batch}" if batch else "")
        + (
            f"; {later} in evaluation and prediction"
            if later not in (None, steps)
            else ""
        )
    )


SCALE_RULES = {
    "reptile": "the implicit gradient with a Hessian of zero, which was 2.5 to 5 times "
    "the exact implicit gradient where the two were compared",
    "implicit": "the implicit gradient; the initial weights follow Reptile's rule",
}


def scale_rule(learner):
    """The gradient of the scales of sigma-Reptile, a line of its page."""
    if hasattr(learner, "scale_rule"):
        yield f"- Scales follow {SCALE_RULES[learner.scale_rule]}"


# Layers after an encoder's convolutions, in words.
PARTS = {
    networks.Whitening: ", features whitened within classes",
    networks.HOG: ", joined with histograms of oriented gradients",
}


def encoder(learner):
    """The encoder of a sequence learner, or one that is fixed, a line of its page."""
    network, fixed = getattr(learner, "network", None), has_fixed_encoder(learner)
    if network is None or not (fixed or hasattr(learner, "sequence")):
        return
    convolutions = sum(isinstance(v, keras.layers.Conv2D) for v in network.layers)
    weights = f"{network.count_params():,} weights"
    parts = "".join(
        words
        for kind, words in PARTS.items()
        if any(isinstance(layer, kind) for layer in network.layers)
    )
    trained = "not trained" if fixed else "trained with the rest of the learner"
    yield f"- Encoder: {convolutions} convolutions, {weights}{parts}; {trained}"


def unchanged_encoder(learner):
    """The part of the initial weights that training did not change, in words."""
    return ", with an unchanged encoder" if has_fixed_encoder(learner) else ""


def _shots(card, images):
    """The support examples of a class, or of a function, in words."""
    if not images:
        return card.shots
    return "one example" if card.shots == 1 else f"{card.shots} examples"
