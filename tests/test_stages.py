"""Recipes of two stages: supervised pretraining, then few-shot tasks from there."""

import csv
import dataclasses
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import (
    cards,
    entries,
    recipes,
    runs,
    supervised,
    training,
)
from keras_meta.zoo.recipes import protocols, schema, sources


def load(preprocess, ids):
    """Eight classes of noisy colours."""
    random = np.random.RandomState(0)
    x = random.randint(0, 200, [8, 1, 1, 1, 3]) + random.randint(
        0, 56, [8, 20, 8, 8, 3]
    )
    x = x.reshape(-1, 8, 8, 3).astype("uint8")
    pool = km.ClassPool.from_arrays(x, np.repeat(np.arange(8), 20), preprocess)
    return pool if ids is None else pool.select(ids)


def encoder():
    return km.networks.mlp((8, 8, 3), 4, units=())


def prepared():
    return km.ImagePreprocess(8, 8, 3, False, mean=0.5, deviation=0.25)


SOURCE = sources.Source("colours", "x", "x", "x", (4, 2, 2), load, rotations=False)
TASK = protocols.Classification(
    SOURCE, ways=2, queries=2, test_queries=3, augment={"flip": {}}
)
FIRST = schema.Recipe(
    lambda: supervised.Supervised(encoder(), 4, preprocess=prepared()),
    protocols.Supervised(TASK, batch=6),
    "x",
    steps=4,
    tasks=1,
    rate=0.1,
    optimizer="sgd",
    optimizer_settings={"momentum": 0.9, "weight_decay": 1e-3},
    average=0.9,
    dtype_policy="mixed_bfloat16",
)
RECIPE = schema.Recipe(
    lambda: km.ProtoNet(encoder(), 2, preprocess=prepared()),
    TASK,
    "x",
    steps=4,
    tasks=1,
    average=0.9,
    pretraining=FIRST,
    dtype_policy="mixed_bfloat16",
)
NAME = "protonet.colours"
OPTIONS = {
    "steps": None,
    "pretraining_steps": 3,
    "every": 2,
    "validation_tasks": 3,
    "seed": None,
    "warm_start": None,
}


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setitem(recipes.RECIPES, NAME, RECIPE)
    monkeypatch.setattr(km.runtime, "configure", lambda *arguments: None)
    monkeypatch.setattr(cards, "MODELS", tmp_path / "models")

    def run(folder, **options):
        directory = tmp_path / folder
        assert entries.run(NAME, directory, [], **OPTIONS, **options) == 0
        return directory

    return run


def weights(path):
    return keras.models.load_model(path).get_weights()


def steps_of(folder):
    with (folder / "log.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_a_recipe_of_today_has_one_stage(tmp_path):
    assert FIRST.stages == (FIRST,) and RECIPE.stages == (FIRST, RECIPE)
    stages = list(runs.stages(FIRST, tmp_path, (None, 7), "maml.other"))
    assert stages == [(FIRST, tmp_path, 4, "maml.other")]
    first, last = runs.stages(RECIPE, tmp_path, (3, 7), "maml.other")
    assert first == (FIRST, tmp_path / "pretraining", 7, "maml.other")
    assert last == (RECIPE, tmp_path, 3, str(tmp_path / "pretraining" / "best.keras"))
    assert RECIPE.protocol == f"{TASK}; before that, {FIRST.task}"


@pytest.mark.thorough
def test_stages_resume_exactly_and_are_published(run, monkeypatch, capsys):
    whole = run("whole")
    said = capsys.readouterr().out
    assert f"starting from {whole / 'pretraining' / 'best.keras'}" in said
    assert steps_of(whole / "pretraining") == [2, 3] and steps_of(whole) == [2, 4]
    with monkeypatch.context() as patch:
        checkpoint = training.Run._checkpoint

        def stopping(self, logs):  # in the first stage; one stage is in test_runs.py
            self.stop_signal = True
            checkpoint(self, logs)

        patch.setattr(training.Run, "_checkpoint", stopping)
        with pytest.raises(training.Stopped):
            run("stopped")
    assert not (whole.with_name("stopped") / "log.csv").exists()
    resumed = run("stopped", publishes=True)
    for place in (".", "pretraining"):
        pairs = zip(
            weights(whole / place / "last.keras"),
            weights(resumed / place / "last.keras"),
            strict=True,
        )
        for one, two in pairs:
            np.testing.assert_array_equal(one, two)
    begun = json.loads((resumed / "run.json").read_text())
    assert begun["initial_weights"] == "pretraining"
    assert begun["initial_sha256"] == cards.sha256(resumed / "pretraining/best.keras")
    card = zoo.card(NAME)
    assert card.initial_weights == cards.RANDOM and card.steps == 4
    assert card.protocol == RECIPE.protocol and card.learner == "ProtoNet"
    assert isinstance(zoo.load(NAME), km.ProtoNet)

    # Training is in mixed precision, what is published is not.
    trained, published = (
        keras.models.load_model(path)
        for path in (resumed / "best.keras", card.directory / "model.keras")
    )
    for learner, policy in ((trained, "mixed_bfloat16"), (published, "float32")):
        layers = [layer for layer in learner.network.layers if layer.weights]
        assert {layer.dtype_policy.name for layer in layers} == {policy}
        assert {variable.dtype for variable in learner.network.variables} == {"float32"}
    for one, two in zip(trained.get_weights(), published.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert keras.config.dtype_policy().name == "float32"


def test_numbers_of_stages_are_checked():
    with pytest.raises(ValueError, match="pretraining_steps for a recipe with pretrai"):
        training.check(FIRST, 1, {"pretraining_steps": 3})
    with pytest.raises(ValueError, match="pretraining_steps to be an integer >= 1"):
        training.check(RECIPE, 1, {"pretraining_steps": 0})
    slow = dataclasses.replace(RECIPE, tasks=2)
    with pytest.raises(ValueError, match="workers to divide the 1 tasks"):
        training.check(slow, 2, {})


def test_settings_of_the_optimizer_are_set():
    learner = entries.compiled(FIRST, FIRST.learner(), 4)
    assert learner.optimizer.momentum == 0.9
    assert learner.optimizer.weight_decay == 1e-3


def test_pretraining_classifies_and_validation_is_few_shot():
    keras.utils.set_random_seed(1)
    learner = FIRST.learner()
    x = np.random.RandomState(0).normal(size=[1, 6, 8, 8, 3]).astype("float32")
    y = np.array([[3, 0, 3, 1, 1, 0]], "int32")
    episode = {"support_x": x, "support_y": y, "query_x": x}
    features = learner.network(x[0], training=True).numpy()
    kernel, bias = learner.head.get_weights()
    logits = features @ kernel + bias
    np.testing.assert_allclose(learner(episode, training=True)[0], logits, atol=1e-4)
    # Cross-entropy of targets with a tenth on all four classes.
    targets = 0.9 * np.eye(4)[y[0]] + 0.1 / 4
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = learner.query_loss(y, learner(episode, training=True))
    np.testing.assert_allclose(loss, -(targets * logs).sum(-1).mean(), atol=1e-5)
    # The support set has no part in it.
    other = {**episode, "support_x": x[:, ::-1], "support_y": y[:, ::-1]}
    np.testing.assert_allclose(
        learner(other, training=True), learner(episode, training=True), atol=1e-5
    )
    plain = km.ProtoNet(learner.network, 4)
    few = {**episode, "support_y": np.array([[0, 1, 0, 1, 0, 1]], "int32")}
    np.testing.assert_allclose(learner(few), plain(few), atol=1e-5)


def test_statistics_of_averaged_weights_are_those_of_the_batches():
    network = km.networks.conv4((8, 8, 3), None, filters=2, pooling="none")
    learner = supervised.Supervised(network, 4)
    x = np.random.RandomState(0).normal(1, 2, [1, 6, 8, 8, 3]).astype("float32")
    y = np.array([[3, 0, 3, 1, 1, 0]], "int32")
    data = tf.data.Dataset.from_tensors(
        ({"support_x": x, "support_y": y, "query_x": x}, y)
    )
    km.batch_norm.estimate(learner, data)
    first = network.get_layer("conv1")(x[0]).numpy()
    mean = network.get_layer("norm1").moving_mean
    np.testing.assert_allclose(mean, first.mean((0, 1, 2)), atol=1e-5)


def test_smoothing_leaves_out_absent_classes():
    logits = tf.constant([[1.0, 2.0, km.logits.ABSENT]])
    two = supervised.SmoothedCrossentropy(0.2)
    found = two(tf.constant([0]), logits)
    logs = np.log([1 / (1 + np.e), np.e / (1 + np.e)])
    np.testing.assert_allclose(found, -0.8 * logs[0] - 0.2 * logs.mean(), rtol=1e-5)
    cooled = two(tf.constant([0]), tf.constant([[1.0, 2.0, km.logits.ABSENT / 900]]))
    np.testing.assert_allclose(cooled, found, rtol=1e-6)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(two)
    )
    assert again.smoothing == 0.2
