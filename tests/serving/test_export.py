"""Exports predict as their learner, also after invalid requests, as in TF Serving."""

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
# One entry of each kind: images, curves, transductive, learned scales per layer, points
# in their own units.
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
# Absolute and relative tolerance.
LIMITS = 1e-5, 1e-4
# The inputs are noise, unlike any drawing, with logits of up to 1,100. The order of
# float32 sums depends on the batch size. It changes logits by this fraction of the
# largest, and a probability by at most a quarter of that.
ROUNDING = 1e-6


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Returns `name -> (learner, directory)`, a function that exports an entry once."""
    cache, folder = {}, tmp_path_factory.mktemp("served")

    def export(name):
        if name not in cache:
            learner = zoo.load(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about transductive entries
                cache[name] = learner, km.export(learner, folder / name)
        return cache[name]

    return export


def serve(directory, requests, tmp_path):
    """Returns the outputs, dicts of arrays, of `[(signature, {input: array})]`."""
    arrays = {
        f"{number}/{signature}/{key}": value
        for number, (signature, inputs) in enumerate(requests)
        for key, value in inputs.items()
    }
    np.savez(tmp_path / "requests.npz", **arrays)
    command = [sys.executable, SESSION, directory]
    command += [tmp_path / "requests.npz", tmp_path / "results.npz"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    outputs = [{} for _ in requests]
    with np.load(tmp_path / "results.npz") as results:
        for key in results:
            number, _, name = key.partition("/")
            outputs[int(number)][name] = results[key]
    return outputs


def random_request(learner, tasks, support, queries, seed=0):
    """Returns a request for `serving_default`."""
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


def expected_outputs(learner, inputs):
    state = learner.adapt(inputs["support_x"], inputs["support_y"])
    outputs = learner.infer(state, inputs["query_x"])
    if learner.classification:
        logits = np.where(outputs > -1e5, np.abs(outputs), 0)  # absent classes: 0
        return {
            "probabilities": tf.nn.softmax(outputs),
            "rounding": logits.max(-1, keepdims=True) * ROUNDING / 4,
        }
    if isinstance(outputs, tuple):
        return dict(zip(("mean", "scale"), outputs, strict=True))
    return {"mean": outputs}


def assert_outputs_match(outputs, reference):
    assert "error" not in outputs, outputs["error"]
    rounding = reference.get("rounding", 0)
    for key, value in reference.items():
        if key != "rounding":
            limit = LIMITS[0] + LIMITS[1] * np.abs(value) + rounding
            excess = np.abs(outputs[key] - value) / limit
            close(excess, np.zeros_like(excess), atol=1, err_msg=key)
    if "probabilities" in outputs:
        classes = np.argmax(outputs["probabilities"], -1)
        np.testing.assert_array_equal(outputs["classes"], classes)


def invalid_requests(learner):
    """Returns `{text of the error: invalid request}`."""
    valid = random_request(learner, 2, 5, 3)
    x, y = valid["support_x"], valid["support_y"]
    requests = {
        "equal T and S": {**valid, "support_y": y[:, 1:]},
        "finite values in support_x": {**valid, "support_x": x * np.nan},
        "finite values in query_x": {**valid, "query_x": valid["query_x"] * np.inf},
        "same number of tasks": {**valid, "query_x": valid["query_x"][:1]},
    }
    if learner.least_support:
        empty = {"support_x": x[:, :0], "support_y": y[:, :0]}
        requests["at least one task and one support"] = {**valid, **empty}
    if learner.classification:
        requests["labels in"] = {**valid, "support_y": y + learner.output_size}
        if learner.gapless:
            requests["with a gap"] = {**valid, "support_y": np.where(y == 0, 1, y)}
    else:
        requests["finite values in support_y"] = {**valid, "support_y": y * np.nan}
    return requests


def image_requests(learner):
    """Returns requests for `serving_images`: sizes, colours, dark and light ink."""
    random, requests = np.random.RandomState(0), []
    for side, channels in ((28, 1), (105, 1), (40, 3)):
        shape = [1, 8, side, side + 2, channels]
        images = 255 * (random.uniform(size=shape) < 0.1).astype("uint8")
        images = 255 - images if side == 40 else images
        y = random_request(learner, 1, 5, 3)["support_y"]
        requests.append(
            {"support_x": images[:, :5], "support_y": y, "query_x": images[:, 5:]}
        )
    return requests


def points_request(learner):
    """Returns points over Unix seconds in float64, and predictions of the learner."""
    inputs = random_request(learner, 3, 7, 2)
    inputs = {key: value.astype("float64") for key, value in inputs.items()}
    for key in ("support_x", "query_x"):
        inputs[key] = np.round(600 * inputs[key]) + 1.7e9
    inputs["support_y"] *= 1e30
    state = learner.point_units.adapt(learner, inputs["support_x"], inputs["support_y"])
    outputs = learner.point_units.infer(learner, state, inputs["query_x"])
    return inputs, dict(zip(("mean", "scale"), outputs, strict=True))


def encoded_images(images):
    """Returns the images of a request as the bytes of PNG files."""
    return {
        k: np.array([[tf.io.encode_png(image).numpy() for image in images[k][0]]])
        for k in ("support_x", "query_x")
    }


@pytest.mark.thorough
@served
def test_a_plain_session_predicts_as_the_learner(name, exported, tmp_path):
    learner, directory = exported(name)
    transductive = learner.normalization == "transductive"
    # Sizes that differ from those of the export; three tasks in a batch, then singly.
    sizes = [(1, 5, 5), (3, 7, 2), (2, 10, 1)]
    inputs = [random_request(learner, *size, seed=s) for s, size in enumerate(sizes)]
    inputs += [{k: v[i : i + 1] for k, v in inputs[1].items()} for i in range(3)]
    requests = [("serving_default", arrays) for arrays in inputs]
    references = [expected_outputs(learner, arrays) for arrays in inputs]

    # Adapt once, infer twice.
    support = {k: inputs[1][k] for k in ("support_x", "support_y")}
    requests.append(("adapt", support))
    references.append({})
    adapt_number = len(requests) - 1
    for part in [slice(0, 2)] * 2 if transductive else (slice(0, 1), slice(1, 2)):
        query = {"query_x": inputs[1]["query_x"][:, part]}
        requests.append(("infer", {"after": np.array(adapt_number), **query}))
        references.append({k: v[:, part] for k, v in references[1].items()})

    # In image completion, x is a position in an image.
    if learner.preprocess and learner.example_shape == learner.preprocess.shape:
        for images in image_requests(learner):
            requests.append(("serving_images", images))
            pair = learner.preprocess.pair(images["support_x"], images["query_x"])
            prepared = dict(zip(("support_x", "query_x"), pair, strict=True))
            prepared["support_y"] = images["support_y"]
            references.append(expected_outputs(learner, prepared))
            requests.append(("serving_bytes", {**images, **encoded_images(images)}))
            references.append(references[-1])

    if learner.point_units:
        curves, predicted = points_request(learner)
        known = {k: curves[k] for k in ("support_x", "support_y")}
        queries = {"query_x": curves["query_x"], "after": np.array(len(requests) + 1)}
        requests += [
            ("serving_points", curves),
            ("adapt_points", known),
            ("infer_points", queries),
        ]
        references += [predicted, {}, predicted]

    replayed = warmup_requests(name, directory)
    assert {signature for signature, _ in replayed} == {s for s, _ in requests}
    requests += replayed
    references += [{}] * len(replayed)

    # A thousand requests for curves (150 for images, which take longer), many invalid:
    # the predictions stay the same.
    invalid = invalid_requests(learner)
    keys = [*invalid, 0, 1, 2]
    count = 1000 if learner.preprocess is None else 150
    for index in np.random.RandomState(0).randint(len(keys), size=count):
        key = keys[index]
        source = invalid if key in invalid else inputs
        requests.append(("serving_default", source[key]))
        references.append(key if key in invalid else references[key])

    results = serve(directory, requests, tmp_path)
    for outputs, reference in zip(results, references, strict=True):
        if isinstance(reference, str):
            assert reference in str(outputs["error"])
        else:
            assert_outputs_match(outputs, reference)


def warmup_requests(name, directory):
    """Returns the requests that a server replays at start, `[(signature, inputs)]`."""
    from tensorflow_serving.apis import prediction_log_pb2

    path = str(directory / "assets.extra" / "tf_serving_warmup_requests")
    requests = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        log = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        assert log.model_spec.name == name
        inputs = {k: tf.make_ndarray(v) for k, v in log.inputs.items()}
        requests.append((log.model_spec.signature_name, inputs))
    return requests


@pytest.mark.thorough
@served
def test_an_export_as_a_keras_layer(name, exported):
    learner, directory = exported(name)
    inputs = random_request(learner, 2, 6, 3)
    layer = keras.layers.TFSMLayer(str(directory), call_endpoint="serve")
    outputs = layer({k: tf.constant(v) for k, v in inputs.items()})
    assert_outputs_match(outputs, expected_outputs(learner, inputs))


@pytest.mark.thorough
@served
def test_size_and_files_beside_the_export(name, exported):
    learner, directory = exported(name)
    weights = sum(v.numpy().nbytes for v in learner.variables)
    size = (directory / "saved_model.pb").stat().st_size
    size += sum(f.stat().st_size for f in (directory / "variables").iterdir())
    # Each signature contains the graph of all inner steps: 0.6 MB for sixteen steps.
    signatures = tf.saved_model.load(directory).signatures
    assert size < 1.2 * weights + 0.6e6 * len(signatures)
    assert not any(
        b"_XlaMustCompile\x12\x02(\x01" in f
        for f in [(directory / "saved_model.pb").read_bytes()]
    )
    loaded = keras.models.load_model(directory.parent / "model.keras")
    inputs = random_request(learner, 1, 5, 2)
    for key, value in expected_outputs(loaded, inputs).items():
        np.testing.assert_array_equal(value, expected_outputs(learner, inputs)[key])
    page = (directory.parent / "README.md").read_text()
    assert (
        name in page and "serving_default" in page and "{" not in page.split("```")[0]
    )


@pytest.mark.thorough
def test_a_fine_tuned_model_is_exported_as_a_keras_model(tmp_path):
    learner = zoo.load("maml.glyphs_5w1s-inductive")
    inputs = random_request(learner, 1, 3, 4)
    model = km.finetune(learner, inputs["support_x"][0], inputs["support_y"][0])
    directory = km.export(model, tmp_path / "mine")
    x = inputs["query_x"][0]
    (outputs,) = serve(directory, [("serving_default", {"x": x})], tmp_path)
    assert_outputs_match(outputs, {"probabilities": tf.nn.softmax(model(x))})
    assert outputs["probabilities"].shape == (4, 3)


def test_versions_are_never_overwritten(tmp_path):
    learner = km.ProtoNet(km.networks.mlp((3,), 4))
    assert km.export(learner, tmp_path / "p").name == "1"
    assert km.export(learner, tmp_path / "p").name == "2"
    with pytest.raises(FileExistsError, match="p/2 is there already"):
        km.export(learner, tmp_path / "p", version=2)
    with pytest.raises(ValueError, match="an integer >= 1, got 0"):
        km.export(learner, tmp_path / "p", version=0)
    with pytest.raises(ValueError, match="a Learner or a model that finetune returned"):
        km.export(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "p")
    names = {p.name for p in (tmp_path / "p").iterdir()}
    assert names == {"1", "2", "model.keras", "README.md"}
