"""Tests of `Network`: variables by role, and the Keras model stays unchanged."""

import contextlib
import io
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import network, networks
from tests.nets import chain, ids, pairs, rich, same, snapshot, tensors

layers = keras.layers
Network = network.Network


def names(variables):
    """Returns `layer/variable` names without the numbers of unnamed layers."""
    return [re.sub(r"_\d+/", "/", "/".join(v.path.split("/")[-2:])) for v in variables]


# Roles.


def roles():
    """Returns a model, its `Network`, and its normalization and dropout layers."""
    model = rich()
    norms = [model.get_layer("shared"), model.get_layer("inner").layers[0]]
    norms.append(model.get_layer("last"))
    dropout = model.get_layer("inner").layers[1]
    return model, Network(model), norms, dropout


def check_roles(bound, trainable, norms, seeds):
    """Compares all roles with given names of trainable variables, norms and seeds."""
    assert names(bound.trainable) == trainable
    assert ids(bound.norms) == ids(norms)
    moving = [v for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    assert ids(bound.statistics) == ids(moving)
    assert ids(bound.seeds) == ids(seeds)
    adaptable = bound.adaptable
    assert set(ids(bound.trainable)) <= set(ids(adaptable))
    # Every variable of the model has one role.
    assert sorted(ids([*adaptable, *moving, *bound.buffers])) == sorted(
        ids(bound.model.variables)
    )
    assert set(ids(seeds)) <= set(ids(bound.buffers))
    for role in (adaptable, bound.trainable, bound.buffers):  # in the model's order
        positions = [ids(bound.model.variables).index(id(v)) for v in role]
        assert positions == sorted(positions)


def test_roles_follow_the_flags_of_layers():
    model, bound, norms, dropout = roles()
    shared, deep, last = norms
    seed = dropout.seed_generator.state
    all_names = [
        f"{layer}/{kind}"
        for layer, kinds in (
            ("first", ("kernel", "bias")),
            ("shared", ("gamma", "beta")),
            ("second", ("kernel", "bias")),
            ("deep", ("gamma", "beta")),
            ("groups", ("gamma", "beta")),
            ("last", ("beta",)),
            ("head", ("kernel", "bias")),
        )
        for kind in kinds
    ]

    def without(*gone):
        return [name for name in all_names if name.split("/")[0] not in gone]

    assert names(bound.adaptable) == all_names
    start = bound.flags()
    hash(start)
    check_roles(bound, all_names, norms, [seed])
    inner = model.get_layer("inner")
    for frozen, frozen_names, measured in (
        ([shared], ["shared"], [deep, last]),  # a leaf
        ([model.get_layer("first")], ["first"], norms),
        ([inner], ["deep"], [shared, last]),  # a nested model
        ([shared, inner, last], ["shared", "deep", "last"], []),
    ):
        for layer in frozen:
            layer.trainable = False
        check_roles(bound, without(*frozen_names), measured, [seed])
        assert names(bound.adaptable) == all_names and bound.flags() != start
        # A `Network` constructed after the freezing has the same roles.
        check_roles(Network(model), without(*frozen_names), measured, [seed])
        for layer in frozen:
            layer.trainable = True
        check_roles(bound, all_names, norms, [seed])
        assert bound.flags() == start
    model.trainable = False  # all layers
    check_roles(bound, [], [], [seed])
    assert names(bound.adaptable) == all_names
    model.trainable = True
    check_roles(bound, all_names, norms, [seed])


def test_roles_of_a_model_from_the_config_of_a_frozen_one():
    model, _, norms, _ = roles()
    norms[0].trainable = False
    model.get_layer("first").trainable = False
    copy = keras.Model.from_config(model.get_config())
    bound, original = Network(copy), Network(model)
    assert not copy.get_layer("first").trainable
    for role in ("adaptable", "trainable", "statistics", "buffers"):
        assert names(getattr(bound, role)) == names(getattr(original, role))
    assert len(bound.trainable) == len(bound.adaptable) - 4
    assert bound.flags() == original.flags()
    for layer in (copy.get_layer("first"), copy.get_layer("shared")):
        layer.trainable = True
    assert names(bound.trainable) == names(bound.adaptable)
    assert len(bound.statistics) == 6


class Noise(layers.Layer):
    """Adds noise from a generator that `keep` stores."""

    def __init__(self, keep, **kwargs):
        super().__init__(**kwargs)
        generator = keras.random.SeedGenerator(3, name="draws")
        self.kept = keep(generator)
        self.generator_of = lambda: generator
        # Not a seed, despite its name.
        self.add_weight(shape=[2], trainable=False, name="seed_generator_state")

    def call(self, x, training=False):
        shape = keras.ops.shape(x)
        noise = keras.random.normal(shape, seed=self.generator_of(), dtype=x.dtype)
        return x + noise if training else x


@pytest.mark.parametrize(
    "keep",
    [lambda g: g, lambda g: [g], lambda g: {"a": g}],
    ids=["attribute", "list", "dict"],
)
def test_seeds_are_identified_by_type(keep):
    noise = Noise(keep)
    bound = Network(chain(layers.Dense(3), noise, layers.Dense(2)))
    assert ids(bound.seeds) == [id(noise.generator_of().state)]
    assert noise.weights[0].name == "seed_generator_state"
    assert ids(bound.buffers) == ids([noise.weights[0], noise.generator_of().state])


def test_seeds_of_layers_in_wrappers_cells_and_models():
    inputs = keras.Input([4, 3])
    x = layers.TimeDistributed(layers.Dropout(0.5))(inputs)
    cells = [layers.LSTMCell(2, dropout=0.5), layers.LSTMCell(2)]
    x = layers.RNN(cells)(x)
    shared = layers.GaussianNoise(1.0)
    inner = keras.Sequential([keras.Input([2]), layers.Dropout(0.5), shared])
    model = keras.Model(inputs, layers.Dense(2)(inner(shared(x))))
    bound = Network(model)
    expected = [
        v
        for v in model.non_trainable_variables
        if v.path.endswith("seed_generator_state")
    ]
    assert len(expected) == 5  # each cell has one, with and without dropout
    assert set(ids(bound.seeds)) == set(ids(expected))
    assert len(bound.seeds) == 5  # the shared layer counts once
    assert Network(networks.conv4(filters=2)).seeds == []


def test_flags_of_another_number_of_layers_are_rejected():
    learner = km.MAML(km.networks.mlp((4,), 3, (5,)))
    learner.network.layers[1].trainable = False
    other = km.networks.mlp((4,), 3, (5, 5))

    def config():
        network = keras.saving.serialize_keras_object(other)
        return {**learner.get_config(), "network": network}

    with pytest.raises(ValueError, match="layer_flags of .* network needs layer_flags"):
        km.MAML.from_config(config())
    copy = km.MAML.from_config({**config(), "layer_flags": None})
    assert all(layer.trainable for layer in copy.network.layers)


@pytest.mark.thorough
def test_metrics_and_optimizers_have_no_role():
    model = rich()
    model.compile("adam", "mse", metrics=["mae"])
    bound = Network(model)
    before = [len(getattr(bound, role)) for role in ("adaptable", "buffers")]
    model.fit(np.ones([4, 4]), np.ones([4, 3]), verbose=0)
    assert [len(getattr(bound, role)) for role in ("adaptable", "buffers")] == before


# The bound model stays unchanged.


def public_state(model):
    """Returns the public state of a model."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        model.summary(expand_nested=True, show_trainable=True)
    state = {"summary": text.getvalue(), "config": model.get_config()}
    all_layers = list(model._flatten_layers())
    state["layers"] = ids(all_layers)
    state["variables"] = ids(model.variables)
    for name in ("input", "output"):
        state[name] = []
        for layer in all_layers:
            with contextlib.suppress(AttributeError):  # a layer that is never called
                state[name].append(id(getattr(layer, name)))
    return state


def fit(model, x, y):
    """Returns losses, predictions and variables after some steps of plain Keras."""
    keras.utils.set_random_seed(1)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    losses = model.fit(x, y, epochs=3, batch_size=4, shuffle=False, verbose=0)
    return losses.history["loss"], model.predict(x, verbose=0), *snapshot(model)


def sequential():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input([4]),
            layers.Dense(4, activation="tanh"),
            layers.BatchNormalization(momentum=0.8),
            layers.Dropout(0.3, seed=1),
            layers.Dense(3),
        ]
    )


@pytest.mark.thorough
@pytest.mark.parametrize("make", [rich, sequential])
def test_a_bound_model_stays_unchanged(make, tmp_path):
    x, y = np.random.RandomState(0).normal(size=[2, 8, 4]).astype("float32")
    y = y[:, :3]
    expected = fit(make(), x, y)
    model = make()
    before, values = public_state(model), snapshot(model)
    bound = [Network(model), Network(model)]  # twice: two learners may share a model
    for binding in bound:
        assignments = pairs(binding.trainable, tensors(binding.trainable))
        binding.apply(assignments, x, training=True)
        binding.measure(assignments, x)
        binding.split(model.layers[-1].variables)
    after = public_state(model)
    for key, value in before.items():
        assert after[key] == value, key
    same(snapshot(model), values, rtol=0)
    for a, b in zip(fit(model, x, y), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    # Both use the weights that plain Keras has trained.
    for binding in bound:
        outputs = binding.apply([], x, training=False).values
        np.testing.assert_allclose(outputs, expected[1], rtol=1e-5, atol=1e-6)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), expected[1])
    copy = keras.models.clone_model(model)
    assert names(copy.variables) == names(model.variables)


DTYPES = {"float64": 1e-10, "mixed_bfloat16": 0.05, "mixed_float16": 0.01}


@pytest.mark.parametrize("dtype", [None, *DTYPES])
@pytest.mark.parametrize("training", [False, True])
def test_outputs_and_updates_match_keras(training, dtype):
    model = rich(dtype)
    bound = Network(model)
    x = np.random.RandomState(0).normal(size=[8, 4])
    x = tf.constant(x, "float64" if dtype == "float64" else "float32")
    before = snapshot(model)
    outputs, _, updated = bound.apply([], x, training)
    new_values = updated(model.variables)
    expected = model(x, training=training)
    limit = DTYPES.get(dtype, 1e-5)
    assert outputs.dtype == expected.dtype
    outputs, expected = (tf.cast(v, "float64").numpy() for v in (outputs, expected))
    np.testing.assert_allclose(outputs, expected, rtol=limit, atol=limit)
    same(new_values, model.variables, rtol=limit, atol=limit)
    if training:  # Keras has assigned statistics and seed
        assert any((a != b).any() for a, b in zip(before, snapshot(model), strict=True))
    vectorized = bound.each(x[:6][None])
    assert vectorized.shape == (1, 6, 3)
    assert vectorized.dtype == ("float64" if dtype == "float64" else "float32")


def test_a_shared_model():
    keras.utils.set_random_seed(0)
    norm = layers.BatchNormalization(momentum=0.5)
    inner = keras.Sequential([keras.Input([4]), layers.Dense(4), norm])
    inputs = keras.Input([4])
    joined = layers.Concatenate()([inner(inputs), inner(inner(inputs))])
    model = keras.Model(inputs, layers.Dense(2)(joined))
    bound = Network(model)
    x = tf.constant(np.random.RandomState(0).normal(size=[8, 4]), tf.float32)
    outputs, _, updated = bound.apply([], x, training=True)
    statistics = updated(bound.statistics)
    assert ids(bound.statistics) == ids([norm.moving_mean, norm.moving_variance])
    np.testing.assert_allclose(outputs, model(x, training=True), rtol=1e-4, atol=1e-5)
    same(statistics, [norm.moving_mean, norm.moving_variance], rtol=1e-5)
    ahead, _ = bound.split(model.layers[-1].variables)
    assert ahead is not None and len(ahead.variables) == len(inner.variables)


class Subclassed(keras.Model):
    def __init__(self, *sequence):
        super().__init__(name="subclassed")
        self.sequence = list(sequence)

    def call(self, x, training=False):
        for layer in self.sequence:
            x = layer(x)
        return x


def test_a_subclassed_model_is_bound_unless_it_normalizes():
    model = Subclassed(layers.Dense(4, activation="tanh"), layers.Dense(2))
    x = np.random.RandomState(0).normal(size=[5, 3]).astype("float32")
    with pytest.raises(ValueError, match="built keras.Model"):
        Network(model)
    model(x)
    model.input_shape, model.output_shape = (None, 3), (None, 2)
    bound = Network(model)
    w, b, v, c = weights = tensors(bound.trainable)
    outputs = bound.apply(pairs(bound.trainable, weights), x, training=True).values
    np.testing.assert_allclose(outputs, tf.tanh(x @ w + b) @ v + c, rtol=1e-5)
    assert bound.measure([], x) == []
    assert bound.split(model.sequence[-1].variables) == (None, model)
    normalized = Subclassed(layers.BatchNormalization(name="norm"), layers.Dense(2))
    normalized(x)
    normalized.input_shape, normalized.output_shape = (None, 3), (None, 2)
    with pytest.raises(
        ValueError, match="'norm' is inside one of another kind"
    ) as info:
        Network(normalized)
    assert str(info.value).count(".") == 1 and "\n" not in str(info.value)
