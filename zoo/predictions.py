"""Predictions of `learn` and `request`: computed, shown, and scored by known labels."""

import math

import numpy as np

from keras_meta import files
from keras_meta.zoo import console, intervals

# Queries of one call, which bounds the memory for folders of thousands of images.
QUERIES_AT_ONCE = 500
# Significant digits of a float64, and of a ±.
DIGITS, WIDTH_DIGITS = 16, 2
# Numbers from `LARGE` up and below `SMALL` have an exponent.
LARGE, SMALL = 1e15, 1e-4


def classify(learner, support, labels, query):
    """Learns classes from images and predicts the classes of others.

    Args:
        learner: a learner of integer labels with a `preprocess`.
        support: uint8 `[S, H, W, C]`, resized by `preprocess.resize`.
        labels: integers `[S]` in `[0, N)`, without a gap.
        query: uint8 `[Q, H, W, C]`, as `support`.

    Returns:
        Probabilities `[Q, N]`.
    """
    parts = adapted(learner, support, labels, query)
    return probabilities(learner, parts, labels.max() + 1)


def adapted(learner, support, labels, query):
    """Learns classes from images and divides the queries, which bounds the memory.

    Args:
        learner, support, labels, query: see `classify`.

    Returns:
        Pairs `(state, query_x)`: the adapted state, and queries `[1, n, ...]`.
    """
    support_x, query_x = learner.preprocess.pair(support[None], query[None])
    state = learner.adapt(support_x, labels[None])
    transductive = learner.normalization == "transductive"
    at_once = len(query) if transductive else QUERIES_AT_ONCE
    return [(state, query_x[:, i : i + at_once]) for i in range(0, len(query), at_once)]


def probabilities(learner, parts, ways):
    """Predicts the classes of the queries of a task, `[Q, N]`.

    Outputs of the learner beyond the N classes get no probability.

    Args:
        learner: the learner that adapted to the task.
        parts: as `adapted` returns them.
        ways: N.
    """
    import tensorflow as tf

    logits = [learner.infer(state, x)[0] for state, x in parts]
    return tf.nn.softmax(tf.concat(logits, 0)[:, :ways]).numpy()


def show_classes(output, model, names, paths, labels, probabilities, unknown=None):
    """Reports a row for each file: its predicted class and the confidence.

    Args:
        output: a `console.Output`.
        model: its name.
        names: of the classes.
        paths: of the images, as the table shows them.
        labels: the known class of each file, or None.
        probabilities: `[Q, N]`.
        unknown: which queries seem to belong to no class, booleans `[Q]`; None: not
            computed.
    """
    guesses = probabilities.argmax(axis=1)
    labelled = any(label is not None for label in labels)
    judged = unknown is not None
    headings = ["file", "prediction", ">confidence"] + labelled * ["true class"]
    table, rows = console.table(*headings, *judged * ["of no class"]), []
    for i, (file, guess) in enumerate(zip(paths, guesses, strict=True)):
        shares = probabilities[i]
        row = {"file": file, "class": names[guess], "confidence": shares[guess]}
        cells = [file, names[guess], f"{shares[guess]:.1%}"]
        if labelled:
            row["label"] = None if labels[i] is None else names[labels[i]]
            cells.append(row["label"] or "")
        if judged:
            row["unknown"] = bool(unknown[i])
            cells.append("unknown" * row["unknown"])
        rows.append(row | dict(zip((f"p_{n}" for n in names), shares, strict=True)))
        table.add_row(*map(files.printable, cells))
    document = {"model": model, "classes": names, "predictions": rows}
    parts = [table]
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
    low, high = intervals.proportion(right, count)
    score = {"accuracy": right / count, "interval": [low, high], "labelled": count}
    score["confusion"] = counts.tolist()
    sentence = (
        f"Accuracy: {right / count:.1%}, {right} of {count} queries of known class; "
        f"95% interval {low:.1%} to {high:.1%} with these support examples."
    )
    return score, sentence


def confused(labels, guesses, classes):
    """The confusion matrix `[N, N]`: a row for each true class."""
    counts = np.zeros([classes, classes], int)
    np.add.at(counts, (labels, guesses), 1)
    return counts


def show_points(output, model, x, mean, scale):
    """Reports a row for each x: y, and two standard deviations if they are known.

    Args:
        output: a `console.Output`.
        model: its name.
        x: `[Q]`, shown with all digits.
        mean: `[Q]` or longer; the first Q values belong to x.
        scale: as `mean`, or None.
    """
    table = console.table(">x", ">prediction", *([] if scale is None else [">±"]))
    rows = []
    for place, value in enumerate(x):
        row = {"x": value, "mean": mean[place]}
        cells = [f"{mean[place]:.4g}"]
        if scale is not None:
            row["scale"] = scale[place]
            cells = with_width(float(mean[place]), float(2 * scale[place]))
        rows.append(row)
        table.add_row(str(float(value)).removesuffix(".0"), *cells)
    output.show(table, rows=rows, document={"model": model, "predictions": rows})


def with_width(mean, width):
    """Texts of a number and its ±, both rounded to the second digit of the ±."""
    if not (math.isfinite(mean) and 0 < width < math.inf):
        return f"{mean:.4g}", f"{width:.2g}"
    last = _exponent(width, WIDTH_DIGITS) - WIDTH_DIGITS + 1
    plain = SMALL <= max(abs(mean), width) < LARGE
    return _to_place(mean, last, plain), _to_place(width, last, plain)


def _to_place(value, last, plain):
    """A number to the decimal place `10**last`, or to the digits of a float64."""
    last = max(last, _exponent(value) - DIGITS + 1)
    value = round(value, -last) + 0.0  # never -0
    if plain:
        return f"{value:.{max(-last, 0)}f}"
    return f"{value:.{max(_exponent(value) - last, 0)}e}" if value else "0"


def _exponent(value, digits=DIGITS):
    """The decimal exponent of a number rounded to `digits` digits."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])
