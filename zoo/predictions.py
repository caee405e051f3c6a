"""What `learn` and `request` predict, and how well where the classes are known."""

import math

import numpy as np

from keras_meta import files
from keras_meta.zoo import console, scores

# Significant digits of a float64, and of a ±.
DIGITS, WIDTH_DIGITS = 16, 2
# Numbers of this size and beyond are shown with an exponent.
LARGE, SMALL = 1e15, 1e-4


def labelled_folders(support, queries, classes):
    """The sub-folders of a query folder that are named as classes.

    Raises:
        ValueError: there are some, and others that are not.
    """
    if queries.samefile(support):  # they are the support examples
        return []
    names = [folder.name for folder in classes]
    folders = sorted(
        path
        for path in queries.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and not path.samefile(support)
    )
    found = [folder for folder in folders if folder.name in names]
    others = [folder.name for folder in folders if folder.name not in names]
    if found and others:
        raise ValueError(
            f"expected the sub-folders of {queries} to be named as classes of "
            f"{support}, got {', '.join(others[:3])}."
        )
    return found


def known_labels(paths, queries, names):
    """The class of each file that lies in a sub-folder, or None."""
    return [
        None if path.parent == queries else names.index(path.parent.name)
        for path in paths
    ]


def classify(learner, support, labels, query, at_once=None):
    """Learns classes from raw images and predicts the class of others.

    Args:
        learner: a learner of integer labels with a `preprocess`.
        support: uint8 `[S, H, W, C]`, resized by `preprocess.resize`.
        labels: integers `[S]`, in `[0, n)` without a gap.
        query: uint8 `[Q, H, W, C]`, likewise.
        at_once: the most queries of one call, which bounds the memory; None for all. A
            transductive learner always gets all.

    Returns:
        Probabilities `[Q, n]`.
    """
    labels = np.asarray(labels)
    support_x, query_x = learner.preprocess.pair(support[None], query[None])
    state = learner.adapt(support_x, labels[None])
    if at_once is None or learner.normalization == "transductive":
        at_once = len(query)
    logits = [
        learner.infer(state, query_x[:, i : i + at_once])[0]
        for i in range(0, len(query), at_once)
    ]
    return _softmax(np.concatenate(logits))[:, : labels.max() + 1]


def _softmax(logits):
    exp = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exp / exp.sum(axis=-1, keepdims=True)


def show_classes(output, model, names, paths, labels, probabilities):
    """Reports a row for each file: its class and how sure the model is.

    Args:
        output: a `console.Output`.
        model: its name.
        names: of the classes.
        paths: of the images, as they are shown.
        labels: the known class of each file, or None.
        probabilities: `[Q, N]`.
    """
    guesses = probabilities.argmax(axis=1)
    labelled = any(label is not None for label in labels)
    headings = ["file", "prediction", ">confidence"] + labelled * ["true class"]
    made, rows = console.table(*headings), []
    for file, guess, label, each in zip(
        paths, guesses, labels, probabilities, strict=True
    ):
        row = {"file": file, "class": names[guess], "confidence": each[guess]}
        if labelled:
            row["label"] = None if label is None else names[label]
        rows.append(row | dict(zip((f"p_{n}" for n in names), each, strict=True)))
        known = [files.printable(row["label"] or "")] if labelled else []
        made.add_row(
            files.printable(file),
            files.printable(names[guess]),
            f"{each[guess]:.1%}",
            *known,
        )
    document = {"model": model, "classes": names, "predictions": rows}
    parts = [made]
    if labelled:
        score, sentence = _score(guesses, labels, names)
        document |= score
        parts += ["", console.confusion(score["confusion"], names), "", sentence]
    output.show(*parts, rows=rows, document=document)


def _score(guesses, labels, names):
    """The score of the queries whose class is known, a dict, and a sentence on it."""
    known = [place for place, label in enumerate(labels) if label is not None]
    true = [labels[place] for place in known]
    counts = confused(true, guesses[known], len(names))
    right, count = int(np.trace(counts)), len(known)
    low, high = scores.proportion(right, count)
    score = {"accuracy": right / count, "interval": [low, high], "labelled": count}
    score["confusion"] = counts.tolist()
    sentence = (
        f"Accuracy: {right / count:.1%}, {right} of {count} queries of known class; "
        f"95% interval {low:.1%} to {high:.1%}, for these support examples."
    )
    return score, sentence


def confused(labels, guesses, classes):
    """How often each class was taken for each, `[N, N]`: a row a true class."""
    counts = np.zeros([classes, classes], int)
    np.add.at(counts, (labels, guesses), 1)
    return counts


def show_points(output, model, x, mean, scale):
    """Reports a row for each x: y, and two standard deviations if they are known.

    Args:
        output: a `console.Output`.
        model: its name.
        x: `[Q]`, shown with all of its digits.
        mean: `[Q]` or longer, of which the first are those of x.
        scale: likewise, or None.
    """
    made = console.table(">x", ">prediction", *([] if scale is None else [">±"]))
    rows = []
    for place, value in enumerate(x):
        row = {"x": value, "mean": mean[place]}
        cells = [f"{mean[place]:.4g}"]
        if scale is not None:
            row["scale"] = scale[place]
            cells = with_width(float(mean[place]), float(2 * scale[place]))
        rows.append(row)
        made.add_row(str(float(value)).removesuffix(".0"), *cells)
    output.show(made, rows=rows, document={"model": model, "predictions": rows})


def with_width(mean, width):
    """Texts of a number and of its ±, both to the second digit of the ±."""
    if not (math.isfinite(mean) and 0 < width < math.inf):
        return f"{mean:.4g}", f"{width:.2g}"
    last = _exponent(width, WIDTH_DIGITS) - WIDTH_DIGITS + 1
    plain = SMALL <= max(abs(mean), width) < LARGE
    return _to_place(mean, last, plain), _to_place(width, last, plain)


def _to_place(value, last, plain):
    """A number to the decimal place `10**last`, or to the digits that it has."""
    last = max(last, _exponent(value) - DIGITS + 1)
    value = round(value, -last) + 0.0  # never -0
    if plain:
        return f"{value:.{max(-last, 0)}f}"
    return f"{value:.{_exponent(value) - last}e}" if value else "0"


def _exponent(value, digits=DIGITS):
    """The exponent of a number that is rounded to so many digits."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])
