"""`keras-meta request`: examples and questions, sent to TensorFlow Serving."""

import contextlib
import json
import pathlib
import re
import urllib.error
import urllib.request

import numpy as np

from keras_meta.zoo import console, learn, predictions

# The server's own ports; any other is taken for REST.
GRPC_PORT = "8500"
SECONDS = 60


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
    inputs, names, files = _images(arguments.support, arguments.query, output)
    outputs = _send(arguments, "serving_images", inputs)
    labels = predictions.known_labels(files, arguments.query, names)
    shown = [file.relative_to(arguments.query).as_posix() for file in files]
    probabilities = outputs["probabilities"][0][:, : len(names)]
    predictions.show_classes(
        output, arguments.model, names, shown, labels, probabilities
    )


def _points(arguments, output):
    output.keep_apart(arguments.support)
    known, asked = learn.read_points(arguments.support)

    def predict(known, asked):
        known, asked = known.astype(np.float32), asked.astype(np.float32)
        inputs = {
            "support_x": known[None, :, :1],
            "support_y": known[None, :, 1:],
            "query_x": asked[None, :, None],
        }
        outputs = _send(arguments, "serving_default", inputs)
        if "mean" not in outputs:
            raise ValueError(
                f"expected a model of curves, {arguments.model} answers with "
                f"{', '.join(sorted(outputs))}."
            )
        scale = outputs.get("scale")
        return outputs["mean"][0, :, 0], None if scale is None else scale[0, :, 0]

    mean, scale = learn.in_units(arguments.model, known, asked, predict)
    predictions.show_points(output, arguments.model, asked, mean, scale)
    output.print(f"For {arguments.model}, {learn.units_note(arguments.model)}.")


def _images(support, queries, output):
    """The request, the names of classes and the files asked about."""
    if queries is None:
        raise ValueError("expected --query DIR, a folder of images to classify.")
    learn.class_folders(support)  # a mistake is told before the wait
    console.start()  # before anything else brings TensorFlow in
    classes, examples, asked = learn.read_folders(support, queries)
    output.keep_apart(*sum(examples, []), *asked)
    from keras_meta import episodes

    images = [episodes.load_image(file) for file in sum(examples, []) + asked]
    count = sum(map(len, examples))
    images = _of_one_size(images)
    inputs = {
        "support_x": images[None, :count],
        "support_y": np.repeat(np.arange(len(classes)), list(map(len, examples)))[None],
        "query_x": images[None, count:],
    }
    inputs["support_y"] = inputs["support_y"].astype(np.int32)
    return inputs, [folder.name for folder in classes], asked


def _of_one_size(images):
    """`[n, H, W, C]`: a tensor has one size, which the server resizes to its own."""
    import PIL.Image

    channels = max(image.shape[-1] for image in images)
    height, width = images[0].shape[:2]
    found = []
    for image in images:
        picture = PIL.Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        picture = picture.convert("L" if channels == 1 else "RGB")
        if picture.size != (width, height):
            picture = picture.resize((width, height), PIL.Image.Resampling.LANCZOS)
        found.append(np.asarray(picture).reshape(height, width, channels))
    return np.stack(found)


def _send(arguments, signature, inputs):
    """The model's outputs, `{name: array}`, by whichever way was asked for."""
    if arguments.local is not None:
        # Through the words of the request and back, so that they are tested too.
        body = json.loads(_body(signature, inputs))
        return _local(arguments.local, arguments.model, body)
    address = arguments.address
    if address.startswith("grpc://") or address.endswith(f":{GRPC_PORT}"):
        return _grpc(
            address.removeprefix("grpc://"), arguments.model, signature, inputs
        )
    return _rest(address, arguments.model, signature, inputs)


def _body(signature, inputs):
    arrays = {name: value.tolist() for name, value in inputs.items()}
    return json.dumps({"signature_name": signature, "inputs": arrays})


def _rest(address, model, signature, inputs):
    address = address if "://" in address else f"http://{address}"
    url = f"{address.rstrip('/')}/v1/models/{model}:predict"
    request = urllib.request.Request(
        url,
        _body(signature, inputs).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            outputs = json.load(reply)["outputs"]
    except urllib.error.HTTPError as error:
        raise ValueError(f"{url} answered: {_said(error.read().decode())}") from error
    except (urllib.error.URLError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise ValueError(f"expected a server at {url}, got: {reason}") from error
    if not isinstance(outputs, dict):  # the only output stands alone
        outputs = {"mean": outputs}
    return {name: np.array(value) for name, value in outputs.items()}


def _said(text):
    """The model's own sentence, out of what a server or TensorFlow puts around it."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["error"]
    sentence = re.search(r"\[(expected .*?\.)\]", text, re.DOTALL)
    return sentence[1] if sentence else text.strip() or "nothing"


def _grpc(address, model, signature, inputs):
    console.start()
    import grpc
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    request = predict_pb2.PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        try:
            reply = stub.Predict(request, timeout=SECONDS)
        except grpc.RpcError as error:
            if error.code() in (
                grpc.StatusCode.UNAVAILABLE,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ):
                raise ValueError(
                    f"expected a server at {address}, got: {error.details()}"
                ) from error
            raise ValueError(f"{address} answered: {_said(error.details())}") from error
    return {name: tf.make_ndarray(value) for name, value in reply.outputs.items()}


def _asked_for(signatures):
    """The names of signatures that are not TensorFlow's own."""
    return sorted(name for name in signatures if not name.startswith("__"))


def _local(directory, model, body):
    """The outputs as the server would compute them: by the v1 loader and a Session."""
    versions = [
        path
        for path in (pathlib.Path(directory) / model).glob("*")
        if path.name.isdigit()
    ]
    if not versions:
        raise ValueError(
            f"expected exported versions in {directory}/{model}/, found none."
        )
    console.start()
    import tensorflow.compat.v1 as tf

    tf.logging.set_verbosity(tf.logging.ERROR)  # the loader is deprecated, not gone
    newest = max(versions, key=lambda path: int(path.name))
    with tf.Session(graph=tf.Graph()) as session:
        loaded = tf.saved_model.loader.load(session, ["serve"], str(newest))
        if body["signature_name"] not in loaded.signature_def:
            cure = ""
            if body["signature_name"] == "serving_images":
                cure = ", for want of a learner with preprocess=km.ImagePreprocess(...)"
            raise ValueError(
                f"expected {newest} to have the signature {body['signature_name']}, it "
                f"has {', '.join(_asked_for(loaded.signature_def))}{cure}."
            )
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
            value = np.array(value, tf.as_dtype(spec.dtype).as_numpy_dtype)
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
