"""A page for each entry: its pictures, what it is for, and how to make it anew."""

import inspect

import keras
import numpy as np
import tensorflow as tf

from keras_meta import episodes, plots, zoo
from keras_meta.checks import named_shape
from keras_meta.zoo import (
    atomic,
    console,
    facts,
    modularity,
    published,
    recipes,
    scores,
    transfer,
)
from keras_meta.zoo.recipes import sources

SEED = 0
TASKS = 100  # of a curve
STEPS = (0, 1, 2, 3, 5, 10, 20, 50)
DRAWN_QUERIES = 4  # of each class in a picture
DRAWN_IMAGES, KNOWN_PIXELS = 2, (10, 100, 300)

CODE = "`{}`"  # how an entry's name is shown
IMAGES = ("images", "images with string labels")
# By what an example is, and to follow "learns".
FOR = {
    "images": "up to {ways} classes of small drawings from about {shots} of each",
    "images with string labels": "{ways} classes of small drawings, each named by a "
    "string of five characters, from a stream of about {shots} drawings of each",
    "curves": "a curve `y(x)` from about {shots} of its points",
    "points": "a function of two inputs from a stream of about {shots} examples",
    "pixels": "all of a small drawing from about {shots} of its pixels",
}
OTHERWISE = {
    "images": "photographs, or any pictures unlike its data: it has seen nothing else; "
    "`keras-meta train` and the README's own-images tutorial train one on others.",
    "curves": "curves of another kind, x outside the range of its data, or fewer "
    "points than it was trained with.",
    "points": "functions of another family, or inputs outside the range of its data.",
    "pixels": "drawings of another kind or size.",
}
OTHERWISE["images with string labels"] = OTHERWISE["images"]
TRANSDUCTIVE = (
    "answering one query at a time, or a served model that must: it normalizes with "
    "all queries of a task, so that an answer depends on the others. An inductive "
    "entry does not."
)


def write(name):
    """Writes `README.md` and the pictures beside a card; the figures are the card's.

    Raises:
        ValueError: no such entry, or data that cannot be had.
    """
    card = zoo.card(name)
    learner = zoo.load(name)
    pictures = {}
    for file, title, figure in pictured(learner, card):
        console.save(figure, card.directory / file)
        pictures[title] = file
    for kept in card.directory.glob("*.png"):
        if kept.name not in pictures.values():
            kept.unlink()
    text = page(learner, card, pictures)
    atomic.write_text(card.directory / "README.md", text)


def page(learner, card, pictures):
    """The page, given `{title: file}` of its pictures."""
    summary = inspect.getdoc(type(learner)).partition("\n")[0]
    images, initial = card.inputs in IMAGES, facts.initial_score(card)
    learns = FOR[card.inputs].format(ways=card.ways, shots=card.shots)
    verdict = modularity.sentence(card) + " " if hasattr(learner, "scales") else ""
    lines = [f"# `{card.name}`", "", f"{verdict}{summary} Learns {learns}.", ""]
    for title, file in pictures.items():
        lines += [f"![{title}]({file})", "", f"*{title}.*", ""]
    lines += ["## Measured", "", "On classes or tasks it has never seen:", ""]
    for figure in card.figures:
        there = published.sentence(published.of(card, figure["shots"]))
        there = f"; published: {there}%" if there else ""
        lines.append(
            f"- {scores.sentence(figure)} ({scores.protocol(figure)}, "
            f"{figure['normalization']}; 95% interval over {figure['episodes']} tasks, "
            f"seed {figure['seed']}{there})"
        )
    if published.below(card):
        lines += ["", f"Below the paper's: {published.REASONS[card.name]}"]
    lines += ["", "It is not for:", "", f"- {OTHERWISE[card.inputs]}"]
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
        "answers = learner.infer(state, query_x)",
        "```",
        "",
        *(["Images go through `learner.preprocess` first.", ""] if images else []),
        f"Serve it: `keras-meta export {card.name} served`.",
        "",
        "## Make it anew",
        "",
        "```sh",
        f"{facts.command(card.name)} --publish",
        f"python tools/make_results.py --models={card.name}",
        "```",
        "",
        f"- Paper: {card.paper}",
        f"- Data: {card.data}; seed {card.seed}",
        f"- Protocol: {card.protocol}",
        *encoder(learner),
        *inner_loop(learner),
        *scale_rule(learner),
        f"- Began from: {facts.origin(card, CODE)}{as_it_was(learner)}"
        + (f"; {initial}" if initial else ""),
        f"- Trained for {card.steps} meta-steps, {card.hours} hours on two cores; the "
        f"best on validation tasks is kept, meta-step {card.kept}"
        + ("; [validation by step](log.csv)" if card.log else ""),
        f"- Licence of the weights: Apache-2.0; of the data: {card.licence}",
        f"- sha256 of `model.keras`: `{card.sha256}`",
    ]
    return "\n".join(lines) + "\n"


def inner_loop(learner):
    """How a gradient learner adapts, a line for its page."""
    if not hasattr(learner, "inner_steps"):
        return
    steps, later = learner.inner_steps, learner.evaluation_steps
    batch = learner.inner_batch
    yield (
        f"- Adapts in {steps} inner step{'s' * (steps != 1)} at a rate of "
        f"{learner.inner_rate:g} while training"
        + (f", on batches of {batch}" if batch else "")
        + (f"; in {later} when asked" if later not in (None, steps) else "")
    )


SCALE_RULES = {
    "reptile": "the implicit gradient with a Hessian of zero, which was 2.5 to 5 times "
    "too large where it was compared with the implicit gradient itself",
    "implicit": "the implicit gradient, and the start Reptile's rule",
}


def scale_rule(learner):
    """What the scales of sigma-Reptile follow, a line for its page."""
    if hasattr(learner, "scale_rule"):
        yield f"- Scales follow {SCALE_RULES[learner.scale_rule]}"


def encoder(learner):
    """What a sequence learner reads images by, a line for its page."""
    network = getattr(learner, "network", None)
    if not hasattr(learner, "sequence") or network is None:
        return
    convolutions = sum(isinstance(v, keras.layers.Conv2D) for v in network.layers)
    weights = f"{network.count_params():,} weights"
    trained = (
        "was not trained"
        if transfer.has_fixed_encoder(learner)
        else ("was trained with the rest of the learner")
    )
    yield f"- Encoder: {convolutions} convolutions, {weights}; it {trained}"


def as_it_was(learner):
    """Of what training began from, what it did not change."""
    return ", its encoder as it was" if transfer.has_fixed_encoder(learner) else ""


def pictured(learner, card):
    """File names, titles and figures, `(str, str, matplotlib.figure.Figure)`."""
    if card.inputs == "images":
        yield _episode(learner, card)
    elif card.inputs == "curves":
        yield _fit(learner, card)
    elif card.inputs == "pixels":
        yield _completions(learner, card)
    if hasattr(learner, "evaluation_steps"):
        yield _adaptation(learner, card)
    if hasattr(learner, "scales") and _is_modular(card):
        examples = card.shots * (card.ways or 1)
        title = f"Scales that it learned, by layer; w of {examples} examples"
        yield "scales.png", title, plots.scales(learner, examples)
    if hasattr(learner, "sequence"):
        yield _presentations(learner, card)


def _is_modular(card):
    found = modularity.of(card)
    return found is not None and found.modular


def _tests(learner, card, queries=None):
    task = recipes.recipe(card.name).task
    queries = queries or task.test_queries
    return task.test_episodes(
        learner.preprocess, card.test_classes, card.ways, card.shots, queries, SEED
    )


def _episode(learner, card):
    batch, query_y = next(iter(_tests(learner, card, DRAWN_QUERIES).batch(1)))
    state = learner.adapt(batch["support_x"], batch["support_y"])
    logits = learner.infer(state, batch["query_x"])[0, :, : card.ways]
    unscale = learner.preprocess.unscale
    figure = plots.predictions(
        unscale(batch["support_x"][0]),
        batch["support_y"][0],
        unscale(batch["query_x"][0]),
        tf.nn.softmax(logits).numpy(),
        query_y=query_y[0],
    )
    return "episode.png", "Episode of unseen classes, and its answers", figure


def _fit(learner, card):
    task = recipes.recipe(card.name).task
    seed = episodes.fold_seed(SEED + sources.PART_SEEDS["test"], 0)
    x, y = (v.numpy() for v in task.family(None).sample(seed, 300))
    known, order = slice(card.shots), np.argsort(x[:, 0])
    state = learner.adapt(x[None, known], y[None, known])
    outputs = learner.infer(state, x[None, order])
    mean, scale = outputs if isinstance(outputs, tuple) else (outputs, None)
    figure = plots.fit(x[known], y[known], x[order], mean, scale, truth=y[order])
    return "fit.png", "Fit of an unseen curve", figure


def _completions(learner, card):
    task = recipes.recipe(card.name).task
    family = task.family(task.source.load(learner.preprocess, card.test_classes))
    height, width, _ = learner.preprocess.shape
    rows = []
    for place in range(DRAWN_IMAGES):
        seed = episodes.fold_seed(SEED + sources.PART_SEEDS["test"], place)
        x, y = (v.numpy() for v in family.sample(seed, height * width))
        for known in KNOWN_PIXELS:
            state = learner.adapt(x[None, :known], y[None, :known])
            found = [v[0].numpy() for v in learner.infer(state, x[None])]
            row = [(x[:known], y[:known]), *((x, v) for v in (*found, y))]
            images = [plots.placed(x, v[:, 0], (height, width)) for x, v in row]
            rows.append((f"{known} pixels", images))
    titles = ["known", "mean", "scale", "truth"]
    title = "Completions of unseen characters"
    return "completions.png", title, plots.images(rows, titles)


def _adaptation(learner, card):
    data, metric = _tests(learner, card), recipes.recipe(card.name).task.metric
    usual = learner.evaluation_steps
    steps = sorted({*STEPS, usual or learner.inner_steps})
    rows = []
    for learner.evaluation_steps in steps:
        found = scores.measure(learner, card.name, data, TASKS, metric)
        rows.append((found["mean"], found["interval"]))
    learner.evaluation_steps = usual
    found = {card.name: (steps, *zip(*rows, strict=True))}
    figure = plots.curves(found, "adaptation steps", metric, log=True)
    title = f"Adaptation: {metric} by step, mean of {TASKS} test tasks"
    return "adaptation.png", title, figure


def _presentations(learner, card):
    count = TASKS if card.ways else 10 * TASKS  # images take longer
    batches = _tests(learner, card, 1).take(count).batch(scores.BATCH)
    if learner.classification and card.ways:
        file, name = "presentations.png", "accuracy"
        title = "Presentations: accuracy by how often a class was seen"
        found = scores.by_presentation(learner, batches, card.shots)
    else:
        file, name = "examples.png", "error"
        title = "Examples: error by how many were seen before"
        wrong = []
        for episode, _ in batches:
            y = episode["support_y"].numpy()
            answers = learner.sequence(episode["support_x"], y).numpy()
            if learner.classification:
                wrong.append(answers.argmax(-1) != y)
            else:
                wrong.append(np.square(answers - y).mean(-1))
                name = "squared error"
        found = np.concatenate(wrong).astype("float64")
    means, widths = scores.summaries(found)
    found = {card.name: (np.arange(1, len(means) + 1), means, widths)}
    kind = "presentation of a class" if card.ways else "example"
    title += f", mean of {count} test tasks"
    return file, title, plots.curves(found, kind, name)
