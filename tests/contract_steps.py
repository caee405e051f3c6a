"""The contract's third part: weighted and scaled steps, for every learner."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import contract
from tests.contract_keras import (
    RATE,
    after_a_step,
    batch,
    gradient,
    is_reptile,
    made,
    rows,
    same,
)


def change(before, after):
    """What a step changes, all weights in one vector."""
    pairs = zip(before, after, strict=True)
    return np.concatenate([np.ravel(b - a) for a, b in pairs])


# sample weights


@rows
def test_weights_of_tasks(name):
    # A task of weight 2 beside one of weight 0 is that task alone: sum(w l) / 2.
    learner, (episode, query_y) = made(name), batch(name)
    one = {key: value[:1] for key, value in episode.items()}
    expected = gradient(learner, one, query_y[:1])
    weights = tf.constant([2.0, 0.0])
    found = gradient(learner, episode, query_y, weights=weights)
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    same(found[1], expected[1])
    # Twice the weight is twice the gradient, in a loss that divides by the number.
    _, plain, _ = gradient(learner, episode, query_y)
    _, twice, _ = gradient(learner, episode, query_y, weights=2 * tf.ones([2]))
    same(twice, {path: 2 * value for path, value in plain.items()})


@rows
def test_weights_of_queries(name):
    learner, (episode, query_y) = made(name), batch(name)
    random = np.random.RandomState(0)
    weights = random.uniform(0, 2, query_y.shape[:2]).astype("float32")
    if is_reptile(learner):
        with pytest.raises(ValueError, match=r"sample_weight of tasks, \[T\]"):
            gradient(learner, episode, query_y, weights=tf.constant(weights))
        return
    loss, _, outputs = gradient(learner, episode, query_y, weights=tf.constant(weights))
    plain, _, _ = gradient(learner, episode, query_y)
    # What the weights change is the queries' own part, in its share of all terms.
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
    moved = np.mean((weights - 1) * terms)
    assert loss - plain == pytest.approx(share * moved, rel=1e-3, abs=1e-5)


@rows
def test_weighted_figures_and_refusals(name):
    learner, (episode, query_y) = made(name), batch(name)
    learner.compile(run_eagerly=True)
    alone = learner.evaluate(
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
    assert weighted[key] == pytest.approx(alone[key], rel=1e-4)
    assert weighted["loss"] == pytest.approx(alone["loss"], rel=1e-4)
    with pytest.raises(ValueError, match="expected no class_weight"):
        learner.fit(episode, query_y, class_weight={0: 2.0}, verbose=0)
    with pytest.raises(ValueError, match=r"sample_weight of shape \[T\] or \[T, Q\]"):
        learner.fit(episode, query_y, sample_weight=np.ones([2, 3]), verbose=0)
    with pytest.raises(ValueError, match="finite values in sample_weight"):
        learner.fit(episode, query_y, sample_weight=np.array([1, np.nan]), verbose=0)


# precision


@rows
def test_loss_scaling_changes_nothing(name):
    data = batch(name)
    expected = after_a_step(made(name), data)
    for optimizer in (
        keras.optimizers.SGD(RATE, loss_scale_factor=1024.0),
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE)),
    ):
        for found, value in zip(
            after_a_step(made(name), data, optimizer), expected, strict=True
        ):
            contract.close(found, value, atol=1e-5)


@rows
@pytest.mark.parametrize(
    # Roundings of 2^-8 and 2^-11, several of them in a row.
    "policy, limit",
    [("mixed_bfloat16", 0.2), ("mixed_float16", 0.02)],
)
def test_a_mixed_step_is_that_of_float32(name, policy, limit):
    data, learner = batch(name), made(name)
    before = learner.get_weights()
    expected = np.concatenate(
        [
            np.ravel(b - a)
            for a, b in zip(before, after_a_step(learner, data), strict=True)
        ]
    )
    keras.config.set_dtype_policy(policy)
    try:
        learner = made(name)
        learner.set_weights(before)
        for _ in range(8):  # a dynamic loss scale begins by finding its height
            moved = after_a_step(learner, data)
            if any((a != b).any() for a, b in zip(before, moved, strict=True)):
                break
    finally:
        keras.config.set_dtype_policy("float32")
    change = np.concatenate(
        [np.ravel(b - a) for a, b in zip(before, moved, strict=True)]
    )
    assert np.isfinite(change).all()
    error = np.linalg.norm(change - expected) / np.linalg.norm(expected)
    # Adam's first step is as long for the smallest gradient, and conjugate gradient
    # multiplies errors by the condition of its system.
    if "Adam" in name or "IMAML" in name:
        limit *= 10
    assert error < limit
    answers = contract.answers(learner, data[0])
    assert answers.dtype == np.float32 and np.isfinite(answers).all()
    if learner.classification and learner.gapless:  # absent classes stay out of reach
        y = np.minimum(data[0]["support_y"], 1)
        logits = contract.answers(learner, {**data[0], "support_y": y})
        assert np.isfinite(logits).all()
