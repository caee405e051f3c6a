"""Versions of exports: numbers, failures that change nothing, names in the page."""

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


def learner(shift=0.0):
    made = km.ProtoNet(km.networks.mlp((3,), 2, (2,)))
    for variable in made.variables:
        if variable.dtype == "float32":
            variable.assign(tf.zeros_like(variable) + shift)
    return made


def held(base):
    """Everything below a folder, `{path: bytes}`; directories too."""
    return {
        path.relative_to(base): path.read_bytes() if path.is_file() else None
        for path in base.rglob("*")
    }


@pytest.mark.parametrize("version", [2.0, True, "2", 0, -1, np.float32(2), np.True_])
def test_a_version_is_an_integer(tmp_path, version):
    with pytest.raises(ValueError) as caught:
        km.export(learner(), tmp_path / "m", version=version)
    got = version if type(version) is int else repr(version)
    assert str(caught.value) == f"expected version to be an integer >= 1, got {got}."
    assert not (tmp_path / "m").exists()


def test_numpy_integers_are_versions(tmp_path):
    assert km.export(learner(), tmp_path / "m", version=np.int64(3)).name == "3"
    page = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert 'tf.saved_model.load("3")' in page


def test_what_stands_beside_is_of_the_newest_version(tmp_path):
    base = tmp_path / "m"

    def beside():
        return keras.models.load_model(base / "model.keras").variables[0].numpy()[0, 0]

    km.export(learner(1), base, version=2)
    km.export(learner(2), base, version=1)
    assert beside() == 1
    assert sorted(p.name for p in base.iterdir()) == [
        "1",
        "2",
        "README.md",
        "model.keras",
    ]
    km.export(learner(3), base)
    assert beside() == 3


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_tensorflow(*args, **kwargs):
    raise tf.errors.ResourceExhaustedError(
        None, None, "{{function_node x}} /a/b; No space left on device [Op:SaveV2]"
    )


def after(count, function, fail=full):
    """A function that works so many times and fails once."""
    calls = []

    def called(*args, **kwargs):
        calls.append(args)
        return fail() if len(calls) == count + 1 else function(*args, **kwargs)

    return called


FAILURES = {
    "graph": lambda: (tf.saved_model, "save", full),
    "graph of TensorFlow": lambda: (tf.saved_model, "save", full_tensorflow),
    "weights": lambda: (keras.Model, "save", full),
    "page": lambda: (pathlib.Path, "write_text", full),
    "backup": lambda: (km.versions.shutil, "copy2", full),
    "version": lambda: (os, "rename", after(2, os.rename)),
    "first beside": lambda: (os, "replace", after(0, os.replace)),
    "second beside": lambda: (os, "replace", after(1, os.replace)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", FAILURES)
def test_a_full_disk_changes_nothing(tmp_path, monkeypatch, name):
    owner, attribute, replacement = FAILURES[name]()
    base = tmp_path / "m"
    km.export(learner(1), base)
    before = held(base)
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, replacement)
        with pytest.raises(OSError) as caught:
            km.export(learner(2), base)
    assert str(caught.value) == (
        f"cannot write {base / '2'}: No space left on device; what was in {base} is as "
        "before."
    )
    assert held(base) == before
    assert km.export(learner(2), base).name == "2"


@pytest.mark.parametrize("name", ["graph", "first beside", "second beside"])
def test_a_first_version_that_fails_leaves_nothing(tmp_path, monkeypatch, name):
    owner, attribute, replacement = FAILURES[name]()
    with monkeypatch.context() as patch:
        patch.setattr(owner, attribute, replacement)
        with pytest.raises(OSError, match="No space left"):
            km.export(learner(), tmp_path / "m")
    assert held(tmp_path) == {}


@pytest.mark.parametrize("name", ["plain", "my model", "it's", 'a "b" $HOME', "ü"])
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
    # The programs are Python, and have the name itself.
    programs = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    strings = [
        node.value
        for program in programs
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Constant)
    ]
    assert name in strings


def test_the_query_command_has_the_name_in_quotes(tmp_path):
    prepare = km.ImagePreprocess(8, 8, 1, invert=False)
    inputs = keras.Input((8, 8, 1))
    network = keras.Model(inputs, keras.layers.Flatten()(inputs))
    path = km.export(km.ProtoNet(network, preprocess=prepare), tmp_path / "my model")
    page = (path.parent / "README.md").read_text(encoding="utf-8")
    command = next(
        line.strip() for line in page.splitlines() if "keras-meta request" in line
    )
    assert shlex.split(command)[3] == "my model"
