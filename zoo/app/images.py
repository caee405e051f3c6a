"""A task of images: a visitor's classes and queries, and their predictions."""

import base64
import dataclasses
import io
import itertools
import pathlib
import re

import numpy as np

from keras_meta import files
from keras_meta.zoo import (
    choice,
    console,
    image_notes,
    named,
    photographs,
    predictions,
)
from keras_meta.zoo.app import models

MOST_CLASSES = 20
# Characters of a name: 255 bytes are what a file system takes.
LONGEST_NAME = 40
# Not in names of folders, on some systems.
FORBIDDEN = r'[<>:"/\\|?*]'

# What the value of a pad begins with.
DRAWING = "data:image/png;base64,"
# Inches of a figure that is legible at a phone's width.
FIGURE = (5.2, 3.6)


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """Examples of named classes, and queries. Each method returns another task.

    Attributes:
        examples: `{class: (image, ...)}`, images uint8 `[H, W, 1 or 3]`, in the order
            in which the classes were named.
        queries: images to classify.
    """

    examples: dict = dataclasses.field(default_factory=dict)
    queries: tuple = ()

    @property
    def classes(self):
        """The names in the order in which `keras-meta learn` reads their folders."""
        return sorted(self.examples, key=pathlib.Path)

    @property
    def empty(self):
        """The names of the classes without examples, in the order of naming."""
        return [name for name, images in self.examples.items() if not images]

    def with_class(self, name):
        """Adds a class without examples.

        Raises:
            ValueError: a name that is no name of a folder or is there already, or too
                many classes.
        """
        name = name.strip()
        _check_name(name)
        if any(name.casefold() == other.casefold() for other in self.examples):
            raise ValueError(f"expected a new name, the class {name} is there already.")
        if len(self.examples) == MOST_CLASSES:
            raise ValueError(
                f"expected at most {MOST_CLASSES} classes, got {name} in addition."
            )
        return self._with({**self.examples, name: ()})

    def without_class(self, name):
        """Removes a class and its examples."""
        self.check_class(name)
        return self._with({n: x for n, x in self.examples.items() if n != name})

    def with_examples(self, name, images):
        """Adds examples of a class.

        Raises:
            ValueError: no such class.
        """
        self.check_class(name)
        return self._with({**self.examples, name: (*self.examples[name], *images)})

    def with_queries(self, images):
        """Adds images to classify."""
        return dataclasses.replace(self, queries=(*self.queries, *images))

    def without_queries(self):
        """Removes the images to classify."""
        return dataclasses.replace(self, queries=())

    def check_examples(self):
        """Raises ValueError unless there are two classes, each with an example."""
        if len(self.examples) < 2:
            raise ValueError(
                f"expected at least two classes, got {len(self.examples)}."
            )
        if self.empty:
            raise ValueError(
                "expected an example of each class, got none of "
                f"{', '.join(self.empty)}."
            )

    def check(self):
        """Raises ValueError unless there are examples and an image to classify."""
        self.check_examples()
        if not self.queries:
            raise ValueError("expected an image to classify, got none.")

    def support(self):
        """`(images, labels)`: all examples, class by class as in `classes`."""
        examples = [self.examples[name] for name in self.classes]
        counts = [len(images) for images in examples]
        return list(itertools.chain(*examples)), np.repeat(range(len(counts)), counts)

    def check_class(self, name):
        """Raises ValueError unless there is such a class."""
        if name not in self.examples:
            raise ValueError("expected a class to be chosen, add one first.")

    def _with(self, examples):
        return dataclasses.replace(self, examples=examples)


def _check_name(name):
    if not 0 < len(name) <= LONGEST_NAME:
        raise ValueError(
            f"expected a name of 1 to {LONGEST_NAME} characters, got {len(name)}."
        )
    if re.search(FORBIDDEN, name) or not name.isprintable():
        raise ValueError(
            "expected a name that a folder can have, without any of "
            f'< > : " / \\ | ? *, got {files.printable(name)}.'
        )
    if name[0] == "." or name[-1] == ".":
        raise ValueError(f"expected a name without a dot at its ends, got {name}.")


def drawn(value):
    """The drawing on a pad.

    Args:
        value: a PNG image as a data URL; "" for an empty pad.

    Returns:
        uint8 `[H, W, 1]`, dark ink on white.

    Raises:
        ValueError: an empty pad, or a value that no pad has.
    """
    import PIL.Image

    if not value:
        raise ValueError("expected a drawing, the pad is empty.")
    try:
        content = base64.b64decode(value.removeprefix(DRAWING), validate=True)
        with PIL.Image.open(io.BytesIO(content), formats=["PNG"]) as drawing:
            return np.asarray(drawing.convert("L"))[..., None]
    except (OSError, ValueError) as error:
        raise ValueError("expected a drawing, got something else.") from error


def read(paths):
    """Reads image files.

    Returns:
        `(images, sentences)`: those that could be read, and a sentence for each other.
    """
    console.start()  # before reading brings TensorFlow in
    images, sentences = [], []
    for path in map(pathlib.Path, paths):
        try:
            images.append(files.load_image(path))
        except ValueError as error:
            # Not the folder that the browser's upload went to.
            sentences.append(str(error).replace(str(path), path.name))
    return images, sentences


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """What a learner predicts for the queries of a task.

    Attributes:
        entry: the name of the entry.
        reason: why it was chosen; None if the visitor chose it.
        steps: inner steps; None if the learner takes none.
        names: the classes.
        probabilities: `[Q, N]`.
        notes: sentences.
    """

    entry: str
    reason: str | None
    steps: int | None
    names: list
    probabilities: np.ndarray
    notes: list

    def captions(self):
        """The class of each query and its confidence, as text."""
        return [
            f"{self.names[row.argmax()]} {row.max():.1%}" for row in self.probabilities
        ]

    def confidences(self, query):
        """`{class: probability}` of a query, by its index."""
        return dict(zip(self.names, map(float, self.probabilities[query]), strict=True))


def entry(task, name=None):
    """The entry for a task: the one named, or the one that `keras-meta learn` takes.

    Returns:
        `(name, reason)`, the reason None for a named entry.

    Raises:
        ValueError: a class without examples, or no entry for so many classes.
    """
    task.check_examples()
    if name:
        return name, None
    ways = len(task.examples)
    images, _ = task.support()
    console.start()  # before the judgement of the images starts TensorFlow
    kind = photographs.are_examples([task.examples[name] for name in task.classes])
    card, reason = choice.for_images(ways, len(images) / ways, kind)
    return card.name, reason


def predict(task, name=None, steps=None):
    """Classifies the queries of a task, with the code of `keras-meta learn`.

    Args:
        task: a complete `Task`.
        name: of the entry; by default the one that `keras-meta learn` takes.
        steps: inner steps; None for the learner's own.

    Returns:
        A `Prediction`.

    Raises:
        ValueError: as `entry`, or more classes than the entry has.
    """
    task.check()
    name, reason = entry(task, name)
    learner = models.image_learner(name, steps)
    support, labels, query = prepared(learner, name, task)
    probabilities = predictions.classify(learner, support, labels, query)
    steps = models.inner_steps(learner)
    notes = _notes(learner, name, task, support, query)
    return Prediction(name, reason, steps, task.classes, probabilities, notes)


def by_step(task, name, steps, query):
    """The class probabilities of a query by inner step.

    Args:
        task: a complete `Task`.
        name: of an entry whose learner takes inner steps.
        steps: the numbers of inner steps.
        query: its index.

    Returns:
        `[len(steps), N]`.
    """
    rows = []
    for count in steps:
        learner = models.image_learner(name, count)
        support, labels, queries = prepared(learner, name, task)
        rows.append(predictions.classify(learner, support, labels, queries)[query])
    return np.stack(rows)


def by_step_figure(names, steps, probabilities):
    """Draws `by_step`, a line a class: the five likeliest at the last step."""
    from keras_meta import plots

    shown = np.argsort(-probabilities[-1], kind="stable")[:5]
    exact = np.zeros(len(steps))
    # In a legend, $ starts a formula and a leading underscore hides the line.
    labels = [f" {name}".replace("$", r"\$") for name in names]
    lines = {labels[i]: (steps, probabilities[:, i], exact) for i in shown}
    figure = plots.curves(lines, "inner steps", "probability", log=True)
    figure.set_size_inches(FIGURE)
    return figure


def prepared(learner, name, task):
    """Examples, labels and queries of a task, images at the size of the learner's.

    Raises:
        ValueError: more classes than the learner has.
    """
    from keras_meta import sources

    named.check_ways(learner, name, len(task.examples))
    images, labels = task.support()
    small = sources.resized((*images, *task.queries), learner.preprocess)
    return small[: len(images)], labels, small[len(images) :]


def _notes(learner, name, task, support, query):
    """The notes of `keras-meta learn` on the images."""
    images = (*task.support()[0], *task.queries)
    counts = sum(image_notes.kinds(learner.preprocess, image) for image in images)
    notes = image_notes.notes(name, learner.preprocess, counts, support, query)
    notes = [f"Note: {note}." for note in notes]
    if learner.normalization == "transductive":
        notes.append(
            "Note: the model is transductive: each prediction depends on all queries."
        )
    return notes
