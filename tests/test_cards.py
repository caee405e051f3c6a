"""Cards as records: one sentence for each file that is none of this schema."""

import dataclasses
import json

import pytest

from keras_meta import zoo
from keras_meta.zoo import cards, cli, published


@pytest.fixture
def path(tmp_path, monkeypatch):
    """The file of a card, in a zoo of its own."""
    monkeypatch.setattr(cards, "MODELS", tmp_path)
    fields = {field.name: "x" for field in dataclasses.fields(cards.Card)}
    card = cards.Card(**{**fields, "name": "one", "figures": [], "external": None})
    card.write()
    path = tmp_path / "one" / "card.json"
    assert json.loads(path.read_text())["schema"] == cards.SCHEMA == 2
    assert cards.Card.read(path) == cards.Card.read(str(path)) == card
    return path


def fields_of(path, **changes):
    fields = {**json.loads(path.read_text()), **changes}
    return json.dumps({name: v for name, v in fields.items() if v != "dropped"})


@pytest.mark.parametrize(
    ("changes", "sentence"),
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
def test_a_card_of_another_schema(path, changes, sentence, capsys):
    path.write_text(fields_of(path, **changes))
    with pytest.raises(ValueError, match=sentence):
        cards.Card.read(path)
    for words in (["list"], ["info", "one"]):
        assert cli.main(words) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and str(path) in err


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"\xff\xfe{}", None])
def test_a_damaged_card(path, content):
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match="one JSON object, in .* missing or damaged"):
        cards.Card.read(path)


def test_a_published_figure_hangs_on_fields():
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
    found = published.below(dataclasses.replace(renamed, figures=[low, high]))
    assert found == [(low, (98.7, 0.4))]


def test_what_entries_began_from():
    # As their commands had it when they were trained.
    began = {card.name: card.initial_weights for card in cards.stored()}
    assert began["maml.omniglot_5w1s"] == cards.RANDOM
    assert began["maml.omniglot_20w1s"] == "anil.omniglot_20w1s"
    assert began["mann.omniglot_5w-on_protonet"] == "protonet.omniglot_20w1s"
    for name, origin in began.items():
        assert origin == cards.RANDOM or origin in began, name
