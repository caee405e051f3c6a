"""The contract, part 3: sample weights, loss scaling and mixed precision."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import contract
from tests.contract_keras import (
    RATE,
    assert_gradients_close,
    batch,
    build,
    gradient,
    is_reptile,
    one_row,
    rows,
    weights_after_step,
)


def weight_change(before, after):
    """Returns the change of all weights as one vector."""
    pairs = zip(before, after, strict=True)
    return np.concatenate([np.ravel(b - a) for a, b in pairs])


# sample weights


@rows
def test_weights_of_tasks(name):
    # Weights 2 and 0 give the loss of the first task: sum(w l) / 2.
    learner, (episode, query_y) = build(name), batch(name)
    first_task = {key: value[:1] for key, value in episode.items()}
    expected = gradient(learner, first_task, query_y[:1])
    weights = tf.constant([2.0, 0.0])
    weighted = gradient(learner, episode, query_y, weights=weights)
    assert weighted[0] == pytest.approx(expected[0], rel=1e-4)
    assert_gradients_close(weighted[1], expected[1])
    # The loss divides by the number of tasks: twice the weights, twice the gradient.
    _, plain, _ = gradient(learner, episode, query_y)
    _, doubled, _ = gradient(learner, episode, query_y, weights=2 * tf.ones([2]))
    assert_gradients_close(doubled, {key: 2 * value for key, value in plain.items()})


@rows
def test_weights_of_queries(name):
    learner, (episode, query_y) = build(name), batch(name)
    random = np.random.RandomState(0)
    weights = random.uniform(0, 2, query_y.shape[:2]).astype("float32")
    if is_reptile(learner):
        with pytest.raises(ValueError, match=r"sample_weight of tasks, \[T\]"):
            gradient(learner, episode, query_y, weights=tf.constant(weights))
        return
    loss, _, outputs = gradient(learner, episode, query_y, weights=tf.constant(weights))
    plain, _, _ = gradient(learner, episode, query_y)
    # Weights apply to the terms of the queries, a share of all terms of the loss.
    unreduced = type(learner.query_loss).from_config(
        {**learner.query_loss.get_config(), "reduction": None}
    )
    terms = unreduced(query_y, outputs).numpy()
    share = 1.0
    support = episode["support_y"].shape[1]
    if isinstance(learner, km.CNP) and learner.aggregate == "mean":
        share = query_y.shape[1] / (query_y.shape[1] + support)
    elif hasattr(learner, "sequence"):
        share = 1 / (1 + support)
    change = np.mean((weights - 1) * terms)
    assert loss - plain == pytest.approx(share * change, rel=1e-3, abs=1e-5)


@one_row
def test_weighted_metrics_and_invalid_weights(name):
    learner, (episode, query_y) = build(name), batch(name)
    learner.compile(run_eagerly=True)
    first_task = learner.evaluate(
        *({key: v[:1] for key, v in episode.items()}, query_y[:1]),
        verbose=0,
        return_dict=True,
    )
    weighted = learner.evaluate(
        episode,
        query_y,
        sample_weight=np.array([2.0, 0.0]),
        verbose=0,
        return_dict=True,
    )
    key = "accuracy" if learner.classification else "mse"
    assert weighted[key] == pytest.approx(first_task[key], rel=1e-4)
    assert weighted["loss"] == pytest.approx(first_task["loss"], rel=1e-4)
    with pytest.raises(ValueError, match="expected no class_weight"):
        learner.fit(episode, query_y, class_weight={0: 2.0}, verbose=0)
    with pytest.raises(ValueError, match=r"sample_weight of shape \[T\] or \[T, Q\]"):
        learner.fit(episode, query_y, sample_weight=np.ones([2, 3]), verbose=0)
    with pytest.raises(ValueError, match="finite values in sample_weight"):
        learner.fit(episode, query_y, sample_weight=np.array([1, np.nan]), verbose=0)


# precision


@one_row
def test_loss_scaling_does_not_change_the_step(name):
    data = batch(name)
    expected = weights_after_step(build(name), data)
    for optimizer in (
        keras.optimizers.SGD(RATE, loss_scale_factor=1024.0),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE)),
    ):
        weights = weights_after_step(build(name), data, optimizer)
        for weight, expected_weight in zip(weights, expected, strict=True):
            contract.close(weight, expected_weight, atol=1e-5)


@rows
@pytest.mark.parametrize(
    # Several consecutive roundings of 2^-8 and 2^-11.
    "policy, limit",
    [
        pytest.param("mixed_bfloat16", 0.2, marks=pytest.mark.thorough),
        ("mixed_float16", 0.02),
    ],
)
def test_mixed_precision_steps_match_float32(name, policy, limit):
    data, learner = batch(name), build(name)
    before = learner.get_weights()
    expected = weight_change(before, weights_after_step(learner, data))
    keras.config.set_dtype_policy(policy)
    try:
        learner = build(name)
        learner.set_weights(before)
        for _ in range(8):  # a dynamic loss scale skips its first steps
            new_weights = weights_after_step(learner, data)
            if any((a != b).any() for a, b in zip(before, new_weights, strict=True)):
                break
    finally:
        keras.config.set_dtype_policy("float32")
    change = weight_change(before, new_weights)
    assert np.isfinite(change).all()
    error = np.linalg.norm(change - expected) / np.linalg.norm(expected)
    # Adam's first step has the same length for the smallest gradient. The conjugate
    # gradient method multiplies errors by the condition number of its system.
    if "Adam" in name or "IMAML" in name:
        limit *= 10
    assert error < limit
    predictions = contract.predict(learner, data[0])
    assert predictions.dtype == np.float32 and np.isfinite(predictions).all()
    if learner.classification and learner.gapless:  # absent classes too
        y = np.minimum(data[0]["support_y"], 1)
        logits = contract.predict(learner, {**data[0], "support_y": y})
        assert np.isfinite(logits).all()
