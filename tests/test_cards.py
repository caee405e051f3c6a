"""Tests of cards: files of another schema are rejected in one sentence."""

import dataclasses
import json

import pytest

from keras_meta import zoo
from keras_meta.zoo import cards, cli, facts, published, scores


@pytest.fixture
def path(tmp_path, monkeypatch):
    """Returns the path of a card in a temporary zoo."""
    monkeypatch.setattr(cards, "MODELS", tmp_path / "models")
    fields = {field.name: "x" for field in dataclasses.fields(cards.Card)}
    card = cards.Card(**{**fields, "name": "one", "figures": [], "external": None})
    card.write()
    path = cards.MODELS / "one" / "card.json"
    assert json.loads(path.read_text())["schema"] == cards.SCHEMA == 2
    assert cards.Card.read(path) == cards.Card.read(str(path)) == card
    return path


def fields_of(path, **changes):
    fields = {**json.loads(path.read_text()), **changes}
    return json.dumps({name: v for name, v in fields.items() if v != "dropped"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 3}, "schema 2 in .*, got schema 3: update keras-meta"),
        ({"schema": 0}, "schema 2 in .*, got schema 0: publish the entry again"),
        ({"schema": "dropped"}, "schema 2 in .*, got schema 0: publish"),
        ({"schema": "one"}, "got schema one: publish"),
        ({"learner": "dropped", "paper": "dropped"}, "got no learner, paper"),
        ({"figures": "dropped"}, "got no figures"),
        ({"grid": "dropped"}, "got no grid"),
        ({"colour": "blue"}, "got also colour"),
    ],
    ids=str,
)
def test_a_card_of_another_schema_is_rejected(path, changes, message, capsys):
    path.write_text(fields_of(path, **changes))
    with pytest.raises(ValueError, match=message):
        cards.Card.read(path)
    for arguments in (["list"], ["info", "one"]):
        assert cli.main(arguments) == 2
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == 1 and str(path) in stderr


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe{}", None])
def test_a_damaged_card_is_rejected(path, content):
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match="one JSON object, in .* missing or damaged"):
        cards.Card.read(path)


def test_a_published_figure_depends_on_fields_of_the_card():
    card = zoo.card("maml.omniglot_5w1s")
    renamed = dataclasses.replace(card, name="anything")
    assert published.figure(renamed, 1) == published.figure(card, 1) == (98.7, 0.4)
    assert published.sentence((98.7, 0.4)) == "98.7 ± 0.4"
    assert published.sentence((98.8, None)) == "98.8"
    assert published.figure(renamed, 2) is None and published.sentence(None) == ""
    assert published.figure(dataclasses.replace(card, learner="ANIL"), 1) is None
    for network, figure in (("conv4", (58.9, 1.9)), ("resnet12", None)):
        photos = dataclasses.replace(card, source="cifar_fs", network=network)
        assert published.figure(photos, 1) == figure
    low = {"shots": 1, "normalization": card.normalization, "mean": 0.9869}
    high = {**low, "mean": 0.9871}
    below = published.below(dataclasses.replace(renamed, figures=[low, high]))
    assert below == [(low, (98.7, 0.4))]


def test_initial_weights_of_entries():
    # The initial weights in the training commands of the entries.
    origins = {card.name: card.initial_weights for card in cards.stored()}
    assert origins["maml.omniglot_5w1s"] == cards.RANDOM
    assert origins["maml.omniglot_20w1s"] == "anil.omniglot_20w1s"
    assert origins["mann.omniglot_5w-on_protonet"] == "protonet.omniglot_20w1s"
    for name, origin in origins.items():
        assert origin == cards.RANDOM or origin in origins, name


def test_costs_are_those_of_the_present_weights(path):
    csv = "model,ms,sha256\none,{},{}\nanother,7,x\n"
    for sha256, expected in (("x", {"one": {"ms": "5"}}), ("y", {})):
        (path.parents[1].parent / "adaptation.csv").write_text(csv.format(5, sha256))
        assert cards.costs() == expected
    (cards.MODELS.parent / "adaptation.csv").unlink()
    assert cards.costs() == {}


def test_info_states_each_figure_of_an_entry():
    for card in zoo.list_models():
        described = facts.described(card)
        for figure in card.figures:
            lake = figure.get("protocol") == "lake"
            assert scores.sentence(figure) in [
                value for key, value in described.items() if ("Lake's" in key) == lake
            ]
        keys = [key for key in described if key.endswith(" tasks")]
        assert len(keys) == len(card.figures), card.name
