"""Backends of Keras other than TensorFlow are rejected in one sentence."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Simulates an environment without other backends.
ABSENT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jax", "jaxlib", "torch", "openvino"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""
SENTENCE = (
    "keras_meta.backend.BackendError: expected the TensorFlow backend of Keras, got "
    "{}: set KERAS_BACKEND=tensorflow before Keras is imported."
)


def run_python(program, home, **environment):
    """Runs a program; returns its output and the last line of its errors or None."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith("KERAS_")}
    variables |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "KERAS_HOME": str(home)}
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=home,
        env=variables | environment,
    )
    errors = process.stderr.strip().splitlines()
    return process.stdout, errors[-1] if process.returncode else None


@pytest.mark.parametrize("backend", ["jax", "torch", "theano"])
def test_another_backend_in_the_environment_is_rejected(backend, tmp_path):
    program = ABSENT + (
        "try:\n    import keras_meta; keras_meta.MAML\n"
        "finally:\n    print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    stdout, error = run_python(program, tmp_path, KERAS_BACKEND=backend)
    assert error == SENTENCE.format(backend)
    assert stdout == "False False\n"  # neither is imported


def test_an_absent_backend_in_keras_json_is_rejected(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    _, error = run_python(ABSENT + "import keras_meta; keras_meta.MAML", tmp_path)
    assert error == SENTENCE.format("torch")


def test_keras_imported_with_another_backend_is_rejected(tmp_path):
    # The tests require no other backend, so a stub of Keras reports one.
    program = (
        "import sys, types\n"
        "keras = sys.modules['keras'] = types.ModuleType('keras')\n"
        "keras.config = types.SimpleNamespace(backend=lambda: 'torch')\n"
        "import keras_meta"
    )
    _, error = run_python(program, tmp_path, KERAS_BACKEND="tensorflow")
    assert error == SENTENCE.format("torch")


@pytest.mark.thorough
@pytest.mark.parametrize("args", ["evaluate maml.sinusoid", "demo"])
def test_the_command_reports_another_backend_in_one_sentence(args, tmp_path):
    program = (
        ABSENT + f"from keras_meta.zoo import cli; sys.exit(cli.main({args.split()}))"
    )
    _, error = run_python(program, tmp_path, KERAS_BACKEND="jax")
    assert error == SENTENCE.format("jax").replace(
        "keras_meta.backend.BackendError", "keras-meta: error"
    )


def test_the_zoo_reports_another_backend(tmp_path):
    program = ABSENT + "from keras_meta import zoo; zoo.load('maml.sinusoid')"
    _, error = run_python(program, tmp_path, KERAS_BACKEND="jax")
    assert error == SENTENCE.format("jax")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX")
def test_an_installed_jax_is_rejected(tmp_path):
    for program in (
        "from keras_meta import MAML",
        "import keras, keras_meta",
        "import keras_meta, keras",
        "import keras_meta.learners.maml",
    ):
        _, error = run_python(program, tmp_path, KERAS_BACKEND="jax")
        assert error == SENTENCE.format("jax")


@pytest.mark.thorough
def test_tensorflow_overrides_keras_json(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    program = "import keras_meta; print(keras_meta.MAML.__name__)"
    stdout, error = run_python(program, tmp_path, KERAS_BACKEND="tensorflow")
    assert (stdout, error) == ("MAML\n", None)
    # The backend at the import of Keras counts. Later settings have no effect.
    program = "import os, keras; os.environ['KERAS_BACKEND'] = 'jax'\n" + program
    stdout, error = run_python(program, tmp_path, KERAS_BACKEND="tensorflow")
    assert (stdout, error) == ("MAML\n", None)


def test_a_broken_keras_is_not_reported_as_a_backend(tmp_path):
    program = (
        "import sys; sys.modules['keras'] = None\n"  # not installed
        "import keras_meta; keras_meta.MAML"
    )
    _, error = run_python(program, tmp_path)
    assert "keras" in error and "backend" not in error
