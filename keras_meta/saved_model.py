"""Exports a learner as a SavedModel that adapts within the request."""

import pathlib
import warnings
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_meta import export_page, losses, versions
from keras_meta import learner as learner_module
from keras_meta import signatures as signatures_module
from keras_meta.typing_names import StrPath

# The signature that returns the state which another takes.
STATES = {"infer": "adapt", "infer_points": "adapt_points"}
# Side of the images in warmup requests, in pixels; the signatures take any size.
WARMUP_SIDE = 64
# Classes in the warmup request of a learner that takes any number of them.
WARMUP_CLASSES = 5


def export(
    model: learner_module.Learner | keras.Model,
    base: StrPath,
    version: int | None = None,
    temperature: float | None = None,
) -> pathlib.Path:
    """Writes `base/<version>/`, a SavedModel in the layout of TensorFlow Serving.

    An exported learner has the following signatures. A request may have any number T of
    tasks, S of support examples and Q of queries; all its tasks have the same S and Q.

    - `serving_default` adapts and predicts in one request: `{support_x [T, S, ...],
      support_y [T, S] or [T, S, d_y], query_x [T, Q, ...]}` -> `{probabilities [T, Q,
      N], classes [T, Q]}`, or `{mean [T, Q, d_y]}` for regression, with `scale` if the
      learner predicts it. `support_x` and `query_x` are float32 network inputs; for
      images, `learner.preprocess` returns them. Labels are int32; string labels, and
      their probabilities, have an additional axis of five symbols.
    - `serving_images`, if the learner has a `preprocess` and takes images: as
      `serving_default`, with x as uint8 images `[T, S or Q, H, W, 1 or 3]` of any size,
      which `preprocess.pair` prepares.
    - `serving_bytes`, under the same condition: as `serving_images`, with x as PNG and
      JPEG files, strings `[T, S or Q]`. Images may differ in size.
    - `serving_points`, if the learner has `point_units`: as `serving_default`, with x
      and y as float64 in any units. The graph scales them, and returns mean and scale
      in the units of y.
    - `adapt`: `{support_x, support_y}` -> the adapted state, a set of named tensors.
    - `infer`: `{the adapted state, query_x}` -> the outputs of `serving_default`. Use
      `adapt` and `infer` to adapt once and predict many times.
    - `adapt_points` and `infer_points`, if the learner has `point_units`: as `adapt`
      and `infer`, with x and y in any units. The state also contains the shift
      and the factor by which the graph scaled the support points.

    T is the first axis, because a server batches requests by concatenation along the
    first axis. The prediction for a task does not depend on other tasks. An invalid
    request returns INVALID_ARGUMENT with a one-line reason. A request is invalid if its
    support set is empty (a regression `CNP` accepts an empty one), if the numbers of
    examples and labels differ, if a value is NaN or infinity, if a label is out of
    range, or if labels have gaps (`MANN` and `LSTMLearner` accept gaps).

    `assets.extra` has warmup requests for the server. The function also writes
    `base/model.keras` and `base/README.md`, with example requests. Both belong to the
    highest version: exporting a lower version does not change them.

    A model that `finetune` returned is exported as an ordinary Keras model, with
    `serving_default` alone: `{x [B, ...]}` -> `{probabilities, classes [B]}`, or
    `{mean [B, d_y]}`, with `scale` if the model predicts it.

    Args:
        model: a `Learner`, or a model that `finetune` returned.
        base: folder with one sub-folder for each version, created if needed. The
            name of `base` is the model's name in TensorFlow Serving.
        version: an integer >= 1; by default the highest existing version plus 1.
        temperature: for a classifier that `finetune` returned, the divisor of the
            logits before the softmax, 1 by default; `learner.temperature` gives the
            confidences of the learner that was fine-tuned. Refused for a `Learner`,
            which has its own.

    Returns:
        The `pathlib.Path` of the version's directory. A server never sees an incomplete
        version.

    Raises:
        ValueError: `model` is neither a `Learner` nor a Keras model that is compiled
            with a `keras.losses.Loss` of predictions or logits, `version` is not a
            positive integer, or `model` takes no temperature.
        FileExistsError: the version exists; it is left unchanged.
        OSError: the files cannot be written, for example because the disk is full;
            `base` is left unchanged.
    """
    return checked_export(model, base, version, temperature, lambda folder: None)


def checked_export(
    model: learner_module.Learner | keras.Model,
    base: StrPath,
    version: int | None,
    temperature: float | None,
    check: Callable[[pathlib.Path], None],
) -> pathlib.Path:
    """Exports a model if a check of the files passes, see `export`.

    Args:
        model, base, version, temperature: see `export`.
        check: a function of the `pathlib.Path` of a SavedModel, which raises an error
            if the SavedModel is not as expected. `base` is then left unchanged.
    """
    base = pathlib.Path(base)
    name = base.resolve().name
    version = versions.choose(base, version)
    if isinstance(model, learner_module.Learner):
        if temperature is not None:
            raise ValueError(
                "expected no temperature to export a Learner, which has its own: "
                "assign learner.temperature."
            )
        signatures = signatures_module.learner_signatures(model)
        requests = _learner_requests(model, signatures)
    elif isinstance(getattr(model, "loss", None), keras.losses.Loss):
        losses.get(model.loss, model.compute_dtype)  # refuses losses of probabilities
        temperature = 1.0 if temperature is None else temperature
        signatures = signatures_module.model_signatures(model, temperature)
        requests = _model_requests(signatures)
    else:
        raise ValueError(
            "expected a Learner or a model that finetune returned, got a "
            f"{type(model).__name__} that is not compiled with a keras.losses.Loss."
        )
    if getattr(model, "normalization", None) == "transductive":
        warnings.warn(
            "exporting a learner with transductive normalization: the prediction for "
            "a query depends on the other queries of its request.",
            stacklevel=3,
        )
    module = tf.Module()
    module.held = [variable.value for variable in model.variables]
    module.serve = tf.function(  # what `keras.layers.TFSMLayer` calls, a dict of inputs
        lambda inputs: signatures["serving_default"](**inputs),
        input_signature=[signatures_module.inputs(signatures["serving_default"])],
    )
    page = export_page.text(name, version, model, signatures)

    def write(folder):
        tf.saved_model.save(module, str(folder), signatures=signatures)
        _write_warmup(folder, name, requests)
        model.save(folder / "model.keras")
        (folder / "README.md").write_text(page, encoding="utf-8")
        check(folder)

    return versions.install(base, version, write)


def _learner_requests(learner, signatures):
    """Returns `{signature: {input: array}}`: one small task, to warm up a server."""
    random = np.random.RandomState(0)
    classes = learner.output_size or WARMUP_CLASSES
    count = max(learner.least_support, classes if learner.gapless else 1)

    def random_values(spec, count):
        shape = [1, count, *_sides(spec.shape[2:])]
        if spec.dtype in (tf.uint8, tf.string):
            shape[2:] = WARMUP_SIDE, WARMUP_SIDE, 1
            images = random.randint(256, size=shape, dtype=np.uint8)
            if spec.dtype == tf.uint8:
                return images
            return np.array([[tf.io.encode_png(i).numpy() for i in images[0]]], object)
        return random.uniform(size=shape).astype(spec.dtype.as_numpy_dtype)

    def support_y(spec):
        if not learner.classification:
            return random_values(spec, count)
        labels = np.arange(count, dtype=np.int32) % classes
        return (np.zeros([*spec.shape[2:], count, 1], np.int32) + labels[:, None]).T

    requests = {}
    for name, function in signatures.items():
        specs = signatures_module.inputs(function)
        if name in STATES:
            state = signatures[STATES[name]](**requests[STATES[name]])
            requests[name] = {key: value.numpy() for key, value in state.items()}
        else:
            requests[name] = {
                "support_x": random_values(specs["support_x"], count),
                "support_y": support_y(specs["support_y"]),
            }
        if "query_x" in specs:
            requests[name]["query_x"] = random_values(specs["query_x"], 1)
    return requests


def _model_requests(signatures):
    """Returns the warmup request of a fine-tuned model, one example of zeros."""
    spec = signatures_module.inputs(signatures["serving_default"])["x"]
    x = np.zeros([1, *_sides(spec.shape[1:])], spec.dtype.as_numpy_dtype)
    return {"serving_default": {"x": x}}


def _sides(shape):
    """Returns a shape with `WARMUP_SIDE` for each axis of any length."""
    return [side or WARMUP_SIDE for side in shape]


def _write_warmup(directory, name, requests):
    """Writes the requests that a server replays when it loads the model."""
    from tensorflow_serving.apis import prediction_log_pb2

    folder = directory / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        for signature, inputs in requests.items():
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = name
            request.model_spec.signature_name = signature
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())
