"""Tests of commands with the file of a saved learner instead of an entry."""

import json
import pathlib

import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cli, named
from tests import test_cli, test_scripts
from tests.test_cli import IMAGES, glyphs, here, models  # noqa: F401  fixtures

PREPROCESS = km.ImagePreprocess(28, 28, 1, invert=True)


def run_json(capsys, *arguments):
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def prototypical_network(outputs):
    network = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    return km.ProtoNet(network, outputs=outputs, preprocess=PREPROCESS)


@pytest.mark.thorough
def test_a_saved_file_works_like_an_entry(glyphs, capsys):  # noqa: F811
    task = test_cli.write_task("task", glyphs)
    zoo.load(IMAGES).save("mine.keras")
    entry_output, file_output = (
        run_json(capsys, "learn", str(task), "--model", name)["predictions"]
        for name in (IMAGES, "mine.keras")
    )
    assert entry_output == file_output

    test_scripts.write_classes("letters", glyphs)
    arguments = ["--data", "letters", "--episodes=4", "--shots=2", "--queries=3"]
    entry_output, file_output = (
        run_json(capsys, "evaluate", name, *arguments)
        for name in (IMAGES, "mine.keras")
    )
    assert (
        entry_output["tasks"] == file_output["tasks"]
        and file_output["model"] == "mine.keras"
    )

    assert cli.main(["export", "mine.keras", "served"]) == 0
    assert pathlib.Path("served/mine/1/saved_model.pb").is_file()
    request = ["request", "mine", "--local=served"]
    request += ["--support", str(task / "support"), "--query", str(task / "query")]
    served_rows = run_json(capsys, *request)["predictions"]
    served_probabilities, learned_probabilities = (
        [[value for key, value in row.items() if key.startswith("p_")] for row in rows]
        for rows in (
            served_rows,
            run_json(capsys, "learn", "task", "--model=mine.keras")["predictions"],
        )
    )
    np.testing.assert_allclose(served_probabilities, learned_probabilities, atol=1e-5)


@pytest.mark.thorough
def test_classes_are_bounded_by_the_outputs_of_a_learner(glyphs, capsys):  # noqa: F811
    prototypical_network(7).save("seven.keras")
    test_scripts.write_classes("letters", [glyphs[0]] * 6)
    arguments = ["evaluate", "seven.keras", "--data=letters", "--episodes=2"]
    assert run_json(capsys, *arguments)["ways"] == 5
    assert run_json(capsys, *arguments, "--ways=6")["ways"] == 6
    prototypical_network(3).save("three.keras")
    arguments[1] = "three.keras"
    assert run_json(capsys, *arguments)["ways"] == 3
    test_cli.assert_fails(capsys, "at most 3 classes for three", *arguments, "--ways=4")
    test_scripts.write_classes("new", [glyphs[0]])
    learn = ["learn", "new/class0", "--support=letters", "--model"]
    test_cli.assert_fails(capsys, "at most 3 classes", *learn, "three.keras")
    assert len(run_json(capsys, *learn, "seven.keras")["classes"]) == 6


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04broken"])
def test_invalid_model_files_are_rejected(content, tmp_path):
    path = tmp_path / "broken.keras"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="expected a model that Keras saved in"):
        named.learner(str(path))


def test_unsuitable_models_are_rejected(capsys):
    fails = test_cli.assert_fails
    fails(capsys, "expected a file, got none", "export", "no.keras", "served")
    keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]).save("plain.keras")
    fails(capsys, "expected a keras-meta learner", "export", "plain.keras", "served")
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    km.ProtoNet(network).save("flat.keras")
    pathlib.Path("letters").mkdir()
    arguments = ["evaluate", "flat.keras"]
    fails(capsys, "a file has no test classes", *arguments)
    fails(capsys, "a model of classes of images", *arguments, "--data=letters")
    pathlib.Path("p.csv").write_text("x,y\n0,1\n1,\n")
    fails(capsys, "a model of curves", "learn", "p.csv", "--model=flat.keras")
    assert not pathlib.Path("served").exists()


def test_a_file_with_a_lambda_layer_is_named(capsys):
    network = keras.Sequential(
        [keras.Input([4]), keras.layers.Dense(3), keras.layers.Lambda(lambda x: 2 * x)]
    )
    network.save("lambda.keras")
    test_cli.assert_fails(capsys, "has a Lambda layer", "check", "lambda.keras")


def test_models_with_other_losses_are_not_exported():
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    for loss, message in (
        (keras.losses.SparseCategoricalCrossentropy(), "from_logits=False"),
        ("sparse_categorical_crossentropy", "not compiled with a keras.losses.Loss"),
        (None, "not compiled with a keras.losses.Loss"),
    ):
        if loss is not None:
            network.compile("sgd", loss=loss)
        else:
            network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
        with pytest.raises(ValueError, match=message):
            km.export(network, "served")
    assert not pathlib.Path("served").exists()
