"""Tests of publishing a run: the fields of a card, none of which depend on names."""

import csv
import dataclasses
import json

import keras
import pytest

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cards, publishing, recipes, scores, training

NAME = "cnp.gp_rbf"
OPTIONS = {"every": 10, "validation_tasks": 50, "pretraining_steps": 7}


def write_run(folder):
    """Writes the files of a finished run."""
    keras.utils.set_random_seed(0)
    learner = recipes.recipe(NAME).learner()
    learner.compile()
    learner.save(folder / "best.keras")
    rows = [
        {"step": 10, "seconds": 3600, "val_nll": 0.5, "val_nll_95": 0.1},
        {"step": 20, "seconds": 7200, "val_nll": 0.7, "val_nll_95": 0.2},
    ]
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def test_card_stores_the_facts_of_the_run(tmp_path, monkeypatch):
    write_run(tmp_path)
    # The second run is of an older version; its recipe names no other entry.
    runs = {"cnp.other": {"initial_weights": "cnp.other"}, cards.RANDOM: {}}
    for number, (origin, record) in enumerate(runs.items()):
        monkeypatch.setattr(cards, "MODELS", tmp_path / str(number))
        (tmp_path / "run.json").write_text(json.dumps(record))
        publishing.publish(NAME, tmp_path, 3, None, OPTIONS)
        card = zoo.card(NAME)
        assert card.initial_weights == origin
        log = (tmp_path / "log.csv").read_text()
        assert card.logs["training"].read_text() == log and log.count("\n") == 3
    assert (card.learner, card.source, card.family, card.procedural) == (
        "CNP",
        "gp_rbf",
        "Gaussian processes",
        False,
    )
    assert card.any_units and zoo.load(NAME).point_units.get_config() == {
        "end": 2.0,
        "known": 1.6,
    }
    # The figure of the step with the lowest score, whose weights are stored.
    figure = {"metric": "nll", "mean": 0.5, "interval": 0.1, "episodes": 50}
    assert card.validation == figure
    assert (card.kept, card.steps, card.hours, card.seed) == (10, 20, 2.0, 3)
    assert card.command == (
        f"keras-meta train {NAME} --seed 3 --steps 20 --pretraining-steps 7 --every 10 "
        "--validation-tasks 50"
    )


def test_a_run_resumes_only_with_its_initial_weights(tmp_path):
    def resume(**settings):
        settings = {"steps": 10, **settings}
        training.fit(load, tmp_path, settings, tasks=1, every=1, metric="x")

    def load():
        raise TrainingStarted

    (tmp_path / "run.json").write_text(json.dumps({"steps": 10, "tasks": 1}))
    with pytest.raises(TrainingStarted):  # record without initial weights
        resume(initial_weights="random")
    record = {"steps": 10, "tasks": 1, "initial_weights": "random"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    with pytest.raises(TrainingStarted):
        resume(initial_weights="random")
    with pytest.raises(ValueError, match="initial_weights.*maml.other"):
        resume(initial_weights="maml.other")


def test_publishing_multiplies_the_temperature_of_classifiers(monkeypatch):
    monkeypatch.setattr(scores, "temperature", lambda learner, recipe: 1.5)
    classifier = km.ProtoNet(km.networks.mlp((2,), 2), temperature=2.0)
    strings = km.LSTMLearner(example_shape=[2], labels="strings", units=4)
    curves = recipes.recipe(NAME).learner()
    for learner, expected in ((classifier, 3.0), (strings, 1.0), (curves, 1.0)):
        publishing.calibrate(learner, recipes.recipe(NAME))
        assert learner.temperature == expected


def test_the_logs_of_all_stages_are_stored(tmp_path, monkeypatch):
    recipe = recipes.recipe(NAME)
    recipe = dataclasses.replace(recipe, pretraining=recipe)
    monkeypatch.setattr(recipes, "recipe", lambda name: recipe)
    monkeypatch.setattr(cards, "MODELS", tmp_path / "models")
    run = tmp_path / "run"
    for folder in (run, run / "pretraining"):
        folder.mkdir()
        write_run(folder)
        (folder / "run.json").write_text("{}")
    with (run / "pretraining" / "log.csv").open("a") as file:
        file.write("30,10800,0.9,0.1\n")
    publishing.publish(NAME, run, 3, None, OPTIONS)
    logs = {"training": run, "pretraining": run / "pretraining"}
    stored = {stage: path.read_text() for stage, path in zoo.card(NAME).logs.items()}
    assert stored == {
        stage: (path / "log.csv").read_text() for stage, path in logs.items()
    }
    assert zoo.card(NAME).hours == 5.0


class TrainingStarted(Exception):
    """Raised where training starts."""
