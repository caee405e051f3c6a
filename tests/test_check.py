"""Check finds what is wrong, and nothing else."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import check, cost_check, probes
from keras_meta.zoo import cli
from tests import smooth


class Stopped(keras.layers.Layer):
    """Normalizes with moments whose gradient is stopped half way, as Keras' are."""

    def call(self, x):
        mean, variance = tf.nn.moments(x, [0], keepdims=True)
        return (x - mean) / tf.sqrt(variance + 1e-3)


class Dilated(keras.layers.Layer):
    """An operation whose gradient has none."""

    def call(self, x):
        filters = tf.zeros([2, 2, x.shape[-1]], x.dtype)
        return tf.nn.dilation2d(x, filters, [1] * 4, "SAME", "NHWC", [1] * 4)


class Shifted(keras.layers.Layer):
    """A first derivative that is off by a tenth."""

    def call(self, x):
        @tf.custom_gradient
        def double(x):
            return 2 * x, lambda upstream: 2.2 * upstream

        return double(x)


class Python(keras.layers.Layer):
    """An operation that XLA cannot compile."""

    def call(self, x):
        return tf.ensure_shape(tf.numpy_function(np.copy, [x], x.dtype), x.shape)


def network(*layers, shape=(6, 6, 2)):
    x = inputs = keras.Input(shape)
    for layer in layers:
        x = layer(x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def wrong(learner, **kwargs):
    found = check.check(learner, cost=False, **kwargs)
    assert len(found) >= 3
    return {each.what: each.sentence for each in found if each.state == "wrong"}


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
def test_what_is_right(learner):
    keras.utils.set_random_seed(0)
    assert wrong(learner()) == {}


@pytest.mark.thorough
def test_a_wrong_second_derivative_is_named():
    found = wrong(km.MAML(network(Stopped(name="stopped"))))
    assert "Stopped: its second derivative is off by" in found["stopped"]
    # Where no second derivative is taken, none is wrong.
    assert wrong(km.FOMAML(network(Stopped(name="stopped")))) == {}


def test_a_layer_without_a_second_derivative_is_named():
    with pytest.raises(LookupError):  # as training would
        learner = km.MAML(network(keras.layers.Conv2D(2, 3), Dilated(name="dilated")))
        learner.meta_gradient(*probes.random_episode(learner))
    found = wrong(
        km.FOMAML(network(keras.layers.Conv2D(2, 3), Dilated(name="dilated")))
    )
    assert found == {}
    found = check.check(
        km.MAML(network(keras.layers.Conv2D(2, 3), Dilated(name="dilated"))), cost=False
    )
    sentences = [each.sentence for each in found if each.state == "wrong"]
    assert sentences[0].startswith("Dilated: its second derivative does not exist")
    assert "meta-gradient" in [each.what for each in found if each.state == "wrong"]


@pytest.mark.thorough
def test_a_wrong_first_derivative_is_named():
    found = wrong(km.FOMAML(network(Shifted(name="shifted"))))
    assert found.keys() == {"shifted"}
    assert "first derivative is off by" in found["shifted"]


@pytest.mark.thorough
def test_compiled_layers_are_compared():
    assert wrong(km.MAML(smooth.network()), jit=True) == {}
    learner = km.FOMAML(network(Python(name="python")))
    found = [
        f for f in check.check(learner, jit=True, cost=False) if "XLA" in f.sentence
    ]
    assert [f.what for f in found] == ["python"]


@pytest.mark.thorough
def test_the_command(tmp_path, monkeypatch, capsys):
    smooth_network = keras.Sequential(
        [
            keras.Input([4]),
            keras.layers.Dense(8, "tanh"),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3, name="head"),
        ]
    )
    smooth_network.save(tmp_path / "network.keras")
    assert cli.main(["check", str(tmp_path / "network.keras"), "--learner=ANIL"]) == 0
    said = capsys.readouterr().out
    assert "Dense: its second derivative is right" in said
    assert "for each inner step" in said
    for words, sentence in (
        (["network.keras", "--learner=CNP"], "expected one of ANIL, FOMAML"),
        (["none.keras"], "expected a file, got none"),
    ):
        words[0] = str(tmp_path / words[0])
        assert cli.main(["check", *words]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setattr(Python, "__module__", "elsewhere")  # as in another process
    own = keras.Sequential([keras.Input([4]), Python(name="python")])
    own.save(tmp_path / "own.keras")
    assert cli.main(["check", str(tmp_path / "own.keras")]) == 2
    assert "expected a file with layers of Keras only" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a Learner"):
        check.check(smooth_network)


@pytest.mark.slow
def test_what_it_costs_grows_with_the_steps():
    finding = cost_check.measure(km.MAML(km.networks.conv4((28, 28, 1), filters=16)))
    numbers = [
        float(n) for n in finding.sentence.split() if n.replace(".", "").isdigit()
    ]
    assert finding.state == "note" and len(numbers) == 6 and numbers[3] > 0
    assert np.isfinite(numbers).all()
