"""Tests of `check`: it reports wrong derivatives and no others."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import check, cost_check, layer_check, probes
from keras_meta.zoo import cli
from tests import smooth


class Stopped(keras.layers.Layer):
    """Normalizes with moments that stop a part of the gradient, as in Keras."""

    def call(self, x):
        mean, variance = tf.nn.moments(x, [0], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-3)


class Dilated(keras.layers.Layer):
    """Applies an operation without a second derivative."""

    def call(self, x):
        filters = tf.zeros([2, 2, x.shape[-1]], x.dtype)
        return tf.nn.dilation2d(x, filters, [1] * 4, "SAME", "NHWC", [1] * 4)


class Shifted(keras.layers.Layer):
    """Has a first derivative with an error of a tenth."""

    def call(self, x):
        @tf.custom_gradient
        def double(x):
            return 2 * x, lambda upstream: 2.2 * upstream

        return double(x)


class Python(keras.layers.Layer):
    """Applies an operation that XLA cannot compile."""

    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(np.copy, [x], x.dtype), x.shape)


def network(*layers, shape=(6, 6, 2)):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def errors_of(learner, **kwargs):
    findings = check.check(learner, cost=False, **kwargs)
    assert len(findings) >= 3
    return {f.what: f.sentence for f in findings if f.state == "wrong"}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "learner",
    [
        lambda: km.MAML(smooth.network(), inner_steps=2),
        lambda: km.MAML(km.networks.conv4((28, 28, 1), 5)),
        lambda: km.Reptile(network(keras.layers.Dropout(0.5), keras.layers.ReLU())),
        lambda: km.SigmaIMAML(km.networks.mlp((4,), 3), vectorize=False),
        lambda: km.CNP(
            km.networks.mlp((2,), 8), km.networks.mlp((9,), 2), aggregate="attention"
        ),
        lambda: km.LSTMLearner(example_shape=[4], outputs=3, units=[8, 4]),
        lambda: km.MANN(example_shape=[4], outputs=3, rows=6, width=5, heads=2),
        lambda: km.ProtoNet(network(keras.layers.BatchNormalization())),
    ],
)
def test_correct_learners_have_no_errors(learner):
    keras.utils.set_random_seed(0)
    assert errors_of(learner()) == {}


@pytest.mark.thorough
def test_a_wrong_second_derivative_is_reported():
    errors = errors_of(km.MAML(network(Stopped(name="stopped"))))
    assert "Stopped: its second derivative is off by" in errors["stopped"]
    # FOMAML uses no second derivative, so none is wrong.
    assert errors_of(km.FOMAML(network(Stopped(name="stopped")))) == {}


@pytest.mark.thorough
def test_a_layer_without_a_second_derivative_is_reported():
    with pytest.raises(LookupError):  # as in training
        learner = km.MAML(network(keras.layers.Conv2D(2, 3), Dilated(name="dilated")))
        learner.meta_gradient(*probes.random_episode(learner))
    errors = errors_of(
        km.FOMAML(network(keras.layers.Conv2D(2, 3), Dilated(name="dilated")))
    )
    assert errors == {}
    findings = check.check(
        km.MAML(network(keras.layers.Conv2D(2, 3), Dilated(name="dilated"))), cost=False
    )
    sentences = [f.sentence for f in findings if f.state == "wrong"]
    assert sentences[0].startswith("Dilated: its second derivative does not exist")
    assert "meta-gradient" in [f.what for f in findings if f.state == "wrong"]


@pytest.mark.thorough
def test_a_wrong_first_derivative_is_reported():
    errors = errors_of(km.FOMAML(network(Shifted(name="shifted"))))
    assert errors.keys() == {"shifted"}
    assert "first derivative is off by" in errors["shifted"]


@pytest.mark.parametrize("rule, order", [("reptile", 1), ("implicit", 2)])
def test_implicit_scales_need_second_derivatives(rule, order):
    learner = km.SigmaReptile(smooth.network(), scale_rule=rule)
    assert check._order(learner) == order


def test_layers_of_several_inputs_are_noted():
    a, b = keras.Input([4, 6]), keras.Input([4, 6])
    attention = keras.layers.MultiHeadAttention(2, 3, name="attention")
    network = keras.Model([a, b], keras.layers.Add(name="sum")([attention(a, b), a]))
    notes = [f for f in layer_check.check_layers(network, None, 1) if f.state == "note"]
    assert [(f.what, f.sentence) for f in notes] == [
        ("attention", "has several inputs: not checked alone")
    ]


@pytest.mark.thorough
def test_compiled_layers_are_compared():
    assert errors_of(km.MAML(smooth.network()), jit=True) == {}
    learner = km.FOMAML(network(Python(name="python")))
    findings = [
        f for f in check.check(learner, jit=True, cost=False) if "XLA" in f.sentence
    ]
    assert [f.what for f in findings] == ["python"]


@pytest.mark.thorough
def test_the_check_command(tmp_path, monkeypatch, capsys):
    dense_network = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(8, "tanh"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3, name="head"),
        ]
    )
    dense_network.save(tmp_path / "network.keras")
    assert cli.main(["check", str(tmp_path / "network.keras"), "--learner=ANIL"]) == 0
    stdout = capsys.readouterr().out
    assert "Dense: its second derivative is right" in stdout
    assert "for each inner step" in stdout
    km.MAML(dense_network).save(tmp_path / "learner.keras")
    for arguments, message in (
        (["network.keras", "--learner=CNP"], "expected one of ANIL, FOMAML"),
        (["none.keras"], "expected a file, got none"),
        (["learner.keras", "--loss=mse"], "expected no --loss"),
        (["learner.keras", "--learner=ANIL"], "expected no --learner"),
    ):
        arguments[0] = str(tmp_path / arguments[0])
        assert cli.main(["check", *arguments]) == 2
        assert message in capsys.readouterr().err
    monkeypatch.setattr(Python, "__module__", "elsewhere")  # as in another process
    custom_network = keras.Sequential([keras.Input([4]), Python(name="python")])
    custom_network.save(tmp_path / "own.keras")
    assert cli.main(["check", str(tmp_path / "own.keras")]) == 2
    assert "expected a file with layers of Keras only" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a Learner"):
        check.check(dense_network)


@pytest.mark.slow
def test_cost_grows_with_the_number_of_inner_steps():
    finding = cost_check.measure(km.MAML(km.networks.conv4((28, 28, 1), filters=16)))
    numbers = [
        float(n) for n in finding.sentence.split() if n.replace(".", "").isdigit()
    ]
    assert finding.state == "note" and len(numbers) == 6 and numbers[3] > 0
    assert np.isfinite(numbers).all()
