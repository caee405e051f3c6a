"""Another backend of Keras than TensorFlow is told in one sentence."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# As where no other backend is installed.
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


def python(program, home, **environment):
    """What a program printed, and the last line of its errors."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KERAS_")}
    kept |= {"PYTHONPATH": str(ROOT), "HOME": str(home), "KERAS_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=home,
        env=kept | environment,
    )
    said = done.stderr.strip().splitlines()
    return done.stdout, said[-1] if done.returncode else None


@pytest.mark.parametrize("backend", ["jax", "torch", "theano"])
def test_the_environment_names_another_backend(backend, tmp_path):
    program = ABSENT + (
        "try:\n    import keras_meta; keras_meta.MAML\n"
        "finally:\n    print('keras' in sys.modules, 'tensorflow' in sys.modules)"
    )
    said, error = python(program, tmp_path, KERAS_BACKEND=backend)
    assert error == SENTENCE.format(backend)
    assert said == "False False\n"  # at once


def test_the_settings_of_keras_name_a_backend_that_is_absent(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    _, error = python(ABSENT + "import keras_meta; keras_meta.MAML", tmp_path)
    assert error == SENTENCE.format("torch")


def test_the_backend_that_keras_has_been_imported_with(tmp_path):
    # No other backend is a requirement of the tests, so Keras is one that has one.
    program = (
        "import sys, types\n"
        "keras = sys.modules['keras'] = types.ModuleType('keras')\n"
        "keras.config = types.SimpleNamespace(backend=lambda: 'torch')\n"
        "import keras_meta"
    )
    _, error = python(program, tmp_path, KERAS_BACKEND="tensorflow")
    assert error == SENTENCE.format("torch")


@pytest.mark.thorough
@pytest.mark.parametrize("words", ["evaluate maml.sinusoid", "demo"])
def test_the_command_says_so_in_one_sentence(words, tmp_path):
    program = (
        ABSENT + f"from keras_meta.zoo import cli; sys.exit(cli.main({words.split()}))"
    )
    _, error = python(program, tmp_path, KERAS_BACKEND="jax")
    assert error == SENTENCE.format("jax").replace(
        "keras_meta.backend.BackendError", "keras-meta: error"
    )


def test_the_zoo_says_so(tmp_path):
    program = ABSENT + "from keras_meta import zoo; zoo.load('maml.sinusoid')"
    _, error = python(program, tmp_path, KERAS_BACKEND="jax")
    assert error == SENTENCE.format("jax")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX")
def test_jax_that_is_installed(tmp_path):
    for order in (
        "from keras_meta import MAML",
        "import keras, keras_meta",
        "import keras_meta, keras",
        "import keras_meta.learners.maml",
    ):
        _, error = python(order, tmp_path, KERAS_BACKEND="jax")
        assert error == SENTENCE.format("jax")


@pytest.mark.thorough
def test_tensorflow_is_expected(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    program = "import keras_meta; print(keras_meta.MAML.__name__)"
    said, error = python(program, tmp_path, KERAS_BACKEND="tensorflow")
    assert (said, error) == ("MAML\n", None)
    # What Keras has been imported with is what counts, and not what is set since.
    program = "import os, keras; os.environ['KERAS_BACKEND'] = 'jax'\n" + program
    said, error = python(program, tmp_path, KERAS_BACKEND="tensorflow")
    assert (said, error) == ("MAML\n", None)


def test_a_broken_keras_is_not_mistaken_for_a_backend(tmp_path):
    program = (
        "import sys; sys.modules['keras'] = None\n"  # not installed
        "import keras_meta; keras_meta.MAML"
    )
    _, error = python(program, tmp_path)
    assert "keras" in error and "backend" not in error
