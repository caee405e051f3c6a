"""Learners with losses, weights, cells, optimizers and strategies that few have."""

import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import keras_private, random_layers
from keras_meta.learners.sequence import SequenceLearner
from tests.test_unusual_networks import one, task

layers = keras.layers


def network(outputs=3):
    keras.utils.set_random_seed(0)
    return km.networks.mlp((4,), outputs, (8,))


def test_the_penalty_of_a_prior_is_divided_by_the_replicas(monkeypatch):
    x, y = one(task()[0])
    learner = km.SigmaMAML(network(), initial_scale=0.3)
    model = km.finetune(learner, x, y, keras.optimizers.SGD(0.1))
    model.set_weights([weight + 0.1 for weight in model.get_weights()])
    assert model.prior_penalty() > 0.01
    logits = model(x)
    loss = model.compute_loss(x, y, logits)
    strategy = types.SimpleNamespace(num_replicas_in_sync=2)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: strategy)
    monkeypatch.setattr(tf.distribute, "has_strategy", lambda: True)
    np.testing.assert_allclose(model.compute_loss(x, y, logits), loss / 2, rtol=1e-6)


def test_losses_that_ignore_a_class_are_refused():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    with pytest.raises(ValueError, match="without ignore_class"):
        km.MAML(network()).compile(loss=loss)
    with pytest.raises(ValueError, match="without ignore_class"):
        km.MAML(network(), loss)


class ScalarLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return tf.reduce_mean(tf.square(y_pred - y_true))


def test_a_loss_without_a_value_for_each_query_takes_no_weights():
    episode, query_y = task()
    episode["support_y"] = episode["support_y"][..., None].astype("float32")
    query_y = query_y[..., None].astype("float32")
    learner = km.MAML(network(1), "mse")
    learner.compile("sgd", loss=ScalarLoss())
    learner.train_on_batch(episode, query_y)
    with pytest.raises(
        ValueError, match="expected .* to return a value for each query"
    ):
        learner.train_on_batch(episode, query_y, np.ones(query_y.shape[:2]))


@pytest.mark.thorough
@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("eager", [False, True])
def test_cells_with_dropout_train(stacked, eager):
    cell = layers.LSTMCell(6, dropout=0.5, recurrent_dropout=0.2)
    if stacked:
        cell = layers.StackedRNNCells([cell, layers.GRUCell(5, dropout=0.5)])
    learner = SequenceLearner(cell, example_shape=(4,), outputs=3)
    learner.compile("sgd", run_eagerly=eager)
    for examples in (6, 9):  # a mask of another batch would not fit
        episode, query_y = task(examples=examples, queries=1)
        history = learner.fit(episode, query_y, batch_size=2, epochs=2, verbose=0)
        assert np.isfinite(history.history["loss"]).all()


@pytest.mark.thorough
@pytest.mark.parametrize("kind", [km.MAML, km.SigmaMAML, km.IMAML, km.ProtoNet])
def test_a_network_keeps_its_precision_in_a_mixed_learner(kind):
    learner = kind(network(), dtype="mixed_bfloat16")
    learner.compile("sgd")
    episode, _ = task()
    state = learner.adapt(episode["support_x"], episode["support_y"])
    expected = learner.infer(state, episode["query_x"])
    predictions = learner.predict(episode, verbose=0)
    np.testing.assert_allclose(predictions, expected, rtol=1e-6, atol=1e-6)


def test_a_cell_keeps_its_precision_in_a_mixed_learner():
    cell = layers.LSTMCell(6, dtype="float32")
    learner = SequenceLearner(
        cell, example_shape=(4,), outputs=3, dtype="mixed_bfloat16"
    )
    learner.compile("sgd")
    episode, _ = task()
    state = learner.adapt(episode["support_x"], episode["support_y"])
    expected = learner.infer(state, episode["query_x"])
    predictions = learner.predict(episode, verbose=0)
    np.testing.assert_allclose(predictions, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("kind", [km.MAML, km.SigmaMAML, km.ProtoNet])
def test_fit_without_an_epoch_changes_nothing(kind):
    x, y = one(task()[0])
    model = km.finetune(kind(network()), x, y)
    before = model.get_weights()
    for epochs in ({"epochs": 0}, {"initial_epoch": 3, "epochs": 3}):
        assert model.fit(x, y, verbose=0, **epochs).history == {}
    for weight, expected in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, expected)


@pytest.mark.thorough
def test_batches_take_weights_of_any_rank():
    episode, query_y = task()
    learner = km.ProtoNet(network())
    learner.compile(keras.optimizers.SGD(0.0))
    tasks, queries = query_y.shape
    weights = np.array([1.0, 3.0])
    wide = np.repeat(weights[:, None], queries, axis=1)
    for method in (learner.train_on_batch, learner.test_on_batch):
        plain = method(episode, query_y, return_dict=True)["loss"]
        by_task = method(episode, query_y, weights, return_dict=True)["loss"]
        by_query = method(episode, query_y, wide, return_dict=True)["loss"]
        assert by_task == pytest.approx(by_query, rel=1e-5) and by_task != plain
        assert method(episode, query_y, return_dict=True)["loss"] == plain
    with pytest.raises(ValueError, match="expected no class_weight"):
        learner.train_on_batch(episode, query_y, class_weight={0: 1.0, 1: 2.0, 2: 1.0})


@pytest.mark.thorough
@pytest.mark.parametrize("scaled", [False, True])
def test_accumulated_batches_have_masks_of_their_own(scaled):
    model = keras.Sequential(
        [keras.Input([4]), layers.Dense(8), layers.Dropout(0.5), layers.Dense(3)]
    )
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=4)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    learner = km.MAML(model)
    learner.compile(optimizer)
    episode, query_y = task()
    seeds = set()
    for _ in range(4):
        held = learner.held_values()
        held = random_layers.seeded(learner, held, tf.constant(0))
        seeds.add(tuple(np.concatenate([v.numpy() for v in held["buffers"]]).tolist()))
        learner.train_on_batch(episode, query_y)
    assert len(seeds) == 4
    assert int(keras_private.steps_of(learner.optimizer)) == 4


@pytest.mark.thorough
def test_queries_need_a_class_of_their_own_task():
    episode, query_y = task(tasks=2)
    episode["support_y"][1] %= 2  # the second task has no class 2
    for learner in (km.MAML(network()), km.ProtoNet(network()), km.Reptile(network())):
        learner.compile("sgd")
        for method in (learner.fit, learner.evaluate):
            with pytest.raises(ValueError, match="in the support_y of its task"):
                method(episode, query_y, verbose=0)
        labels = np.stack([query_y[0], query_y[1] % 2])
        learner.fit(episode, labels, verbose=0)
