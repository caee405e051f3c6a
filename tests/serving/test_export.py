"""What is exported answers as the learner does, and stays up: TF Serving's own path."""

import pathlib
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cards

SESSION = pathlib.Path(__file__).with_name("session.py")
# Of each kind one: images, curves, transductive, one learned scale a layer, points in
# units of their own.
SERVED = [
    "cnp.gp_rbf",
    "maml.glyphs_5w1s-inductive",
    "maml.omniglot_5w1s",
    "sigma_maml.sinusoid",
    "meta_sgd.omniglot_5w1s",
]
NAMES = [
    pytest.param(card.name, marks=[] if card.name in SERVED else pytest.mark.slow)
    for card in cards.stored()
]
served = pytest.mark.parametrize("name", NAMES)
close = np.testing.assert_allclose
# Absolute and relative.
LIMITS = 1e-5, 1e-4
# The inputs are noise, far from all drawings, with logits of up to 1,100. The order of
# float32 sums depends on the size of a batch; it changes logits by so many of their
# largest, and a probability by at most a quarter of that.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """`name -> (learner, directory)`, exported once."""
    found, folder = {}, tmp_path_factory.mktemp("served")

    def export(name):
        if name not in found:
            learner = zoo.load(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of transductive ones
                found[name] = learner, km.export(learner, folder / name)
        return found[name]

    return export


def serve(directory, requests, tmp_path):
    """The answers, dicts of arrays, to `[(signature, {input: array})]`."""
    arrays = {
        f"{number}/{signature}/{key}": value
        for number, (signature, inputs) in enumerate(requests)
        for key, value in inputs.items()
    }
    np.savez(tmp_path / "requests.npz", **arrays)
    command = [sys.executable, SESSION, directory]
    command += [tmp_path / "requests.npz", tmp_path / "answers.npz"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    answers = [{} for _ in requests]
    with np.load(tmp_path / "answers.npz") as found:
        for key in found:
            number, _, name = key.partition("/")
            answers[int(number)][name] = found[key]
    return answers


def request(learner, tasks, support, queries, seed=0):
    """A request for `serving_default`."""
    random = np.random.RandomState(seed)
    shape = learner.example_shape
    x = random.uniform(size=[tasks, support + queries, *shape]).astype("float32")
    if learner.classification:
        ways = min(learner.output_size, support)
        y = np.tile(np.arange(support) % ways, [tasks, 1])
        y = np.zeros([tasks, support, *learner.label_shape], "int32") + y.reshape(
            tasks, support, *[1] * len(learner.label_shape)
        ).astype("int32")
    else:
        y = random.normal(size=[tasks, support, learner.output_size]).astype("float32")
    return {"support_x": x[:, :support], "support_y": y, "query_x": x[:, support:]}


def expected(learner, inputs):
    state = learner.adapt(inputs["support_x"], inputs["support_y"])
    outputs = learner.infer(state, inputs["query_x"])
    if learner.classification:
        logits = np.where(outputs > -1e5, np.abs(outputs), 0)  # of the classes present
        return {
            "probabilities": tf.nn.softmax(outputs),
            "rounding": logits.max(-1, keepdims=True) * ROUNDING / 4,
        }
    if isinstance(outputs, tuple):
        return dict(zip(("mean", "scale"), outputs, strict=True))
    return {"mean": outputs}


def agree(found, wanted):
    assert "error" not in found, found["error"]
    rounding = wanted.get("rounding", 0)
    for key, value in wanted.items():
        if key != "rounding":
            limit = LIMITS[0] + LIMITS[1] * np.abs(value) + rounding
            excess = np.abs(found[key] - value) / limit
            close(excess, np.zeros_like(excess), atol=1, err_msg=key)
    if "probabilities" in found:
        classes = np.argmax(found["probabilities"], -1)
        np.testing.assert_array_equal(found["classes"], classes)


def broken(learner):
    """`{what its error says: request}`."""
    good = request(learner, 2, 5, 3)
    x, y = good["support_x"], good["support_y"]
    found = {
        "equal T and S": {**good, "support_y": y[:, 1:]},
        "finite values in support_x": {**good, "support_x": x * np.nan},
        "finite values in query_x": {**good, "query_x": good["query_x"] * np.inf},
        "same number of tasks": {**good, "query_x": good["query_x"][:1]},
    }
    if learner.least_support:
        nothing = {"support_x": x[:, :0], "support_y": y[:, :0]}
        found["at least one task and one support"] = {**good, **nothing}
    if learner.classification:
        found["labels in"] = {**good, "support_y": y + learner.output_size}
        if learner.gapless:
            found["with a gap"] = {**good, "support_y": np.where(y == 0, 1, y)}
    else:
        found["finite values in support_y"] = {**good, "support_y": y * np.nan}
    return found


def pictures(learner):
    """Requests for `serving_images`, of several sizes and colours and either ink."""
    random, found = np.random.RandomState(0), []
    for side, channels in ((28, 1), (105, 1), (40, 3)):
        shape = [1, 8, side, side + 2, channels]
        images = 255 * (random.uniform(size=shape) < 0.1).astype("uint8")
        images = 255 - images if side == 40 else images
        y = request(learner, 1, 5, 3)["support_y"]
        found.append(
            {"support_x": images[:, :5], "support_y": y, "query_x": images[:, 5:]}
        )
    return found


def points(learner):
    """Points over Unix seconds in float64, and what the learner predicts there."""
    inputs = request(learner, 3, 7, 2)
    inputs = {key: value.astype("float64") for key, value in inputs.items()}
    for key in ("support_x", "query_x"):
        inputs[key] = np.round(600 * inputs[key]) + 1.7e9
    inputs["support_y"] *= 1e30
    state = learner.point_units.adapt(learner, inputs["support_x"], inputs["support_y"])
    outputs = learner.point_units.infer(learner, state, inputs["query_x"])
    return inputs, dict(zip(("mean", "scale"), outputs, strict=True))


def encoded(images):
    """The images of a request as the bytes of PNG files."""
    return {
        k: np.array([[tf.io.encode_png(image).numpy() for image in images[k][0]]])
        for k in ("support_x", "query_x")
    }


@pytest.mark.thorough
@served
def test_a_plain_session_answers_as_the_learner(name, exported, tmp_path):
    learner, directory = exported(name)
    transductive = learner.normalization == "transductive"
    # Other sizes than exported with; three tasks in a batch, and each by itself.
    sizes = [(1, 5, 5), (3, 7, 2), (2, 10, 1)]
    inputs = [request(learner, *size, seed=s) for s, size in enumerate(sizes)]
    inputs += [{k: v[i : i + 1] for k, v in inputs[1].items()} for i in range(3)]
    requests = [("serving_default", each) for each in inputs]
    wanted = [expected(learner, each) for each in inputs]

    # Adapt once, ask twice.
    support = {k: inputs[1][k] for k in ("support_x", "support_y")}
    requests.append(("adapt", support))
    wanted.append({})
    after = len(requests) - 1
    for part in [slice(0, 2)] * 2 if transductive else (slice(0, 1), slice(1, 2)):
        query = {"query_x": inputs[1]["query_x"][:, part]}
        requests.append(("infer", {"after": np.array(after), **query}))
        wanted.append({k: v[:, part] for k, v in wanted[1].items()})

    # Of a process that completes images, x is a place in one.
    if learner.preprocess and learner.example_shape == learner.preprocess.shape:
        for images in pictures(learner):
            requests.append(("serving_images", images))
            pair = learner.preprocess.pair(images["support_x"], images["query_x"])
            prepared = dict(zip(("support_x", "query_x"), pair, strict=True))
            prepared["support_y"] = images["support_y"]
            wanted.append(expected(learner, prepared))
            requests.append(("serving_bytes", {**images, **encoded(images)}))
            wanted.append(wanted[-1])

    if learner.point_units:
        given, predicted = points(learner)
        known = {k: given[k] for k in ("support_x", "support_y")}
        asked = {"query_x": given["query_x"], "after": np.array(len(requests) + 1)}
        requests += [
            ("serving_points", given),
            ("adapt_points", known),
            ("infer_points", asked),
        ]
        wanted += [predicted, {}, predicted]

    replayed = warmup(name, directory)
    assert {signature for signature, _ in replayed} == {s for s, _ in requests}
    requests += replayed
    wanted += [{}] * len(replayed)

    # A thousand requests (of curves; fewer where each takes long), many of them broken:
    # it goes on answering the same.
    bad = broken(learner)
    kinds = [*bad, 0, 1, 2]
    count = 1000 if learner.preprocess is None else 150
    for place in np.random.RandomState(0).randint(len(kinds), size=count):
        kind = kinds[place]
        of = bad if kind in bad else inputs
        requests.append(("serving_default", of[kind]))
        wanted.append(kind if kind in bad else wanted[kind])

    for found, each in zip(serve(directory, requests, tmp_path), wanted, strict=True):
        if isinstance(each, str):
            assert each in str(found["error"])
        else:
            agree(found, each)


def warmup(name, directory):
    """The requests that a server replays on loading, `[(signature, inputs)]`."""
    from tensorflow_serving.apis import prediction_log_pb2

    path = str(directory / "assets.extra" / "tf_serving_warmup_requests")
    found = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert log.model_spec.name == name
        inputs = {k: tf.make_ndarray(v) for k, v in log.inputs.items()}
        found.append((log.model_spec.signature_name, inputs))
    return found


@pytest.mark.thorough
@served
def test_as_a_keras_layer(name, exported):
    learner, directory = exported(name)
    inputs = request(learner, 2, 6, 3)
    layer = keras.layers.TFSMLayer(str(directory), call_endpoint="serve")
    found = layer({k: tf.constant(v) for k, v in inputs.items()})
    agree(found, expected(learner, inputs))


@pytest.mark.thorough
@served
def test_size_and_what_stands_beside(name, exported):
    learner, directory = exported(name)
    weights = sum(v.numpy().nbytes for v in learner.variables)
    written = (directory / "saved_model.pb").stat().st_size
    written += sum(f.stat().st_size for f in (directory / "variables").iterdir())
    # Inner steps are written out in each signature: 0.6 MB for sixteen of them.
    signatures = tf.saved_model.load(directory).signatures
    assert written < 1.2 * weights + 0.6e6 * len(signatures)
    assert not any(
        b"_XlaMustCompile\x12\x02(\x01" in f
        for f in [(directory / "saved_model.pb").read_bytes()]
    )
    again = keras.models.load_model(directory.parent / "model.keras")
    inputs = request(learner, 1, 5, 2)
    for key, value in expected(again, inputs).items():
        np.testing.assert_array_equal(value, expected(learner, inputs)[key])
    page = (directory.parent / "README.md").read_text()
    assert (
        name in page and "serving_default" in page and "{" not in page.split("```")[0]
    )


@pytest.mark.thorough
def test_a_fine_tuned_model_is_an_ordinary_one(tmp_path):
    learner = zoo.load("maml.glyphs_5w1s-inductive")
    inputs = request(learner, 1, 3, 4)
    model = km.finetune(learner, inputs["support_x"][0], inputs["support_y"][0])
    directory = km.export(model, tmp_path / "mine")
    x = inputs["query_x"][0]
    (found,) = serve(directory, [("serving_default", {"x": x})], tmp_path)
    agree(found, {"probabilities": tf.nn.softmax(model(x))})
    assert found["probabilities"].shape == (4, 3)


def test_versions_are_never_overwritten(tmp_path):
    learner = km.ProtoNet(km.networks.mlp((3,), 4))
    assert km.export(learner, tmp_path / "p").name == "1"
    assert km.export(learner, tmp_path / "p").name == "2"
    with pytest.raises(FileExistsError, match="p/2 is there already"):
        km.export(learner, tmp_path / "p", version=2)
    with pytest.raises(ValueError, match="an integer >= 1, got 0"):
        km.export(learner, tmp_path / "p", version=0)
    with pytest.raises(ValueError, match="a Learner or a compiled model"):
        km.export(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "p")
    names = {p.name for p in (tmp_path / "p").iterdir()}
    assert names == {"1", "2", "model.keras", "README.md"}
