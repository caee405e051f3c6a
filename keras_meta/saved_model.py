"""Exports a learner as a SavedModel that adapts within the request."""

import json
import pathlib
import shlex
import urllib.parse
import warnings

import keras
import numpy as np
import tensorflow as tf

from keras_meta import learner as learner_module
from keras_meta import losses, versions

# The signature that gives the state which another takes.
STATES = {"infer": "adapt", "infer_points": "adapt_points"}
# Of the pictures in warmup requests; any size is served.
WARMUP_SIDE = 64
# Classes in the warmup request of a learner that takes any number of them.
WARMUP_CLASSES = 5
# Tensors of a signature that its page names; of a state that has more, the first.
LISTED = 4


def export(model, base, version=None):
    """Writes `base/<version>/`, a SavedModel in the layout of TensorFlow Serving.

    Signatures of a learner, where T, S and Q are free:

    - `serving_default` learns and predicts in one request: `{support_x [T, S, ...],
      support_y [T, S] or [T, S, d_y], query_x [T, Q, ...]}` -> `{probabilities [T, Q,
      N], classes [T, Q]}`, or `{mean [T, Q, d_y]}` for regression, with `scale` if the
      learner predicts one. x is what `learner.preprocess` returns (float32); labels are
      int32.
    - `serving_images`, if the learner has a `preprocess`: the same from uint8 images
      `[T, S or Q, H, W, 1 or 3]` of any size, prepared by `preprocess.pair`.
    - `serving_bytes`, likewise: the same from PNG and JPEG images, strings `[T, S or
      Q]`; each image may have its own size.
    - `serving_points`, if the learner has `point_units`: the same from float64 points
      in their own units; mean and scale are in these units.
    - `adapt`, `{support_x, support_y}` -> the state, with one tensor per leaf, and
      `infer`, `{state..., query_x}` -> as above: adapt once, predict many times.
      `adapt_points` and `infer_points`, if the learner has `point_units`: the same for
      points in their own units; their state includes the units.

    T leads because a server concatenates requests along the first axis; each task of a
    batch uses its own support set only. A request with labels out of range or with a
    gap, unequal lengths, values that are not finite or no examples gets an
    InvalidArgument error of one sentence. `assets.extra` has warmup requests for the
    server. `base` also gets the `.keras` file of the newest version, and a page on how
    to query it.

    A model that `finetune` returned is exported as an ordinary Keras model, with
    `serving_default` alone: `{x [B, ...]}` -> `{probabilities [B, n], classes [B]}`, or
    `{mean}`.

    Args:
        model: a `Learner`, or a model that `finetune` returned.
        base: folder of the model's versions, created if needed; its name is the
            model's.
        version: an integer >= 1; by default the next free one.

    Returns:
        The `pathlib.Path` of the version's directory. It appears complete or not at
        all.

    Raises:
        ValueError: another model, or a version that is not a positive integer.
        FileExistsError: the version exists; it is left unchanged.
        OSError: the files cannot be written, for example because the disk is full;
            `base` is left unchanged.
    """
    base = pathlib.Path(base)
    version = versions.choose(base, version)
    if isinstance(model, learner_module.Learner):
        signatures = _signatures(model)
        requests = _requests(model, signatures)
    elif isinstance(model, keras.Model) and model.compiled:
        signatures, requests = _plain(model)
    else:
        raise ValueError(
            "expected a Learner or a compiled model of finetune's, got "
            f"{type(model).__name__}."
        )
    if getattr(model, "normalization", None) == "transductive":
        warnings.warn(
            "exporting a learner with transductive normalization: the answer to a "
            "query depends on the other queries of its request.",
            stacklevel=2,
        )
    module = tf.Module()
    module.held = [variable.value for variable in model.variables]
    module.serve = tf.function(  # what `keras.layers.TFSMLayer` calls, a dict of inputs
        lambda inputs: signatures["serving_default"](**inputs),
        input_signature=[_inputs(signatures["serving_default"])],
    )
    page = _page(base.name, version, model, signatures)

    def write(folder):
        tf.saved_model.save(module, str(folder), signatures=signatures)
        _write_warmup(folder, base.name, requests)
        model.save(folder / "model.keras")
        (folder / "README.md").write_text(page, encoding="utf-8")

    return versions.install(base, version, write)


def _answered(classification, outputs):
    """Outputs by name."""
    if classification:
        classes = tf.argmax(outputs, axis=-1, output_type=tf.int32)
        return {"probabilities": tf.nn.softmax(outputs), "classes": classes}
    if isinstance(outputs, tuple):
        return dict(zip(("mean", "scale"), outputs, strict=True))
    return {"mean": outputs}


def _function(call, specs):
    """The concrete function of `call(**inputs)`, inputs by name."""
    specs = {spec.name: spec for spec in specs}
    return tf.function(call, autograph=False).get_concrete_function(**specs)


def _inputs(function):
    """`{name: TensorSpec}` of a concrete function."""
    positional, named = function.structured_input_signature
    return {spec.name: spec for spec in (*positional, *named.values())}


def _signatures(learner):
    """`{name: concrete function}` of a learner; all share one graph of `adapt`."""
    specs = [
        learner.x_spec("support_x"),
        learner.y_spec("support_y"),
        learner.x_spec("query_x"),
    ]

    def adapt(support_x, support_y):
        return learner.adapt(support_x, support_y, traced=True)

    def infer(state, query_x):
        return learner.infer(state, query_x, traced=True)

    def images(support_x, support_y, query_x):
        support_x, query_x = prepare.pair(support_x, query_x)
        return both(support_x, support_y, query_x)

    def encoded(support_x, support_y, query_x):
        return images(prepare.decode(support_x), support_y, prepare.decode(query_x))

    both, functions = _stages(learner, adapt, infer, specs)
    found = dict(zip(("serving_default", "adapt", "infer"), functions, strict=True))
    prepare = _prepare(learner)
    if prepare is not None:
        for name, call, shape, dtype in (
            ("serving_images", images, [None] * 5, tf.uint8),
            ("serving_bytes", encoded, [None, None], tf.string),
        ):
            x = [tf.TensorSpec(shape, dtype, side) for side in ("support_x", "query_x")]
            found[name] = _function(call, [*x, specs[1]])
    if learner.point_units is not None:
        found |= _points(learner, specs)
    return found


def _stages(learner, adapt, infer, specs):
    """One request that adapts and infers, and the two apart.

    Args:
        learner: that is exported.
        adapt: `(support_x, support_y) -> state`.
        infer: `(state, query_x) -> outputs`.
        specs: TensorSpecs of support_x, support_y and query_x.

    Returns:
        `(both, functions)`: the one request, to be traced in others, and the concrete
        functions of it and of the two, which have the state's tensors by name.
    """
    structure = _function(adapt, specs[:2]).structured_outputs
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    names = ["_".join(map(str, path)) for path in paths]

    def learned(support_x, support_y):
        leaves = tf.nest.flatten(adapt(support_x, support_y))
        return dict(zip(names, leaves, strict=True))

    def answered(query_x, **leaves):
        state = [leaves[name] for name in names]
        state = tf.nest.pack_sequence_as(structure, state)
        return _answered(learner.classification, infer(state, query_x))

    def both(support_x, support_y, query_x):
        return answered(query_x, **learned(support_x, support_y))

    leaves = [
        tf.TensorSpec(leaf.shape, leaf.dtype, name)
        for name, leaf in zip(names, tf.nest.flatten(structure), strict=True)
    ]
    return both, [
        _function(both, specs),
        _function(learned, specs[:2]),
        _function(answered, [*leaves, specs[2]]),
    ]


def _points(learner, specs):
    """The signatures that take points in units of their own, in float64."""
    units = learner.point_units

    def adapt(support_x, support_y):
        return units.adapt(learner, support_x, support_y, traced=True)

    def infer(state, query_x):
        return units.infer(learner, state, query_x, traced=True)

    specs = [tf.TensorSpec(spec.shape, tf.float64, spec.name) for spec in specs]
    _, functions = _stages(learner, adapt, infer, specs)
    names = "serving_points", "adapt_points", "infer_points"
    return dict(zip(names, functions, strict=True))


def _prepare(model):
    """Returns the `preprocess` that converts images to x, or None if x is not an image.

    Image completion has a `preprocess`, but its x are positions of pixels.
    """
    prepare = getattr(model, "preprocess", None)
    if prepare is not None and tuple(model.example_shape) == prepare.shape:
        return prepare
    return None


def _requests(learner, signatures):
    """Returns `{signature: {input: array}}`: one small task, to warm up a server."""
    random = np.random.RandomState(0)
    classes = learner.output_size or WARMUP_CLASSES
    count = max(learner.least_support, classes if learner.gapless else 1)

    def drawn(spec, count):
        shape = [1, count, *spec.shape[2:]]
        if spec.dtype in (tf.uint8, tf.string):
            shape[2:] = WARMUP_SIDE, WARMUP_SIDE, 1
            images = random.randint(256, size=shape, dtype=np.uint8)
            if spec.dtype == tf.uint8:
                return images
            return np.array([[tf.io.encode_png(i).numpy() for i in images[0]]], object)
        return random.uniform(size=shape).astype(spec.dtype.as_numpy_dtype)

    def answers(spec):
        if not learner.classification:
            return drawn(spec, count)
        labels = np.arange(count, dtype=np.int32) % classes
        return (np.zeros([*spec.shape[2:], count, 1], np.int32) + labels[:, None]).T

    found = {}
    for name, function in signatures.items():
        specs = _inputs(function)
        if name in STATES:
            state = signatures[STATES[name]](**found[STATES[name]])
            found[name] = {key: value.numpy() for key, value in state.items()}
        else:
            found[name] = {
                "support_x": drawn(specs["support_x"], count),
                "support_y": answers(specs["support_y"]),
            }
        if "query_x" in specs:
            found[name]["query_x"] = drawn(specs["query_x"], 1)
    return found


def _plain(model):
    """Signatures and warmup requests of a fine-tuned model."""
    shape = getattr(model, "example_shape", None) or model.input_shape[1:]
    spec = tf.TensorSpec([None, *shape], model.variables[0].dtype, "x")

    def answer(x):
        outputs = model(x, training=False)
        if isinstance(model.loss, losses.GaussianNLL):
            outputs = tuple(tf.unstack(outputs, axis=-1))
        return _answered(losses.is_classification(model.loss), outputs)

    signatures = {"serving_default": _function(answer, [spec])}
    x = np.zeros([1, *shape], spec.dtype.as_numpy_dtype)
    return signatures, {"serving_default": {"x": x}}


def _write_warmup(directory, name, requests):
    """`assets.extra/tf_serving_warmup_requests`, which a server replays on loading."""
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


def _page(name, version, model, signatures):
    """Returns the text of `base/README.md`: the signatures, and how to query them."""
    lines = []
    for signature, function in signatures.items():
        inputs = _inputs(function)
        lines.append(f"- `{signature}`: {_listed(inputs)} -> ")
        lines[-1] += _listed(function.structured_outputs)
    sides = "T tasks, S examples, Q queries; " if len(signatures) > 1 else ""
    inputs = _inputs(signatures["serving_default"])
    return PAGE.format(
        name=name,
        version=version,
        shell_name=shlex.quote(name),
        url=shlex.quote(
            f"http://localhost:8501/v1/models/{urllib.parse.quote(name)}:predict"
        ),
        string=json.dumps(name, ensure_ascii=False),
        sides=sides,
        signatures="\n".join(lines),
        meaning="\n".join(_meaning(model, signatures)),
        request=_request(name, signatures),
        inputs=", ".join(f'"{key}": {key}.tolist()' for key in inputs),
        arrays=", ".join(inputs),
        arguments=", ".join(
            f'{key}=tf.constant({key}, "{spec.dtype.name}")'
            for key, spec in inputs.items()
        ),
        protos="\n".join(
            f'request.inputs["{key}"].CopyFrom(tf.make_tensor_proto({key}, '
            f'"{spec.dtype.name}"))'
            for key, spec in inputs.items()
        ),
    )


def _meaning(model, signatures):
    """Describes the inputs, one line each."""
    prepare = _prepare(model)
    if prepare is not None:
        ink = "1 is black and 0 white" if prepare.invert else "0 is black and 1 white"
        if prepare.detect:
            ink = "1 is ink and 0 its ground"
        shape = ", ".join(map(str, prepare.shape))
        normal = ", ".join(
            f"{name} {values} by channel"
            for name, values in (
                ("mean", prepare.mean),
                ("deviation", prepare.deviation),
            )
            if values is not None
        )
        yield (
            f"- `serving_default` takes images `[..., {shape}]` in [0, 1], where "
            f"{ink}{normal and f', then normalized ({normal})'}: what "
            "`learner.preprocess.pair` gives."
        )
    if "serving_images" in signatures:
        yield (
            "- `serving_images` takes uint8 images of any size, as they are in a file; "
            'with REST, put `"signature_name": "serving_images"` beside `inputs`.'
        )
        yield (
            "- `serving_bytes` takes the bytes of PNG and JPEG files, each of any "
            "size; with REST, an object for each whose field `b64` is their base64. It "
            "does not turn a photo that is to be shown turned (EXIF); the client below "
            "does."
        )
    if "serving_points" in signatures:
        yield (
            "- `serving_default`, `adapt` and `infer` take points in the units of "
            f"training, x in [-{model.point_units.end:g}, {model.point_units.end:g}]. "
            "`serving_points`, `adapt_points` and `infer_points` take points in units "
            "of their own; with REST, put "
            '`"signature_name": "serving_points"` beside `inputs`.'
        )
    if "adapt" in signatures and model.classification:
        gap = ", those present from 0 without a gap" if model.gapless else ""
        limit = "N" if model.output_size is None else model.output_size
        yield f"- Labels are in [0, {limit}){gap}."
    if "adapt" in signatures:
        yield (
            "- `adapt` gives a state, which goes into `infer` with each `query_x`: "
            "learn once, ask many times."
        )


def _request(name, signatures):
    """How the client of keras-meta asks, if it can."""
    known = _inputs(signatures["serving_default"]).get("support_x")
    if "serving_images" in signatures:
        what, rest = "folders of images", "--support examples/ --query asked/"
    elif known is not None and known.shape.as_list() == [None, None, 1]:
        what, rest = "a file of points", "--support points.csv"
    else:
        return ""
    return (
        f"With keras-meta, from {what}:\n\n"
        f"    keras-meta request localhost:8501 {shlex.quote(name)} {rest}\n\n"
    )


def _listed(specs):
    """Names, types and shapes; a state of many tensors in short."""

    def one(key, spec):
        sides = ", ".join("?" if side is None else str(side) for side in spec.shape)
        return f"{key} {spec.dtype.name}[{sides}]"

    *state, last = [one(key, spec) for key, spec in specs.items()]
    if len(state) <= LISTED:
        return ", ".join([*state, last])
    return f"{state[0]}, ... ({len(state) - 1} more), {last}"


PAGE = """# {name}

Served by TensorFlow Serving from this folder's parent:

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD/..:/models" \\
      -e MODEL_NAME={shell_name} tensorflow/serving

`model.keras` is the same model, to go on training with keras-meta.

## Signatures
{sides}? is any number.

{signatures}

{meaning}

## Asking
{request}`{arrays}` being NumPy arrays, by REST:

```python
import json
json.dump({{"inputs": {{{inputs}}}}}, open("request.json", "w"))
```

    curl -d @request.json {url}

By gRPC (`pip install tensorflow-serving-api`):

```python
import grpc, tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

request = predict_pb2.PredictRequest()
request.model_spec.name = {string}
{protos}
channel = grpc.insecure_channel("localhost:8500")
print(prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request))
```

Without a server:

```python
import tensorflow as tf
answer = tf.saved_model.load("{version}").signatures["serving_default"]
print(answer({arguments}))
```
"""
