"""Tests of settings: validation when set, and values as the key of traces."""

import difflib
import inspect
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import settings
from keras_meta.learners import sequence


class Base:
    rate = settings.Setting(settings.positive)
    size = settings.Fixed(settings.integer(1))


class Learner(Base):
    mode = settings.Setting(settings.choice("a", "b"))
    names = settings.Setting()
    steps = settings.Setting(settings.integer(0, optional=True))


def build_learner(**values):
    learner = Learner()
    for name, value in values.items():
        setattr(learner, name, value)
    return learner


def test_a_setting_is_validated_when_set():
    learner = build_learner(rate=0.5)
    with pytest.raises(ValueError) as info:
        learner.rate = 0
    assert str(info.value) == "expected rate to be a number above 0, got 0."
    assert learner.rate == 0.5  # unchanged by the error
    learner.rate = 2.0
    assert learner.rate == 2.0
    learner.steps = 3.0
    assert type(learner.steps) is int  # converted by the check
    # Learners do not share the values of settings.
    assert build_learner(rate=1.0).rate == 1.0 and learner.rate == 2.0


def test_an_unset_setting_raises_an_attribute_error():
    with pytest.raises(AttributeError, match="^rate$"):
        _ = Learner().rate
    assert not hasattr(Learner(), "rate")
    assert isinstance(Learner.rate, settings.Setting)
    assert Learner.rate.name == "rate"


def test_a_fixed_setting_can_be_set_only_once():
    learner = build_learner(size=3)
    for value in (4, 3):
        with pytest.raises(AttributeError) as info:
            learner.size = value
        assert str(info.value) == (
            "expected size of Learner to keep the value that it was constructed with: "
            "construct a new Learner to change it."
        )
    assert learner.size == 3
    with pytest.raises(ValueError, match="size to be an integer >= 1, got 0"):
        build_learner(size=0)
    unset = Learner()
    with pytest.raises(ValueError):
        unset.size = 0
    unset.size = 2  # an invalid value does not count as set
    assert unset.size == 2


def test_current_returns_all_set_values_and_changes_with_them():
    learner = build_learner(size=3, rate=0.5, names=["x", ["y"]])
    before = settings.current(learner)
    assert before == (("names", ("x", ("y",))), ("rate", 0.5), ("size", 3))
    hash(before)
    learner.rate = 0.5
    assert settings.current(learner) == before
    for name, value in (("rate", 0.25), ("mode", "a"), ("names", ["x"]), ("steps", 1)):
        setattr(learner, name, value)
        after = settings.current(learner)
        assert after != before and dict(after)[name] in (value, tuple("x"))
        before = after
    learner.steps = None
    assert dict(settings.current(learner))["steps"] is None


def test_current_compares_unhashable_values_by_identity():
    names, equal_names = {"a": 1}, {"a": 1}
    learner = build_learner(names=names)
    before = settings.current(learner)
    hash(before)
    assert settings.current(learner) == before
    learner.names = equal_names
    assert settings.current(learner) != before
    learner.names = np.zeros(2)
    hash(settings.current(learner))


@pytest.mark.parametrize(
    ("check", "valid", "invalid", "expectation"),
    [
        (
            settings.integer(1),
            {1: 1, 2.0: 2, np.int64(3): 3},
            [0, -1, 1.5, True, "1", None, [1], math.nan, math.inf],
            "an integer >= 1",
        ),
        (settings.integer(0, optional=True), {0: 0, None: None}, [-1], "an integer"),
        (
            settings.number(0),
            {0: 0, 0.5: 0.5, np.float32(2): 2},
            [-0.1, math.nan, math.inf, "1", None],
            "a number >= 0",
        ),
        (
            settings.between(0, 1),
            {0.5: 0.5, np.float32(0.25): 0.25},
            [0, 1, math.nan, "a", None],
            "between 0 and 1",
        ),
        (settings.choice("a", "b"), {"b": "b"}, ["c", None, ["a"]], "one of a, b"),
        (
            settings.positive,
            {0.5: 0.5, 3: 3},
            [0, -1, math.nan, math.inf, "1", None],
            "a number above 0",
        ),
    ],
)
def test_checks(check, valid, invalid, expectation):
    for value, expected in valid.items():
        converted = check(None, "it", value)
        assert converted == expected
        if "integer" in expectation and converted is not None:
            assert type(converted) is int
    for value in invalid:
        with pytest.raises(ValueError) as info:
            check(None, "it", value)
        message = str(info.value)
        assert message.startswith(f"expected it to be {expectation}")
        assert message.endswith(f", got {value!r}.")


class Spelled(settings.Spelled, keras.Model):
    inner_rate = settings.Setting(settings.positive)
    inner_steps = settings.Setting()
    cached = None

    def __init__(self, inner_rate=0.1):
        super().__init__()
        self.inner_rate = inner_rate


class Extended(Spelled):
    inner_stepz = None

    def __init__(self, *args):
        super().__init__(*args)
        self.inner_rates = [self.inner_rate]  # a subclass may set any name here


def test_a_misspelled_setting_raises_an_error():
    for model in (Spelled(), Extended(0.2), type("Inheriting", (Extended,), {})()):
        class_name = type(model).__name__
        for name, suggestion in (
            ("iner_rate", "inner_rate"),
            ("inner_lr", "inner_rate"),
            ("inner_step", "inner_steps"),
        ):
            with pytest.raises(AttributeError) as info:
                setattr(model, name, 0.5)
            assert str(info.value).startswith(
                f"expected a setting that {class_name} has, such as {suggestion}"
            )
            assert str(info.value).endswith(f", got {name}.")
            assert not hasattr(model, name)
        # Existing, private and dissimilar names can be set.
        for name in ("inner_rate", "cached", "_inner_rat", "stop_training", "memo"):
            setattr(model, name, 0.5)
            assert getattr(model, name) == 0.5
    extended = Extended()
    extended.inner_rates = [1.0]
    extended.inner_stepz = 3  # an attribute of the class
    # Keras reads the arguments of an `__init__` with both functions.
    assert list(inspect.signature(Spelled).parameters) == ["inner_rate"]
    assert inspect.getfullargspec(Spelled.__init__).args == ["self", "inner_rate"]


@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
@pytest.mark.parametrize(
    "kind",
    [km.MAML, km.Reptile, km.IMAML, km.MetaSGD, km.ANIL, km.SigmaIMAML, km.MANN],
)
def test_attributes_of_keras_do_not_resemble_settings(kind):
    class Plain(keras.Model):
        def call(self, x):
            return x

    plain = Plain()
    plain.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensors(([[1.0]], [[1.0]]))
    plain.fit(data, validation_data=data, verbose=0, shuffle=False)
    attributes = {name for name in {*dir(plain), *vars(plain)} if name[0] != "_"}
    assert "optimizer" in attributes and "stop_training" in attributes
    setting_names = settings.names(kind)
    similar = {
        name
        for name in attributes - set(dir(kind))
        if difflib.get_close_matches(name, setting_names, cutoff=settings.MISSPELLED)
    }
    assert not similar


def test_learners_reject_misspelled_settings():
    learner = km.SigmaMAML(km.networks.mlp(), "mse")
    message = "^expected a setting that SigmaMAML has, such as inner_rate.*iner_rate.$"
    with pytest.raises(AttributeError, match=message):
        learner.iner_rate = 0.5
    learner.stop_training = True
    copy = type(learner).from_config(learner.get_config())
    with pytest.raises(AttributeError, match=message):
        copy.iner_rate = 0.5


class Linear(km.Learner):
    """A custom learner that predicts with one network and does not adapt."""

    def __init__(self, network, **kwargs):
        super().__init__("mse", network, network.output_shape[-1], **kwargs)
        self.network = network

    def adapt_tasks(self, support_x, support_y, training=False):
        return {"first": support_y[:, :1]}

    def infer_tasks(self, state, query_x, training=False):
        flat = tf.reshape(query_x, [-1, query_x.shape[-1]])
        return tf.reshape(self.network(flat), [tf.shape(query_x)[0], -1, 2])

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}


def test_a_learner_has_the_shape_and_precision_of_its_network():
    inputs = keras.Input([3], dtype="float64")
    network = keras.Model(inputs, keras.layers.Dense(2, dtype="float64")(inputs))
    learner = Linear(network)
    assert learner.example_shape == (3,) and learner.variable_dtype == "float64"
    assert Linear(network, dtype="float32").variable_dtype == "float32"
    x, y = np.ones([1, 4, 3]), np.ones([1, 4, 2])
    outputs = learner.infer(learner.adapt(x, y), x)
    np.testing.assert_allclose(outputs, [network(x[0])], rtol=1e-12)
    copy = Linear.from_config(learner.get_config())
    assert copy.example_shape == (3,) and copy.variable_dtype == "float64"


def test_a_config_contains_only_arguments_of_the_constructor():
    assert "loss" not in Linear(km.networks.mlp()).get_config()
    assert "loss" not in km.ProtoNet(km.networks.mlp()).get_config()
    assert km.MAML(km.networks.mlp(), "mse").get_config()["loss"] == "mse"
    cell = keras.layers.GRUCell(5)
    learner = sequence.SequenceLearner(cell, example_shape=[4], outputs=3)
    copy = sequence.SequenceLearner.from_config(learner.get_config())
    assert type(copy.cell) is keras.layers.GRUCell and copy.cell.units == 5
    copy.set_weights(learner.get_weights())
    x, y = np.random.RandomState(0).normal(size=[2, 6, 4]), [[0, 1, 2, 0, 1, 2]] * 2
    expected = learner.infer(learner.adapt(x, y), x)
    np.testing.assert_array_equal(copy.infer(copy.adapt(x, y), x), expected)
    assert "cell" not in km.LSTMLearner(example_shape=[4]).get_config()
