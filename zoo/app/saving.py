"""Saves a task as a folder, and an adapted model as a Keras model."""

import itertools
import json
import pathlib
import shutil
import tempfile

import numpy as np

from keras_meta.zoo.app import images, models

PARTS, POINTS = ("support", "query"), "points.csv"


def save_images(task, directory):
    """Writes a task of images as `keras-meta learn` and `keras-meta request` read it.

    Args:
        task: a complete `images.Task`.
        directory: gets a new folder `task-<number>`, with `support/<class>/<i>.png` and
            `query/<i>.png`.

    Returns:
        The `pathlib.Path` of the folder, which appears whole or not at all.

    Raises:
        ValueError: an incomplete task.
        OSError: the folder cannot be written.
    """
    task.check()
    support, query = PARTS

    def write(folder):
        for name, examples in task.examples.items():
            _write_images(folder / support / name, examples)
        _write_images(folder / query, task.queries)

    return _new_folder(directory, write)


def save_points(curve, directory):
    """Writes a task of a curve: as `save_images`, with `points.csv`."""
    if not curve.points:
        raise ValueError("expected a point to save, got none.")
    rows = ["x,y", *(f"{x!r},{y!r}" for x, y in curve.points)]
    rows += [f"{x!r}," for x in curve.queries]

    def write(folder):
        text = "\n".join(rows) + "\n"
        (folder / POINTS).write_text(text, encoding="utf-8")

    return _new_folder(directory, write)


def zipped(folder, directory):
    """Writes a folder as `directory/<name>.zip`.

    Returns:
        The path of the file.
    """
    folder = pathlib.Path(folder)
    base = pathlib.Path(directory) / folder.name
    return shutil.make_archive(str(base), "zip", folder.parent, folder.name)


def export_images(task, name, steps, directory):
    """Exports the model that has learned the classes of a task.

    Args:
        task: a complete `images.Task`.
        name: of the entry.
        steps: inner steps; None for the learner's own.
        directory: gets a folder of the entry's name: what `keras_meta.export` writes of
            a fine-tuned model, and `task.json`, with the names of the classes and the
            settings of the `ImagePreprocess` of raw images.

    Returns:
        The `pathlib.Path` of the folder.

    Raises:
        ValueError: an incomplete task, or more classes than the entry has.
    """
    task.check_examples()
    learner = models.image_learner(name, steps)
    support, labels, _ = images.prepared(learner, name, task)
    prepare = learner.preprocess
    invert = bool(prepare.inverts(support[None])[0])
    settings = {**prepare.get_config(), "invert": invert, "detect": False}
    facts = {"classes": task.classes, "preprocess": settings}
    x = prepare(support[None], invert)[0]
    return _export(learner, x, labels.astype("int32"), name, facts, directory)


def export_curve(curve, name, steps, directory):
    """Exports the model that has learned a curve.

    Args:
        curve: a `curves.Curve` with points.
        name: of the entry.
        steps: inner steps; None for the learner's own.
        directory: as of `export_images`; `task.json` has the units that the model reads
            and predicts points in: `x' = clip((x - centre) / unit, -end, end)` and `y =
            middle + spread y'`; or null, for points as they are.

    Returns:
        The `pathlib.Path` of the folder.

    Raises:
        ValueError: no points.
    """
    if not curve.points:
        raise ValueError("expected a point to learn from, got none.")
    learner = models.curve_learner(name, steps)
    x, y = curve.known()[:, :1], curve.known()[:, 1:]
    units = None
    if learner.point_units is not None:
        fitted = learner.point_units.fit(x[None], y[None])
        units = {key: float(np.squeeze(value)) for key, value in fitted.items()}
        x = (x - units["centre"]) / units["unit"]
        y = (y - units["middle"]) / units["spread"]
        units["end"] = learner.point_units.end
    facts = {"units": units}
    x, y = x.astype("float32"), y.astype("float32")
    return _export(learner, x, y, name, facts, directory)


def _export(learner, x, y, name, facts, directory):
    import keras_meta as km

    folder = pathlib.Path(directory) / name
    model = km.finetune(learner, x, y)
    km.export(model, folder, temperature=learner.temperature)
    text = json.dumps({"entry": name, **facts}, indent=1, ensure_ascii=False)
    (folder / "task.json").write_text(text + "\n", encoding="utf-8")
    return folder


def _write_images(folder, arrays):
    import PIL.Image

    folder.mkdir(parents=True)
    width = len(str(len(arrays)))  # so that names sort as numbers do
    for number, pixels in enumerate(arrays, 1):
        pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
        PIL.Image.fromarray(pixels).save(folder / f"{number:0{width}}.png")


def _new_folder(directory, write):
    """Makes `directory/task-<number>` of what `write(folder)` writes."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    draft = pathlib.Path(tempfile.mkdtemp(prefix=".draft-", dir=directory))
    try:
        write(draft)
        draft.chmod(0o755)  # not for its owner alone
        for number in itertools.count(1):
            folder = directory / f"task-{number}"
            try:
                if not folder.exists():
                    return draft.rename(folder)
            except OSError:
                if not folder.exists():  # else another visitor was first
                    raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
