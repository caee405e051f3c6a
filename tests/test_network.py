"""Tests of `Network`: outputs with given weights, statistics, splits, side effects."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import batch_norm, network
from tests import smooth
from tests.nets import chain, ids, pairs, rich, same, snapshot, tensors

layers = keras.layers
Network = network.Network


# apply


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_apply_returns_updated_batch_statistics(momentum):
    norm = layers.BatchNormalization(momentum=momentum, epsilon=1e-3)
    model = keras.Sequential([keras.Input([2]), norm])
    bound = Network(model)
    gamma, beta = weights = tensors(bound.trainable)
    statistics = tensors(bound.statistics, seed=1)
    before = snapshot(model)
    expected = [value.numpy().astype("float64") for value in statistics]
    for seed in range(3):
        x = np.random.RandomState(seed).normal(seed, 1 + seed, [6, 2])
        assigned = pairs(bound.trainable, weights) + pairs(bound.statistics, statistics)
        outputs, penalty, updated = bound.apply(assigned, np.float32(x), training=True)
        statistics = updated(bound.statistics)
        mean, variance = x.mean(0), x.var(0)
        expected = [
            momentum * old + (1 - momentum) * new
            for old, new in zip(expected, (mean, variance), strict=True)
        ]
        # float32 rounds numbers of a few units several times.
        np.testing.assert_allclose(statistics, expected, rtol=1e-5, atol=1e-6)
        scaled = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
        np.testing.assert_allclose(outputs, scaled, rtol=1e-4, atol=1e-5)
        assert penalty == 0
        same(updated(bound.trainable), weights, rtol=0)
    # In inference mode, the layer uses the statistics and returns them unchanged.
    assigned = pairs(bound.trainable, weights) + pairs(bound.statistics, statistics)
    outputs, _, updated = bound.apply(assigned, np.float32(x), training=False)
    mean, variance = (value.numpy() for value in statistics)
    scaled = (x - mean) / np.sqrt(variance + 1e-3) * gamma + beta
    np.testing.assert_allclose(outputs, scaled, rtol=1e-4, atol=1e-5)
    same(updated(bound.statistics), statistics, rtol=0)
    # Other variables keep their values, and the model has not changed.
    same(bound.apply([], np.float32(x), False).values, model(x, training=False), rtol=0)
    same(snapshot(model), before, rtol=0)


def test_apply_uses_assigned_weights_and_sums_activity_penalties():
    activity = keras.regularizers.L2(0.1)
    model_layers = [
        layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)),
        layers.Dense(1, "linear", bias_regularizer=keras.regularizers.L1(2.0)),
        layers.ActivityRegularization(l1=0.5),
    ]
    model = keras.Sequential([keras.Input([4]), *model_layers])
    model.layers[0].activity_regularizer = activity
    bound = Network(model)
    w, b, v, c = weights = tensors(bound.trainable)
    x = np.random.RandomState(3).normal(size=[5, 4]).astype("float32")
    assigned = pairs(bound.trainable, weights)
    outputs, penalty, updated = bound.apply(assigned, x, training=True)
    hidden = x @ w + b
    np.testing.assert_allclose(outputs, hidden @ v + c, rtol=1e-5, atol=1e-6)
    # `apply` returns activity penalties; weight penalties are part of the outer loss.
    expected = (0.1 * np.sum(hidden**2) + 0.5 * np.sum(np.abs(outputs))) / 5
    np.testing.assert_allclose(penalty, expected, rtol=1e-5)
    assert updated(bound.buffers) == []
    np.testing.assert_allclose(
        bound.penalty(assigned), 0.1 * np.sum(w**2) + 2 * np.sum(c), rtol=1e-6
    )
    assert bound.penalty([]) == 0 and bound.penalty(assigned[1:3]) == 0
    model.layers[0].trainable = False
    assigned = pairs(bound.trainable, weights[2:])
    np.testing.assert_allclose(bound.penalty(assigned), 2 * np.sum(c), rtol=1e-6)


def test_values_can_be_watched_and_differentiated():
    model = keras.Sequential([keras.Input([4]), layers.Dense(3)])
    bound = Network(model)
    values = network.values(bound.trainable)
    for value, variable in zip(values, model.get_weights(), strict=True):
        np.testing.assert_array_equal(value, variable)
    x = np.random.RandomState(3).normal(size=[5, 4]).astype("float32")
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        outputs = bound.apply(pairs(bound.trainable, values), x, training=True).values
        total = tf.reduce_sum(outputs)
    w, b = tape.gradient(total, values)
    np.testing.assert_allclose(w, np.repeat(x.sum(0)[:, None], 3, 1), rtol=1e-5)
    np.testing.assert_allclose(b, [5, 5, 5])


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_apply_split_and_measure_change_no_variable(training, graph):
    model = rich()
    bound = Network(model)
    before = snapshot(model)
    x = tf.constant(np.random.RandomState(0).normal(size=[6, 4]), tf.float32)

    def run(x):
        _, _, updated = bound.apply([], x, training)
        ahead, rest = bound.split([model.get_layer("head").kernel])
        bound.apply([], x, training, graph=ahead or rest)
        bound.each(x[None], training=False)
        return [*updated(model.variables), *bound.measure([], x)]

    results = (tf.function(run) if graph else run)(x)
    same(snapshot(model), before, rtol=0)
    # `updated` returns the values that a Keras model would assign, also of seeds.
    changed = [np.abs(a - b).max() > 0 for a, b in zip(results, before, strict=False)]
    expected = bound.statistics + bound.seeds if training else []
    assert {i for i, m in enumerate(changed) if m} == {
        i for i, v in enumerate(model.variables) if id(v) in ids(expected)
    }


# measure


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_measured_statistics_match_numpy_without_dropout(momentum):
    norms = [layers.BatchNormalization(momentum=momentum) for _ in range(2)]
    first, second = layers.Dense(5), layers.Dense(3)
    drop = layers.Dropout(0.5)
    model = chain(first, norms[0], drop, second, norms[1])
    bound = Network(model)
    weights = [value.numpy() for value in tensors(bound.trainable)]
    w, b, gamma, beta, v, c, *_ = weights
    x = np.random.RandomState(0).normal(2, 3, [8, 4])
    assigned = pairs(bound.trainable, map(tf.constant, weights))
    statistics = bound.measure(assigned, np.float32(x))
    assert ids(bound.statistics) == ids(
        v for norm in norms for v in (norm.moving_mean, norm.moving_variance)
    )
    hidden = x @ w + b
    mean, variance = hidden.mean(0), hidden.var(0)
    scaled = (hidden - mean) / np.sqrt(variance + norms[0].epsilon) * gamma + beta
    outputs = scaled @ v + c
    expected = [mean, variance, outputs.mean(0), outputs.var(0)]
    same(statistics, expected, rtol=1e-4, atol=1e-5)
    # The random state of the dropout layer does not change.
    with batch_norm.measuring():
        updated = bound.apply(assigned, np.float32(x), training=False).updated
    same(updated(bound.seeds), [drop.seed_generator.state], rtol=0)
    # A frozen layer uses its own statistics; `measure` returns none of it.
    norms[0].trainable = False
    moving = [norms[0].moving_mean, norms[0].moving_variance]
    mean, variance = (value.numpy() for value in tensors(moving))
    frozen_statistics = pairs(moving, map(tf.constant, (mean, variance)))
    hidden = (hidden - mean) / np.sqrt(variance + norms[0].epsilon)
    outputs = (hidden * norms[0].gamma.numpy() + norms[0].beta.numpy()) @ v + c
    assigned = pairs([first.kernel, first.bias], map(tf.constant, (w, b)))
    assigned += pairs([second.kernel, second.bias], map(tf.constant, (v, c)))
    statistics = bound.measure(assigned + frozen_statistics, np.float32(x))
    same(statistics, [outputs.mean(0), outputs.var(0)], rtol=1e-4, atol=1e-5)
    norms[1].trainable = False
    assert bound.measure(assigned, np.float32(x)) == []


@pytest.mark.parametrize("axis", [1, -1])
def test_measured_statistics_of_images_and_masks(axis):
    norm = layers.BatchNormalization(axis=axis)
    model = keras.Sequential(
        [keras.Input([3, 4, 5]), norm, layers.GlobalAveragePooling2D()]
    )
    x = np.random.RandomState(0).normal(2, 3, [6, 3, 4, 5])
    axes = tuple({0, 1, 2, 3} - {axis % 4})
    statistics = Network(model).measure([], np.float32(x))
    same(statistics, [x.mean(axes), x.var(axes)], rtol=1e-4)

    norm = layers.BatchNormalization()
    pool = layers.GlobalAveragePooling1D()
    model = keras.Sequential([keras.Input([4, 2]), layers.Masking(), norm, pool])
    x, mask = x[:, 0, :, :2], np.random.RandomState(1).rand(6, 4) > 0.4
    x[~mask] = 0
    expected = [x[mask].mean(0), x[mask].var(0)]
    same(Network(model).measure([], np.float32(x)), expected, rtol=1e-4)


def test_a_layer_used_twice_keeps_its_last_statistics():
    norm, dense = layers.BatchNormalization(), layers.Dense(2, use_bias=False)
    inputs = keras.Input([2])
    model = keras.Model(inputs, norm(dense(norm(inputs))))
    bound = Network(model)
    x = np.random.RandomState(0).normal(2, 3, [8, 2])
    hidden = (x - x.mean(0)) / np.sqrt(x.var(0) + norm.epsilon) @ dense.get_weights()[0]
    expected = [hidden.mean(0), hidden.var(0)]
    same(bound.measure([], np.float32(x)), expected, rtol=1e-4, atol=1e-5)


# split


def run_training(bound, values, x, parts=None):
    """Returns outputs, penalty and all variables of the whole network or two parts."""
    model = bound.model
    assigned = pairs(model.variables, values)
    if parts is None:
        outputs, penalty, updated = bound.apply(assigned, x, training=True)
        return outputs, penalty, updated(model.variables)
    ahead, rest = parts
    x, ahead_loss, updated = bound.apply(assigned, x, training=True, graph=ahead)
    assigned = pairs(model.variables, updated(model.variables))
    outputs, rest_loss, updated = bound.apply(assigned, x, training=True, graph=rest)
    return outputs, ahead_loss + rest_loss, updated(model.variables)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("first", ["head", "norm"])
def test_split_is_before_the_first_adapted_layer(first, frozen):
    model = smooth.network(momentum=0.5)
    model.get_layer("norm").trainable = not frozen
    for layer in (model.get_layer("conv"), model.get_layer("norm")):
        layer.activity_regularizer = keras.regularizers.L2(0.1)
    bound = Network(model)
    x = np.random.RandomState(0).normal(size=[5, 6, 6, 1])
    values = tensors(model.variables)
    expected = run_training(bound, values, x)
    assert expected[1] > 0.1
    adapted = model.get_layer(first).variables[:2]
    ahead, rest = bound.split(adapted)
    assert rest.layers[1].name == first
    results = run_training(bound, values, x, (ahead, rest))
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(results[1], expected[1], rtol=1e-12)
    same(results[2], expected[2], rtol=1e-12)
    # The first part contains no adapted variable.
    assert not set(ids(ahead.variables)) & set(ids(adapted))


def test_both_parts_use_trainable_flags_set_after_the_split():
    model = smooth.network(momentum=0.5)
    bound = Network(model)
    parts = bound.split(model.get_layer("head").variables)
    x = np.random.RandomState(0).normal(size=[5, 6, 6, 1])
    values = tensors(model.variables)
    before = run_training(bound, values, x, parts)
    model.get_layer("norm").trainable = False
    results, expected = (run_training(bound, values, x, p) for p in (parts, None))
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-12)
    assert np.abs(results[0] - before[0]).max() > 1e-3


def test_the_first_part_has_no_random_layer():
    first, drop = layers.Dense(4, name="first"), layers.Dropout(0.5, name="drop")
    model = chain(first, drop, layers.Dense(4), layers.Dense(2, name="head"))
    bound = Network(model)
    parts = ahead, rest = bound.split(model.get_layer("head").variables)
    assert [layer.name for layer in ahead.layers[1:]] == ["first"]
    assert rest.layers[1].name == "drop"
    x = np.random.RandomState(0).normal(size=[5, 4]).astype("float32")
    values = network.values(model.variables)
    results, expected = (run_training(bound, values, x, p) for p in (parts, None))
    # Both use the same random numbers.
    np.testing.assert_allclose(results[0], expected[0], rtol=1e-6)
    same(results[2], expected[2], rtol=0)


def test_a_sequential_model_is_split():
    model = keras.Sequential(
        [keras.Input([4]), layers.Dense(4, name="first"), layers.Dense(2, name="head")]
    )
    ahead, rest = Network(model).split(model.get_layer("head").variables)
    assert ahead is not None
    assert ids(ahead.variables) == ids(model.layers[0].variables)
    assert ids(rest.variables) == ids(model.layers[1].variables)


def two_paths():
    """Returns a network with a skip connection from the input to the head."""
    inputs = keras.Input([4])
    x = layers.Dense(4, name="second")(layers.Dense(4)(inputs))
    joined = layers.Concatenate()([inputs, x])
    return keras.Model(inputs, layers.Dense(2, name="head")(joined))


def dropout_first():
    return chain(layers.Dropout(0.5), layers.Dense(4), layers.Dense(2, name="head"))


@pytest.mark.parametrize(
    ("build", "adapted"),
    [
        (smooth.network, ["conv", "head"]),  # the first layer adapts
        (two_paths, ["second", "head"]),
        (dropout_first, ["head"]),
    ],
)
def test_a_network_without_a_place_to_split_stays_whole(build, adapted):
    model = build()
    bound = Network(model)
    ahead, rest = bound.split([model.get_layer(name).kernel for name in adapted])
    assert ahead is None
    assert rest is bound.graph


def nested(*names):
    """Returns Sequential blocks, whose layers have equal names, and a head."""
    x = inputs = keras.Input([3])
    for name in names:
        block = [keras.Input([3]), layers.Dense(3, name="a"), layers.ReLU()]
        x = keras.Sequential(block, name=name)(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def test_paths_do_not_depend_on_the_process():
    path_lists = [Network(nested(None, None)).paths() for _ in range(2)]
    # Keras numbers the unnamed containers in the order of creation.
    assert path_lists[0] == path_lists[1]
    assert path_lists[0] == [
        *("a/kernel", "a/bias", "a_1/kernel", "a_1/bias", "head/kernel", "head/bias")
    ]
    # Names that a user sets are part of the paths.
    assert Network(nested("one", None)).paths()[:4:2] == ["one/a/kernel", "a/kernel"]
    # Keras' own paths contain the name of a Sequential network.
    block = keras.Sequential(
        [keras.Input([3]), layers.Dense(3, name="a"), layers.Dense(3, name="a_1")]
    )
    network = keras.Sequential(
        [keras.Input([3]), nested_block("a"), block, layers.Dense(2, name="b")],
        name="mine",
    )
    paths = Network(network).paths()
    assert paths[::2] == ["a/kernel", "a_1/kernel", "a_1_1/kernel", "b/kernel"]
    assert len(set(paths)) == len(paths) == len(network.variables)


def nested_block(name):
    return keras.Sequential([keras.Input([3]), layers.Dense(3, name=name)])
