"""What `learn` and `request` predict, and how well where the classes are known."""

import numpy as np

from keras_meta.zoo import console, scores


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


def known_labels(files, queries, names):
    """The class of each file that lies in a sub-folder, or None."""
    return [
        None if file.parent == queries else names.index(file.parent.name)
        for file in files
    ]


def show_classes(output, model, names, files, labels, probabilities):
    """Reports a row for each file: its class and how sure the model is.

    Args:
        output: a `console.Output`.
        model: its name.
        names: of the classes.
        files: of the images, as they are shown.
        labels: the known class of each file, or None.
        probabilities: `[Q, N]`.
    """
    guesses = probabilities.argmax(axis=1)
    labelled = any(label is not None for label in labels)
    headings = ["file", "prediction", ">confidence"] + labelled * ["true class"]
    made, rows = console.table(*headings), []
    for file, guess, label, each in zip(
        files, guesses, labels, probabilities, strict=True
    ):
        row = {"file": file, "class": names[guess], "confidence": each[guess]}
        if labelled:
            row["label"] = None if label is None else names[label]
        rows.append(row | dict(zip((f"p_{n}" for n in names), each, strict=True)))
        known = [row["label"] or ""] if labelled else []
        made.add_row(file, names[guess], f"{each[guess]:.1%}", *known)
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
    counts = np.zeros([len(names), len(names)], int)
    for place in known:
        counts[labels[place], guesses[place]] += 1
    right, count = int(np.trace(counts)), len(known)
    low, high = scores.proportion(right, count)
    score = {"accuracy": right / count, "interval": [low, high], "labelled": count}
    score["confusion"] = counts.tolist()
    sentence = (
        f"Accuracy: {right / count:.1%}, {right} of {count} queries of known class; "
        f"95% interval {low:.1%} to {high:.1%}, for these support examples."
    )
    return score, sentence


def show_points(output, model, x, mean, scale):
    """Reports a row for each x: y, and two standard deviations if they are known.

    Args:
        output: a `console.Output`.
        model: its name.
        x: `[Q]`.
        mean: `[Q]` or longer, of which the first are those of x.
        scale: likewise, or None.
    """
    made = console.table(">x", ">prediction", *([] if scale is None else [">±"]))
    rows = []
    for place, value in enumerate(x):
        row = {"x": value, "mean": mean[place]}
        cells = [f"{value:g}", f"{mean[place]:.4g}"]
        if scale is not None:
            row["scale"] = scale[place]
            cells.append(f"{2 * scale[place]:.2g}")
        rows.append(row)
        made.add_row(*cells)
    output.show(made, rows=rows, document={"model": model, "predictions": rows})
