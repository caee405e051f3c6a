"""A client of exported models: TensorFlow Serving by REST or gRPC, or its loader."""

import base64
import contextlib
import http.client
import json
import pathlib
import re
import urllib.error
import urllib.parse
import urllib.request

import numpy as np

from keras_meta.zoo import console

# The server's default port of gRPC; other ports are for REST.
GRPC_PORT, GRPC_SCHEME = "8500", "grpc://"
SECONDS = 60


def signatures(arguments):
    """The names of the signatures of a model.

    Args:
        arguments: with the model, and the address of a server or a local folder.
    """
    if arguments.local is not None:
        return _local_signatures(_newest(arguments.local, arguments.model))
    address, model = arguments.address, arguments.model
    if _is_grpc(address):
        return _grpc_signatures(address, model)
    reply = _rest(address, model, "/metadata")
    return reply["metadata"]["signature_def"]["signature_def"]


def predict(arguments, signature, inputs):
    """The outputs of a model, `{name: array}`.

    Args:
        arguments: as of `signatures`.
        signature: the name of the signature to call.
        inputs: `{name: array}`.

    Raises:
        ValueError: no server, no such model or signature, or inputs that the model
            refuses.
    """
    if arguments.local is not None:
        # Encoded and decoded as a request to a server would be, to test that as well.
        body = json.loads(_body(signature, inputs))
        return _local(arguments.local, arguments.model, body)
    address, model = arguments.address, arguments.model
    try:
        if _is_grpc(address):
            return _grpc_predict(address, model, signature, inputs)
        body = _body(signature, inputs)
        reply = _rest(address, model, ":predict", body)
    except ValueError:
        place = f"{model} at {address}"
        _check_signature(place, signature, lambda: signatures(arguments))
        raise
    if not isinstance(reply, dict) or "outputs" not in reply:
        raise ValueError(
            f"expected a reply of TensorFlow Serving from {address}, got one without "
            "outputs."
        )
    outputs = reply["outputs"]
    if not isinstance(outputs, dict):  # a single output has no name
        outputs = {"mean": outputs}
    return {name: np.array(value) for name, value in outputs.items()}


def _is_grpc(address):
    if "://" in address:
        return address.startswith(GRPC_SCHEME)
    return address.endswith(f":{GRPC_PORT}")


def _body(signature, inputs):
    arrays = {name: value.tolist() for name, value in inputs.items()}
    body = {"signature_name": signature, "inputs": arrays}
    return json.dumps(body, default=lambda x: {"b64": base64.b64encode(x).decode()})


def _content(value):
    """A value of a request with its bytes decoded."""
    if isinstance(value, list):
        return [_content(item) for item in value]
    return base64.b64decode(value["b64"]) if isinstance(value, dict) else value


def _rest(address, model, action, body=None):
    """The JSON reply of a model for an action to a GET, or to a POST of a body."""
    address = address if "://" in address else f"http://{address}"
    name = urllib.parse.quote(model, safe="")
    url = f"{address.rstrip('/')}/v1/models/{name}{action}"
    request = urllib.request.Request(
        url,
        body and body.encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        raise ValueError(f"{url} returned: {_sentence(text)}") from error
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", None) or repr(error)
        raise ValueError(f"expected a server at {url}, got: {reason}") from error


def _check_signature(place, signature, signatures):
    """Raises a ValueError if a model states its signatures and lacks one.

    Args:
        place: the model and its address or folder, for the error.
        signature: the required signature.
        signatures: `() -> names`, which a server may refuse.
    """
    try:
        known = _own_signatures(signatures())
    except (OSError, ValueError, LookupError, TypeError):
        return
    if signature in known:
        return
    cure = ""
    if signature == "serving_bytes":
        cure = (
            ", because its learner has no preprocess=km.ImagePreprocess(...) of the "
            "size that its network takes"
        )
        if "adapt" not in known:
            cure = ": it is a model of one task, which cannot adapt"
        if "serving_images" in known:
            cure = ": an older keras-meta exported it, export it again"
    raise ValueError(
        f"expected {place} to have the signature {signature}, it has "
        f"{', '.join(known)}{cure}."
    )


def _sentence(text):
    """The sentence of a check in the model, without the text of server and TensorFlow.

    Neither marks that sentence: it is matched in their text, which is returned
    unchanged if nothing matches.
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
    definitions = get_model_metadata_pb2.SignatureDefMap()
    reply.metadata["signature_def"].Unpack(definitions)
    return definitions.signature_def


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
            raise ValueError(
                f"{address} returned: {_sentence(error.details())}"
            ) from error


def _newest(directory, model):
    """The folder of the newest version of an exported model."""
    versions = [
        path
        for path in (pathlib.Path(directory) / model).glob("*")
        if path.name.isdecimal()
    ]
    if not versions:
        raise ValueError(
            f"expected exported versions in {directory}/{model}/, got none."
        )
    return max(versions, key=lambda path: int(path.name))


def _local_signatures(path):
    console.start()
    from tensorflow.core.protobuf import saved_model_pb2

    content = (path / "saved_model.pb").read_bytes()
    return saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].signature_def


def _own_signatures(signatures):
    """The names of signatures without TensorFlow's own."""
    return sorted(name for name in signatures if not name.startswith("__"))


def _local(directory, model, body):
    """The outputs as the server computes them: by the v1 loader and a Session."""
    newest = _newest(directory, model)
    console.start()
    import tensorflow.compat.v1 as tf

    tf.logging.set_verbosity(tf.logging.ERROR)  # the loader warns of its deprecation
    with tf.Session(graph=tf.Graph()) as session:
        loaded = tf.saved_model.loader.load(session, ["serve"], str(newest))
        _check_signature(newest, body["signature_name"], lambda: loaded.signature_def)
        definition = loaded.signature_def[body["signature_name"]]
        feed = {}
        for name, value in body["inputs"].items():
            if name not in definition.inputs:
                raise ValueError(
                    f"expected {model} to accept {name}, it accepts "
                    f"{', '.join(sorted(definition.inputs))}: a fine-tuned model needs "
                    "no support examples, its page has an example request."
                )
            spec = definition.inputs[name]
            value = np.array(_content(value), tf.as_dtype(spec.dtype).as_numpy_dtype)
            shape = tf.TensorShape(spec.tensor_shape)
            if not shape.is_compatible_with(value.shape):
                sides = ", ".join("?" if d is None else str(d) for d in shape)
                raise ValueError(
                    f"expected {name} of shape [{sides}] for {model}, got "
                    f"{list(value.shape)}."
                )
            feed[spec.name] = value
        fetch = {name: info.name for name, info in definition.outputs.items()}
        try:
            return session.run(fetch, feed)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(
                f"the model returned: {_sentence(error.message)}"
            ) from error
