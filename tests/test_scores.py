"""Intervals, differences task by task, and temperatures, against plain Python."""

import dataclasses
import math
import statistics
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import zoo
from keras_meta.zoo import cards, intervals, scores
from keras_meta.zoo.recipes import functions

QUANTILE = statistics.NormalDist().inv_cdf(0.975)  # 1.96


def expected(values):
    """Mean and half-width of its 95% interval, without NumPy."""
    values = list(map(float, values))
    width = QUANTILE * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), width


def test_a_summary_is_the_mean_and_its_interval():
    values = np.random.RandomState(0).uniform(size=[30, 4])
    for column, found in zip(values.T, intervals.summaries(values).T, strict=True):
        assert intervals.summary(column) == pytest.approx(expected(column), rel=1e-6)
        assert (
            tuple(found) == intervals.summary(column) == intervals.summary(list(column))
        )
    # Two tasks: s is sqrt(1/2), so that the half-width is 1.96 / 2.
    assert intervals.summary([0, 1]) == pytest.approx((0.5, QUANTILE / 2), rel=1e-6)


def test_the_interval_of_a_score_is_that_of_its_tasks():
    learner = zoo.load("maml.sinusoid")
    task = functions.SINUSOID
    data = task.test_episodes(None, None, None, 10, 20, 3)
    score = scores.measure(learner, "maml.sinusoid", data, 12, "mse")
    errors = []
    for episode, query_y in data.take(12).batch(1):
        outputs = learner(episode).numpy()
        errors.append(np.mean((outputs - query_y.numpy()) ** 2))
    np.testing.assert_allclose(score["tasks"], errors, rtol=1e-4)
    found = score["mean"], score["interval"]
    assert found == pytest.approx(expected(errors), rel=1e-4)


def test_a_difference_is_of_each_task_and_the_same():
    one, two = np.random.RandomState(0).uniform(size=[2, 9, 3])
    found = intervals.difference(one, two)
    for task in range(9):
        for k in range(3):
            assert found[task, k] == one[task, k] - two[task, k]
    with pytest.raises(ValueError, match=r"same tasks, got \[9, 3\] and \[8, 3\]"):
        intervals.difference(one, two[:8])


# Names say nothing: `{entry: (learner, source, settings, the first as trained)}`.
TRANSDUCTIVE, INDUCTIVE = ("5 1 15 0 40 transductive", "5 1 15 0 40 inductive")
ENTRIES = {
    "maml.head-inductive": ("ANIL", "x", [TRANSDUCTIVE, INDUCTIVE]),
    "one": ("MAML", "x", [TRANSDUCTIVE, INDUCTIVE]),
    "two": ("MAML", "x", [INDUCTIVE, TRANSDUCTIVE]),
    "three": ("ProtoNet", "x", [INDUCTIVE]),
    "four": ("ProtoNet", "y", [INDUCTIVE]),
}


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """Four entries of one data set and one of another, with scores of forty tasks.

    Returns:
        `{entry: {settings: scores}}`.
    """
    monkeypatch.setattr(cards, "MODELS", tmp_path)
    random = np.random.RandomState(0)
    hard = np.linspace(-0.3, 0.3, 40)  # some tasks are harder, for all entries
    tasks = {
        name: {
            asked: (0.6 + hard + 0.02 * random.normal(size=40)).astype("float32")
            for asked in settings
        }
        for name, (_, _, settings) in ENTRIES.items()
    }
    for name, found in tasks.items():
        fields = {field.name: "" for field in dataclasses.fields(cards.Card)}
        learner, source, (trained, *_) = ENTRIES[name]
        figures = [
            {"metric": "accuracy", **dict(zip(scores.SHARED, row.split(), strict=True))}
            for row in found
        ]
        fields |= {"name": name, "figures": figures, "learner": learner}
        fields |= {"external": None}
        fields |= {"source": source, "normalization": trained.split()[-1]}
        card = cards.Card(**fields)
        card.write()
        np.savez(card.directory / "tasks.npz", **found)
    return tasks


def test_entries_are_compared_with_maml_task_by_task(scored):
    rows = list(scores.against_maml(cards.list_models()))
    pairs = {(model, scores.key(figure)): base for model, base, figure, _, _ in rows}
    assert len(pairs) == len(rows)
    assert pairs == {
        ("maml.head-inductive", TRANSDUCTIVE): "one",
        ("two", TRANSDUCTIVE): "one",
        ("maml.head-inductive", INDUCTIVE): "two",
        ("one", INDUCTIVE): "two",
        ("three", INDUCTIVE): "two",
    }
    for model, base, figure, mean, interval in rows:
        asked = scores.key(figure)
        each = [
            float(scored[model][asked][task]) - float(scored[base][asked][task])
            for task in range(40)
        ]
        assert (mean, interval) == pytest.approx(expected(each), rel=1e-6)
        # What all entries find hard is gone from it, as of no other pairs of tasks.
        assert interval < 0.2 * expected(scored[base][asked])[1]


def test_scores_of_other_numbers_of_tasks_are_not_compared(scored):
    path = zoo.card("three").directory / "tasks.npz"
    np.savez(path, **{INDUCTIVE: scored["three"][INDUCTIVE][1:]})
    with pytest.raises(ValueError, match="expected scores of the same tasks"):
        list(scores.against_maml(cards.list_models()))


@pytest.mark.parametrize("card", cards.stored(), ids=lambda card: card.name)
def test_figures_of_a_card_are_those_of_its_tasks(card):
    """The scores kept beside a card, of the tasks that its figures are of."""
    with np.load(card.directory / "tasks.npz") as tasks:
        for figure in card.figures:
            values = tasks[scores.key(figure)]
            assert len(values) == figure["episodes"]
            found = figure["mean"], figure["interval"]
            # Figures are rounded to six digits, or to as many places.
            assert found == pytest.approx(expected(values), rel=1e-5, abs=6e-7)


def stream(share, gap, tasks=20, queries=20):
    """Tasks of two classes: this share of the answers is right, all as sure."""
    labels = np.arange(queries) % 2
    right = np.arange(queries) < share * queries
    said = np.where(right, labels, 1 - labels)
    logits = gap * np.eye(2, dtype="float32")[said] - 3
    nothing = np.zeros([1], "float32")
    episode = {"support_x": nothing, "support_y": nothing, "query_x": logits}
    return tf.data.Dataset.from_tensors((episode, labels)).repeat(tasks)


class Repeats(keras.Model):
    """Answers each query by itself."""

    preprocess = "as it prepares"

    def adapt(self, support_x, support_y):
        return ()

    def infer(self, state, query_x):
        return query_x


@pytest.mark.parametrize("share", [0.7, 0.9])
def test_the_temperature_is_that_of_validation_tasks(share):
    def episodes(preprocess, seed):
        assert (preprocess, seed) == (Repeats.preprocess, 17)
        parts = {"train": stream(0.95, 4), "validation": stream(share, 4)}
        return {part: lambda start=0, part=part: parts[part] for part in parts}

    task = types.SimpleNamespace(
        episodes=episodes, test_episodes=lambda *args: stream(0.6, 4)
    )
    recipe = types.SimpleNamespace(task=task, seed=17)
    # The likelihood is largest where sigmoid(4 / T) is the share that is right.
    best = 4 / math.log(share / (1 - share))
    # Those tried are 5% apart.
    assert scores.temperature(Repeats(), recipe) == pytest.approx(best, rel=0.026)


def test_the_temperature_is_that_of_the_first_tasks():
    data = stream(0.7, 4, tasks=8).concatenate(stream(0.95, 4, tasks=400))
    task = types.SimpleNamespace(
        episodes=lambda preprocess, seed: {"validation": lambda start=0: data}
    )
    recipe = types.SimpleNamespace(task=task, seed=0)
    found = scores.temperature(Repeats(), recipe, tasks=8)
    assert found == pytest.approx(4 / math.log(7 / 3), rel=0.026)
    share = (8 * 0.7 + 32 * 0.95) / 40
    found = scores.temperature(Repeats(), recipe, tasks=40)
    assert found == pytest.approx(4 / math.log(share / (1 - share)), rel=0.026)


def test_a_score_has_the_calibration_error_at_a_temperature():
    class Sure(Repeats):
        classification, label_shape, normalization = True, (), "inductive"

    # Of answers all as sure, it is the distance of that from the share that is right.
    score = scores.measure(Sure(), "x", stream(0.7, 4), 20, "accuracy", 2.0)
    assert score["mean"] == pytest.approx(0.7)
    for name, temperature in (("calibration", 1), ("tempered", 2)):
        sure = 1 / (1 + math.exp(-4 / temperature))
        assert score[name] == pytest.approx(abs(sure - 0.7), rel=1e-5)
    assert score["temperature"] == 2.0


def test_holms_correction_by_hand():
    # 4 x 0.01, 3 x 0.02, 2 x 0.03 and the largest, none below the one before it.
    assert intervals.holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx(
        [0.06, 0.04, 0.9, 0.06]
    )
    assert intervals.holm([0.4, 0.5, 0.6]) == [1.0, 1.0, 1.0]
    assert intervals.holm([]) == []


def test_the_chance_of_a_mean():
    # A half-width is 1.96 standard errors: at zero's edge p is 5%.
    assert intervals.p_value(0.2, 0.2) == pytest.approx(0.05, rel=1e-3)
    assert intervals.p_value(-0.4, 0.2) == pytest.approx(8.9e-5, rel=0.01)
    assert intervals.p_value(0.0, 0.2) == 1 and intervals.p_value(0.1, 0.0) == 0
