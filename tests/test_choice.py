"""Which entry `keras-meta learn` takes by itself, and the grids that it compares."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cards, choice, grids, intervals


def entry(name, ways, shots, figures=None, normalization="inductive", **fields):
    """A card that says what the choice of a model reads.

    Other figures mislead: what is the worst on the grid is the best in tests.

    Args:
        figures: `{(ways, shots): mean}` of its grid.
    """
    blank = {field.name: None for field in dataclasses.fields(cards.Card)}
    grid = [
        {"ways": n, "shots": k, "mean": mean, "interval": 0.00123}
        for (n, k), mean in (figures or {}).items()
    ]
    wrong = 1 - grid[0]["mean"] if grid else 1.0
    return cards.Card(
        **blank
        | {"name": name, "ways": ways, "shots": shots, "normalization": normalization}
        | {"inputs": "images" if ways else "curves", "procedural": False, "grid": grid}
        | {"family": "ink", "photographs": False}
        | {"validation": {"metric": "accuracy", "mean": wrong}}
        | {"figures": [{"metric": "accuracy", "mean": wrong}]}
        | fields
    )


def row(ways, *means):
    return {(ways, k): mean for k, mean in zip(grids.SHOTS, means, strict=True)}


FOUND = [
    entry("curves", None, 10),
    entry("procedural", 20, 1, dict.fromkeys(itertools.product(grids.WAYS, [1]), 0.99)),
    entry("few", 5, 1, row(2, *[0.97] * 5) | row(5, 0.95, 0.9, 0.9, 0.9, 0.9)),
    entry("more", 5, 10, row(2, *[0.96] * 5) | row(5, 0.5, 0.6, 0.7, 0.9567, 0.98)),
    entry("many", 10, 1, row(5, 0.94, 0.94, 0.97, 0.94, 0.94) | row(10, *[0.8] * 5)),
    entry("transductive", 20, 1, row(20, *[0.98] * 5), "transductive"),
    entry("strings", 15, 10, row(5, *[1.0] * 5), inputs="images with string labels"),
    entry("unscored", 10, 1),
]
FOUND[1] = dataclasses.replace(FOUND[1], procedural=True)


@pytest.mark.parametrize(
    ("ways", "shots", "name", "cell"),
    [
        (2, 1, "few", "2 ways, 1 shot (97.0% ± 0.1%)"),
        # The next ways of the grid.
        (3, 1, "few", "5 ways, 1 shot (95.0% ± 0.1%)"),
        (5, 2, "many", "5 ways, 2 shots (94.0% ± 0.1%)"),
        # The nearest shots by ratio: on either side of the root of 2 x 5, of 5 x 10.
        (5, 3.16, "many", "5 ways, 2 shots (94.0% ± 0.1%)"),
        (5, 3.17, "many", "5 ways, 5 shots (97.0% ± 0.1%)"),
        (5, 7.07, "many", "5 ways, 5 shots (97.0% ± 0.1%)"),
        (5, 7.08, "more", "5 ways, 10 shots (95.7% ± 0.1%)"),
        (5, 400, "more", "5 ways, 15 shots (98.0% ± 0.1%)"),
        (6, 400, "many", "10 ways, 15 shots (80.0% ± 0.1%)"),
        # One of procedural images, if no other knows as many ways.
        (11, 5, "procedural", "20 ways, 1 shot (99.0% ± 0.1%)"),
    ],
)
def test_the_best_on_validation_tasks_is_taken(ways, shots, name, cell, monkeypatch):
    monkeypatch.setattr(zoo, "list_models", lambda: FOUND)
    card, reason = choice.for_images(ways, shots)
    assert card.name == name
    got = f"{ways} classes of {shots:.3g} image{'s' * (shots != 1)}"
    data = "validation tasks from ink"
    assert reason == f"{name}: best on {data} of {cell}, the nearest to {got}"


def test_photographs_have_entries_of_their_own(monkeypatch):
    photos = [
        entry("photos", 5, 1, row(2, *[0.6] * 5) | row(5, *[0.5] * 5)),
        entry("larger", 10, 1, row(5, *[0.4] * 5) | row(10, *[0.3] * 5)),
    ]
    photos = [dataclasses.replace(card, photographs=True) for card in photos]
    monkeypatch.setattr(zoo, "list_models", lambda: FOUND + photos)
    assert choice.for_images(5, 1, photographs=True)[0].name == "photos"
    assert choice.for_images(6, 1, photographs=True)[0].name == "larger"
    assert choice.for_images(5, 1)[0].name == "few"
    # Without a model of photographs with as many ways: a prototypical network of
    # photographs, which accepts more, then one of drawings.
    assert choice.for_images(11, 5, photographs=True)[0].name == "procedural"
    more = [dataclasses.replace(card, learner="ProtoNet") for card in photos]
    monkeypatch.setattr(zoo, "list_models", lambda: FOUND + more)
    card, reason = choice.for_images(30, 5, photographs=True)
    assert card.name == "larger"
    assert reason == "larger: no model has a validation figure for 30 ways"
    monkeypatch.setattr(zoo, "list_models", lambda: FOUND)
    assert choice.for_images(5, 1, photographs=True)[0].name == "few"


def test_no_entry_was_validated_on_so_many_ways(monkeypatch):
    monkeypatch.setattr(zoo, "list_models", lambda: FOUND)
    with pytest.raises(ValueError, match="at most 20 classes, got 21: no entry was"):
        choice.for_images(21, 1)


def test_entries_without_a_grid_or_that_err_as_little(monkeypatch):
    found = [entry("1", 5, 1), entry("10", 5, 10), entry("20w10s", 20, 10)]
    monkeypatch.setattr(zoo, "list_models", lambda: found)
    card, reason = choice.for_images(4, 7)
    assert (card.name, reason) == (
        "10",
        "10: no model has a validation figure for 4 ways",
    )
    assert choice.for_images(6, 1)[0].name == "20w10s"
    found += [entry("one", 20, 1, row(20, *[1.0] * 5)), entry("few", 20, 5)]
    assert choice.for_images(4, 7)[0].name == "one"
    found += [entry("five", 20, 5, row(20, *[1.0] * 5))]
    assert choice.for_images(4, 7)[0].name == "five"
    assert choice.for_images(4, 1)[0].name == "one"


def test_choice_of_a_model_for_curves(monkeypatch):
    def curves(name, mean, any_units=True, metric="nll"):
        figure = {"metric": metric, "mean": mean}
        return entry(name, None, 9, any_units=any_units, validation=figure)

    found = [
        entry("images", 5, 1),
        curves("one range", -9.0, any_units=False),
        curves("worse", 0.3),
        curves("best", -0.2),
        entry("unvalidated", None, 9, any_units=True, validation=None),
    ]
    monkeypatch.setattr(zoo, "list_models", lambda: found)
    assert choice.for_curves().name == "best"
    del found[2:]
    assert choice.for_curves().name == "one range"
    del found[1:]
    with pytest.raises(ValueError, match="the zoo has none"):
        choice.for_curves()


# The zoo's own


CARDS = choice.candidates()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_grid_of_a_card(card):
    cells = {(figure["ways"], figure["shots"]) for figure in card.grid}
    ways = [ways for ways in grids.WAYS if ways <= card.ways]
    assert cells == set(itertools.product(ways, grids.SHOTS))
    assert len(cells) == len(card.grid)
    for figure in card.grid:
        assert figure["episodes"] >= 100 and figure["seed"] == 0
        assert figure["normalization"] == "inductive"
        assert 0.5 < figure["mean"] <= 1 and figure["interval"] < 0.03


def test_no_other_default_is_better_on_its_validation_tasks():
    for ways, shots in itertools.product(grids.WAYS, grids.SHOTS):
        found = {
            card.name: figure["mean"]
            for card in CARDS
            for figure in card.grid
            if (figure["ways"], figure["shots"]) == (ways, shots)
            and not card.procedural
        }
        card, _ = choice.for_images(ways, shots)
        assert found[card.name] == max(found.values())


def test_the_first_of_each_class():
    y = np.array([2, 0, 0, 1, 2, 2, 1, 0, 1], "int32")
    x = np.arange(9.0)[:, None]
    episode = {"support_x": x, "support_y": y, "query_x": x + 100}
    for shots, places in (
        (1, [0, 1, 3]),
        (2, [0, 1, 2, 3, 4, 6]),
        (3, range(9)),
    ):
        found = grids.first(episode, 3, shots)
        np.testing.assert_array_equal(found["support_x"], x[list(places)])
        np.testing.assert_array_equal(found["support_y"], y[list(places)])
        np.testing.assert_array_equal(found["query_x"], x + 100)


class Counts:
    """Knows nothing; keeps the tasks that it is given."""

    classification, label_shape, normalization = True, (), "inductive"

    def __init__(self):
        self.tasks = []

    def adapt(self, support_x, support_y):
        self.tasks.append([support_x.numpy(), support_y.numpy()])

    def infer(self, state, query_x):
        self.tasks[-1].append(query_x.numpy())
        return tf.zeros([*query_x.shape[:2], 3])


def test_tasks_of_more_shots_have_the_same_queries():
    numbers = np.arange(6 * 12, dtype="float32")[:, None]
    pool = km.ClassPool.from_arrays(numbers, np.repeat(range(6), 12))
    assert grids.cells(5, pool) == list(itertools.product([2, 5], [1, 2, 5]))
    assert grids.cells(20, pool.select([0, 1, 2])) == [(2, 1), (2, 2), (2, 5)]
    learner, found = Counts(), {}
    for shots in (1, 2, 5):
        scored = grids.score(learner, "none", pool, 3, shots, tasks=4)
        assert (scored["ways"], scored["shots"], scored["queries"]) == (3, shots, 5)
        assert (scored["episodes"], scored["seed"]) == (4, 0)
        assert scored["mean"] == pytest.approx(1 / 3)  # the first class, always
        found[shots] = learner.tasks.pop()
    for few, more in ((1, 2), (2, 5)):
        (x, y, asked), (more_x, more_y, more_asked) = found[few], found[more]
        assert x.shape == (4, 3 * few, 1) and asked.shape == (4, 15, 1)
        np.testing.assert_array_equal(asked, more_asked)
        for task in range(4):
            pairs = set(zip(x[task, :, 0], y[task], strict=True))
            more_pairs = set(zip(more_x[task, :, 0], more_y[task], strict=True))
            assert pairs < more_pairs
            assert not {x for x, _ in more_pairs} & set(asked[task].ravel())
    # Classes as of no test or training task of this seed, though the pool were theirs.
    other = pool.episodes(3, 5, 5, 0).batch(4)
    assert (next(iter(other))[0]["query_x"].numpy() != asked).any()


def more_is_no_worse(ways, load, tasks):
    """The default on tasks of more shots errs no more than that on those of fewer.

    Args:
        load: `name -> (learner, pool)`; one pool for all defaults.

    Returns:
        The names of the defaults.
    """
    names = [choice.for_images(ways, shots)[0].name for shots in grids.SHOTS]
    loaded = {name: load(name) for name in set(names)}
    found = [
        grids.score(loaded[name][0], name, loaded[name][1], ways, shots, tasks)
        for name, shots in zip(names, grids.SHOTS, strict=True)
    ]
    for fewer, more in itertools.pairwise(found):
        change = intervals.difference(more["tasks"], fewer["tasks"])
        mean, interval = intervals.summary(change)
        assert mean + interval >= 0, (fewer["model"], more["model"], more["shots"])
    return names


@pytest.mark.thorough
def test_more_examples_are_no_worse_on_drawn_glyphs(monkeypatch):
    found = [card for card in CARDS if card.procedural]
    monkeypatch.setattr(zoo, "list_models", lambda: found)
    learners = {}
    monkeypatch.setattr(cards, "list_models", lambda: found)

    def load(name):
        learner = learners.setdefault(name, zoo.load(name))
        # Characters that no entry has seen, as its validation classes.
        return learner, km.tasks.glyphs(range(1300, 1330), prepare=learner.preprocess)

    more_is_no_worse(5, load, tasks=40)


@pytest.mark.slow
@pytest.mark.parametrize("ways", grids.WAYS)
def test_more_examples_are_no_worse_on_validation_classes(ways):
    names = more_is_no_worse(ways, grids.load, tasks=200)
    # Else their tasks would be of different classes, and could not be paired.
    assert len({zoo.card(name).source for name in names}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_grid_is_that_of_the_weights(card):
    learner, pool = grids.load(card.name)
    kept = [each for each in card.grid if (each["ways"], each["shots"]) == (5, 2)]
    found = grids.score(learner, card.name, pool, 5, 2, kept[0]["episodes"])
    # One query of all may fall on the other side where a processor adds otherwise.
    assert found["mean"] == pytest.approx(kept[0]["mean"], abs=1e-4)
