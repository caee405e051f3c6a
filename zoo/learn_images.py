"""`keras-meta learn` with images: learns classes and classifies other images."""

import numpy as np

from keras_meta import files, zoo
from keras_meta.zoo import (
    choice,
    console,
    folders,
    image_notes,
    named,
    photographs,
    predictions,
    rejection,
)

# Further queries are in the table, not in the picture.
DRAWN_QUERIES = 150


def run(arguments, output):
    """Runs the command.

    Args:
        arguments: parsed: queries, support, model, unknown and out.
        output: a `console.Output`.

    Raises:
        ValueError: a mistake of the user's, in one sentence.
    """
    out, name = arguments.out, arguments.model
    support_folder, query_folder = folders.locate(arguments.queries, arguments.support)
    ways = len(folders.classes(support_folder))
    # Errors about the model are raised before TensorFlow starts.
    named.check(name) if name else choice.for_images(ways, 1, photographs=True)
    if arguments.unknown and name and named.is_file(name):
        raise ValueError(
            f"expected no --unknown with {name}: its thresholds are computed on "
            "validation tasks, which only entries have."
        )
    console.start()
    from keras_meta import plots

    task = folders.read(support_folder, query_folder)
    paths = task.support + task.queries
    if out.resolve() in [path.resolve() for path in paths]:
        raise ValueError(f"expected --out to be none of the images, got {out}.")
    output.keep_apart(*paths)
    reason = None
    if not name:
        examples = [map(files.load_image, paths) for paths in task.examples]
        card, reason = choice.for_images(
            ways, len(task.support) / ways, photographs.are_examples(examples)
        )
        name = card.name
    learner = _learner(name, ways)
    threshold = None
    if arguments.unknown:
        threshold = rejection.of_task(zoo.card(name), ways, len(task.support) / ways)

    images, counts = _load(learner.preprocess, paths)
    support, query = np.split(images, [len(task.support)])
    labels = task.support_labels
    parts = predictions.adapted(learner, support, labels, query)
    probabilities = predictions.probabilities(learner, parts, ways)
    unknown = None
    if threshold:
        unknown = rejection.rejected(threshold, learner, parts, ways)

    if reason:
        output.print(reason)
    output.print(
        f"{name} learned {ways} classes from {len(support)} images", style="bold"
    )
    predictions.show_classes(
        output, name, task.classes, task.names, task.labels, probabilities, unknown
    )
    if threshold:
        output.print(rejection.sentence(threshold, unknown))
    for note in image_notes.notes(name, learner.preprocess, counts, support, query):
        output.print(f"Note: {note}.")
    folders.report_skipped(output, task.skipped)
    if learner.normalization == "transductive":
        output.print(
            "Note: the model is transductive: each prediction depends on all queries."
        )
    figure = plots.predictions(
        support,
        labels,
        query[:DRAWN_QUERIES],
        probabilities[:DRAWN_QUERIES],
        task.classes,
        None if None in task.labels else task.labels[:DRAWN_QUERIES],
        unknown if unknown is None else unknown[:DRAWN_QUERIES],
    )
    console.save(figure, out)
    first = f" (the first {DRAWN_QUERIES})" if len(query) > DRAWN_QUERIES else ""
    output.print(f"Picture: {out}{first}")


def _learner(name, ways):
    """The learner of a model that has as many classes.

    Raises:
        ValueError: as `named.image_learner` and `named.check_ways`, or a model of
            string labels.
    """
    learner = named.image_learner(name)
    if learner.label_shape:
        raise ValueError(
            f"expected a model of integer labels, those of {name} are strings."
        )
    named.check_ways(learner, name, ways)
    return learner


def _load(preprocess, paths):
    """Reads and resizes images.

    Returns:
        `(uint8 [n, H, W, C], the sum of image_notes.kinds)`.
    """
    images, counts = [], 0
    for path in paths:
        image = files.load_image(path)
        counts = counts + image_notes.kinds(preprocess, image)
        images.append(preprocess.resize(image))
    return np.stack(images), counts
