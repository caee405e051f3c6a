"""Scores of episodes and their 95% intervals against NumPy in float64."""

import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import metrics


class Given(metrics.EpisodeMetric):
    """The mean of scores `[T]` that are given as predictions."""

    def score(self, y_true, y_pred):
        return y_pred


def classified(tasks, seed=0):
    """Labels `[T, 15]`, logits `[T, 15, 5]` and accuracies `[T]` of uneven tasks."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, 5, [tasks, 15])
    logits = random.normal(size=[tasks, 15, 5])
    logits += random.uniform(0, 4, [tasks, 1, 1]) * np.eye(5)[labels]
    return labels, logits, np.mean(np.argmax(logits, -1) == labels, axis=1)


def regressed(tasks, seed=0):
    """Targets and predictions `[T, 7, 2]` and mean squared errors `[T]`."""
    random = np.random.RandomState(seed)
    y_true, y_pred = random.normal(size=[2, tasks, 7, 2])
    return y_true, y_pred, np.mean((y_true - y_pred) ** 2, axis=(1, 2))


def likely(tasks, seed=0):
    """Targets, means and scales stacked, and negative log-likelihoods `[T]`."""
    random = np.random.RandomState(seed)
    y_true, mean = random.normal(size=[2, tasks, 7, 2])
    scale = random.uniform(0.1, 2, [tasks, 7, 2])
    density = np.exp(-((y_true - mean) ** 2) / (2 * scale**2))
    density /= scale * np.sqrt(2 * np.pi)
    return y_true, np.stack([mean, scale], -1), -np.log(density).mean((1, 2))


def presented(tasks, seed=0, k=1):
    """As `classified`, with the accuracies of tasks that show a class k times."""
    labels, logits, _ = classified(tasks, seed)
    guesses = np.argmax(logits, -1)
    scores = []
    for task in range(tasks):
        right = [
            guesses[task, places[k - 1]] == label
            for label in range(5)
            if len(places := np.flatnonzero(labels[task] == label)) >= k
        ]
        scores += [np.mean(right)] if right else []
    return labels, logits, np.array(scores)


KINDS = {
    metrics.EpisodeAccuracy: classified,
    metrics.EpisodeSquaredError: regressed,
    metrics.EpisodeNLL: likely,
    metrics.PresentationAccuracy: presented,
}


def both(kind):
    return kind(), kind(interval=True, name="interval")


def expected(scores):
    """Mean and half-width of its 95% interval, in float64."""
    return np.mean(scores), 1.96 * np.std(scores, ddof=1) / np.sqrt(len(scores))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "batches", [[60], [16, 1, 7, 30, 6], [1] * 60, [59, 1], [2, 58]]
)
@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_interval(kind, batches, dtype):
    y_true, y_pred, scores = KINDS[kind](60)
    y_true, y_pred = tf.constant(y_true), tf.constant(y_pred, dtype)
    for metric, value in zip(both(kind), expected(scores), strict=True):
        for part in zip(
            tf.split(y_true, batches), tf.split(y_pred, batches), strict=True
        ):
            metric.update_state(*part)
        # 1.96 is 2e-5 above the quantile; else rounding of float32.
        np.testing.assert_allclose(metric.result(), value, rtol=3e-5)


def test_ninety_five_per_cent():
    # A double rounded to seven digits.
    assert abs(metrics.Z95 - statistics.NormalDist().inv_cdf(0.975)) < 5e-7


@pytest.mark.parametrize("kind", KINDS)
def test_one_task_has_a_mean_and_no_spread(kind):
    y_true, y_pred, scores = KINDS[kind](1)
    mean, interval = both(kind)
    assert mean.result() == interval.result() == 0  # before any task
    for metric in (mean, interval):
        metric.update_state(y_true, y_pred)
    np.testing.assert_allclose(mean.result(), scores[0], rtol=1e-6)
    assert interval.result() == 0


def test_a_task_and_not_a_query_is_the_unit_drawn():
    # Ten queries right in one task and none in the other: s is sqrt(1/2), and 1.96 s /
    # sqrt(2) is 0.98. Twenty independent queries would give 0.22.
    labels = np.zeros([2, 10], "int32")
    logits = np.zeros([2, 10, 2])
    logits[0, :, 0] = logits[1, :, 1] = 1
    mean, interval = both(metrics.EpisodeAccuracy)
    for metric in (mean, interval):
        metric.update_state(labels, logits)
    assert mean.result() == 0.5
    np.testing.assert_allclose(interval.result(), 0.98, rtol=3e-5)


@pytest.mark.parametrize("spread", [0.01, 0.0])
def test_a_hundred_thousand_tasks_in_float32(spread):
    scores = np.random.RandomState(0).normal(0.99, spread, 100_000).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices(scores).batch(16)
    for interval in (False, True):
        metric = Given(interval=interval, dtype="float32")

        @tf.function
        def update(metric=metric):
            for batch in dataset:
                metric.update_state(batch, batch)

        update()
        assert metric.count.numpy() == 100_000
        mean, width = expected(scores.astype("float64"))
        if interval:
            # The rounding of 0.99 is 6e-8, of which a spread of zero is made.
            np.testing.assert_allclose(metric.result(), width, rtol=1e-4, atol=1e-9)
        else:
            # 6250 roundings of 0.99 by up to 3e-8, partly cancelling.
            np.testing.assert_allclose(metric.result(), mean, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_forgets(kind):
    for reset, fresh in zip(both(kind), both(kind), strict=True):
        reset.update_state(*KINDS[kind](20, seed=1)[:2])
        before = reset.result()
        kept = float(before)
        reset.reset_state()
        assert reset.result() == 0
        assert float(before) == kept != 0  # a result is no live variable
        for metric in (reset, fresh):
            metric.update_state(*KINDS[kind](9, seed=2)[:2])
        assert reset.result() == fresh.result() != before


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_metric_of_a_config_is_the_same(kind, interval):
    metric = kind(interval=interval, name="score", dtype="float64")
    config = keras.metrics.serialize(metric)
    assert config["registered_name"] == f"keras_meta>{kind.__name__}"
    again = keras.metrics.deserialize(config)
    assert type(again) is kind and again is not metric
    assert (again.interval, again.name, again.dtype) == (interval, "score", "float64")
    for each in (metric, again):
        each.update_state(*KINDS[kind](30)[:2])
    assert again.result() == metric.result()
    assert again.result().dtype == tf.float64


@pytest.mark.parametrize("k", [2, 4, 6])
def test_presentations_that_some_tasks_do_not_have(k):
    labels, logits, scores = presented(60, k=k)
    assert len(scores) < 60 or k < 5
    for interval, value in zip((False, True), expected(scores), strict=True):
        metric = metrics.PresentationAccuracy(k, interval=interval)
        for at in range(0, 60, 3):  # batches in which no task may have it
            metric.update_state(labels[at : at + 3], logits[at : at + 3])
        np.testing.assert_allclose(metric.result(), value, rtol=3e-5)


def test_a_string_is_right_if_all_of_it_is():
    random = np.random.RandomState(0)
    strings = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]])[[0, 1, 0, 0]]
    logits = random.uniform(size=[4, 5, 5]) + 5 * np.eye(5)[strings]
    logits[2, 4] = [9, 0, 0, 0, 0]  # one symbol wrong, the second time of string 0
    batch = strings[None], logits[None]
    found = metrics.EpisodeAccuracy()
    found.update_state(*batch)
    assert found.result() == 3 / 4
    for k, share in ((1, 1), (2, 0), (3, 1)):
        found = metrics.PresentationAccuracy(k)
        found.update_state(*batch)
        assert found.result() == share


def test_squared_error_of_mean_and_scale():
    y_true, y_pred, scores = regressed(9)
    found = metrics.EpisodeSquaredError()
    found.update_state(y_true, np.stack([y_pred, np.ones_like(y_pred)], -1))
    np.testing.assert_allclose(found.result(), np.mean(scores), rtol=1e-6)


def test_the_defaults():
    assert metrics.EpisodeAccuracy().name == "accuracy"
    assert metrics.EpisodeSquaredError().name == "mse"
    assert metrics.EpisodeNLL().name == "nll"
    assert metrics.PresentationAccuracy(3).name == "presentation_3"
    for kind in KINDS:
        assert not kind().interval and kind().dtype == "float32"


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
def test_labels_of_any_type(dtype):
    labels, logits, scores = classified(12)
    metric = metrics.EpisodeAccuracy()
    metric.update_state(labels.astype(dtype), logits)
    np.testing.assert_allclose(metric.result(), np.mean(scores), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_calibration_error_is_that_of_a_loop(temperature):
    labels, logits, _ = classified(12)
    metric = metrics.CalibrationError(bins=10, temperature=temperature)
    for half in (slice(0, 5), slice(5, 12)):
        metric.update_state(labels[half], logits[half])
    bins = [[] for _ in range(10)]
    flat = logits.reshape(-1, logits.shape[-1]).astype("float64") / temperature
    for label, row in zip(labels.ravel(), flat, strict=True):
        chances = np.exp(row) / np.exp(row).sum()
        bins[int(np.ceil(chances.max() * 10)) - 1].append(
            (chances.max(), float(chances.argmax() == label))
        )
    expected = 0
    for answers in filter(None, bins):
        confidence, right = np.mean(answers, axis=0)
        expected += len(answers) / labels.size * abs(confidence - right)
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)
    copy = metrics.CalibrationError.from_config(metric.get_config())
    assert (copy.bins, copy.temperature) == (10, temperature)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_answers_of_all_confidence_are_in_the_last_bin(bins):
    # Three answers of probability one, one of them wrong, and two of 0.8.
    logits = np.array([[1000, 0], [1000, 0], [0, 1000], [np.log(4), 0], [np.log(4), 0]])
    labels = np.array([0, 1, 1, 0, 0])
    metric = metrics.CalibrationError(bins=bins)
    metric.update_state(labels[None], logits[None])
    assert metric.count.numpy().sum() == 5
    assert metric.count.numpy()[-1] == (5 if bins == 1 else 3)
    # The three are right by 2/3, 1/3 below 1; the two by 1, 0.2 above 0.8.
    expected = abs(1 - 0.4) / 5 if bins == 1 else (1 + 2 * 0.2) / 5
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-6)


def test_answers_of_least_confidence_are_counted():
    logits = np.zeros([1, 4, 2])  # of 0.5 each: the fifth of ten bins, its upper end
    metric = metrics.CalibrationError(bins=10)
    metric.update_state([[0, 0, 0, 1]], logits)
    assert list(metric.count.numpy()) == [0] * 4 + [4] + [0] * 5
    np.testing.assert_allclose(metric.result(), 0.25, rtol=1e-6)
