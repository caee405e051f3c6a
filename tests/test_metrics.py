"""Tests of episode metrics and their 95% intervals against NumPy in float64."""

import statistics

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import metrics


class PrecomputedScores(metrics.EpisodeMetric):
    """Averages scores `[T]`, which are passed as predictions."""

    def score(self, y_true, y_pred):
        return y_pred


def classification_tasks(tasks, seed=0):
    """Returns labels `[T, 15]`, logits `[T, 15, 5]`, and accuracies `[T]` that vary."""
    random = np.random.RandomState(seed)
    labels = random.randint(0, 5, [tasks, 15])
    logits = random.normal(size=[tasks, 15, 5])
    logits += random.uniform(0, 4, [tasks, 1, 1]) * np.eye(5)[labels]
    return labels, logits, np.mean(np.argmax(logits, -1) == labels, axis=1)


def regression_tasks(tasks, seed=0):
    """Returns targets and predictions `[T, 7, 2]`, and mean squared errors `[T]`."""
    random = np.random.RandomState(seed)
    y_true, y_pred = random.normal(size=[2, tasks, 7, 2])
    return y_true, y_pred, np.mean((y_true - y_pred) ** 2, axis=(1, 2))


def gaussian_tasks(tasks, seed=0):
    """Returns targets, stacked means and scales, and negative log-likelihoods `[T]`."""
    random = np.random.RandomState(seed)
    y_true, mean = random.normal(size=[2, tasks, 7, 2])
    scale = random.uniform(0.1, 2, [tasks, 7, 2])
    density = np.exp(-((y_true - mean) ** 2) / (2 * scale**2))
    density /= scale * np.sqrt(2 * np.pi)
    return y_true, np.stack([mean, scale], -1), -np.log(density).mean((1, 2))


def presentation_tasks(tasks, seed=0, k=1):
    """Returns labels, logits, and accuracies of k-th presentations, where present."""
    labels, logits, _ = classification_tasks(tasks, seed)
    predicted_labels = np.argmax(logits, -1)
    scores = []
    for task in range(tasks):
        correct = [
            predicted_labels[task, positions[k - 1]] == label
            for label in range(5)
            if len(positions := np.flatnonzero(labels[task] == label)) >= k
        ]
        scores += [np.mean(correct)] if correct else []
    return labels, logits, np.array(scores)


KINDS = {
    metrics.EpisodeAccuracy: classification_tasks,
    metrics.EpisodeSquaredError: regression_tasks,
    metrics.EpisodeNLL: gaussian_tasks,
    metrics.PresentationAccuracy: presentation_tasks,
}


def metric_pair(kind):
    return kind(), kind(interval=True, name="interval")


def numpy_summary(scores):
    """Returns mean and half-width of the 95% interval, in float64."""
    return np.mean(scores), 1.96 * np.std(scores, ddof=1) / np.sqrt(len(scores))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "batches", [[60], [16, 1, 7, 30, 6], [1] * 10 + [50], [59, 1], [2, 58]]
)
@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_interval(kind, batches, dtype):
    y_true, y_pred, scores = KINDS[kind](60)
    y_true, y_pred = tf.constant(y_true), tf.constant(y_pred, dtype)
    for metric, expected in zip(metric_pair(kind), numpy_summary(scores), strict=True):
        for batch in zip(
            tf.split(y_true, batches), tf.split(y_pred, batches), strict=True
        ):
            metric.update_state(*batch)
        # The exact quantile is 1.96 (1 - 2e-5); the rest is float32 rounding.
        np.testing.assert_allclose(metric.result(), expected, rtol=3e-5)


def test_z95_is_the_normal_quantile():
    # Z95 is the quantile, rounded to seven digits.
    assert abs(metrics.Z95 - statistics.NormalDist().inv_cdf(0.975)) < 5e-7


@pytest.mark.parametrize("kind", KINDS)
def test_one_task_has_a_mean_and_interval_0(kind):
    y_true, y_pred, scores = KINDS[kind](1)
    mean, interval = metric_pair(kind)
    assert mean.result() == interval.result() == 0  # before any task
    for metric in (mean, interval):
        metric.update_state(y_true, y_pred)
    np.testing.assert_allclose(mean.result(), scores[0], rtol=1e-6)
    assert interval.result() == 0


def test_interval_treats_tasks_not_queries_as_samples():
    # One task has ten correct queries, the other none: s is sqrt(1/2), and 1.96 s /
    # sqrt(2) is 0.98. Twenty independent queries would give 0.22.
    labels = np.zeros([2, 10], "int32")
    logits = np.zeros([2, 10, 2])
    logits[0, :, 0] = logits[1, :, 1] = 1
    mean, interval = metric_pair(metrics.EpisodeAccuracy)
    for metric in (mean, interval):
        metric.update_state(labels, logits)
    assert mean.result() == 0.5
    np.testing.assert_allclose(interval.result(), 0.98, rtol=3e-5)


@pytest.mark.thorough
@pytest.mark.parametrize("spread", [0.01, 0.0])
def test_a_hundred_thousand_tasks_in_float32(spread):
    scores = np.random.RandomState(0).normal(0.99, spread, 100_000).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices(scores).batch(16)
    for interval in (False, True):
        metric = PrecomputedScores(interval=interval, dtype="float32")

        @tf.function
        def update(metric=metric):
            for batch in dataset:
                metric.update_state(batch, batch)

        update()
        assert metric.count.numpy() == 100_000
        mean, width = numpy_summary(scores.astype("float64"))
        if interval:
            # The rounding of 0.99, 6e-8, is the spread of equal scores.
            np.testing.assert_allclose(metric.result(), width, rtol=1e-4, atol=1e-9)
        else:
            # 6250 roundings of 0.99 by up to 3e-8 each, which partly cancel.
            np.testing.assert_allclose(metric.result(), mean, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_reset_state_clears_the_metric(kind):
    for reset, fresh in zip(metric_pair(kind), metric_pair(kind), strict=True):
        reset.update_state(*KINDS[kind](20, seed=1)[:2])
        before = reset.result()
        value_before = float(before)
        reset.reset_state()
        assert reset.result() == 0
        assert float(before) == value_before != 0  # a result does not follow the state
        for metric in (reset, fresh):
            metric.update_state(*KINDS[kind](9, seed=2)[:2])
        assert reset.result() == fresh.result() != before


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_deserialized_metric_equals_the_original(kind, interval):
    metric = kind(interval=interval, name="score", dtype="float64")
    config = keras.metrics.serialize(metric)
    assert config["registered_name"] == f"keras_meta>{kind.__name__}"
    copy = keras.metrics.deserialize(config)
    assert type(copy) is kind and copy is not metric
    assert (copy.interval, copy.name, copy.dtype) == (interval, "score", "float64")
    for instance in (metric, copy):
        instance.update_state(*KINDS[kind](30)[:2])
    assert copy.result() == metric.result()
    assert copy.result().dtype == tf.float64


@pytest.mark.parametrize("k", [2, 4, 6])
def test_tasks_without_a_kth_presentation_are_skipped(k):
    labels, logits, scores = presentation_tasks(60, k=k)
    assert len(scores) < 60 or k < 5
    for interval, expected in zip((False, True), numpy_summary(scores), strict=True):
        metric = metrics.PresentationAccuracy(k, interval=interval)
        for start in range(0, 60, 3):  # some batches have no k-th presentation
            metric.update_state(labels[start : start + 3], logits[start : start + 3])
        np.testing.assert_allclose(metric.result(), expected, rtol=3e-5)


def test_a_string_is_correct_if_all_symbols_are():
    random = np.random.RandomState(0)
    strings = np.array([[0, 1, 2, 3, 4], [0, 1, 2, 3, 3]])[[0, 1, 0, 0]]
    logits = random.uniform(size=[4, 5, 5]) + 5 * np.eye(5)[strings]
    logits[2, 4] = [9, 0, 0, 0, 0]  # one wrong symbol: string 0, second time
    batch = strings[None], logits[None]
    metric = metrics.EpisodeAccuracy()
    metric.update_state(*batch)
    assert metric.result() == 3 / 4
    for k, accuracy in ((1, 1), (2, 0), (3, 1)):
        metric = metrics.PresentationAccuracy(k)
        metric.update_state(*batch)
        assert metric.result() == accuracy


def test_squared_error_of_mean_and_scale():
    y_true, y_pred, scores = regression_tasks(9)
    metric = metrics.EpisodeSquaredError()
    metric.update_state(y_true, np.stack([y_pred, np.ones_like(y_pred)], -1))
    np.testing.assert_allclose(metric.result(), np.mean(scores), rtol=1e-6)


def test_default_arguments():
    assert metrics.EpisodeAccuracy().name == "accuracy"
    assert metrics.EpisodeSquaredError().name == "mse"
    assert metrics.EpisodeNLL().name == "nll"
    assert metrics.PresentationAccuracy(3).name == "presentation_3"
    for kind in KINDS:
        assert not kind().interval and kind().dtype == "float32"


@pytest.mark.parametrize("dtype", ["int64", "uint8", "float32"])
def test_labels_of_any_type(dtype):
    labels, logits, scores = classification_tasks(12)
    metric = metrics.EpisodeAccuracy()
    metric.update_state(labels.astype(dtype), logits)
    np.testing.assert_allclose(metric.result(), np.mean(scores), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_calibration_error_matches_a_loop(temperature):
    labels, logits, _ = classification_tasks(12)
    metric = metrics.CalibrationError(bins=10, temperature=temperature)
    for half in (slice(0, 5), slice(5, 12)):
        metric.update_state(labels[half], logits[half])
    bins = [[] for _ in range(10)]
    flat = logits.reshape(-1, logits.shape[-1]).astype("float64") / temperature
    for label, row in zip(labels.ravel(), flat, strict=True):
        probabilities = np.exp(row) / np.exp(row).sum()
        bins[int(np.ceil(probabilities.max() * 10)) - 1].append(
            (probabilities.max(), float(probabilities.argmax() == label))
        )
    expected = 0
    for predictions in filter(None, bins):
        confidence, accuracy = np.mean(predictions, axis=0)
        expected += len(predictions) / labels.size * abs(confidence - accuracy)
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-5)
    copy = metrics.CalibrationError.from_config(metric.get_config())
    assert (copy.bins, copy.temperature) == (10, temperature)


@pytest.mark.parametrize(
    "create, message",
    [
        (lambda: metrics.PresentationAccuracy(0), "presentation to be an integer >= 1"),
        (lambda: metrics.CalibrationError(bins=0), "bins to be an integer >= 1"),
        (
            lambda: metrics.CalibrationError(temperature=0.0),
            "temperature to be a number above 0",
        ),
    ],
)
def test_invalid_arguments_are_rejected(create, message):
    with pytest.raises(ValueError, match=message):
        create()


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_predictions_of_confidence_1_are_in_the_last_bin(bins):
    # Three predictions have confidence 1, one of them is wrong; two have 0.8.
    logits = np.array([[1000, 0], [1000, 0], [0, 1000], [np.log(4), 0], [np.log(4), 0]])
    labels = np.array([0, 1, 1, 0, 0])
    metric = metrics.CalibrationError(bins=bins)
    metric.update_state(labels[None], logits[None])
    assert metric.count.numpy().sum() == 5
    assert metric.count.numpy()[-1] == (5 if bins == 1 else 3)
    # Accuracy is 2/3 at confidence 1, a gap of 1/3, and 1 at 0.8, a gap of 0.2.
    expected = abs(1 - 0.4) / 5 if bins == 1 else (1 + 2 * 0.2) / 5
    np.testing.assert_allclose(metric.result(), expected, rtol=1e-6)


def test_predictions_of_lowest_confidence_are_counted():
    logits = np.zeros([1, 4, 2])  # confidence 0.5, upper end of bin 5 of 10
    metric = metrics.CalibrationError(bins=10)
    metric.update_state([[0, 0, 0, 1]], logits)
    assert list(metric.count.numpy()) == [0] * 4 + [4] + [0] * 5
    np.testing.assert_allclose(metric.result(), 0.25, rtol=1e-6)
