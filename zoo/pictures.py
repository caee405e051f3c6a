"""Pictures of entries: episodes, fits, adaptation, scales and presentations."""

import numpy as np
import tensorflow as tf

from keras_meta import episodes, plots
from keras_meta.zoo import intervals, modularity, recipes, scores
from keras_meta.zoo.recipes import sources

SEED = 0
TASKS = 100  # of a curve
STEPS = (0, 1, 2, 3, 5, 10, 20, 50)
DRAWN_QUERIES = 4  # of each class in a picture
DRAWN_IMAGES, KNOWN_PIXELS = 2, (10, 100, 300)


def pictured(learner, card):
    """Yields file names, titles and figures of the pictures of an entry.

    Args:
        learner: the learner of the entry.
        card: of the entry.

    Yields:
        `(str, str, matplotlib.figure.Figure)`.
    """
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
        title = f"Learned scales by layer, with w for {examples} examples"
        yield "scales.png", title, plots.scales(learner, examples)
    if hasattr(learner, "sequence"):
        yield _presentations(learner, card)


def _is_modular(card):
    measured = modularity.measured(card)
    return measured is not None and measured.modular


def _tests(learner, card, queries=None, **encode):
    task = recipes.recipe(card.name).task
    queries = queries or task.test_queries
    classes = learner.preprocess, card.test_classes
    return task.test_episodes(*classes, card.ways, card.shots, queries, SEED, **encode)


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
    return "episode.png", "Episode of unseen classes with its predictions", figure


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
            outputs = [v[0].numpy() for v in learner.infer(state, x[None])]
            row = [(x[:known], y[:known]), *((x, v) for v in (*outputs, y))]
            images = [plots.placed(x, v[:, 0], (height, width)) for x, v in row]
            rows.append((f"{known} pixels", images))
    titles = ["known", "mean", "scale", "truth"]
    title = "Completions of unseen characters"
    return "completions.png", title, plots.images(rows, titles)


def _adaptation(learner, card):
    metric = recipes.recipe(card.name).task.metric
    reader, encode = scores.on_features(learner)
    data = _tests(learner, card, **encode)
    own_steps = learner.evaluation_steps
    steps = sorted({*STEPS, own_steps or learner.inner_steps})
    rows = []
    for reader.evaluation_steps in steps:
        score = scores.measure(reader, card.name, data, TASKS, metric)
        rows.append((score["mean"], score["interval"]))
    reader.evaluation_steps = own_steps
    curve = {card.name: (steps, *zip(*rows, strict=True))}
    figure = plots.curves(curve, "adaptation steps", metric, log=True)
    title = f"Adaptation: {metric} by step, mean of {TASKS} test tasks"
    return "adaptation.png", title, figure


def _presentations(learner, card):
    count = TASKS if card.ways else 10 * TASKS  # images take longer
    batches = _tests(learner, card, 1).take(count).batch(scores.BATCH)
    if learner.classification and card.ways:
        file, name = "presentations.png", "accuracy"
        title = "Accuracy by presentation of a class"
        values = scores.by_presentation(learner, batches, card.shots)
    else:
        file, name = "examples.png", "error"
        title = "Error by example of the sequence"
        wrong = []
        for episode, _ in batches:
            y = episode["support_y"].numpy()
            outputs = learner.sequence(episode["support_x"], y).numpy()
            if learner.classification:
                wrong.append(outputs.argmax(-1) != y)
            else:
                wrong.append(np.square(outputs - y).mean(-1))
                name = "squared error"
        values = np.concatenate(wrong).astype("float64")
    means, widths = intervals.summaries(values)
    curve = {card.name: (np.arange(1, len(means) + 1), means, widths)}
    kind = "presentation of a class" if card.ways else "example"
    title += f", mean of {count} test tasks"
    return file, title, plots.curves(curve, kind, name)
