"""Exact normalization against NumPy, Keras' layers and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import batch_norm

layers = keras.layers


def single_layer_model(layer, shape, seed=0):
    """Returns a model of one normalization layer with random positive variables."""
    dtype = "float64" if layer.dtype_policy.name == "float64" else "float32"
    model = keras.Sequential([keras.Input(shape[1:], dtype=dtype), layer])
    random = np.random.RandomState(seed)
    for variable in model.variables:
        variable.assign(random.uniform(0.5, 2, variable.shape))
    return model


def inputs(shape, dtype="float32"):
    values = np.random.RandomState(1).normal(3.0, 2.0, shape)
    return tf.constant(values, "float64" if dtype == "float64" else "float32")


def run(model, x, training=True, mask=None):
    """Returns outputs of a model and its variables after the run, then resets them."""
    before = [variable.numpy() for variable in model.variables]
    outputs = model(x, training=training, mask=mask)
    after = {v.path: v.numpy() for v in model.variables}
    for variable, value in zip(model.variables, before, strict=True):
        variable.assign(value)
    return outputs, after


# Relative and absolute tolerance of outputs by dtype of the layer: a few roundings of
# values of order 1.
DTYPES = {
    "float32": (1e-4, 1e-5),
    "float64": (1e-12, 1e-12),
    "mixed_bfloat16": (2.0**-7, 2.0**-7),
    "mixed_float16": (2.0**-10, 2.0**-10),
}
BATCH_NORMS = [
    ([7, 3], {}),
    ([4, 3, 2, 3], {}),
    ([5, 6, 3], {"epsilon": 0.1}),
    ([3, 2, 2, 2, 3], {}),
    ([6, 3], {"scale": False}),
    ([6, 3], {"center": False}),
    ([4, 2, 2, 3], {"scale": False, "center": False}),
    ([4, 3, 5, 5], {"axis": 1}),
    ([4, 3, 5], {"axis": -2}),
    ([6, 3], {"momentum": 0.0}),
    ([6, 3], {"momentum": 0.9}),
    ([6, 3], {"momentum": 1.0}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "arguments"), BATCH_NORMS)
def test_batch_normalization_matches_keras_and_numpy(shape, arguments, dtype):
    layer = layers.BatchNormalization(**arguments, dtype=dtype)
    model = single_layer_model(layer, shape)
    exact = batch_norm.exact(model)
    assert {id(v) for v in exact.variables} == {id(v) for v in model.variables}
    x = inputs(shape, dtype)
    rtol, atol = DTYPES[dtype]
    tolerance = dict(rtol=min(rtol, 1e-5), atol=min(atol, 1e-5))

    # The layer rounds its inputs to its precision, but not the sums.
    rounded = tf.cast(tf.cast(x, layer.compute_dtype), "float64").numpy()
    axis = layer.axis % len(shape)
    axes = tuple(i for i in range(len(shape)) if i != axis)
    along = [3 if i == axis else 1 for i in range(len(shape))]
    mean, variance = rounded.mean(axes), rounded.var(axes)
    moving = [layer.moving_mean.numpy(), layer.moving_variance.numpy()]
    gamma = layer.gamma.numpy() if layer.scale else np.ones(3)
    beta = layer.beta.numpy() if layer.center else np.zeros(3)

    def normalized(mean, variance):
        mean, variance, scale, offset = (
            np.reshape(v, along) for v in (mean, variance, gamma, beta)
        )
        return (rounded - mean) / np.sqrt(variance + layer.epsilon) * scale + offset

    for training in (True, False):
        statistics = (mean, variance) if training else moving
        rate = 1 - layer.momentum if training else 0
        for network in (model, exact):
            outputs, after = run(network, x, training)
            assert outputs.dtype == layer.compute_dtype
            outputs = tf.cast(outputs, "float64")
            np.testing.assert_allclose(
                outputs, normalized(*statistics), rtol=rtol, atol=atol
            )
            for name, old, new in zip(
                ("moving_mean", "moving_variance"), moving, statistics, strict=True
            ):
                (path,) = [path for path in after if path.endswith(name)]
                expected = (1 - rate) * old + rate * new
                np.testing.assert_allclose(after[path], expected, **tolerance)

    # Inside `measuring`, momentum and `training` have no effect; no average changes.
    for training in (True, False):
        with batch_norm.measuring() as measurements:
            outputs, after = run(exact, x, training)
        outputs = tf.cast(outputs, "float64")
        expected = normalized(mean, variance)
        np.testing.assert_allclose(outputs, expected, rtol=rtol, atol=atol)
        variables, values = zip(*measurements, strict=True)
        assert variables[0] is layer.moving_mean
        assert variables[1] is layer.moving_variance and len(variables) == 2
        np.testing.assert_allclose(values, [mean, variance], **tolerance)
        for variable in model.variables:
            np.testing.assert_array_equal(after[variable.path], variable)


def test_measuring_ends_with_its_block():
    model = single_layer_model(layers.BatchNormalization(), [6, 3])
    exact = batch_norm.exact(model)
    x = inputs([6, 3])
    expected, _ = run(model, x, training=False)
    with pytest.raises(KeyError), batch_norm.measuring():
        raise KeyError
    outputs, after = run(exact, x, training=False)
    np.testing.assert_array_equal(outputs, expected)
    for variable in model.variables:
        np.testing.assert_array_equal(after[variable.path], variable)


def test_a_frozen_layer_keeps_and_uses_its_moving_averages():
    model = single_layer_model(layers.BatchNormalization(), [6, 3])
    exact = batch_norm.exact(model)
    x = inputs([6, 3])
    expected, _ = run(model, x, training=False)
    measured, _ = run(exact, x)
    assert np.abs(measured - expected).max() > 0.1
    model.layers[0].trainable = False  # applies to the existing graph too
    for training in (True, False):
        with batch_norm.measuring() as measurements:
            outputs, after = run(exact, x, training)
        assert measurements == []
        np.testing.assert_array_equal(outputs, expected)
        for variable in model.variables:
            np.testing.assert_array_equal(after[variable.path], variable)
    model.layers[0].trainable = True
    np.testing.assert_array_equal(run(exact, x)[0], measured)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_masked_examples_do_not_enter_the_statistics(dtype):
    layer = layers.BatchNormalization(momentum=0.5, dtype=dtype)
    mask = np.array([[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], bool)
    x = np.random.RandomState(0).normal(3, 2, [3, 4, 2])
    x[~mask] = 0  # `Masking` masks zeros
    network = keras.Sequential(
        [
            keras.Input([4, 2], dtype=dtype),
            layers.Masking(dtype=dtype),
            layer,
            layers.GlobalAveragePooling1D(dtype=dtype),
        ]
    )
    random = np.random.RandomState(1)
    for variable in network.variables:
        variable.assign(random.uniform(0.5, 2, variable.shape))
    gamma, beta, *moving = (v.numpy() for v in network.variables)
    mean, variance = x[mask].mean(0), x[mask].var(0)
    normalized = (x - mean) / np.sqrt(variance + layer.epsilon) * gamma + beta
    counts = np.maximum(mask.sum(1), 1)[:, None]
    expected = np.sum(normalized * mask[..., None], axis=1) / counts
    for model in (network, batch_norm.exact(network)):
        tolerance = dict(rtol=1e-4, atol=1e-5)
        if dtype == "float64":  # Keras adds 1e-7 to the count
            tolerance = dict(rtol=1e-5 if model is network else 1e-12)
        outputs, after = run(model, tf.constant(x, dtype))
        nonempty = mask.any(1)  # for the others, Keras divides by zero
        np.testing.assert_allclose(outputs[nonempty], expected[nonempty], **tolerance)
        averages = [(moving[0] + mean) / 2, (moving[1] + variance) / 2]
        statistics = [after[v.path] for v in network.non_trainable_variables]
        for a, b in zip(statistics, averages, strict=True):
            np.testing.assert_allclose(a, b, **tolerance)


def test_large_half_precision_inputs_do_not_overflow():
    model = single_layer_model(layers.BatchNormalization(dtype="mixed_float16"), [6, 3])
    x = 1000 * inputs([6, 3])  # their squares exceed 65504
    outputs, _ = run(batch_norm.exact(model), x)
    assert np.isfinite(outputs).all() and np.std(outputs) > 0.1


def test_estimated_statistics_are_means_over_batches_of_episodes():
    norm, frozen = layers.BatchNormalization(momentum=0.7), layers.BatchNormalization()
    frozen.trainable = False
    drop = layers.Dropout(0.5)
    network = keras.Sequential([keras.Input([3]), norm, drop, frozen])
    learner = km.ProtoNet(network)
    random = np.random.RandomState(0)
    batches = []
    for scale in (1, 2, 4):
        x = [random.normal(scale, scale, [2, n, 3]).astype("float32") for n in (6, 4)]
        y = [np.tile(np.arange(n) % 2, [2, 1]).astype("int32") for n in (6, 4)]
        episode = {"support_x": x[0], "support_y": y[0], "query_x": x[1]}
        batches.append((episode, y[1]))
    before = [v.numpy() for v in learner.variables]
    batch_norm.estimate(learner, batches)
    input_names = ("support_x", "query_x")
    inputs = [e[name].reshape(-1, 3) for e, _ in batches for name in input_names]
    expected = {
        id(norm.moving_mean): np.mean([x.mean(0) for x in inputs], axis=0),
        id(norm.moving_variance): np.mean([x.var(0) for x in inputs], axis=0),
    }
    for variable, value in zip(learner.variables, before, strict=True):
        expected_value = expected.get(id(variable), value)
        np.testing.assert_allclose(variable, expected_value, rtol=1e-5)
    # Learners that measure each task have no moving statistics.
    assert km.MAML(network).moving_statistics() == []


GROUP_NORMS = [
    ([5, 6], {"groups": 3}),
    ([4, 3, 2, 6], {"groups": 2, "epsilon": 0.1}),
    ([4, 6, 3], {"groups": 3, "axis": 1}),
    ([4, 5, 6], {"groups": -1}),  # one channel per group
    ([5, 6], {"groups": 1, "scale": False}),
    ([5, 6], {"groups": 2, "center": False}),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "arguments"), GROUP_NORMS)
def test_group_normalization_matches_keras_and_numpy(shape, arguments, dtype):
    layer = layers.GroupNormalization(**arguments, dtype=dtype)
    model = single_layer_model(layer, shape)
    exact = batch_norm.exact(model)
    assert [id(v) for v in exact.variables] == [id(v) for v in model.variables]
    x = inputs(shape, dtype)
    rtol, atol = DTYPES[dtype]
    rounded = tf.cast(tf.cast(x, layer.compute_dtype), "float64").numpy()
    last = np.moveaxis(rounded, layer.axis, -1)
    groups = 6 if arguments["groups"] == -1 else arguments["groups"]
    parts = last.reshape(shape[0], -1, groups, 6 // groups)
    mean, variance = (op(parts, axis=(1, 3), keepdims=True) for op in (np.mean, np.var))
    expected = (parts - mean) / np.sqrt(variance + layer.epsilon)
    expected = expected.reshape(last.shape)
    expected = expected * (layer.gamma.numpy() if layer.scale else 1)
    expected = expected + (layer.beta.numpy() if layer.center else 0)
    expected = np.moveaxis(expected, -1, layer.axis)
    # Keras computes in the precision of the layer, also in half precision.
    for network in (model, exact) if "mixed" not in dtype else (exact,):
        outputs, _ = run(network, x)
        assert outputs.dtype == layer.compute_dtype
        outputs = tf.cast(outputs, "float64")
        np.testing.assert_allclose(outputs, expected, rtol=rtol, atol=atol)
    traced = tf.function(exact, input_signature=[tf.TensorSpec([None, *shape[1:]])])
    assert traced.get_concrete_function().output_shapes[1:] == shape[1:]


# Replaced and rejected layers.


def test_a_model_without_inexact_layers_is_returned_unchanged():
    model = keras.Sequential([keras.Input([3]), layers.Dense(2)])
    assert batch_norm.exact(model) is model
    norm = layers.BatchNormalization(renorm=True)
    model = keras.Sequential([keras.Input([3]), norm, layers.Dense(2)])
    assert batch_norm.exact(model) is model  # renormalization has no exact form
    assert batch_norm.exact_form(norm) is norm
    mixed = keras.Sequential([keras.Input([3]), norm, layers.BatchNormalization()])
    exact = batch_norm.exact(mixed)
    assert exact.layers[0] is norm
    assert isinstance(exact.layers[1], batch_norm.ExactBatchNorm)


def test_layers_keep_their_names_at_any_depth():
    inner = keras.Sequential(
        [keras.Input([3]), layers.BatchNormalization(name="deep"), layers.Dense(3)]
    )
    inputs = keras.Input([3])
    x = layers.GroupNormalization(1, name="groups")(inputs)
    model = keras.Model(inputs, layers.BatchNormalization(name="last")(inner(x)))
    exact = batch_norm.exact(model)
    assert [v.path for v in exact.variables] == [v.path for v in model.variables]
    assert [layer.name for layer in batch_norm.batch_norms(model)] == ["deep", "last"]


class Doubled(layers.BatchNormalization):
    """A user-defined normalization layer."""

    def call(self, inputs, training=None, mask=None):
        return 2 * super().call(inputs, training=training, mask=mask)


def test_a_user_defined_normalization_is_rejected_or_unchanged():
    model = single_layer_model(Doubled(name="own"), [6, 3])
    try:
        exact = batch_norm.exact(model)
    except ValueError as error:
        assert "'own'" in str(error) and "\n" not in str(error)
        return
    x = inputs([6, 3])
    for training in (True, False):
        (outputs, after), (expected, expected_after) = (
            run(m, x, training) for m in (exact, model)
        )
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
        for path, value in expected_after.items():
            np.testing.assert_allclose(after[path], value, rtol=1e-5)


class Subclassed(keras.Model):
    """A model with a layer and without a functional graph."""

    def __init__(self, layer):
        super().__init__(name="subclassed")
        self.layer = layer

    def call(self, x, training=False):
        return self.layer(x, training=training)


def wrap_in_subclass(layer):
    model = Subclassed(layer)
    model(tf.zeros([2, 4, 3]))
    return model


def wrap_in_time_distributed(layer):
    wrapped = layers.TimeDistributed(layer)
    return keras.Sequential([keras.Input([4, 3]), wrapped], name="wrapped")


def wrap_in_nested_subclass(layer):
    inputs = keras.Input([4, 3])
    return keras.Model(inputs, Subclassed(layer)(inputs), name="outside")


@pytest.mark.parametrize(
    ("wrap", "model"),
    [
        (wrap_in_subclass, "Subclassed 'subclassed'"),
        (wrap_in_time_distributed, "Sequential 'wrapped'"),
        (wrap_in_nested_subclass, "Functional 'outside'"),
    ],
)
@pytest.mark.parametrize(
    "layer",
    [
        lambda: layers.BatchNormalization(name="norm"),
        lambda: layers.GroupNormalization(1, name="norm"),
    ],
)
def test_normalization_without_a_graph_is_rejected(layer, wrap, model):
    with pytest.raises(ValueError) as info:
        batch_norm.exact(wrap(layer()))
    assert str(info.value) == (
        "expected normalization layers in a functional or Sequential network, whose "
        "graph can be rebuilt with exact derivatives; 'norm' is inside one of another "
        f"kind in {model}."
    )


def test_synchronized_statistics_are_rejected():
    norm = layers.BatchNormalization(synchronized=True, name="norm")
    model = keras.Sequential([keras.Input([3]), norm])
    with pytest.raises(ValueError) as info:
        batch_norm.exact(model)
    assert str(info.value) == (
        "expected layer 'norm' to have synchronized=False: the statistics of a task "
        "are its own, on whatever device it runs."
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", [layers.BatchNormalization, layers.GroupNormalization])
def test_activity_is_regularized_once(kind, training):
    arguments = {"groups": 1} if kind is layers.GroupNormalization else {}
    penalty = keras.regularizers.L2(0.1)
    model = single_layer_model(kind(activity_regularizer=penalty, **arguments), [6, 3])
    for network in (model, batch_norm.exact(model)):
        outputs = network(inputs([6, 3]), training=training)
        (loss,) = network.losses  # Keras divides it by the number of examples
        assert float(loss) == pytest.approx(0.1 * np.sum(outputs**2) / 6, rel=1e-5)
