"""Weights of tasks and queries in metrics, against loops in float64."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import metrics

TASKS, QUERIES = 12, 7


def classified():
    """Labels, logits and whether each answer is right, `[T, Q]`."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 5, [TASKS, QUERIES])
    logits = random.normal(size=[TASKS, QUERIES, 5]) + np.eye(5)[labels]
    return labels, logits, (np.argmax(logits, -1) == labels).astype("float64")


def strings():
    """As `classified`, of strings of two symbols."""
    random = np.random.RandomState(1)
    labels = random.randint(0, 3, [TASKS, QUERIES, 2])
    logits = random.normal(size=[TASKS, QUERIES, 2, 3]) + 2 * np.eye(3)[labels]
    right = (np.argmax(logits, -1) == labels).all(-1)
    return labels, logits, right.astype("float64")


def regressed():
    """Targets, predictions and squared errors `[T, Q]`."""
    y_true, y_pred = np.random.RandomState(2).normal(size=[2, TASKS, QUERIES, 2])
    return y_true, y_pred, np.mean((y_true - y_pred) ** 2, -1)


def likely():
    """Targets, means and scales stacked, and negative log-likelihoods `[T, Q]`."""
    random = np.random.RandomState(3)
    y_true, mean = random.normal(size=[2, TASKS, QUERIES, 2])
    scale = random.uniform(0.1, 2, [TASKS, QUERIES, 2])
    density = np.exp(-((y_true - mean) ** 2) / (2 * scale**2))
    density /= scale * np.sqrt(2 * np.pi)
    return y_true, np.stack([mean, scale], -1), -np.log(density).mean(-1)


KINDS = [
    (metrics.EpisodeAccuracy, classified),
    (metrics.EpisodeAccuracy, strings),
    (metrics.EpisodeSquaredError, regressed),
    (metrics.EpisodeNLL, likely),
]


def weighing(axes, zeros=True):
    """Uneven weights of tasks or queries, some of them zero."""
    random = np.random.RandomState(4)
    weights = random.uniform(0.1, 3, [TASKS, QUERIES][:axes])
    if zeros:
        weights[[1, 5]] = 0
        if axes == 2:
            weights[2, :3] = 0
    return weights


def looped(scores, weights):
    """Weighted mean and half-width of its interval, task by task, query by query."""
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


def filled(metric, *arrays, batches=(TASKS,)):
    """The metric once it has seen these, batch by batch."""
    at = 0
    for size in batches:
        metric.update_state(*(each[at : at + size] for each in arrays))
        at += size
    return metric


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("kind, made", KINDS)
def test_weighted_mean_and_interval(kind, made, axes):
    y_true, y_pred, scores = made()
    weights = weighing(axes)
    for interval, value in zip((False, True), looped(scores, weights), strict=True):
        metric = kind(interval=interval, dtype="float64")
        filled(metric, y_true, y_pred, weights, batches=(5, 1, 6))
        np.testing.assert_allclose(metric.result(), value, rtol=1e-10)


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("kind, made", KINDS)
def test_weights_constant_along_queries_are_those_of_tasks(kind, made, interval):
    y_true, y_pred, _ = made()
    weights = weighing(1)
    along = np.repeat(weights[:, None], QUERIES, 1)
    found = [
        filled(kind(interval=interval, dtype="float64"), y_true, y_pred, each)
        for each in (weights, along)
    ]
    np.testing.assert_allclose(found[0].result(), found[1].result(), rtol=1e-12)


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("kind, made", KINDS)
def test_equal_weights_are_none_at_all(kind, made, interval):
    y_true, y_pred, scores = made()
    none = kind(interval=interval, dtype="float64")
    none.update_state(y_true, y_pred)
    tasks = scores.mean(1)
    value = tasks.mean()
    if interval:
        value = 1.959964 * tasks.std(ddof=1) / TASKS**0.5
    np.testing.assert_allclose(none.result(), value, rtol=1e-10)
    for weights in (np.full(TASKS, 2.5), np.full([TASKS, QUERIES], 0.4)):
        found = filled(
            kind(interval=interval, dtype="float64"), y_true, y_pred, weights
        )
        np.testing.assert_allclose(found.result(), value, rtol=1e-10)


def test_what_has_weight_zero_counts_for_nothing_be_it_nan():
    y_true, y_pred, scores = regressed()
    weights = weighing(2)
    y_pred[weights == 0] = np.nan
    for interval, value in zip((False, True), looped(scores, weights), strict=True):
        metric = metrics.EpisodeSquaredError(interval=interval, dtype="float64")
        filled(metric, y_true, y_pred, weights)
        np.testing.assert_allclose(metric.result(), value, rtol=1e-10)
        assert metric.count.numpy() == TASKS - 2
    metric.reset_state()
    metric.update_state(y_true, y_pred, np.zeros(TASKS))
    assert metric.result() == 0


@pytest.mark.parametrize("interval", [False, True])
@pytest.mark.parametrize("axes", [None, 1, 2])
@pytest.mark.parametrize("kind, made", KINDS)
def test_merged_sums_are_those_of_one_metric(kind, made, axes, interval):
    y_true, y_pred, _ = made()
    weights = [] if axes is None else [weighing(axes)]
    arrays = [y_true, y_pred, *weights]
    whole = filled(kind(interval=interval, dtype="float64"), *arrays)
    parts = []
    for part in (slice(0, 4), slice(4, 5), slice(5, TASKS)):
        metric = kind(interval=interval, dtype="float64")
        parts.append(filled(metric, *(each[part] for each in arrays)))
    parts[0].merge_state(parts[1:])
    np.testing.assert_allclose(parts[0].result(), whole.result(), rtol=1e-10)
    for mine, its in zip(parts[0].variables, whole.variables, strict=True):
        assert mine.dtype == "float64"
        np.testing.assert_allclose(mine, its, rtol=1e-12, atol=1e-12)


def test_merging_another_kind_is_refused():
    first = metrics.PresentationAccuracy(1)
    for other in (metrics.PresentationAccuracy(2), metrics.EpisodeAccuracy()):
        with pytest.raises(
            ValueError,
            match=f"^expected metrics of the class and settings of presentation_1, got "
            f"{other.name}.$",
        ):
            first.merge_state([metrics.PresentationAccuracy(1), other])
    errors = metrics.CalibrationError(), metrics.CalibrationError(bins=10)
    with pytest.raises(ValueError, match="^expected metrics of the class and settings"):
        errors[0].merge_state(errors[1:])


@pytest.mark.parametrize("k", [1, 2, 3])
def test_presentations_of_weighted_tasks(k):
    labels, logits, right = classified()
    weights = weighing(1)
    scores, kept = [], []
    for task in range(TASKS):
        found = [
            right[task, places[k - 1]]
            for label in range(5)
            if len(places := np.flatnonzero(labels[task] == label)) >= k
        ]
        if found:
            scores.append(np.array([np.mean(found)]))
            kept.append(weights[task])
    assert k < 3 or len(kept) < TASKS
    for interval, value in zip((False, True), looped(scores, kept), strict=True):
        metric = metrics.PresentationAccuracy(k, interval=interval, dtype="float64")
        filled(metric, labels, logits, weights, batches=(5, 1, 6))
        np.testing.assert_allclose(metric.result(), value, rtol=1e-10)
        merged = metrics.PresentationAccuracy(k, interval=interval, dtype="float64")
        merged.merge_state([metric])
        assert merged.result() == metric.result()
    with pytest.raises(
        ValueError, match=r"^expected sample_weight of shape \[T\], got"
    ):
        metric.update_state(labels, logits, weighing(2))


@pytest.mark.parametrize("axes", [1, 2])
def test_calibration_error_of_weighted_answers(axes):
    labels, logits, right = classified()
    weights = weighing(axes)
    each = np.broadcast_to(weights.reshape([TASKS, -1]), labels.shape)
    chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    bins = [[] for _ in range(10)]
    for task in range(TASKS):
        for query in range(QUERIES):
            confidence = chances[task, query].max()
            bins[int(np.ceil(confidence * 10)) - 1].append(
                (each[task, query], confidence, right[task, query])
            )
    value = 0
    for answers in bins:
        total = sum(w for w, _, _ in answers)
        if total:
            confidence = sum(w * c for w, c, _ in answers) / total
            accuracy = sum(w * r for w, _, r in answers) / total
            value += total / each.sum() * abs(confidence - accuracy)
    metric = metrics.CalibrationError(bins=10, dtype="float64")
    filled(metric, labels, logits, weights, batches=(5, 1, 6))
    np.testing.assert_allclose(metric.result(), value, rtol=1e-10)
    halves = [metrics.CalibrationError(bins=10, dtype="float64") for _ in range(2)]
    logits[each == 0] = np.nan  # counts for nothing
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
def test_impossible_weights_are_refused(kind, value):
    labels, logits, _ = classified()
    weights = np.ones(TASKS)
    weights[3] = value
    sentence = "expected sample_weight to be finite and >= 0, got one that is not."
    with pytest.raises(ValueError, match=f"^{sentence}$"):
        kind().update_state(labels, logits, weights)
    update = tf.function(kind().update_state)
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"\\[{sentence}\\]"):
        update(tf.constant(labels), tf.constant(logits), tf.constant(weights))


@pytest.mark.parametrize("kind", MEASURES)
@pytest.mark.parametrize(
    "shape", [(), (1,), (TASKS + 1,), (QUERIES,), (TASKS, 1), (TASKS, QUERIES, 1)]
)
def test_weights_of_another_shape_are_refused(kind, shape):
    labels, logits, _ = classified()
    axes = "[T]" if kind is metrics.PresentationAccuracy else "[T] or [T, Q]"
    sentence = f"expected sample_weight of shape {axes}, got {list(shape)}."
    with pytest.raises(ValueError) as raised:
        kind().update_state(labels, logits, np.ones(shape).tolist())
    assert str(raised.value) == sentence


def test_weights_of_another_number_of_tasks_are_refused_by_a_graph():
    labels, logits, _ = classified()
    metric = metrics.EpisodeAccuracy()
    update = tf.function(
        metric.update_state,
        input_signature=[
            tf.TensorSpec([None, None], "int64"),
            tf.TensorSpec([None, None, 5], "float64"),
            tf.TensorSpec([None, None], "float32"),
        ],
    )
    update(labels, logits, np.ones([TASKS, QUERIES], "float32"))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected sample_weight"):
        update(labels, logits, np.ones([TASKS, QUERIES - 1], "float32"))


def test_a_score_of_whole_tasks_has_weights_of_tasks():
    class Given(metrics.EpisodeMetric):
        def score(self, y_true, y_pred):
            return y_pred

    scores = np.random.RandomState(5).normal(size=TASKS)
    weights = weighing(1)
    metric = filled(Given(dtype="float64"), scores, scores, weights)
    np.testing.assert_allclose(
        metric.result(), looped(scores[:, None], weights)[0], rtol=1e-10
    )
    with pytest.raises(
        ValueError, match=r"^expected sample_weight of shape \[T\], got"
    ):
        metric.update_state(scores, scores, weighing(2))


@pytest.mark.parametrize("axes", [1, 2])
def test_fit_and_evaluate_weigh(axes):
    labels, logits, scores = classified()
    weights = weighing(axes)
    model = keras.Sequential([keras.Input([QUERIES, 5]), keras.layers.Identity()])
    rest = tuple(range(axes, 3))  # a loss has the axes that its weights have
    model.compile(
        loss=lambda y_true, y_pred: keras.ops.mean(y_pred, axis=rest),
        metrics=[metrics.EpisodeAccuracy()],
        weighted_metrics=[
            metrics.EpisodeAccuracy(name="weighted"),
            metrics.EpisodeAccuracy(interval=True, name="weighted_95"),
        ],
    )
    found = model.evaluate(
        logits, labels, sample_weight=weights, batch_size=5, verbose=0, return_dict=True
    )
    mean, interval = looped(scores, weights)
    np.testing.assert_allclose(found["accuracy"], scores.mean(), rtol=1e-6)
    np.testing.assert_allclose(found["weighted"], mean, rtol=1e-6)
    np.testing.assert_allclose(found["weighted_95"], interval, rtol=1e-5)
