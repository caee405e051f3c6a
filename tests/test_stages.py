"""Tests of recipes of two stages: supervised pretraining, then few-shot tasks."""

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
    """Returns a pool of eight classes of noisy colours."""
    random = np.random.RandomState(0)
    x = random.randint(0, 200, [8, 1, 1, 1, 3]) + random.randint(
        0, 56, [8, 20, 8, 8, 3]
    )
    x = x.reshape(-1, 8, 8, 3).astype("uint8")
    pool = km.ClassPool.from_arrays(x, np.repeat(np.arange(8), 20), preprocess)
    return pool if ids is None else pool.select(ids)


def encoder():
    return km.networks.mlp((8, 8, 3), 4, units=())


def build_preprocess():
    return km.ImagePreprocess(8, 8, 3, False, mean=0.5, deviation=0.25)


SOURCE = sources.Source("colours", "x", "x", "x", (4, 2, 2), load, rotations=False)
TASK = protocols.Classification(
    SOURCE, ways=2, queries=2, test_queries=3, augment={"flip": {}}
)
FIRST = schema.Recipe(
    lambda: supervised.Supervised(encoder(), 4, preprocess=build_preprocess()),
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
    lambda: km.ProtoNet(encoder(), 2, preprocess=build_preprocess()),
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


def load_weights(path):
    return keras.models.load_model(path).get_weights()


def read_steps(folder):
    with (folder / "log.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_stages_of_recipes_with_and_without_pretraining(tmp_path):
    assert FIRST.stages == (FIRST,) and RECIPE.stages == (FIRST, RECIPE)
    stages = list(runs.stages(FIRST, tmp_path, (None, 7), "maml.other"))
    assert stages == [(FIRST, tmp_path, 4, "maml.other")]
    first, last = runs.stages(RECIPE, tmp_path, (3, 7), "maml.other")
    assert first == (FIRST, tmp_path / "pretraining", 7, "maml.other")
    assert last == (RECIPE, tmp_path, 3, str(tmp_path / "pretraining" / "best.keras"))
    assert RECIPE.protocol == f"{TASK}; pretraining on {FIRST.task}"


@pytest.mark.thorough
def test_stages_resume_exactly_and_are_published(run, monkeypatch, capsys):
    whole = run("whole")
    stdout = capsys.readouterr().out
    assert f"starting from {whole / 'pretraining' / 'best.keras'}" in stdout
    assert read_steps(whole / "pretraining") == [2, 3] and read_steps(whole) == [2, 4]
    with monkeypatch.context() as patch:
        checkpoint = training.Run._checkpoint

        def stop(self, logs):  # in the first stage; test_runs.py tests one stage
            self.stop_signal = True
            checkpoint(self, logs)

        patch.setattr(training.Run, "_checkpoint", stop)
        with pytest.raises(training.Stopped):
            run("stopped")
    assert not (whole.with_name("stopped") / "log.csv").exists()
    resumed = run("stopped", publishes=True)
    for stage in (".", "pretraining"):
        pairs = zip(
            load_weights(whole / stage / "last.keras"),
            load_weights(resumed / stage / "last.keras"),
            strict=True,
        )
        for expected, actual in pairs:
            np.testing.assert_array_equal(expected, actual)
    record = json.loads((resumed / "run.json").read_text())
    assert record["initial_weights"] == "pretraining"
    assert record["initial_sha256"] == cards.sha256(resumed / "pretraining/best.keras")
    card = zoo.card(NAME)
    assert card.initial_weights == cards.RANDOM and card.steps == 4
    assert card.protocol == RECIPE.protocol and card.learner == "ProtoNet"
    assert isinstance(zoo.load(NAME), km.ProtoNet)

    # Training uses mixed precision; the published model does not.
    trained, published = (
        keras.models.load_model(path)
        for path in (resumed / "best.keras", card.directory / "model.keras")
    )
    for learner, policy in ((trained, "mixed_bfloat16"), (published, "float32")):
        layers = [layer for layer in learner.network.layers if layer.weights]
        assert {layer.dtype_policy.name for layer in layers} == {policy}
        assert {variable.dtype for variable in learner.network.variables} == {"float32"}
    for a, b in zip(trained.get_weights(), published.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert keras.config.dtype_policy().name == "float32"


def test_settings_of_stages_are_validated():
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
    # Smoothed targets spread a tenth of the probability over all four classes.
    targets = 0.9 * np.eye(4)[y[0]] + 0.1 / 4
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = learner.query_loss(y, learner(episode, training=True))
    np.testing.assert_allclose(loss, -(targets * log_p).sum(-1).mean(), atol=1e-5)
    # The support set does not change the logits.
    changed = {**episode, "support_x": x[:, ::-1], "support_y": y[:, ::-1]}
    np.testing.assert_allclose(
        learner(changed, training=True), learner(episode, training=True), atol=1e-5
    )
    protonet = km.ProtoNet(learner.network, 4)
    few_shot = {**episode, "support_y": np.array([[0, 1, 0, 1, 0, 1]], "int32")}
    np.testing.assert_allclose(learner(few_shot), protonet(few_shot), atol=1e-5)


def test_estimated_batch_statistics_match_the_batches():
    network = km.networks.conv4((8, 8, 3), None, filters=2, pooling="none")
    learner = supervised.Supervised(network, 4)
    x = np.random.RandomState(0).normal(1, 2, [1, 6, 8, 8, 3]).astype("float32")
    y = np.array([[3, 0, 3, 1, 1, 0]], "int32")
    data = tf.data.Dataset.from_tensors(
        ({"support_x": x, "support_y": y, "query_x": x}, y)
    )
    km.batch_norm.estimate(learner, data)
    outputs = network.get_layer("conv1")(x[0]).numpy()
    mean = network.get_layer("norm1").moving_mean
    np.testing.assert_allclose(mean, outputs.mean((0, 1, 2)), atol=1e-5)


def test_label_smoothing_ignores_absent_classes():
    logits = tf.constant([[1.0, 2.0, km.logits.ABSENT]])
    loss = supervised.SmoothedCrossentropy(0.2)
    value = loss(tf.constant([0]), logits)
    log_p = np.log([1 / (1 + np.e), np.e / (1 + np.e)])
    np.testing.assert_allclose(value, -0.8 * log_p[0] - 0.2 * log_p.mean(), rtol=1e-5)
    scaled = loss(tf.constant([0]), tf.constant([[1.0, 2.0, km.logits.ABSENT / 900]]))
    np.testing.assert_allclose(scaled, value, rtol=1e-6)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(loss)
    )
    assert copy.smoothing == 0.2
