"""The page beside an exported model: its signatures, and example requests."""

import json
import shlex
import urllib.parse

from keras_meta import signatures as signatures_module

# A signature with more tensors is listed by its first and its last one.
LISTED = 4


def text(name, version, model, signatures):
    """Returns the text of `base/README.md`.

    Args:
        name: name of the model.
        version: its version, an integer.
        model: the exported model.
        signatures: `{name: concrete function}`.
    """
    lines = []
    for signature, function in signatures.items():
        inputs = signatures_module.inputs(function)
        lines.append(f"- `{signature}`: {_listed(inputs)} -> ")
        lines[-1] += _listed(function.structured_outputs)
    inputs = signatures_module.inputs(signatures["serving_default"])
    url = f"http://localhost:8501/v1/models/{urllib.parse.quote(name)}:predict"
    return PAGE.format(
        name=name,
        version=version,
        shell_name=shlex.quote(name),
        url=shlex.quote(url),
        string=json.dumps(name, ensure_ascii=False),
        axes="T tasks, S examples, Q queries; " if len(signatures) > 1 else "",
        signatures="\n".join(lines),
        notes="\n".join(_notes(model, signatures)),
        request=_client(name, signatures),
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


def _notes(model, signatures):
    """Yields a line for each group of inputs: its units, range or type."""
    prepare = signatures_module.image_preprocess(model)
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
            f"{ink}{normal and f', then normalized ({normal})'}: the result of "
            "`learner.preprocess.pair`."
        )
    if "serving_images" in signatures:
        yield (
            "- `serving_images` takes uint8 images of any size, as files store them; "
            'with REST, put `"signature_name": "serving_images"` beside `inputs`.'
        )
        yield (
            "- `serving_bytes` takes the bytes of PNG and JPEG files, each of any "
            "size; with REST, each is an object whose field `b64` has the bytes in "
            "base64. It ignores the orientation of a photo (EXIF); the client below "
            "applies it."
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
            "- `adapt` returns a state, which is an input of `infer` with each "
            "`query_x`: adapt once, predict many times."
        )


def _client(name, signatures):
    """Returns the section on the client of keras-meta; empty if it cannot query."""
    inputs = signatures_module.inputs(signatures["serving_default"])
    support_x = inputs.get("support_x")
    if "serving_images" in signatures:
        source, options = "folders of images", "--support examples/ --query queries/"
    elif support_x is not None and support_x.shape.as_list() == [None, None, 1]:
        source, options = "a file of points", "--support points.csv"
    else:
        return ""
    return (
        f"With keras-meta, from {source}:\n\n"
        f"    keras-meta request localhost:8501 {shlex.quote(name)} {options}\n\n"
    )


def _listed(specs):
    """Lists names, types and shapes; of many tensors, the first and the last."""

    def listed(key, spec):
        sides = ", ".join("?" if side is None else str(side) for side in spec.shape)
        return f"{key} {spec.dtype.name}[{sides}]"

    *state, last = [listed(key, spec) for key, spec in specs.items()]
    if len(state) <= LISTED:
        return ", ".join([*state, last])
    return f"{state[0]}, ... ({len(state) - 1} more), {last}"


PAGE = """# {name}

TensorFlow Serving serves the model from the parent of this folder:

    docker run -p 8500:8500 -p 8501:8501 -v "$PWD/..:/models" \\
      -e MODEL_NAME={shell_name} tensorflow/serving

`model.keras` is the same model, for further training with keras-meta.

## Signatures
{axes}? is any number.

{signatures}

{notes}

## Requests
{request}By REST, with NumPy arrays `{arrays}`:

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
predict = tf.saved_model.load("{version}").signatures["serving_default"]
print(predict({arguments}))
```
"""
