"""`keras-meta request`: examples and questions, sent to TensorFlow Serving."""

import base64
import contextlib
import json
import pathlib
import re
import urllib.error
import urllib.request

import numpy as np

from keras_meta import files
from keras_meta.zoo import console, learn, predictions

# The server's own ports; any other is taken for REST.
GRPC_PORT, GRPC_SCHEME = "8500", "grpc://"
SECONDS = 60
# The signature of models that scale points themselves.
POINTS = "serving_points"
SCALED = "x and y were scaled by the known points"


def run(arguments, output):
    """Runs the command on its parsed arguments.

    Args:
        arguments: parsed.
        output: a `console.Output`.

    Raises:
        ValueError: a mistake of the user's, or the server's own words about one.
    """
    if (arguments.address is None) == (arguments.local is None):
        raise ValueError(
            "expected the ADDRESS of a server, or --local DIR, and not both."
        )
    if arguments.support.suffix.lower() == ".csv":
        if arguments.query is not None:
            raise ValueError(
                "expected no --query with points: they have rows without y."
            )
        return _points(arguments, output)
    inputs, names, asked, skipped = _images(arguments.support, arguments.query, output)
    outputs = _send(arguments, "serving_bytes", inputs)
    labels = predictions.known_labels(asked, arguments.query, names)
    shown = [path.relative_to(arguments.query).as_posix() for path in asked]
    probabilities = outputs["probabilities"][0][:, : len(names)]
    predictions.show_classes(
        output, arguments.model, names, shown, labels, probabilities
    )
    learn.say_skipped(output, skipped)


def _points(arguments, output):
    output.keep_apart(arguments.support)
    known, asked = learn.read_points(arguments.support)
    # Whether the model scales points is for it to state.
    scaled = POINTS in _signatures(arguments)
    dtype = np.float64 if scaled else np.float32
    inputs = {
        "support_x": known[None, :, :1].astype(dtype),
        "support_y": known[None, :, 1:].astype(dtype),
        "query_x": asked[None, :, None].astype(dtype),
    }
    outputs = _send(arguments, POINTS if scaled else "serving_default", inputs)
    if "mean" not in outputs:
        raise ValueError(
            f"expected a model of curves, {arguments.model} answers with "
            f"{', '.join(sorted(outputs))}."
        )
    mean, scale = outputs["mean"][0, :, 0], outputs.get("scale")
    scale = None if scale is None else scale[0, :, 0]
    predictions.show_points(output, arguments.model, asked, mean, scale)
    output.print(f"For {arguments.model}, {SCALED if scaled else learn.AS_THEY_ARE}.")


def _images(support, queries, output):
    """The request, the names of classes, the files asked about, and those skipped."""
    if queries is None:
        raise ValueError("expected --query DIR, a folder of images to classify.")
    learn.class_folders(support)  # a mistake is told before the wait
    console.start()  # before anything else brings TensorFlow in
    classes, examples, asked, skipped = learn.read_folders(support, queries)
    output.keep_apart(*sum(examples, []), *asked)
    labels = np.repeat(np.arange(len(classes)), list(map(len, examples)))
    inputs = {
        "support_x": _encoded(sum(examples, [])),
        "support_y": labels[None].astype(np.int32),
        "query_x": _encoded(asked),
    }
    return inputs, [folder.name for folder in classes], asked, skipped


def _encoded(paths):
    """The bytes of images, `[1, n]`; the model resizes them, and each to its own."""
    return np.array([[files.encoded_image(path) for path in paths]], object)


def _signatures(arguments):
    """The names of the model's signatures."""
    if arguments.local is not None:
        return _local_signatures(_newest(arguments.local, arguments.model))
    address, model = arguments.address, arguments.model
    if _is_grpc(address):
        return _grpc_signatures(address, model)
    reply = _rest(address, f"{model}/metadata")
    return reply["metadata"]["signature_def"]["signature_def"]


def _send(arguments, signature, inputs):
    """The model's outputs, `{name: array}`, by whichever way was asked for."""
    if arguments.local is not None:
        # Through the words of the request and back, so that they are tested too.
        body = json.loads(_body(signature, inputs))
        return _local(arguments.local, arguments.model, body)
    address, model = arguments.address, arguments.model
    try:
        if _is_grpc(address):
            return _grpc_predict(address, model, signature, inputs)
        body = _body(signature, inputs)
        outputs = _rest(address, f"{model}:predict", body)["outputs"]
    except ValueError:
        where = f"{model} at {address}"
        _check_signature(where, signature, lambda: _signatures(arguments))
        raise
    if not isinstance(outputs, dict):  # the only output stands alone
        outputs = {"mean": outputs}
    return {name: np.array(value) for name, value in outputs.items()}


def _is_grpc(address):
    return address.startswith(GRPC_SCHEME) or address.endswith(f":{GRPC_PORT}")


def _body(signature, inputs):
    arrays = {name: value.tolist() for name, value in inputs.items()}
    body = {"signature_name": signature, "inputs": arrays}
    return json.dumps(body, default=lambda x: {"b64": base64.b64encode(x).decode()})


def _content(value):
    """A value out of a request, the bytes in it as such."""
    if isinstance(value, list):
        return [_content(each) for each in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def _rest(address, path, body=None):
    """The server's JSON on `/v1/models/<path>`: what it has, or answers to a body."""
    address = address if "://" in address else f"http://{address}"
    url = f"{address.rstrip('/')}/v1/models/{path}"
    request = urllib.request.Request(
        url,
        body and body.encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url} answered: {_said(error.read().decode())}") from error
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"expected a server at {url}, got: {reason}") from error


def _check_signature(where, signature, signatures):
    """Raises a ValueError if a model lacks a signature, and can say so.

    Args:
        where: the model is.
        signature: wanted.
        signatures: `() -> names`, which a server may refuse.
    """
    try:
        known = _asked_for(signatures())
    except (OSError, ValueError, LookupError, TypeError):
        return
    if signature in known:
        return
    cure = ""
    if signature == "serving_bytes":
        cure = ", for want of a learner with preprocess=km.ImagePreprocess(...)"
        if "serving_images" in known:
            cure = ": an older keras-meta exported it, export it again"
    raise ValueError(
        f"expected {where} to have the signature {signature}, it has "
        f"{', '.join(known)}{cure}."
    )


def _said(text):
    """The model's own sentence, out of what a server or TensorFlow puts around it.

    Neither gives the sentence of a check a place of its own: it is matched in their
    text, which is shown whole where nothing matches.
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["error"]
    sentence = re.search(r"\[(expected .*?\.)\]", text, re.DOTALL)
    return sentence[1] if sentence else text.strip() or "nothing"


def _grpc_signatures(address, model):
    console.start()
    from tensorflow_serving.apis import get_model_metadata_pb2

    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = model
    request.metadata_field.append("signature_def")
    reply = _grpc(address, "GetModelMetadata", request)
    found = get_model_metadata_pb2.SignatureDefMap()
    reply.metadata["signature_def"].Unpack(found)
    return found.signature_def


def _grpc_predict(address, model, signature, inputs):
    console.start()
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    reply = _grpc(address, "Predict", request)
    return {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}


def _grpc(address, method, request):
    """The server's reply to a method of its prediction service."""
    import grpc
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    address = address.removeprefix(GRPC_SCHEME)
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            return getattr(stub, method)(request, timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ):
                raise ValueError(
                    f"expected a server at {address}, got: {error.details()}"
                ) from error
            raise ValueError(f"{address} answered: {_said(error.details())}") from error


def _newest(directory, model):
    """The folder of the newest version of an exported model."""
    versions = [
        path
        for path in (pathlib.Path(directory) / model).glob("*")
        if path.name.isdigit()
    ]
    if not versions:
        raise ValueError(
            f"expected exported versions in {directory}/{model}/, found none."
        )
    return max(versions, key=lambda path: int(path.name))


def _local_signatures(path):
    console.start()
    from tensorflow.core.protobuf import saved_model_pb2

    content = (path / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def


def _asked_for(signatures):
    """The names of signatures that are not TensorFlow's own."""
    return sorted(name for name in signatures if not name.startswith("__"))


def _local(directory, model, body):
    """The outputs as the server would compute them: by the v1 loader and a Session."""
    newest = _newest(directory, model)
    console.start()
    import tensorflow.compat.v1 as tf

    tf.logging.set_verbosity(tf.logging.ERROR)  # the loader is deprecated, not gone
    with tf.Session(graph=tf.Graph()) as session:
        loaded = tf.saved_model.loader.load(session, ["serve"], str(newest))
        _check_signature(newest, body["signature_name"], lambda: loaded.signature_def)
        definition = loaded.signature_def[body["signature_name"]]
        feed = {}
        for name, value in body["inputs"].items():
            if name not in definition.inputs:
                raise ValueError(
                    f"expected {model} to learn from {name}, it takes "
                    f"{', '.join(sorted(definition.inputs))}: a model that was "
                    "fine-tuned has learned, its page says how to ask it."
                )
            spec = definition.inputs[name]
            value = np.array(_content(value), tf.as_dtype(spec.dtype).as_numpy_dtype)
            wanted = tf.TensorShape(spec.tensor_shape)
            if not wanted.is_compatible_with(value.shape):
                sides = ", ".join("?" if d is None else str(d) for d in wanted)
                raise ValueError(
                    f"expected {name} of shape [{sides}] for {model}, got "
                    f"{list(value.shape)}."
                )
            feed[spec.name] = value
        fetch = {name: info.name for name, info in definition.outputs.items()}
        try:
            return session.run(fetch, feed)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(f"the model answered: {_said(error.message)}") from error
