"""The page of an entry: its words and its pictures."""

import re

import matplotlib.figure
import numpy as np
import pytest

from keras_meta import zoo
from keras_meta.zoo import cards, pages, pictures, scores


def lines(figure):
    (axes,) = figure.axes
    return [line.get_xydata() for line in axes.lines]


@pytest.mark.thorough
def test_the_curve_of_adaptation_is_what_evaluation_finds(monkeypatch):
    monkeypatch.setattr(pictures, "STEPS", (0, 1))
    monkeypatch.setattr(pictures, "TASKS", 20)
    learner, card = zoo.load("maml.sinusoid"), zoo.card("maml.sinusoid")
    found = {file: figure for file, _, figure in pictures.pictured(learner, card)}
    assert list(found) == ["fit.png", "adaptation.png"]
    (drawn,) = lines(found["adaptation.png"])
    assert drawn[:, 0].tolist() == [0, 1, learner.evaluation_steps]
    score = scores.evaluate("maml.sinusoid", 20)
    assert drawn[-1, 1] == pytest.approx(score["mean"], rel=1e-5)
    assert drawn[0, 1] > drawn[1, 1] > drawn[2, 1]


def test_a_sequence_learner_errs_less_and_less(monkeypatch):
    monkeypatch.setattr(pictures, "TASKS", 20)
    learner, card = zoo.load("lstm.boolean"), zoo.card("lstm.boolean")
    ((file, title, figure),) = pictures.pictured(learner, card)
    assert file == "examples.png"
    (drawn,) = lines(figure)
    assert title.endswith("mean of 200 test tasks")
    assert drawn[:, 0].tolist() == list(range(1, card.shots + 1))
    # The first answer is a guess; after so many, hardly a point of four is unseen.
    assert drawn[0, 1] > 0.35 and drawn[-1, 1] < 0.1


@pytest.mark.parametrize("name", [card.name for card in cards.stored()])
def test_a_page_tells_what_its_card_does(name):
    card, learner = zoo.card(name), zoo.load(name)
    kept = (card.directory / "README.md").read_text(encoding="utf-8")
    titles = dict(re.findall(r"^!\[(.+)\]\((.+)\)$", kept, re.MULTILINE))
    files = [file.name for file in card.directory.glob("*.png")]
    assert files and sorted(titles.values()) == sorted(files)
    text = pages.page(learner, card, titles)
    assert kept == text, "run tools/make_results.py"
    for part in (card.paper, card.data, card.licence, card.sha256):
        assert part in text
    random = card.initial_weights == cards.RANDOM
    origin = "random weights" if random else f"`{card.initial_weights}`"
    assert f"- Initial weights: {origin}" in text
    table = (cards.MODELS.parent / "README.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{re.escape(name)}` .*\|$", table, re.MULTILINE)[0]
    assert f"| {origin} |" in row
    for figure in card.figures:
        assert scores.sentence(figure) in text
    shots = sorted({figure["shots"] for figure in card.grid})
    for figure in card.grid:
        start = re.escape(f"| {figure['ways']} | ")
        row = re.search(rf"^{start}(.* ± .*) \|$", text, re.MULTILINE)[1]
        cell = row.split(" | ")[shots.index(figure["shots"])]
        mean, interval = map(float, cell.split(" ± "))
        assert mean == pytest.approx(100 * figure["mean"], abs=0.06)
        assert interval == pytest.approx(100 * figure["interval"], abs=0.06)
    assert ("one query at a time" in text) == (card.normalization == "transductive")


@pytest.mark.thorough
def test_an_episode_is_drawn_as_its_drawings_were(monkeypatch):
    name = "maml.glyphs_5w1s-inductive"
    monkeypatch.setattr(pictures, "DRAWN_QUERIES", 2)
    _, _, figure = pictures._episode(zoo.load(name), zoo.card(name))
    assert isinstance(figure, matplotlib.figure.Figure)
    images = [image.get_array() for image in figure.axes[0].images]
    assert len(images) == 5 + 10
    # Ink is dark on white paper again.
    assert np.mean([image.mean() > 0.5 for image in images]) == 1
