"""`keras-meta request`: sends support examples and queries to TensorFlow Serving."""

import numpy as np

from keras_meta import files
from keras_meta.zoo import (
    console,
    curves,
    folders,
    image_notes,
    points,
    predictions,
    serving_client,
)

# The signature of models that scale points themselves.
POINTS = "serving_points"
SCALED = "x and y were scaled by the known points"


def run(arguments, output):
    """Runs the command.

    Args:
        arguments: parsed.
        output: a `console.Output`.

    Raises:
        ValueError: a mistake of the user's, or the server's own sentence about one.
    """
    if (arguments.address is None) == (arguments.local is None):
        raise ValueError(
            "expected the ADDRESS of a server, or --local DIR, and not both."
        )
    if arguments.support.suffix.lower() == ".csv":
        if arguments.query is not None:
            raise ValueError(
                "expected no --query with points: their queries are rows without y."
            )
        return _points(arguments, output)
    inputs, task = _images(arguments.support, arguments.query, output)
    outputs = serving_client.predict(arguments, "serving_bytes", inputs)
    probabilities = outputs["probabilities"][0][:, : len(task.classes)]
    predictions.show_classes(
        output, arguments.model, task.classes, task.names, task.labels, probabilities
    )
    for note in image_notes.of_files(task.support + task.queries):
        output.print(f"Note: {note}.")
    folders.report_skipped(output, task.skipped)


def _points(arguments, output):
    output.keep_apart(arguments.support)
    known, queries = points.read(arguments.support)
    # The signatures of the model state whether it scales points.
    scaled = POINTS in serving_client.signatures(arguments)
    dtype = np.float64 if scaled else np.float32
    inputs = {
        "support_x": known[None, :, :1].astype(dtype),
        "support_y": known[None, :, 1:].astype(dtype),
        "query_x": queries[None, :, None].astype(dtype),
    }
    signature = POINTS if scaled else "serving_default"
    outputs = serving_client.predict(arguments, signature, inputs)
    if "mean" not in outputs:
        raise ValueError(
            f"expected a model of curves, {arguments.model} returns "
            f"{', '.join(sorted(outputs))}."
        )
    mean, scale = outputs["mean"][0, :, 0], outputs.get("scale")
    scale = None if scale is None else scale[0, :, 0]
    predictions.show_points(output, arguments.model, queries, mean, scale)
    output.print(f"For {arguments.model}, {SCALED if scaled else curves.UNSCALED}.")


def _images(support, queries, output):
    """The inputs of the request, and the `folders.Task`."""
    if queries is None:
        raise ValueError("expected --query DIR, a folder of images to classify.")
    folders.classes(support)  # raises before TensorFlow starts
    console.start()  # before another import starts TensorFlow
    task = folders.read(support, queries)
    output.keep_apart(*task.support, *task.queries)
    inputs = {
        "support_x": _encoded(task.support),
        "support_y": task.support_labels[None].astype(np.int32),
        "query_x": _encoded(task.queries),
    }
    return inputs, task


def _encoded(paths):
    """The bytes of images, `[1, n]`; the model decodes and resizes them."""
    return np.array([[files.encoded_image(path) for path in paths]], object)
