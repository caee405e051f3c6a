"""Tests of the client: its requests to an export, and its error messages.

The tests do not run TensorFlow Serving. Substitutes with its REST and gRPC interfaces
predict through the v1 loader and a Session, as TensorFlow Serving does.
"""

import argparse
import concurrent.futures
import http.server
import json
import shutil
import socket
import threading
import urllib.parse

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta.zoo import cli, console, request, serving_client

PREPARE = km.ImagePreprocess(8, 8, 1)
# Names that do not reveal the inputs of a model.
IMAGES, CURVES, ANY_UNITS = "protonet.marks", "cnp.lines", "waves"
MARKS = {"dot": (slice(3, 5), slice(3, 5)), "bar": (slice(0, 8), slice(3, 5))}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Exports three models; returns their folder."""
    folder = tmp_path_factory.mktemp("served")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(32)]
    km.export(km.ProtoNet(keras.Sequential(layers), 5, PREPARE), folder / IMAGES)
    lines = km.MAML(km.networks.mlp((1,), 1, ()), "mse", inner_rate=0.05)
    km.export(lines, folder / CURVES)
    networks = km.networks.mlp((2,), 8, (8,)), km.networks.mlp((9,), 2, (8,))
    waves = km.CNP(*networks, point_units=km.StandardUnits())
    km.export(waves, folder / ANY_UNITS)
    return folder


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Writes images of two classes in several sizes, and points of a line."""
    monkeypatch.chdir(tmp_path)
    for name, region in MARKS.items():
        folder = tmp_path / "support" / name
        folder.mkdir(parents=True)
        for number in range(2):
            draw_mark(folder / f"{number}.png", region, 8 + 8 * number)
    (tmp_path / "query").mkdir()
    for name, region in MARKS.items():
        draw_mark(tmp_path / "query" / f"{name}.png", region, 24)
    (tmp_path / "points.csv").write_text("x,y\n0,1\n1,2\n2,\n")
    rows = "1700000000,7e30\n1700000010.5,8e30\n1700000005.25,\n"
    (tmp_path / "seconds.csv").write_text("x,y\n" + rows)
    (tmp_path / "shifted.csv").write_text("x,y\n0,7e30\n10.5,8e30\n5.25,\n")
    return tmp_path


def draw_mark(path, region, side):
    image = np.full([8, 8], 255, np.uint8)
    image[region] = 0
    PIL.Image.fromarray(image).resize((side, side), PIL.Image.Resampling.NEAREST).save(
        path
    )


def signatures(folder, model):
    return serving_client._local_signatures(serving_client._newest(folder, model))


def predict(folder, model, body):
    """Returns the outputs, or raises a server's error for a missing signature."""
    if body["signature_name"] not in signatures(folder, model):
        raise ValueError("Serving signature key not found.")
    return serving_client._local(folder, model, body)


class Rest(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.unquote(self.path)
        model = path.removeprefix("/v1/models/").removesuffix("/metadata")
        try:
            path = serving_client._newest(self.server.folder, model)
            signature_defs = dict.fromkeys(serving_client._local_signatures(path), {})
            metadata = {"signature_def": {"signature_def": signature_defs}}
            self.reply(200, {"metadata": metadata})
        except ValueError as error:
            self.reply(404, {"error": str(error)})

    def do_POST(self):
        path = urllib.parse.unquote(self.path)
        model = path.removeprefix("/v1/models/").removesuffix(":predict")
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            outputs = predict(self.server.folder, model, body)
            outputs = {k: v.tolist() for k, v in outputs.items()}
            if len(outputs) == 1:  # like the server
                (outputs,) = outputs.values()
            status, reply = 200, {"outputs": outputs}
        except ValueError as error:
            status, reply = 400, {"error": str(error)}
        self.reply(status, reply)

    def reply(self, status, reply):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(reply).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def rest(served):
    server = http.server.HTTPServer(("localhost", 0), Rest)
    server.folder = served
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"localhost:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def grpc_address(served):
    import grpc
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def GetModelMetadata(self, proto, context):
            assert proto.metadata_field == ["signature_def"]
            signature_map = get_model_metadata_pb2.SignatureDefMap()
            path = serving_client._newest(served, proto.model_spec.name)
            for name, value in serving_client._local_signatures(path).items():
                signature_map.signature_def[name].CopyFrom(value)
            reply = get_model_metadata_pb2.GetModelMetadataResponse()
            reply.metadata["signature_def"].Pack(signature_map)
            return reply

        def Predict(self, proto, context):
            arrays = {k: tf.make_ndarray(v).tolist() for k, v in proto.inputs.items()}
            body = {
                "signature_name": proto.model_spec.signature_name,
                "inputs": arrays,
            }
            try:
                outputs = predict(served, proto.model_spec.name, body)
            except ValueError as error:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            reply = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                reply.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return reply

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(1))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        Service(), server
    )
    port = server.add_insecure_port("localhost:0")
    server.start()
    yield f"grpc://localhost:{port}"
    server.stop(None)


@pytest.mark.thorough
def test_local_requests_need_no_server(served, data, capsys):
    arguments = ["request", IMAGES, "--local", str(served)]
    arguments += ["--support", "support", "--query", "query"]
    assert cli.main(arguments) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[-2:]]
    assert [row[:2] for row in rows] == [["bar.png", "bar"], ["dot.png", "dot"]]
    arguments = ["request", CURVES, "--local", str(served), "--support", "points.csv"]
    assert cli.main(arguments) == 0
    *_, row, note = capsys.readouterr().out.splitlines()
    assert row.split()[0] == "2" and np.isfinite(float(row.split()[1]))
    assert note.startswith(f"For {CURVES}, points were not scaled")


def test_points_go_to_the_signature_that_the_model_states(served, data, capsys):
    def request_points(model, file):
        arguments = ["request", model, "--local", str(served), "--support", file]
        assert cli.main(arguments) == 0
        *_, row, note = capsys.readouterr().out.splitlines()
        return row.split(), note

    row, note = request_points(ANY_UNITS, "seconds.csv")
    assert note == f"For {ANY_UNITS}, x and y were scaled by the known points."
    assert row[0] == "1700000005.25"
    assert row[1:] == request_points(ANY_UNITS, "shifted.csv")[0][1:]
    # The scale, about 1e30, has two digits; the mean has as many places.
    assert 6e30 < float(row[1]) < 9e30 and row[2].endswith("e+29")
    _, note = request_points(CURVES, "points.csv")
    assert note.startswith(f"For {CURVES}, points were not scaled")


@pytest.mark.thorough
@pytest.mark.parametrize("server", ["rest", "grpc_address"])
def test_servers_return_the_local_predictions(server, served, data, capsys, request):
    address = request.getfixturevalue(server)
    for arguments in (
        [IMAGES, "--support", "support", "--query", "query"],
        [CURVES, "--support", "points.csv"],
        [ANY_UNITS, "--support", "seconds.csv"],
    ):
        assert cli.main(["request", address, *arguments]) == 0
        server_output = capsys.readouterr().out
        assert cli.main(["request", *arguments, "--local", str(served)]) == 0
        assert capsys.readouterr().out == server_output


@pytest.mark.thorough
def test_names_of_models_are_quoted(served, data, rest, capsys):
    for name in ("my model", "modèle", "x#y?z"):
        shutil.copytree(served / CURVES, served / name)
        assert cli.main(["request", rest, name, "--support=points.csv"]) == 0
        assert capsys.readouterr().out


@pytest.mark.thorough
def test_replies_without_outputs_are_refused(served, data, rest, capsys, monkeypatch):
    monkeypatch.setattr(Rest, "do_POST", lambda self: self.reply(200, {"other": 1}))
    fails(capsys, "got one without outputs", rest, CURVES, "--support=points.csv")


def fails(capsys, message, *arguments):
    assert cli.main(["request", *arguments]) == 2
    stderr = capsys.readouterr().err.strip()
    assert message in stderr and "\n" not in stderr and "Traceback" not in stderr


@pytest.mark.thorough
def test_invalid_requests_state_the_reason(served, data, rest, grpc_address, capsys):
    images = ["--support", "support", "--query", "query"]
    local = ["--local", str(served)]
    fails(capsys, "not both", IMAGES, *images)
    fails(capsys, "not both", "localhost:1", IMAGES, *images, *local)
    fails(capsys, "exported versions", "maml.none", *images, *local)
    fails(capsys, "signature serving_bytes", CURVES, *images, *local)
    fails(capsys, "[?, ?, 8, 8, 1]", IMAGES, "--support=points.csv", *local)
    x = np.zeros([2, 1], "float32")
    tuned = km.finetune(km.MAML(km.networks.mlp(), "mse"), x, x)
    km.export(tuned, served / "tuned")
    assert "keras-meta request" not in (served / "tuned" / "README.md").read_text()
    fails(capsys, "a fine-tuned model needs", "tuned", "--support=points.csv", *local)
    fails(capsys, "--query DIR", IMAGES, "--support", "support", *local)
    fails(capsys, "no --query", CURVES, "--support", "points.csv", *local, "--query=q")
    fails(capsys, "folder of classes", IMAGES, *local, "--support=no", "--query=query")
    fails(capsys, "got no folder", IMAGES, *local, "--support=support", "--query=no")
    fails(capsys, "expected a server at", "localhost:1", IMAGES, *images)
    fails(capsys, "expected a server at", "grpc://localhost:1", IMAGES, *images)
    fails(capsys, "expected a server at", "localhost:1", CURVES, "--support=points.csv")
    with socket.create_server(("localhost", 0)) as other:  # no HTTP
        reply = threading.Thread(target=lambda: other.accept()[0].sendall(b"SSH-2.0\n"))
        reply.start()
        address = f"localhost:{other.getsockname()[1]}"
        fails(capsys, "expected a server at", address, CURVES, "--support=points.csv")
        reply.join()
    fails(capsys, "returned: expected exported", rest, "x", "--support=points.csv")
    for name in "abcdef":  # more classes than the model has outputs
        folder = data / "support" / name
        folder.mkdir()
        draw_mark(folder / "0.png", MARKS["dot"], 8)
    for target in ([rest, IMAGES], [grpc_address, IMAGES], [IMAGES, *local]):
        fails(capsys, "labels in [0, 5)", *target, *images)
        assert cli.main(["request", *target, *images]) == 2
        assert "assertion" not in capsys.readouterr().err


@pytest.mark.thorough
def test_exports_without_the_signature_of_image_files(
    served, data, rest, grpc_address, capsys, monkeypatch
):
    original = km.signatures.learner_signatures

    def without_bytes(learner):
        return {k: v for k, v in original(learner).items() if k != "serving_bytes"}

    monkeypatch.setattr(km.signatures, "learner_signatures", without_bytes)
    km.export(keras.models.load_model(served / IMAGES / "model.keras"), served / "old")
    monkeypatch.undo()
    monkeypatch.chdir(data)
    images = ["--support", "support", "--query", "query"]
    for target in ([rest], [grpc_address], ["--local", str(served)]):
        fails(capsys, "an older keras-meta exported it", *target, "old", *images)
        fails(capsys, "signature serving_bytes, it has adapt", *target, CURVES, *images)
        fails(capsys, "its learner has no prep", *target, CURVES, *images)


def test_photos_are_sent_as_files(data):
    small = np.random.RandomState(0).randint(0, 256, [6, 8, 3]).astype("uint8")
    photo = PIL.Image.fromarray(small).resize((1600, 1200))
    paths = [f"support/{name}/photo.jpg" for name in MARKS]
    for path in paths:
        photo.save(data / path)
    inputs, *_ = request._images(
        data / "support", data / "query", console.Output(argparse.Namespace())
    )
    sent = inputs["support_x"][0].tolist() + inputs["query_x"][0].tolist()
    for path in paths:
        assert (data / path).read_bytes() in sent
    # As numbers, each photo would have a size of 3.8 million.
    body = serving_client._body("serving_bytes", inputs)
    assert len(body) < 4 / 3 * sum(map(len, sent)) + 999
