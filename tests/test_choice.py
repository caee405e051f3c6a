"""Tests of the default entry of `keras-meta learn` and of the grids it compares."""

import dataclasses
import itertools

import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cards, choice, grids, intervals


def entry(name, ways, shots, figures=None, normalization="inductive", **fields):
    """Returns a card with the fields that the choice of a model reads.

    Its other figures are misleading: the worst on the grid is the best in tests.

    Args:
        figures: `{(ways, shots): mean}` of the grid.
    """
    blank = {field.name: None for field in dataclasses.fields(cards.Card)}
    grid = [
        {"ways": n, "shots": k, "mean": mean, "interval": 0.00123}
        for (n, k), mean in (figures or {}).items()
    ]
    misleading = 1 - grid[0]["mean"] if grid else 1.0
    return cards.Card(
        **blank
        | {"name": name, "ways": ways, "shots": shots, "normalization": normalization}
        | {"inputs": "images" if ways else "curves", "procedural": False, "grid": grid}
        | {"family": "ink", "photographs": False}
        | {"validation": {"metric": "accuracy", "mean": misleading}}
        | {"figures": [{"metric": "accuracy", "mean": misleading}]}
        | fields
    )


def row(ways, *means):
    return {(ways, k): mean for k, mean in zip(grids.SHOTS, means, strict=True)}


ENTRIES = [
    entry("curves", None, 10),
    entry("procedural", 20, 1, dict.fromkeys(itertools.product(grids.WAYS, [1]), 0.99)),
    entry("few", 5, 1, row(2, *[0.97] * 5) | row(5, 0.95, 0.9, 0.9, 0.9, 0.9)),
    entry("more", 5, 10, row(2, *[0.96] * 5) | row(5, 0.5, 0.6, 0.7, 0.9567, 0.98)),
    entry("many", 10, 1, row(5, 0.94, 0.94, 0.97, 0.94, 0.94) | row(10, *[0.8] * 5)),
    entry("transductive", 20, 1, row(20, *[0.98] * 5), "transductive"),
    entry("strings", 15, 10, row(5, *[1.0] * 5), inputs="images with string labels"),
    entry("unscored", 10, 1),
]
ENTRIES[1] = dataclasses.replace(ENTRIES[1], procedural=True)


@pytest.mark.parametrize(
    ("ways", "shots", "name", "cell"),
    [
        (2, 1, "few", "2 ways, 1 shot (97.0% ± 0.1%)"),
        # The next larger number of ways in the grid.
        (3, 1, "few", "5 ways, 1 shot (95.0% ± 0.1%)"),
        (5, 2, "many", "5 ways, 2 shots (94.0% ± 0.1%)"),
        # The nearest shots by ratio, around sqrt(2 x 5) and sqrt(5 x 10).
        (5, 3.16, "many", "5 ways, 2 shots (94.0% ± 0.1%)"),
        (5, 3.17, "many", "5 ways, 5 shots (97.0% ± 0.1%)"),
        (5, 7.07, "many", "5 ways, 5 shots (97.0% ± 0.1%)"),
        (5, 7.08, "more", "5 ways, 10 shots (95.7% ± 0.1%)"),
        (5, 400, "more", "5 ways, 15 shots (98.0% ± 0.1%)"),
        (6, 400, "many", "10 ways, 15 shots (80.0% ± 0.1%)"),
        # Entries of procedural images, only if no other has enough ways.
        (11, 5, "procedural", "20 ways, 1 shot (99.0% ± 0.1%)"),
    ],
)
def test_the_best_on_validation_tasks_is_chosen(ways, shots, name, cell, monkeypatch):
    monkeypatch.setattr(zoo, "list_models", lambda: ENTRIES)
    card, reason = choice.for_images(ways, shots)
    assert card.name == name
    task = f"{ways} classes of {shots:.3g} image{'s' * (shots != 1)}"
    protocol, accuracy = cell.removesuffix(")").split(" (")
    assert reason == (
        f"{name}: best on validation tasks of {protocol} from ink ({accuracy}), which "
        f"are the most similar to {task}"
    )


def test_entries_for_photographs(monkeypatch):
    photos = [
        entry("photos", 5, 1, row(2, *[0.6] * 5) | row(5, *[0.5] * 5)),
        entry("larger", 10, 1, row(5, *[0.4] * 5) | row(10, *[0.3] * 5)),
    ]
    photos = [dataclasses.replace(card, photographs=True) for card in photos]
    monkeypatch.setattr(zoo, "list_models", lambda: ENTRIES + photos)
    assert choice.for_images(5, 1, photographs=True)[0].name == "photos"
    assert choice.for_images(6, 1, photographs=True)[0].name == "larger"
    assert choice.for_images(5, 1)[0].name == "few"
    # If no model of photographs has enough ways, the choice is a prototypical network
    # of photographs, which accepts more ways, or else of drawings.
    assert choice.for_images(11, 5, photographs=True)[0].name == "procedural"
    prototypical = [dataclasses.replace(card, learner="ProtoNet") for card in photos]
    monkeypatch.setattr(zoo, "list_models", lambda: ENTRIES + prototypical)
    card, reason = choice.for_images(30, 5, photographs=True)
    assert card.name == "larger"
    assert reason == "larger: no model has a validation figure for 30 ways"
    monkeypatch.setattr(zoo, "list_models", lambda: ENTRIES)
    assert choice.for_images(5, 1, photographs=True)[0].name == "few"


def test_more_ways_than_in_any_grid_are_rejected(monkeypatch):
    monkeypatch.setattr(zoo, "list_models", lambda: ENTRIES)
    with pytest.raises(ValueError, match="at most 20 classes, got 21: no entry was"):
        choice.for_images(21, 1)


def test_entries_without_a_grid_or_with_equal_figures(monkeypatch):
    entries = [entry("1", 5, 1), entry("10", 5, 10), entry("20w10s", 20, 10)]
    monkeypatch.setattr(zoo, "list_models", lambda: entries)
    card, reason = choice.for_images(4, 7)
    assert (card.name, reason) == (
        "10",
        "10: no model has a validation figure for 4 ways",
    )
    assert choice.for_images(6, 1)[0].name == "20w10s"
    entries += [entry("one", 20, 1, row(20, *[1.0] * 5)), entry("few", 20, 5)]
    assert choice.for_images(4, 7)[0].name == "one"
    entries += [entry("five", 20, 5, row(20, *[1.0] * 5))]
    assert choice.for_images(4, 7)[0].name == "five"
    assert choice.for_images(4, 1)[0].name == "one"


def test_choice_of_a_model_for_curves(monkeypatch):
    def curves(name, mean, any_units=True, metric="nll"):
        figure = {"metric": metric, "mean": mean}
        return entry(name, None, 9, any_units=any_units, validation=figure)

    entries = [
        entry("images", 5, 1),
        curves("one range", -9.0, any_units=False),
        curves("worse", 0.3),
        curves("best", -0.2),
        entry("unvalidated", None, 9, any_units=True, validation=None),
    ]
    monkeypatch.setattr(zoo, "list_models", lambda: entries)
    assert choice.for_curves().name == "best"
    del entries[2:]
    assert choice.for_curves().name == "one range"
    del entries[1:]
    with pytest.raises(ValueError, match="the zoo has none"):
        choice.for_curves()


# The entries of the zoo


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


def test_the_default_is_the_best_on_validation_tasks():
    for ways, shots in itertools.product(grids.WAYS, grids.SHOTS):
        means = {
            card.name: figure["mean"]
            for card in CARDS
            for figure in card.grid
            if (figure["ways"], figure["shots"]) == (ways, shots)
            and not card.procedural
        }
        card, _ = choice.for_images(ways, shots)
        assert means[card.name] == max(means.values())


def test_first_selects_the_first_examples_of_each_class():
    y = np.array([2, 0, 0, 1, 2, 2, 1, 0, 1], "int32")
    x = np.arange(9.0)[:, None]
    episode = {"support_x": x, "support_y": y, "query_x": x + 100}
    for shots, indices in (
        (1, [0, 1, 3]),
        (2, [0, 1, 2, 3, 4, 6]),
        (3, range(9)),
    ):
        reduced = grids.first(episode, 3, shots)
        np.testing.assert_array_equal(reduced["support_x"], x[list(indices)])
        np.testing.assert_array_equal(reduced["support_y"], y[list(indices)])
        np.testing.assert_array_equal(reduced["query_x"], x + 100)


class Recorder:
    """Predicts a constant and stores its tasks."""

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
    learner, episodes = Recorder(), {}
    for shots in (1, 2, 5):
        scored = grids.score(learner, "none", pool, 3, shots, tasks=4)
        assert (scored["ways"], scored["shots"], scored["queries"]) == (3, shots, 5)
        assert (scored["episodes"], scored["seed"]) == (4, 0)
        assert scored["mean"] == pytest.approx(1 / 3)  # the first class, always
        episodes[shots] = learner.tasks.pop()
    for few, more in ((1, 2), (2, 5)):
        (x, y, queries), (more_x, more_y, more_queries) = episodes[few], episodes[more]
        assert x.shape == (4, 3 * few, 1) and queries.shape == (4, 15, 1)
        np.testing.assert_array_equal(queries, more_queries)
        for task in range(4):
            pairs = set(zip(x[task, :, 0], y[task], strict=True))
            more_pairs = set(zip(more_x[task, :, 0], more_y[task], strict=True))
            assert pairs < more_pairs
            assert not {x for x, _ in more_pairs} & set(queries[task].ravel())
    # Their classes differ from those of episodes of the pool with the same seed.
    other_stream = pool.episodes(3, 5, 5, 0).batch(4)
    assert (next(iter(other_stream))[0]["query_x"].numpy() != queries).any()


def check_more_shots_are_no_worse(ways, load, tasks):
    """Checks that the accuracy of the default entry does not decrease with the shots.

    Args:
        load: `name -> (learner, pool)`; one pool for all defaults.

    Returns:
        The names of the default entries.
    """
    names = [choice.for_images(ways, shots)[0].name for shots in grids.SHOTS]
    loaded = {name: load(name) for name in set(names)}
    scores = [
        grids.score(loaded[name][0], name, loaded[name][1], ways, shots, tasks)
        for name, shots in zip(names, grids.SHOTS, strict=True)
    ]
    for fewer, more in itertools.pairwise(scores):
        difference = intervals.difference(more["tasks"], fewer["tasks"])
        mean, interval = intervals.summary(difference)
        assert mean + interval >= 0, (fewer["model"], more["model"], more["shots"])
    return names


@pytest.mark.thorough
def test_more_examples_are_no_worse_on_drawn_glyphs(monkeypatch):
    candidates = [card for card in CARDS if card.procedural]
    monkeypatch.setattr(zoo, "list_models", lambda: candidates)
    learners = {}
    monkeypatch.setattr(cards, "list_models", lambda: candidates)

    def load(name):
        learner = learners.setdefault(name, zoo.load(name))
        # No entry was trained on these characters, as on validation classes.
        return learner, km.tasks.glyphs(range(1300, 1330), prepare=learner.preprocess)

    check_more_shots_are_no_worse(5, load, tasks=40)


@pytest.mark.slow
@pytest.mark.parametrize("ways", grids.WAYS)
def test_more_examples_are_no_worse_on_validation_classes(ways):
    names = check_more_shots_are_no_worse(ways, grids.load, tasks=200)
    # Otherwise the tasks have different classes and cannot be paired.
    assert len({zoo.card(name).source for name in names}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_grid_matches_the_weights(card):
    learner, pool = grids.load(card.name)
    stored = [cell for cell in card.grid if (cell["ways"], cell["shots"]) == (5, 2)]
    scored = grids.score(learner, card.name, pool, 5, 2, stored[0]["episodes"])
    # Another order of sums in another processor may change one prediction.
    assert scored["mean"] == pytest.approx(stored[0]["mean"], abs=1e-4)
