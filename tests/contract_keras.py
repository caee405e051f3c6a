"""The contract's second part: what users set on a Keras model, for every learner."""

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

rows = contract.rows
# Small steps that show: gradients are compared, not what an optimizer makes of them.
RATE = 0.1
TWO = 2  # tasks


def made(name, seed=0):
    keras.utils.set_random_seed(seed)
    return contract.ROWS[name].make()


def batch(name):
    return contract.batch(name, TWO)


def gradient(learner, episode, query_y, **arguments):
    """Loss, `{id of a variable: gradient}` and outputs of one batch, run as Python."""
    loss, gradients, variables, outputs = learner.meta_gradient(
        episode, query_y, **arguments
    )
    found = {
        id(v): np.zeros(v.shape) if g is None else tf.convert_to_tensor(g).numpy()
        for g, v in zip(gradients, variables, strict=True)
    }
    return float(loss), found, np.asarray(outputs)


def same(found, expected, rtol=1e-4):
    """Gradients equal, relative to the largest of each variable, if it has any."""
    assert found.keys() == expected.keys()
    least = 0.01 * max(np.abs(value).max() for value in expected.values())
    for path, value in expected.items():
        scale = max(np.abs(value).max(), least)
        np.testing.assert_allclose(
            found[path] / scale, value / scale, rtol=0, atol=rtol, err_msg=path
        )


def after_a_step(learner, data, optimizer=None, eager=True):
    """All weights after one step of SGD."""
    learner.compile(optimizer or keras.optimizers.SGD(RATE), run_eagerly=eager)
    learner.train_on_batch(*data)
    return learner.get_weights()


def first_layer(learner):
    """The first leaf layer of a learner's networks that has weights."""
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
    learner, data = made(name), batch(name)
    # The order of the examples is fixed in a state; this one is of other flags.
    before = learner.adapt(data[0]["support_x"], data[0]["support_y"])
    layer = first_layer(learner)
    layer.trainable = False
    frozen = {id(v) for v in layer.variables}
    assert not frozen & {id(v) for v in learner.trainable_variables}
    state = learner.adapt(data[0]["support_x"], data[0]["support_y"])
    if hasattr(learner, "adapted"):
        assert not frozen & {id(v) for v in learner.adapted()}
        shapes = [v.shape for v in learner.adapted()]
        assert [tuple(leaf.shape[1:]) for leaf in state["weights"]] == shapes
        if len(before["weights"]) != len(state["weights"]):
            with pytest.raises(ValueError, match="present settings"):
                learner.infer(before, data[0]["query_x"])
    # The same as if it had been frozen before construction, and as its saved copy.
    other = copy_of(learner)
    assert [v.path for v in other.trainable_variables] == [
        v.path for v in learner.trainable_variables
    ]
    contract.close(contract.answers(learner, data[0]), contract.answers(other, data[0]))
    for each in (learner, other):
        values = [v.numpy() for v in first_layer(each).variables]
        kept = each.get_weights()
        moved = after_a_step(each, data)
        for variable, value in zip(first_layer(each).variables, values, strict=True):
            np.testing.assert_array_equal(variable, value)
        trains = any((a != b).any() for a, b in zip(kept, moved, strict=True))
        assert trains == bool(each.trainable_variables)
    for one, two in zip(learner.get_weights(), other.get_weights(), strict=True):
        contract.close(one, two)


@rows
def test_a_learner_that_does_not_train_learns_tasks_as_before(name):
    learner, data = made(name), batch(name)
    flags = [layer.trainable for layer in keras_private.layers_of(learner)]
    answers = contract.answers(learner, data[0])
    learner.trainable = False
    assert [layer.trainable for layer in keras_private.layers_of(learner)] == flags
    assert learner.trainable_variables == []
    np.testing.assert_array_equal(contract.answers(learner, data[0]), answers)
    weights = learner.get_weights()
    with pytest.warns(UserWarning, match="no trainable variables"):
        after = after_a_step(learner, data)
    for one, two in zip(weights, after, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not copy_of(learner).trainable


@rows
def test_what_is_frozen_for_tasks_still_meta_trains(name):
    learner, data = made(name), batch(name)
    if not hasattr(learner, "frozen"):
        return  # ANIL's body has a test of its own
    first = learner.modules[0]
    learner.frozen = [first]
    trainable = learner.bound.trainable
    owners = zip(trainable, learner.modules_of(trainable), strict=True)
    of_first = [variable for variable, module in owners if module == first]
    assert of_first and not {id(v) for v in of_first} & {
        id(v) for v in learner.adapted()
    }
    before = [v.numpy() for v in of_first]
    after_a_step(learner, data)
    pairs = zip(of_first, before, strict=True)
    assert any(np.abs(variable - value).max() > 1e-6 for variable, value in pairs)
    copy = copy_of(learner)
    assert list(copy.frozen) == [first]
    contract.close(contract.answers(copy, data[0]), contract.answers(learner, data[0]))


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
    learner, data = made(name), batch(name)
    before = contract.answers(learner, data[0])  # which traces
    kinds = {
        key: value
        for kind in reversed(type(learner).__mro__)
        for key, value in vars(kind).items()
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
            continue  # of regression
        if key == "temperature" and not learner.classification:
            with pytest.raises(ValueError, match="expected no temperature for reg"):
                learner.temperature = value
            continue
        if isinstance(kinds[key], settings.Fixed):
            with pytest.raises(AttributeError, match=f"expected {key} of"):
                setattr(learner, key, value)
            continue
        setattr(learner, key, value)
        assert getattr(learner, key) == value
        changed.append(key)
    answers = contract.answers(learner, data[0])
    fresh = copy_of(learner)  # made with them
    contract.close(answers, contract.answers(fresh, data[0]))
    assert bool(changed) == bool(np.abs(answers - before).max() > 1e-3)


@rows
def test_a_temperature_divides_the_logits_of_predictions_alone(name):
    learner, data = made(name), batch(name)
    if not learner.classification:
        with pytest.raises(ValueError, match="expected no temperature for regression"):
            learner.temperature = 2.0
        return
    before = contract.answers(learner, data[0])
    loss, gradients, outputs = gradient(learner, *data)
    learner.temperature = 2.5
    found = contract.answers(copy_of(learner), data[0])
    np.testing.assert_allclose(found, before / 2.5, rtol=1e-5, atol=1e-6)
    traced = tf.function(lambda episode: learner(episode))(data[0])
    np.testing.assert_allclose(traced, before / 2.5, rtol=1e-3, atol=1e-4)
    # Meta-training and fine-tuning have none.
    found, again, trained = gradient(learner, *data)
    same(again, gradients)
    if getattr(learner, "joint", False):  # reports what `evaluate` does
        np.testing.assert_allclose(trained, outputs / 2.5, rtol=1e-3, atol=1e-4)
    else:
        assert found == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(trained, outputs, rtol=1e-3, atol=1e-4)
    if name in ("MAML", "ProtoNet"):
        x, y = (data[0][key][0] for key in ("support_x", "support_y"))
        tuned = km.finetune(learner, x, y).predict(data[0]["query_x"][0], verbose=0)
        np.testing.assert_allclose(tuned, before[0], rtol=1e-4, atol=1e-5)
    for wrong in (0.0, -1.0, float("nan"), "1", 1e4):
        with pytest.raises(ValueError, match="expected temperature to be between"):
            learner.temperature = wrong


# regularizers


@rows
def test_a_weight_regularizer_acts_once_in_the_outer_loss(name):
    learner, data = made(name), batch(name)
    loss, plain, _ = gradient(learner, *data)
    variable = keras_private.made_to_train(first_layer(learner))[0]
    variable.regularizer = keras.regularizers.L2(0.5)
    penalized, found, _ = gradient(learner, *data)
    value = variable.numpy()
    assert penalized - loss == pytest.approx(0.5 * np.sum(value**2), rel=1e-4)
    expected = {**plain, id(variable): plain[id(variable)] + value}
    same(found, expected)
    # Loss scaling reaches it too.
    _, scaled, _ = gradient(learner, *data, loss_scale=64.0)
    same({path: g / 64 for path, g in scaled.items()}, expected)
    # `evaluate` reports it, once.
    learner.compile(run_eagerly=True)
    reported = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    variable.regularizer = None
    without = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    assert reported - without == pytest.approx(0.5 * np.sum(value**2), rel=1e-3)


@rows
def test_an_activity_regularizer_acts(name):
    learner, data = made(name), batch(name)
    loss, _, _ = gradient(learner, *data)
    learner.compile(run_eagerly=True)
    without = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    # Keras has no activity regularizers inside the loop of an RNN.
    layer = getattr(learner, "head", None) or first_layer(learner)
    layer.activity_regularizer = keras.regularizers.L2(0.1)
    learner.compile(run_eagerly=True)  # as in Keras, for what was traced
    penalized, _, _ = gradient(learner, *data)
    assert penalized > loss + 1e-4 or is_reptile(learner)
    reported = learner.evaluate(*data, verbose=0, return_dict=True)["loss"]
    assert reported > without + 1e-4


# the rest


@rows
def test_eager_is_the_graph(name):
    data = batch(name)
    expected = after_a_step(made(name), data, eager=False)
    for found, value in zip(after_a_step(made(name), data), expected, strict=True):
        contract.close(found, value, atol=1e-5)


@rows
def test_sparse_gradients(name, monkeypatch):
    # Networks that begin with an embedding of their inputs, rounded to whole numbers.
    def embedded(inputs, outputs):
        x = keras.Input([inputs])
        places = keras.layers.Rescaling(1.0, offset=5.0)(x)
        features = keras.layers.Flatten()(keras.layers.Embedding(12, 3)(places))
        return keras.Model(x, keras.layers.Dense(outputs)(features))

    monkeypatch.setattr(
        contract, "normalized", lambda outputs=contract.WAYS: embedded(6, outputs)
    )
    monkeypatch.setattr(
        contract,
        "features",
        lambda inputs=6, outputs=16, units=(), activation="": embedded(inputs, outputs),
    )
    monkeypatch.setattr(km.networks, "mlp", lambda *args, **kwargs: embedded(1, 1))
    learner, data = made(name), batch(name)
    data = tf.nest.map_structure(
        lambda v: np.clip(v, -4, 4) if v.dtype == "float32" else v, data
    )
    expected = after_a_step(learner, data, eager=False)
    for found, value in zip(after_a_step(made(name), data), expected, strict=True):
        assert np.isfinite(found).all()
        contract.close(found, value, atol=1e-5)


@rows
def test_callbacks_know_directions(name):
    learner, data = made(name), batch(name)
    learner.compile(run_eagerly=True)
    key = "val_accuracy" if learner.classification else "val_mse"
    stopping = keras.callbacks.EarlyStopping(key, patience=0)
    learner.fit(*data, validation_data=data, callbacks=[stopping], verbose=0)
    better, worse = (0.9, 0.1) if learner.classification else (0.1, 0.9)
    assert stopping.monitor_op(better, worse) and not stopping.monitor_op(worse, better)


@rows
def test_endless_episodes_need_a_number_of_steps(name):
    learner = made(name)
    learner.compile()
    endless = contract.ROWS[name].episodes().batch(TWO)
    finite = endless.take(1)
    for call, argument in (
        (lambda: learner.fit(endless), "steps_per_epoch"),
        (lambda: learner.fit(finite, validation_data=endless), "validation_steps"),
        (lambda: learner.evaluate(endless.map(lambda x, y: (x, y))), "steps"),
        (lambda: learner.predict(endless.repeat()), "steps"),
    ):
        with pytest.raises(ValueError, match=f"expected {argument}=, because"):
            call()


@pytest.mark.thorough
def test_files_load_in_a_fresh_process(tmp_path):
    expected = {}
    for position, name in enumerate(contract.ROWS):
        learner = made(name)
        learner.compile()
        path = tmp_path / f"{position}.keras"
        learner.save(path)
        episode, _ = batch(name)
        np.savez(tmp_path / f"{position}.npz", **episode)
        expected[str(path)] = contract.answers(learner, episode)
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *expected],
        capture_output=True,
        text=True,
        check=True,
    )
    answers = json.loads(done.stdout.splitlines()[-1])
    for path, value in expected.items():
        contract.close(np.array(answers[path]), value)


FRESH = """
import json, sys
import keras, numpy as np
import keras_meta
import examples.matching_network
from keras_meta.learner import stacked
answers = {}
for path in sys.argv[1:]:
    learner = keras.models.load_model(path)
    episode = dict(np.load(path.replace(".keras", ".npz")))
    state = learner.adapt(episode["support_x"], episode["support_y"])
    outputs = stacked(learner.infer(state, episode["query_x"]))
    answers[path] = np.asarray(outputs).tolist()
print(json.dumps(answers))
"""
