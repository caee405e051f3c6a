"""Tests of intervals, paired differences and temperatures against plain Python."""

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


def summarize(values):
    """Computes the mean and the half-width of its 95% interval, without NumPy."""
    values = list(map(float, values))
    width = QUANTILE * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), width


def test_a_summary_is_the_mean_and_its_interval():
    values = np.random.RandomState(0).uniform(size=[30, 4])
    for column, row in zip(values.T, intervals.summaries(values).T, strict=True):
        assert intervals.summary(column) == pytest.approx(summarize(column), rel=1e-6)
        assert (
            tuple(row) == intervals.summary(column) == intervals.summary(list(column))
        )
    # Two tasks: s is sqrt(1/2), so that the half-width is 1.96 / 2.
    assert intervals.summary([0, 1]) == pytest.approx((0.5, QUANTILE / 2), rel=1e-6)


@pytest.mark.thorough
def test_score_matches_the_errors_of_its_tasks():
    learner = zoo.load("maml.sinusoid")
    task = functions.SINUSOID
    data = task.test_episodes(None, None, None, 10, 20, 3)
    score = scores.measure(learner, "maml.sinusoid", data, 12, "mse")
    errors = []
    for episode, query_y in data.take(12).batch(1):
        outputs = learner(episode).numpy()
        errors.append(np.mean((outputs - query_y.numpy()) ** 2))
    np.testing.assert_allclose(score["tasks"], errors, rtol=1e-4)
    summary = score["mean"], score["interval"]
    assert summary == pytest.approx(summarize(errors), rel=1e-4)


def test_differences_are_computed_per_task():
    a, b = np.random.RandomState(0).uniform(size=[2, 9, 3])
    differences = intervals.difference(a, b)
    for task in range(9):
        for k in range(3):
            assert differences[task, k] == a[task, k] - b[task, k]
    with pytest.raises(ValueError, match=r"same tasks, got \[9, 3\] and \[8, 3\]"):
        intervals.difference(a, b[:8])


# `{name: (learner, source, settings)}`; the first setting is that of training.
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
    """Writes four entries of one data set and one of another, with scores of 40 tasks.

    Returns:
        `{entry: {settings: scores}}`.
    """
    monkeypatch.setattr(cards, "MODELS", tmp_path)
    random = np.random.RandomState(0)
    shift = np.linspace(-0.3, 0.3, 40)  # some tasks are harder, for all entries
    tasks = {
        name: {
            setting: (0.6 + shift + 0.02 * random.normal(size=40)).astype("float32")
            for setting in settings
        }
        for name, (_, _, settings) in ENTRIES.items()
    }
    for name, entry_scores in tasks.items():
        fields = {field.name: "" for field in dataclasses.fields(cards.Card)}
        learner, source, (trained, *_) = ENTRIES[name]
        figures = [
            {"metric": "accuracy", **dict(zip(scores.SHARED, row.split(), strict=True))}
            for row in entry_scores
        ]
        fields |= {"name": name, "figures": figures, "learner": learner}
        fields |= {"external": None}
        fields |= {"source": source, "normalization": trained.split()[-1]}
        card = cards.Card(**fields)
        card.write()
        np.savez(card.directory / "tasks.npz", **entry_scores)
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
        setting = scores.key(figure)
        differences = [
            float(scored[model][setting][task]) - float(scored[base][setting][task])
            for task in range(40)
        ]
        assert (mean, interval) == pytest.approx(summarize(differences), rel=1e-6)
        # The difficulty of tasks is equal for all entries; it cancels in differences.
        assert interval < 0.2 * summarize(scored[base][setting])[1]


def test_scores_of_different_numbers_of_tasks_are_not_compared(scored):
    path = zoo.card("three").directory / "tasks.npz"
    np.savez(path, **{INDUCTIVE: scored["three"][INDUCTIVE][1:]})
    with pytest.raises(ValueError, match="expected scores of the same tasks"):
        list(scores.against_maml(cards.list_models()))


@pytest.mark.parametrize("card", cards.stored(), ids=lambda card: card.name)
def test_figures_of_a_card_match_its_stored_scores(card):
    """Compares the figures of a card with the task scores stored beside it."""
    with np.load(card.directory / "tasks.npz") as tasks:
        for figure in card.figures:
            values = tasks[scores.key(figure)]
            assert len(values) == figure["episodes"]
            summary = figure["mean"], figure["interval"]
            # Figures have six significant digits or six decimal places.
            assert summary == pytest.approx(summarize(values), rel=1e-5, abs=6e-7)


def stream(accuracy, gap, tasks=20, queries=20):
    """Returns tasks of two classes, predicted with this accuracy, equal confidence."""
    labels = np.arange(queries) % 2
    correct = np.arange(queries) < accuracy * queries
    predicted = np.where(correct, labels, 1 - labels)
    logits = gap * np.eye(2, dtype="float32")[predicted] - 3
    unused = np.zeros([1], "float32")
    episode = {"support_x": unused, "support_y": unused, "query_x": logits}
    return tf.data.Dataset.from_tensors((episode, labels)).repeat(tasks)


class Identity(keras.Model):
    """Returns the queries as logits."""

    preprocess = "as it prepares"

    def adapt(self, support_x, support_y):
        return ()

    def infer(self, state, query_x):
        return query_x


@pytest.mark.parametrize("accuracy", [0.7, 0.9])
def test_temperature_maximizes_the_validation_likelihood(accuracy):
    def episodes(preprocess, seed):
        assert (preprocess, seed) == (Identity.preprocess, 17)
        parts = {"train": stream(0.95, 4), "validation": stream(accuracy, 4)}
        return {part: lambda start=0, part=part: parts[part] for part in parts}

    task = types.SimpleNamespace(
        episodes=episodes, test_episodes=lambda *args: stream(0.6, 4)
    )
    recipe = types.SimpleNamespace(task=task, seed=17)
    # The likelihood is largest where sigmoid(4 / T) equals the accuracy.
    expected = 4 / math.log(accuracy / (1 - accuracy))
    # The candidates are 5% apart.
    assert scores.temperature(Identity(), recipe) == pytest.approx(expected, rel=0.026)


def test_temperature_is_from_the_first_tasks():
    data = stream(0.7, 4, tasks=8).concatenate(stream(0.95, 4, tasks=400))
    task = types.SimpleNamespace(
        episodes=lambda preprocess, seed: {"validation": lambda start=0: data}
    )
    recipe = types.SimpleNamespace(task=task, seed=0)
    temperature = scores.temperature(Identity(), recipe, tasks=8)
    assert temperature == pytest.approx(4 / math.log(7 / 3), rel=0.026)
    accuracy = (8 * 0.7 + 32 * 0.95) / 40
    temperature = scores.temperature(Identity(), recipe, tasks=40)
    assert temperature == pytest.approx(
        4 / math.log(accuracy / (1 - accuracy)), rel=0.026
    )


def test_a_score_has_the_calibration_error_at_a_temperature():
    class Classifier(Identity):
        classification, label_shape, normalization = True, (), "inductive"

    # All confidences are equal: the error is the gap of confidence and accuracy.
    score = scores.measure(Classifier(), "x", stream(0.7, 4), 20, "accuracy", 2.0)
    assert score["mean"] == pytest.approx(0.7)
    for name, temperature in (("calibration", 1), ("tempered", 2)):
        confidence = 1 / (1 + math.exp(-4 / temperature))
        assert score[name] == pytest.approx(abs(confidence - 0.7), rel=1e-5)
    assert score["temperature"] == 2.0


def test_holms_correction_by_hand():
    # 4 x 0.01, 3 x 0.02, 2 x 0.03, 1 x 0.9, and no value below the previous one.
    assert intervals.holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx(
        [0.06, 0.04, 0.9, 0.06]
    )
    assert intervals.holm([0.4, 0.5, 0.6]) == [1.0, 1.0, 1.0]
    assert intervals.holm([]) == []


def test_p_value_of_a_mean():
    # The half-width is 1.96 standard errors: p is 5% if the interval ends at 0.
    assert intervals.p_value(0.2, 0.2) == pytest.approx(0.05, rel=1e-3)
    assert intervals.p_value(-0.4, 0.2) == pytest.approx(8.9e-5, rel=0.01)
    assert intervals.p_value(0.0, 0.2) == 1 and intervals.p_value(0.1, 0.0) == 0
