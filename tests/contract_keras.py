"""The contract, part 2: every learner supports the settings of a Keras model."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import keras_private, settings
from tests import contract

rows = contract.rows_by_default("MAML", "ProtoNet")
# For tests in which MAML differs little and takes three times as long.
one_row = contract.rows_by_default("ProtoNet")
# Plain SGD, so that weights differ by gradients alone, in steps above rounding.
RATE = 0.1
TASKS = 2


def build(name, seed=0):
    keras.utils.set_random_seed(seed)
    return contract.ROWS[name].build()


def batch(name):
    return contract.batch(name, TASKS)


def gradient(learner, episode, query_y, **arguments):
    """Returns loss, `{id of a variable: gradient}` and outputs of an eager batch."""
    loss, gradients, variables, outputs = learner.meta_gradient(
        episode, query_y, **arguments
    )
    by_variable = {
        id(v): np.zeros(v.shape) if g is None else tf.convert_to_tensor(g).numpy()
        for g, v in zip(gradients, variables, strict=True)
    }
    return float(loss), by_variable, np.asarray(outputs)


def assert_gradients_close(gradients, expected, rtol=1e-4):
    """Compares gradients, relative to the largest element of each variable."""
    assert gradients.keys() == expected.keys()
    min_scale = 0.01 * max(np.abs(value).max() for value in expected.values())
    for key, value in expected.items():
        scale = max(np.abs(value).max(), min_scale)
        np.testing.assert_allclose(
            gradients[key] / scale, value / scale, rtol=0, atol=rtol, err_msg=key
        )


def weights_after_step(learner, data, optimizer=None, eager=True):
    """Returns all weights after one step of SGD."""
    learner.compile(optimizer or keras.optimizers.SGD(RATE), run_eagerly=eager)
    learner.train_on_batch(*data)
    return learner.get_weights()


def first_layer(learner):
    """Returns the first leaf layer of a learner's networks with trainable weights."""
    return next(
        layer
        for layer in keras_private.layers_of(learner)
        if keras_private.made_to_train(layer) and keras_private.is_leaf(layer)
    )


def copy_of(learner):
    copy = type(learner).from_config(learner.get_config())
    copy.set_weights(learner.get_weights())
    return copy


def is_reptile(learner):
    return isinstance(learner, km.Reptile | km.SigmaReptile)


# trainable


@rows
def test_a_frozen_layer_neither_adapts_nor_meta_trains(name):
    learner, data = build(name), batch(name)
    # A state fixes the order of the examples. This state precedes the freezing.
    earlier_state = learner.adapt(data[0]["support_x"], data[0]["support_y"])
    layer = first_layer(learner)
    layer.trainable = False
    frozen = {id(v) for v in layer.variables}
    assert not frozen & {id(v) for v in learner.trainable_variables}
    state = learner.adapt(data[0]["support_x"], data[0]["support_y"])
    if hasattr(learner, "adapted"):
        assert not frozen & {id(v) for v in learner.adapted()}
        shapes = [v.shape for v in learner.adapted()]
        assert [tuple(leaf.shape[1:]) for leaf in state["weights"]] == shapes
        if len(earlier_state["weights"]) != len(state["weights"]):
            with pytest.raises(ValueError, match="present settings"):
                learner.infer(earlier_state, data[0]["query_x"])
    # A copy from the config is frozen before construction and computes the same.
    copy = copy_of(learner)
    assert [v.path for v in copy.trainable_variables] == [
        v.path for v in learner.trainable_variables
    ]
    contract.close(contract.predict(learner, data[0]), contract.predict(copy, data[0]))
    for model in (learner, copy):
        values = [v.numpy() for v in first_layer(model).variables]
        weights = model.get_weights()
        new_weights = weights_after_step(model, data)
        for variable, value in zip(first_layer(model).variables, values, strict=True):
            np.testing.assert_array_equal(variable, value)
        trains = any((a != b).any() for a, b in zip(weights, new_weights, strict=True))
        assert trains == bool(model.trainable_variables)
    for weight, copied in zip(learner.get_weights(), copy.get_weights(), strict=True):
        contract.close(weight, copied)


@rows
def test_a_learner_with_trainable_false_still_adapts(name):
    learner, data = build(name), batch(name)
    flags = [layer.trainable for layer in keras_private.layers_of(learner)]
    predictions = contract.predict(learner, data[0])
    learner.trainable = False
    assert [layer.trainable for layer in keras_private.layers_of(learner)] == flags
    assert learner.trainable_variables == []
    np.testing.assert_array_equal(contract.predict(learner, data[0]), predictions)
    weights = learner.get_weights()
    with pytest.warns(UserWarning, match="no trainable variables"):
        new_weights = weights_after_step(learner, data)
    for weight, new_weight in zip(weights, new_weights, strict=True):
        np.testing.assert_array_equal(weight, new_weight)
    assert not copy_of(learner).trainable


@rows
def test_modules_frozen_in_the_inner_loop_are_meta_trained(name):
    learner, data = build(name), batch(name)
    if not hasattr(learner, "frozen"):
        return  # test_anil.py tests ANIL's body
    first = learner.modules[0]
    learner.frozen = [first]
    trainable = learner.bound.trainable
    owners = zip(trainable, learner.modules_of(trainable), strict=True)
    first_variables = [variable for variable, module in owners if module == first]
    assert first_variables and not {id(v) for v in first_variables} & {
        id(v) for v in learner.adapted()
    }
    before = [v.numpy() for v in first_variables]
    weights_after_step(learner, data)
    pairs = zip(first_variables, before, strict=True)
    assert any(np.abs(variable - value).max() > 1e-6 for variable, value in pairs)
    copy = copy_of(learner)
    assert list(copy.frozen) == [first]
    contract.close(contract.predict(copy, data[0]), contract.predict(learner, data[0]))


# settings


CHANGES = {
    "inner_rate": 0.05,
    "inner_steps": 3,
    "evaluation_steps": 4,
    "inner_batch": 2,
    "support_order": "given",
    "regularization": 20.0,
    "min_scale": 0.3,
    "target_mean": 0.5,
    "target_scale": 3.0,
    "inner_optimizer": "adam",
    "scale": 3.0,
    "temperature": 2.0,
}


@rows
def test_a_changed_setting_takes_effect(name):
    learner, data = build(name), batch(name)
    before = contract.predict(learner, data[0])  # traces the computation
    descriptors = {
        key: value
        for base in reversed(type(learner).__mro__)
        for key, value in vars(base).items()
        if isinstance(value, settings.Setting)
    }
    changed = []
    for key, value in CHANGES.items():
        if key not in dict(settings.current(learner)):
            continue
        if learner.classification and key in (
            "target_mean",
            "target_scale",
            "min_scale",
        ):
            continue  # settings of regression
        if key == "temperature" and not learner.classification:
            with pytest.raises(ValueError, match="expected no temperature for reg"):
                learner.temperature = value
            continue
        if isinstance(descriptors[key], settings.Fixed):
            with pytest.raises(AttributeError, match=f"expected {key} of"):
                setattr(learner, key, value)
            continue
        setattr(learner, key, value)
        assert getattr(learner, key) == value
        changed.append(key)
    predictions = contract.predict(learner, data[0])
    copy = copy_of(learner)  # constructed with the changed settings
    contract.close(predictions, contract.predict(copy, data[0]))
    assert bool(changed) == bool(np.abs(predictions - before).max() > 1e-3)


@rows
def test_arguments_that_are_no_settings_keep_their_values(name):
    learner = build(name)
    kind = type(learner)
    arguments = settings.signature(kind).parameters.keys()
    fixed = {"network", "encoder", "decoder", "units", "modules", "rows", "outputs"}
    assert settings.constants(kind) >= fixed & arguments
    for key in settings.constants(kind):
        before = getattr(learner, key, None)
        with pytest.raises(AttributeError, match=f"expected {key} of"):
            setattr(learner, key, before)
        assert getattr(learner, key, None) == before


@one_row
def test_temperature_divides_the_logits_of_predictions_only(name):
    learner, data = build(name), batch(name)
    if not learner.classification:
        with pytest.raises(ValueError, match="expected no temperature for regression"):
            learner.temperature = 2.0
        return
    before = contract.predict(learner, data[0])
    loss, gradients, outputs = gradient(learner, *data)
    learner.temperature = 2.5
    predictions = contract.predict(copy_of(learner), data[0])
    np.testing.assert_allclose(predictions, before / 2.5, rtol=1e-5, atol=1e-6)
    traced = tf.function(lambda episode: learner(episode))(data[0])
    np.testing.assert_allclose(traced, before / 2.5, rtol=1e-3, atol=1e-4)
    # Meta-training and fine-tuning use the logits themselves.
    new_loss, new_gradients, new_outputs = gradient(learner, *data)
    assert_gradients_close(new_gradients, gradients)
    assert new_loss == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(new_outputs, outputs, rtol=1e-3, atol=1e-4)
    if name in ("MAML", "ProtoNet"):
        x, y = (data[0][key][0] for key in ("support_x", "support_y"))
        tuned = km.finetune(learner, x, y).predict(data[0]["query_x"][0], verbose=0)
        np.testing.assert_allclose(tuned, before[0], rtol=1e-4, atol=1e-5)
    for invalid in (0.0, -1.0, float("nan"), "1", 1e4):
        with pytest.raises(ValueError, match="expected temperature to be between"):
            learner.temperature = invalid


# regularizers


@rows
def test_a_weight_regularizer_adds_once_to_the_outer_loss(name):
    learner, data = build(name), batch(name)
    loss, plain, _ = gradient(learner, *data)
    variable = keras_private.made_to_train(first_layer(learner))[0]
    variable.regularizer = keras.regularizers.L2(0.5)
    penalized, gradients, _ = gradient(learner, *data)
    value = variable.numpy()
    assert penalized - loss == pytest.approx(0.5 * np.sum(value**2), rel=1e-4)
    expected = {**plain, id(variable): plain[id(variable)] + value}
    assert_gradients_close(gradients, expected)
    # Loss scaling includes the penalty.
    _, scaled, _ = gradient(learner, *data, loss_scale=64.0)
    assert_gradients_close({key: g / 64 for key, g in scaled.items()}, expected)
    # The loss of `evaluate` includes the penalty once.
    learner.compile(run_eagerly=True)
    reported = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    variable.regularizer = None
    without = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    assert reported - without == pytest.approx(0.5 * np.sum(value**2), rel=1e-3)


@one_row
def test_an_activity_regularizer_adds_to_the_loss(name):
    learner, data = build(name), batch(name)
    loss, _, _ = gradient(learner, *data)
    learner.compile(run_eagerly=True)
    without = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    # Keras ignores activity regularizers inside the loop of an RNN.
    layer = getattr(learner, "head", None) or first_layer(learner)
    layer.activity_regularizer = keras.regularizers.L2(0.1)
    learner.compile(run_eagerly=True)  # as in Keras, a change needs a new trace
    penalized, _, _ = gradient(learner, *data)
    assert penalized > loss + 1e-4 or is_reptile(learner)
    reported = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    assert reported > without + 1e-4


# other features of Keras


@rows
def test_eager_and_graph_steps_agree(name):
    data = batch(name)
    expected = weights_after_step(build(name), data, eager=False)
    weights = weights_after_step(build(name), data)
    for weight, expected_weight in zip(weights, expected, strict=True):
        contract.close(weight, expected_weight, atol=1e-5)


@one_row
def test_sparse_gradients(name, monkeypatch):
    # The first layer of these networks is an embedding of the rounded inputs.
    def embedder(inputs, outputs):
        x = keras.Input([inputs])
        indices = keras.layers.Rescaling(1.0, offset=5.0)(x)
        features = keras.layers.Flatten()(keras.layers.Embedding(12, 3)(indices))
        return keras.Model(x, keras.layers.Dense(outputs)(features))

    monkeypatch.setattr(
        contract, "normalized", lambda outputs=contract.WAYS: embedder(6, outputs)
    )
    monkeypatch.setattr(
        contract,
        "features",
        lambda inputs=6, outputs=16, units=(), activation="": embedder(inputs, outputs),
    )
    monkeypatch.setattr(km.networks, "mlp", lambda *args, **kwargs: embedder(1, 1))
    learner, data = build(name), batch(name)
    data = tf.nest.map_structure(
        lambda v: np.clip(v, -4, 4) if v.dtype == "float32" else v, data
    )
    expected = weights_after_step(learner, data, eager=False)
    weights = weights_after_step(build(name), data)
    for weight, expected_weight in zip(weights, expected, strict=True):
        assert np.isfinite(weight).all()
        contract.close(weight, expected_weight, atol=1e-5)


@one_row
def test_callbacks_infer_the_directions_of_metrics(name):
    learner, data = build(name), batch(name)
    learner.compile(run_eagerly=True)
    key = "val_accuracy" if learner.classification else "val_mse"
    stopping = keras.callbacks.EarlyStopping(key, patience=0)
    learner.fit(*data, validation_data=data, callbacks=[stopping], verbose=0)
    better, worse = (0.9, 0.1) if learner.classification else (0.1, 0.9)
    assert stopping.monitor_op(better, worse) and not stopping.monitor_op(worse, better)


@rows
def test_endless_episodes_require_a_number_of_steps(name):
    learner = build(name)
    learner.compile()
    endless = contract.ROWS[name].episodes().batch(TASKS)
    finite = endless.take(1)
    for function, argument in (
        (lambda: learner.fit(endless), "steps_per_epoch"),
        (lambda: learner.fit(finite, validation_data=endless), "validation_steps"),
        (lambda: learner.evaluate(endless.map(lambda x, y: (x, y))), "steps"),
        (lambda: learner.predict(endless.repeat()), "steps"),
    ):
        with pytest.raises(ValueError, match=f"expected {argument}=, because"):
            function()


@pytest.mark.thorough
def test_files_load_in_a_new_process(tmp_path):
    expected = {}
    for position, name in enumerate(contract.ROWS):
        learner = build(name)
        learner.compile()
        path = tmp_path / f"{position}.keras"
        learner.save(path)
        episode, _ = batch(name)
        np.savez(tmp_path / f"{position}.npz", **episode)
        expected[str(path)] = contract.predict(learner, episode)
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, *expected],
        capture_output=True,
        text=True,
        check=True,
    )
    predictions = json.loads(process.stdout.splitlines()[-1])
    for path, value in expected.items():
        contract.close(np.array(predictions[path]), value)


PROGRAM = """
import json, sys
import keras, numpy as np
import keras_meta
import examples.matching_network
from keras_meta.learner import stacked
predictions = {}
for path in sys.argv[1:]:
    learner = keras.models.load_model(path)
    episode = dict(np.load(path.replace(".keras", ".npz")))
    state = learner.adapt(episode["support_x"], episode["support_y"])
    outputs = stacked(learner.infer(state, episode["query_x"]))
    predictions[path] = np.asarray(outputs).tolist()
print(json.dumps(predictions))
"""
