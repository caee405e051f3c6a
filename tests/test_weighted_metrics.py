"""Tests of weights of tasks and queries in metrics against loops in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import metrics

TASKS, QUERIES = 12, 7


def classification_tasks():
    """Returns labels, logits, and whether each prediction is correct, `[T, Q]`."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 5, [TASKS, QUERIES])
    logits = random.normal(size=[TASKS, QUERIES, 5]) + np.eye(5)[labels]
    return labels, logits, (np.argmax(logits, -1) == labels).astype("float64")


def string_tasks():
    """Returns the same as `classification_tasks` for labels of two symbols."""
    random = np.random.RandomState(1)
    labels = random.randint(0, 3, [TASKS, QUERIES, 2])
    logits = random.normal(size=[TASKS, QUERIES, 2, 3]) + 2 * np.eye(3)[labels]
    correct = (np.argmax(logits, -1) == labels).all(-1)
    return labels, logits, correct.astype("float64")


def regression_tasks():
    """Returns targets, predictions and squared errors `[T, Q]`."""
    y_true, y_pred = np.random.RandomState(2).normal(size=[2, TASKS, QUERIES, 2])
    return y_true, y_pred, np.mean((y_true - y_pred) ** 2, -1)


def gaussian_tasks():
    """Returns targets, means and scales, and negative log-likelihoods `[T, Q]`."""
    random = np.random.RandomState(3)
    y_true, mean = random.normal(size=[2, TASKS, QUERIES, 2])
    scale = random.uniform(0.1, 2, [TASKS, QUERIES, 2])
    density = np.exp(-((y_true - mean) ** 2) / (2 * scale**2))
    density /= scale * np.sqrt(2 * np.pi)
    return y_true, np.stack([mean, scale], -1), -np.log(density).mean(-1)


KINDS = [
    (metrics.EpisodeAccuracy, classification_tasks),
    (metrics.EpisodeAccuracy, string_tasks),
    (metrics.EpisodeSquaredError, regression_tasks),
    (metrics.EpisodeNLL, gaussian_tasks),
]


def random_weights(axes, zeros=True):
    """Returns random weights of tasks or queries, some of them zero."""
    random = np.random.RandomState(4)
    weights = random.uniform(0.1, 3, [TASKS, QUERIES][:axes])
    if zeros:
        weights[[1, 5]] = 0
        if axes == 2:
            weights[2, :3] = 0
    return weights


def summarize(scores, weights):
    """Loops over tasks and queries; returns mean and half-width of its interval."""
    pairs = []
    for task, row in zip(scores, weights, strict=True):
        row = np.broadcast_to(row, task.shape)
        if row.sum() > 0:
            score = sum(w * s for w, s in zip(row, task, strict=True)) / row.sum()
            pairs.append((row.sum() / len(row), score))
    mean = sum(w * s for w, s in pairs) / sum(w for w, _ in pairs)
    spread = sum(w**2 * (s - mean) ** 2 for w, s in pairs)
    spread *= len(pairs) / (len(pairs) - 1)
    return mean, 1.959964 * spread**0.5 / sum(w for w, _ in pairs)


def update(metric, *arrays, batches=(TASKS,)):
    """Updates the metric with the arrays, batch by batch, and returns it."""
    start = 0
    for size in batches:
        metric.update_state(*(array[start : start + size] for array in arrays))
        start += size
    return metric


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("kind, draw", KINDS)
def test_weighted_mean_and_interval(kind, draw, axes):
    y_true, y_pred, scores = draw()
    weights = random_weights(axes)
    for interval, value in zip((False, True), summarize(scores, weights), strict=True):
        metric = kind(interval=interval, dtype="float64")
        update(metric, y_true, y_pred, weights, batches=(5, 1, 6))
        np.testing.assert_allclose(metric.result(), value, rtol=1e-10)


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("kind, draw", KINDS)
def test_weights_constant_along_queries_equal_weights_of_tasks(kind, draw, interval):
    y_true, y_pred, _ = draw()
    weights = random_weights(1)
    along = np.repeat(weights[:, None], QUERIES, 1)
    updated = [
        update(kind(interval=interval, dtype="float64"), y_true, y_pred, sample_weight)
        for sample_weight in (weights, along)
    ]
    np.testing.assert_allclose(updated[0].result(), updated[1].result(), rtol=1e-12)


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("kind, draw", KINDS)
def test_equal_weights_have_no_effect(kind, draw, interval):
    y_true, y_pred, scores = draw()
    unweighted = kind(interval=interval, dtype="float64")
    unweighted.update_state(y_true, y_pred)
    tasks = scores.mean(1)
    value = tasks.mean()
    if interval:
        value = 1.959964 * tasks.std(ddof=1) / TASKS**0.5
    np.testing.assert_allclose(unweighted.result(), value, rtol=1e-10)
    for weights in (np.full(TASKS, 2.5), np.full([TASKS, QUERIES], 0.4)):
        weighted = update(
            kind(interval=interval, dtype="float64"), y_true, y_pred, weights
        )
        np.testing.assert_allclose(weighted.result(), value, rtol=1e-10)


def test_zero_weights_exclude_predictions_even_if_nan():
    y_true, y_pred, scores = regression_tasks()
    weights = random_weights(2)
    y_pred[weights == 0] = np.nan
    for interval, value in zip((False, True), summarize(scores, weights), strict=True):
        metric = metrics.EpisodeSquaredError(interval=interval, dtype="float64")
        update(metric, y_true, y_pred, weights)
        np.testing.assert_allclose(metric.result(), value, rtol=1e-10)
        assert metric.count.numpy() == TASKS - 2
    metric.reset_state()
    metric.update_state(y_true, y_pred, np.zeros(TASKS))
    assert metric.result() == 0


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("axes", [None, 1, 2])
@pytest.mark.parametrize("kind, draw", KINDS)
def test_merged_metrics_equal_one_metric(kind, draw, axes, interval):
    y_true, y_pred, _ = draw()
    weights = [] if axes is None else [random_weights(axes)]
    arrays = [y_true, y_pred, *weights]
    whole = update(kind(interval=interval, dtype="float64"), *arrays)
    parts = []
    for part in (slice(0, 4), slice(4, 5), slice(5, TASKS)):
        metric = kind(interval=interval, dtype="float64")
        parts.append(update(metric, *(array[part] for array in arrays)))
    parts[0].merge_state(parts[1:])
    np.testing.assert_allclose(parts[0].result(), whole.result(), rtol=1e-10)
    for merged, expected in zip(parts[0].variables, whole.variables, strict=True):
        assert merged.dtype == "float64"
        np.testing.assert_allclose(merged, expected, rtol=1e-12, atol=1e-12)


def test_metrics_of_another_kind_cannot_be_merged():
    first = metrics.PresentationAccuracy(1)
    for different in (metrics.PresentationAccuracy(2), metrics.EpisodeAccuracy()):
        with pytest.raises(
            ValueError,
            match=f"^expected metrics of the class and settings of presentation_1, got "
            f"{different.name}.$",
        ):
            first.merge_state([metrics.PresentationAccuracy(1), different])
    errors = metrics.CalibrationError(), metrics.CalibrationError(bins=10)
    with pytest.raises(ValueError, match="^expected metrics of the class and settings"):
        errors[0].merge_state(errors[1:])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_presentations_of_weighted_tasks(k):
    labels, logits, correct = classification_tasks()
    weights = random_weights(1)
    scores, used = [], []
    for task in range(TASKS):
        presented = [
            correct[task, positions[k - 1]]
            for label in range(5)
            if len(positions := np.flatnonzero(labels[task] == label)) >= k
        ]
        if presented:
            scores.append(np.array([np.mean(presented)]))
            used.append(weights[task])
    assert k < 3 or len(used) < TASKS
    for interval, value in zip((False, True), summarize(scores, used), strict=True):
        metric = metrics.PresentationAccuracy(k, interval=interval, dtype="float64")
        update(metric, labels, logits, weights, batches=(5, 1, 6))
        np.testing.assert_allclose(metric.result(), value, rtol=1e-10)
        merged = metrics.PresentationAccuracy(k, interval=interval, dtype="float64")
        merged.merge_state([metric])
        assert merged.result() == metric.result()
    with pytest.raises(
        ValueError, match=r"^expected sample_weight of shape \[T\], got"
    ):
        metric.update_state(labels, logits, random_weights(2))


@pytest.mark.parametrize("axes", [1, 2])
def test_calibration_error_of_weighted_predictions(axes):
    labels, logits, correct = classification_tasks()
    weights = random_weights(axes)
    query_weights = np.broadcast_to(weights.reshape([TASKS, -1]), labels.shape)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    bins = [[] for _ in range(10)]
    for task in range(TASKS):
        for query in range(QUERIES):
            confidence = probabilities[task, query].max()
            bins[int(np.ceil(confidence * 10)) - 1].append(
                (query_weights[task, query], confidence, correct[task, query])
            )
    value = 0
    for predictions in bins:
        total = sum(w for w, _, _ in predictions)
        if total:
            confidence = sum(w * c for w, c, _ in predictions) / total
            accuracy = sum(w * r for w, _, r in predictions) / total
            value += total / query_weights.sum() * abs(confidence - accuracy)
    metric = metrics.CalibrationError(bins=10, dtype="float64")
    update(metric, labels, logits, weights, batches=(5, 1, 6))
    np.testing.assert_allclose(metric.result(), value, rtol=1e-10)
    halves = [metrics.CalibrationError(bins=10, dtype="float64") for _ in range(2)]
    logits[query_weights == 0] = np.nan  # has weight zero
    for half, part in zip(halves, (slice(0, 5), slice(5, TASKS)), strict=True):
        half.update_state(labels[part], logits[part], weights[part])
    halves[0].merge_state(halves[1:])
    np.testing.assert_allclose(halves[0].result(), value, rtol=1e-10)


MEASURES = [
    metrics.EpisodeAccuracy,
    metrics.PresentationAccuracy,
    metrics.CalibrationError,
]


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_invalid_weights_are_rejected(kind, value):
    labels, logits, _ = classification_tasks()
    weights = np.ones(TASKS)
    weights[3] = value
    message = "expected sample_weight to be finite and >= 0, got one that is not."
    with pytest.raises(ValueError, match=f"^{message}$"):
        kind().update_state(labels, logits, weights)
    traced_update = tf.function(kind().update_state)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"\\[{message}\\]"):
        traced_update(tf.constant(labels), tf.constant(logits), tf.constant(weights))


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize(
    "shape", [(), (1,), (TASKS + 1,), (QUERIES,), (TASKS, 1), (TASKS, QUERIES, 1)]
)
def test_weights_of_another_shape_are_rejected(kind, shape):
    labels, logits, _ = classification_tasks()
    axes = "[T]" if kind is metrics.PresentationAccuracy else "[T] or [T, Q]"
    message = f"expected sample_weight of shape {axes}, got {list(shape)}."
    with pytest.raises(ValueError) as info:
        kind().update_state(labels, logits, np.ones(shape).tolist())
    assert str(info.value) == message


def test_a_graph_rejects_weights_of_another_number_of_queries():
    labels, logits, _ = classification_tasks()
    metric = metrics.EpisodeAccuracy()
    traced_update = tf.function(
        metric.update_state,
        input_signature=[
            tf.TensorSpec([None, None], "int64"),
            tf.TensorSpec([None, None, 5], "float64"),
            tf.TensorSpec([None, None], "float32"),
        ],
    )
    traced_update(labels, logits, np.ones([TASKS, QUERIES], "float32"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected sample_weight"):
        traced_update(labels, logits, np.ones([TASKS, QUERIES - 1], "float32"))


def test_scores_of_tasks_accept_only_weights_of_tasks():
    class TaskScore(metrics.EpisodeMetric):
        def score(self, y_true, y_pred):
            return y_pred

    scores = np.random.RandomState(5).normal(size=TASKS)
    weights = random_weights(1)
    metric = update(TaskScore(dtype="float64"), scores, scores, weights)
    np.testing.assert_allclose(
        metric.result(), summarize(scores[:, None], weights)[0], rtol=1e-10
    )
    with pytest.raises(
        ValueError, match=r"^expected sample_weight of shape \[T\], got"
    ):
        metric.update_state(scores, scores, random_weights(2))


@pytest.mark.parametrize("axes", [1, 2])
def test_evaluate_applies_weights(axes):
    labels, logits, scores = classification_tasks()
    weights = random_weights(axes)
    model = keras.Sequential([keras.Input([QUERIES, 5]), keras.layers.Identity()])
    reduced = tuple(range(axes, 3))  # a loss has the axes of its weights
    model.compile(
        loss=lambda y_true, y_pred: keras.ops.mean(y_pred, axis=reduced),
        metrics=[metrics.EpisodeAccuracy()],
        weighted_metrics=[
            metrics.EpisodeAccuracy(name="weighted"),
            metrics.EpisodeAccuracy(interval=True, name="weighted_95"),
        ],
    )
    figures = model.evaluate(
        logits, labels, sample_weight=weights, batch_size=5, verbose=0, return_dict=True
    )
    mean, interval = summarize(scores, weights)
    np.testing.assert_allclose(figures["accuracy"], scores.mean(), rtol=1e-6)
    np.testing.assert_allclose(figures["weighted"], mean, rtol=1e-6)
    np.testing.assert_allclose(figures["weighted_95"], interval, rtol=1e-5)
