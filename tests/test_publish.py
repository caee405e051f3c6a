"""What training writes into a card, and that no field is read out of a name."""

import csv
import json
import pathlib
import subprocess
import sys

import keras
import pytest

from keras_meta import zoo
from keras_meta.zoo import cards, recipes, training

ROOT = pathlib.Path(__file__).resolve().parents[1]
NAME = "cnp.gp_rbf"
# A process of its own: flags are the process', and this zoo is another folder.
PUBLISH = """
import json, pathlib, sys
from absl import flags
from keras_meta.zoo import cards
from tools import train
folder = pathlib.Path(sys.argv[1])
flags.FLAGS(["train", "--recipe=NAME", "--validation_tasks=50"])
for number, begun in enumerate(json.loads(sys.argv[2])):
    cards.MODELS = folder / str(number)
    (folder / "run.json").write_text(json.dumps(begun))
    train.publish("NAME", folder, seed=3)
""".replace("NAME", NAME)


def write_run(folder):
    """A run that is done."""
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


def test_a_card_says_what_the_run_began_from(tmp_path, monkeypatch):
    write_run(tmp_path)
    # The second is a run of before, and its recipe names no other entry.
    runs = [{"initial_weights": "cnp.other"}, {}]
    done = subprocess.run(
        [sys.executable, "-c", PUBLISH, str(tmp_path), json.dumps(runs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for number, origin in enumerate(("cnp.other", cards.RANDOM)):
        monkeypatch.setattr(cards, "MODELS", tmp_path / str(number))
        card = zoo.card(NAME)
        assert card.initial_weights == origin
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
    # Of the step whose weights were kept; less is better.
    figure = {"metric": "nll", "mean": 0.5, "interval": 0.1, "episodes": 50}
    assert card.validation == figure
    assert (card.kept, card.steps, card.hours, card.seed) == (10, 20, 2.0, 3)
    assert card.command == f"python tools/train.py --recipe={NAME}"


def test_a_run_goes_on_only_from_what_it_began_from(tmp_path):
    def go_on(**settings):
        settings = {"steps": 10, **settings}
        training.fit(Stop, lambda start=0: Stop(), None, tmp_path, settings, 1, 1, "x")

    (tmp_path / "run.json").write_text(json.dumps({"steps": 10, "tasks": 1}))
    with pytest.raises(Begun):  # of before it was recorded
        go_on(initial_weights="random")
    begun = {"steps": 10, "tasks": 1, "initial_weights": "random"}
    (tmp_path / "run.json").write_text(json.dumps(begun))
    with pytest.raises(Begun):
        go_on(initial_weights="random")
    with pytest.raises(ValueError, match="to hold a run of .*maml.other"):
        go_on(initial_weights="maml.other")


class Begun(Exception):
    """Training would begin here."""


class Stop:
    """Stands for episodes; no learner is made of them."""

    def __init__(self):
        raise Begun
