"""Tests of export versions: numbers, failures that change nothing, quoted names."""

import ast
import errno
import os
import pathlib
import re
import shlex
import urllib.parse

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import versions


def learner(shift=0.0):
    model = km.ProtoNet(km.networks.mlp((3,), 2, (2,)))
    for variable in model.variables:
        if variable.dtype == "float32":
            variable.assign(tf.zeros_like(variable) + shift)
    return model


def contents(base):
    """Returns `{path: bytes}` of all files below a folder; None stands for folders."""
    return {
        path.relative_to(base): path.read_bytes() if path.is_file() else None
        for path in base.rglob("*")
    }


@pytest.mark.parametrize("version", [2.0, True, "2", 0, -1, np.float32(2), np.True_])
def test_a_version_is_an_integer(tmp_path, version):
    with pytest.raises(ValueError) as info:
        km.export(learner(), tmp_path / "m", version=version)
    got = version if type(version) is int else repr(version)
    assert str(info.value) == f"expected version to be an integer >= 1, got {got}."
    assert not (tmp_path / "m").exists()


def test_numpy_integers_are_versions(tmp_path):
    assert km.export(learner(), tmp_path / "m", version=np.int64(3)).name == "3"
    page = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert 'tf.saved_model.load("3")' in page


def test_model_keras_belongs_to_the_newest_version(tmp_path):
    base = tmp_path / "m"

    def stored_weight():
        return keras.models.load_model(base / "model.keras").variables[0].numpy()[0, 0]

    km.export(learner(1), base, version=2)
    km.export(learner(2), base, version=1)
    assert stored_weight() == 1
    assert sorted(p.name for p in base.iterdir()) == [
        "1",
        "2",
        "README.md",
        "model.keras",
    ]
    km.export(learner(3), base)
    assert stored_weight() == 3


def raise_disk_full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def raise_tensorflow_disk_full(*args, **kwargs):
    raise tf.errors.ResourceExhaustedError(
        None, None, "{{function_node x}} /a/b; No space left on device [Op:SaveV2]"
    )


def fail_after(count, function, fail=raise_disk_full):
    """Wraps a function so that it fails once, after `count` calls."""
    calls = []

    def wrapped(*args, **kwargs):
        calls.append(args)
        return fail() if len(calls) == count + 1 else function(*args, **kwargs)

    return wrapped


FAILURES = {
    "graph": lambda: (tf.saved_model, "save", raise_disk_full),
    "graph of TensorFlow": lambda: (tf.saved_model, "save", raise_tensorflow_disk_full),
    "weights": lambda: (keras.Model, "save", raise_disk_full),
    "page": lambda: (pathlib.Path, "write_text", raise_disk_full),
    "backup": lambda: (km.versions.shutil, "copy2", raise_disk_full),
    "version": lambda: (os, "rename", fail_after(2, os.rename)),
    "first replace": lambda: (os, "replace", fail_after(0, os.replace)),
    "second replace": lambda: (os, "replace", fail_after(1, os.replace)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAILURES)
def test_a_full_disk_changes_nothing(tmp_path, monkeypatch, name):
    owner, attribute, replacement = FAILURES[name]()
    base = tmp_path / "m"
    km.export(learner(1), base)
    before = contents(base)
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, replacement)
        with pytest.raises(OSError) as info:
            km.export(learner(2), base)
    assert str(info.value) == (
        f"cannot write {base / '2'}: No space left on device; what was in {base} is as "
        "before."
    )
    assert contents(base) == before
    assert km.export(learner(2), base).name == "2"


@pytest.mark.parametrize("name", ["graph", "first replace", "second replace"])
def test_a_first_version_that_fails_leaves_nothing(tmp_path, monkeypatch, name):
    owner, attribute, replacement = FAILURES[name]()
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, replacement)
        with pytest.raises(OSError, match="No space left"):
            km.export(learner(), tmp_path / "m")
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("name", ["plain", "it's", 'a "b" $HOME ü'])
def test_names_are_quoted_in_the_page(tmp_path, name):
    path = km.export(learner(), tmp_path / name)
    page = (path.parent / "README.md").read_text(encoding="utf-8")
    joined = page.replace("\\\n", " ")
    commands = re.findall(r"^    (.*)$", joined, re.MULTILINE)
    docker, curl = (
        shlex.split(next(c for c in commands if c.startswith(word)))
        for word in ("docker", "curl")
    )
    assert f"MODEL_NAME={name}" in docker and docker[-1] == "tensorflow/serving"
    url = curl[-1]
    assert not set(url) & set(" '\"$")
    quoted = url.removeprefix("http://localhost:8501/v1/models/")
    assert quoted.endswith(":predict")
    assert urllib.parse.unquote(quoted.removesuffix(":predict")) == name
    # The Python programs contain the unquoted name.
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    strings = [
        node.value
        for program in programs
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Constant)
    ]
    assert name in strings


def test_the_request_command_quotes_the_name(tmp_path):
    prepare = km.ImagePreprocess(8, 8, 1, invert=False)
    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    path = km.export(km.ProtoNet(network, preprocess=prepare), tmp_path / "my model")
    page = (path.parent / "README.md").read_text(encoding="utf-8")
    command = next(
        line.strip() for line in page.splitlines() if "keras-meta request" in line
    )
    assert shlex.split(command)[3] == "my model"


@pytest.mark.thorough
def test_axes_of_any_length_are_exported(tmp_path):
    inputs = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(features)
    model = km.ProtoNet(
        keras.Model(inputs, pooled), preprocess=km.ImagePreprocess(8, 6, 3)
    )
    path = km.export(model, tmp_path / "m")
    signatures = tf.saved_model.load(str(path)).signatures
    assert "serving_images" in signatures
    random = np.random.RandomState(0)
    x, query_x = random.normal(size=[2, 1, 3, 8, 6, 3]).astype("float32")
    labels = np.array([[0, 1, 1]], "int32")
    outputs = signatures["serving_default"](
        support_x=x, support_y=labels, query_x=query_x
    )
    expected = tf.nn.softmax(model.infer(model.adapt(x, labels), query_x))
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)
    tuned = km.finetune(model, x[0], labels[0])
    path = km.export(tuned, tmp_path / "tuned")
    outputs = tf.saved_model.load(str(path)).signatures["serving_default"](x=query_x[0])
    np.testing.assert_allclose(outputs["probabilities"], expected[0], atol=1e-5)


@pytest.mark.parametrize(
    "kind", [pytest.param(km.MAML, marks=pytest.mark.thorough), km.ProtoNet]
)
def test_a_fine_tuned_model_is_exported_with_a_temperature(tmp_path, kind):
    model = kind(km.networks.mlp((3,), 2, (2,)))
    model.temperature = 4.0
    random = np.random.RandomState(0)
    x, labels = random.normal(size=[4, 3]).astype("float32"), np.array([0, 1, 0, 1])
    tuned = km.finetune(model, x, labels)
    for temperature in (None, 4.0):
        path = km.export(tuned, tmp_path / "m", temperature=temperature)
        served = tf.saved_model.load(str(path)).signatures["serving_default"](x=x)
        logits = tuned.predict(x, verbose=0) / (temperature or 1)
        np.testing.assert_allclose(
            served["probabilities"], tf.nn.softmax(logits), atol=1e-6
        )
    state = model.adapt(x[None], labels[None])
    confidences = tf.nn.softmax(model.infer(state, x[None]))[0]
    np.testing.assert_allclose(served["probabilities"], confidences, atol=1e-5)


def test_a_temperature_without_an_effect_is_refused(tmp_path):
    with pytest.raises(ValueError, match="expected no temperature to export a Learner"):
        km.export(learner(), tmp_path / "m", temperature=2.0)
    regression = km.MAML(km.networks.mlp((3,), 1, (2,)), "mse")
    x = np.ones([4, 3], "float32")
    tuned = km.finetune(regression, x, x[:, :1])
    with pytest.raises(ValueError, match="expected no temperature for regression"):
        km.export(tuned, tmp_path / "m", temperature=2.0)
    assert not (tmp_path / "m").exists()


def test_a_version_written_meanwhile_keeps_the_files_beside(tmp_path):
    base = tmp_path / "m"

    def writes(text, meanwhile=None):
        def write(folder):
            for name in versions.BESIDE:
                (folder / name).write_text(text)
            if meanwhile:
                meanwhile()

        return write

    def third():
        versions.install(base, 3, writes("3"))

    versions.install(base, 2, writes("2", third))
    assert sorted(path.name for path in base.iterdir() if path.is_dir()) == ["2", "3"]
    assert (base / "README.md").read_text() == "3"


def test_the_name_of_the_working_folder_is_that_of_the_model(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    km.export(learner(), ".")
    page = pathlib.Path("README.md").read_text(encoding="utf-8")
    assert page.startswith("# mine\n")
