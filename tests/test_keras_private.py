"""Tests of the private names of Keras in use; they fail if Keras changes a name."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import keras_private

layers = keras.layers


def nested_model():
    """Creates a model with layers inside a wrapper, a cell and a model."""
    inner = keras.Sequential([keras.Input([3]), layers.Dense(3, name="deep")])
    inner.name = "inner"
    cells = [layers.LSTMCell(2, name="one"), layers.LSTMCell(2, name="two")]
    inputs = keras.Input([4, 3], name="input")
    x = layers.TimeDistributed(layers.Dense(3, name="wrapped"), name="time1")(inputs)
    x = layers.RNN(cells, name="rnn")(layers.TimeDistributed(inner, name="time2")(x))
    return keras.Model(inputs, x)


def test_layers_of_returns_inner_layers():
    model = nested_model()
    direct = [layer.name for layer in keras_private.layers_of(model, recursive=False)]
    assert direct == ["input", "time1", "time2", "rnn"]
    inner = keras_private.layers_of(model)
    names = {layer.name for layer in inner}
    assert names > {*direct, "wrapped", "inner", "deep", "one", "two"}
    assert len({id(layer) for layer in inner}) == len(inner) and model not in inner
    assert keras_private.layers_of(layers.Dense(1)) == []


def test_a_leaf_has_no_inner_layers():
    leaves = {
        layer.name: keras_private.is_leaf(layer)
        for layer in keras_private.layers_of(nested_model())
    }
    assert leaves["wrapped"] and leaves["deep"] and leaves["one"] and leaves["input"]
    assert not any(leaves[name] for name in ("time1", "time2", "inner", "rnn"))


def test_made_to_train_ignores_trainable_flags():
    model = keras.Sequential([keras.Input([3]), layers.BatchNormalization(name="norm")])
    norm = model.layers[0]
    for frozen in (None, norm, model):
        if frozen is not None:
            frozen.trainable = False
            assert model.trainable_variables == []
        variables = keras_private.made_to_train(norm)
        assert [v.name for v in variables] == ["gamma", "beta"]
        assert variables[0] is norm.gamma and variables[1] is norm.beta
        assert keras_private.made_to_train(model) == []  # not of its layers
    copy = keras.Sequential.from_config(model.get_config())
    assert not copy.layers[0].trainable
    names = [v.name for v in keras_private.made_to_train(copy.layers[0])]
    assert names == ["gamma", "beta"]


class Tracked(keras.Model):
    """Tracks the batch's sum as its loss, and its first number as its example count."""

    def call(self, x):
        return x

    def train_step(self, data):
        keras_private.track_loss(self, tf.reduce_sum(data), data[0, 0])
        return self.get_metrics_result()


def test_fit_reports_the_tracked_loss():
    model = Tracked()
    model.compile("sgd", "mse")
    data = tf.data.Dataset.from_tensor_slices([[[1.0, 5.0]], [[3.0, 7.0]]])
    history = model.fit(data, verbose=0, shuffle=False).history
    assert history["loss"] == pytest.approx([(1 * 6 + 3 * 10) / 4])
    # The next epoch resets the loss.
    assert model.fit(data.take(1), verbose=0, shuffle=False).history[
        "loss"
    ] == pytest.approx([6])


def test_adams_velocities_are_running_squares():
    variables = [keras.Variable([1.0, 2.0]), keras.Variable([3.0])]
    optimizer = keras.optimizers.Adam(0.1, beta_2=0.75)
    optimizer.build(variables)
    gradients = [[np.array([2.0, -4.0]), np.array([6.0])], [np.zeros(2), np.ones(1)]]
    expected = [np.zeros(2), np.zeros(1)]
    for step in gradients:
        optimizer.apply([tf.constant(g, tf.float32) for g in step])
        expected = [0.75 * v + 0.25 * g**2 for v, g in zip(expected, step, strict=True)]
        velocities = keras_private.adam_velocities(optimizer)
        for velocity, value in zip(velocities, expected, strict=True):
            np.testing.assert_allclose(velocity, value, rtol=1e-6)
    # The optimizer uses these variables: large assigned values make its step tiny.
    for velocity in keras_private.adam_velocities(optimizer):
        velocity.assign(tf.fill(velocity.shape, 1e12))
    before = [v.numpy() for v in variables]
    optimizer.apply([tf.ones(2), tf.ones(1)])
    for variable, value in zip(variables, before, strict=True):
        np.testing.assert_allclose(variable, value, atol=1e-6)


class Workers(keras_private.WorkersModel):
    """Multiplies its inputs by a weight; builds itself with its own example."""

    built_with = None

    def example(self):
        zeros = tf.zeros([1, 2])
        return {"support_x": zeros, "support_y": zeros}

    def build(self, input_shape):
        self.built_with = input_shape
        self.weight = self.add_weight(shape=[])

    def call(self, episode):
        return episode["support_x"] * self.weight


def test_keras_builds_a_model_with_its_example():
    method = inspect.signature(keras.Model._maybe_symbolic_build)
    assert list(method.parameters) == ["self", "iterator", "data_batch"]
    # Keras calls the method under any strategy.
    with tf.distribute.OneDeviceStrategy("cpu:0").scope():
        model = Workers()
        model.compile("sgd", "mse")
    x = np.ones([6, 2], "float32")
    data = {"support_x": x, "support_y": x}
    model.fit(data, x, batch_size=3, verbose=0)
    # Keras builds the model with the example, not with a batch.
    assert dict(model.built_with)["support_x"] == (1, 2)


def test_metrics_have_an_axis_under_several_workers(monkeypatch):
    model = Workers()
    model.compile("sgd", "mse", metrics=["mae"])
    x = tf.ones([3, 2])
    arguments = ({"support_x": x, "support_y": x}, x, 3 * x)
    results = model.compute_metrics(*arguments)
    assert results["mae"].shape == () and float(results["mae"]) == 2
    workers = tf.distribute.MultiWorkerMirroredStrategy
    strategy = object.__new__(workers)
    monkeypatch.setattr(tf.distribute, "get_strategy", lambda: strategy)
    for name, value in model.compute_metrics(*arguments).items():
        assert value.shape == (1,) and float(value[0]) == float(results[name])


def test_a_wrapped_dataset_has_the_elements_and_options_of_the_original():
    options = tf.data.Options()
    options.deterministic = False
    dataset = tf.data.Dataset.range(5).batch(2).with_options(options)
    wrapped = keras_private.WrappedDataset(dataset)
    assert isinstance(wrapped, tf.data.Dataset)
    assert wrapped.element_spec == dataset.element_spec
    assert wrapped.options().deterministic is False
    assert [batch.tolist() for batch in wrapped.as_numpy_iterator()] == [
        [0, 1],
        [2, 3],
        [4],
    ]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_variables_have_their_own_dtype_without_autocast(dtype):
    class Mixed(layers.Layer):
        def build(self, shape):
            self.weight = self.add_weight(shape=[1], dtype=dtype)

        def call(self, x):
            with keras_private.without_autocast():
                own = self.weight.dtype, self.weight.value.dtype.name
            types.append((*own, self.weight.dtype))
            return x

    types = []
    Mixed(dtype="mixed_bfloat16")(np.ones([1], "float32"))
    assert types[-1] == (dtype, dtype, "bfloat16")


def test_steps_count_accumulated_batches():
    variable = keras.Variable([1.0])
    for scaled in (False, True):
        optimizer = keras.optimizers.SGD(gradient_accumulation_steps=3)
        if scaled:
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        optimizer.build([variable])
        for _ in range(4):
            optimizer.apply([tf.constant([1.0])])
        assert int(keras_private.steps_of(optimizer)) == 4
        assert int(optimizer.iterations) == 1


def test_dropped_masks_are_drawn_anew():
    def cells():
        return [layers.LSTMCell(2, dropout=0.5), layers.GRUCell(2, dropout=0.5)]

    for cell in (*cells(), layers.StackedRNNCells(cells())):
        for size in (3, 5):  # a mask of another batch would not fit
            x = tf.ones([size, 4])
            cell(x, cell.get_initial_state(size), training=True)
            keras_private.drop_masks(cell)
