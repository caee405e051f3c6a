"""Tests of the text and the figures of an entry's page."""

import re

import matplotlib.figure
import numpy as np
import pytest

from keras_meta import zoo
from keras_meta.zoo import cards, pages, pictures, scores
from tests import test_units


def lines(figure):
    (axes,) = figure.axes
    return [line.get_xydata() for line in axes.lines]


@pytest.mark.thorough
def test_adaptation_curve_matches_evaluate(monkeypatch):
    monkeypatch.setattr(pictures, "STEPS", (0, 1))
    monkeypatch.setattr(pictures, "TASKS", 20)
    learner, card = zoo.load("maml.sinusoid"), zoo.card("maml.sinusoid")
    figures = {file: figure for file, _, figure in pictures.pictured(learner, card)}
    assert list(figures) == ["fit.png", "adaptation.png"]
    (points,) = lines(figures["adaptation.png"])
    assert points[:, 0].tolist() == [0, 1, learner.evaluation_steps]
    score = scores.evaluate("maml.sinusoid", 20)
    assert points[-1, 1] == pytest.approx(score["mean"], rel=1e-5)
    assert points[0, 1] > points[1, 1] > points[2, 1]


def test_error_of_a_sequence_learner_decreases(monkeypatch):
    monkeypatch.setattr(pictures, "TASKS", 20)
    learner, card = zoo.load("lstm.boolean"), zoo.card("lstm.boolean")
    ((file, title, figure),) = pictures.pictured(learner, card)
    assert file == "examples.png"
    (points,) = lines(figure)
    assert title.endswith("mean of 200 test tasks")
    assert points[:, 0].tolist() == list(range(1, card.shots + 1))
    # The first prediction is a guess; at the end, few of the four points are unseen.
    assert points[0, 1] > 0.35 and points[-1, 1] < 0.1


@pytest.mark.parametrize("name", [card.name for card in cards.stored()])
def test_page_contains_the_facts_of_the_card(name):
    card, learner = zoo.card(name), zoo.load(name)
    stored_page = (card.directory / "README.md").read_text(encoding="utf-8")
    titles = dict(re.findall(r"^!\[(.+)\]\((.+)\)$", stored_page, re.MULTILINE))
    files = [file.name for file in card.directory.glob("*.png")]
    assert files and sorted(titles.values()) == sorted(files)
    text = pages.page(learner, card, titles)
    assert stored_page == text, "run tools/make_results.py"
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
    units = learner.point_units is not None
    assert card.any_units == units == (name in test_units.SCALED)


def test_numbers_of_data_sets_in_the_tables():
    text = (cards.MODELS.parent / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    lake = re.findall(r"^\| `(.*?)` \| (\d+) \(above\) \|", text, re.MULTILINE)
    assert len(lake) == 8
    for name, number in lake:
        assert listed[number] == zoo.card(name).data


@pytest.mark.thorough
def test_figure_of_an_episode_shows_dark_ink(monkeypatch):
    name = "maml.glyphs_5w1s-inductive"
    monkeypatch.setattr(pictures, "DRAWN_QUERIES", 2)
    _, _, figure = pictures._episode(zoo.load(name), zoo.card(name))
    assert isinstance(figure, matplotlib.figure.Figure)
    images = [image.get_array() for image in figure.axes[0].images]
    assert len(images) == 5 + 10
    # The figure shows dark ink on white paper, unlike the inputs of the network.
    assert np.mean([image.mean() > 0.5 for image in images]) == 1
