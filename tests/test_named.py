"""Commands on a learner that a user saved, beside those on entries."""

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


def answered(capsys, *words):
    capsys.readouterr()
    assert cli.main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def prototypes(outputs):
    network = keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()])
    return km.ProtoNet(network, outputs=outputs, preprocess=PREPROCESS)


@pytest.mark.thorough
def test_a_file_is_used_as_an_entry_is(glyphs, capsys):  # noqa: F811
    task = test_cli.write_task("task", glyphs)
    zoo.load(IMAGES).save("mine.keras")
    of_entry, of_file = (
        answered(capsys, "learn", str(task), "--model", name)["predictions"]
        for name in (IMAGES, "mine.keras")
    )
    assert of_entry == of_file

    test_scripts.write_classes("letters", glyphs)
    words = ["--data", "letters", "--episodes=4", "--shots=2", "--queries=3"]
    of_entry, of_file = (
        answered(capsys, "evaluate", name, *words) for name in (IMAGES, "mine.keras")
    )
    assert of_entry["tasks"] == of_file["tasks"] and of_file["model"] == "mine.keras"

    assert cli.main(["export", "mine.keras", "served"]) == 0
    assert pathlib.Path("served/mine/1/saved_model.pb").is_file()
    local = ["request", "mine", "--local=served"]
    local += ["--support", str(task / "support"), "--query", str(task / "query")]
    found = answered(capsys, *local)["predictions"]
    served, learned = (
        [[value for key, value in row.items() if key.startswith("p_")] for row in rows]
        for rows in (
            found,
            answered(capsys, "learn", "task", "--model=mine.keras")["predictions"],
        )
    )
    np.testing.assert_allclose(served, learned, atol=1e-5)


def test_classes_are_bounded_by_the_outputs_of_a_learner(glyphs, capsys):  # noqa: F811
    prototypes(7).save("seven.keras")
    test_scripts.write_classes("letters", [glyphs[0]] * 6)
    words = ["evaluate", "seven.keras", "--data=letters", "--episodes=2"]
    assert answered(capsys, *words)["ways"] == 5
    assert answered(capsys, *words, "--ways=6")["ways"] == 6
    prototypes(3).save("three.keras")
    words[1] = "three.keras"
    assert answered(capsys, *words)["ways"] == 3
    test_cli.assert_fails(capsys, "at most 3 classes for three", *words, "--ways=4")
    learn = ["learn", "letters/class0", "--support=letters", "--model"]
    test_cli.assert_fails(capsys, "at most 3 classes", *learn, "three.keras")
    assert len(answered(capsys, *learn, "seven.keras")["classes"]) == 6


@pytest.mark.parametrize("text", [b"", b"no model", b"PK\x03\x04broken"])
def test_a_file_that_is_no_model(text, tmp_path):
    path = tmp_path / "broken.keras"
    path.write_bytes(text)
    with pytest.raises(ValueError, match="expected a model that Keras saved in"):
        named.learner(str(path))


def test_files_that_are_refused(capsys):
    fails = test_cli.assert_fails
    fails(capsys, "expected a file, got none", "export", "no.keras", "served")
    keras.Sequential([keras.Input([2]), keras.layers.Dense(1)]).save("plain.keras")
    fails(capsys, "expected a keras-meta learner", "export", "plain.keras", "served")
    network = keras.Sequential([keras.Input([4]), keras.layers.Dense(3)])
    km.ProtoNet(network).save("flat.keras")
    pathlib.Path("letters").mkdir()
    words = ["evaluate", "flat.keras"]
    fails(capsys, "a file has no test classes", *words)
    fails(capsys, "a model of classes of images", *words, "--data=letters")
    pathlib.Path("p.csv").write_text("x,y\n0,1\n1,\n")
    fails(capsys, "a model of curves", "learn", "p.csv", "--model=flat.keras")
    assert not pathlib.Path("served").exists()
