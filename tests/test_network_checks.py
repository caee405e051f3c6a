"""Tests of the checks of networks and of the helpers in `network`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import network, network_checks, networks
from tests import smooth
from tests.nets import chain

layers = keras.layers
Network = network.Network


# Checks.


def test_networks_with_invalid_inputs_or_outputs_are_rejected():
    inputs, other_input = keras.Input([4]), keras.Input([4])
    dense = layers.Dense(2)
    for model, message_end in (
        (None, "built keras.Model (start it with a keras.Input), got NoneType."),
        (keras.Sequential([dense]), "a keras.Input), got Sequential."),
        (
            keras.Model(
                [inputs, other_input], dense(layers.Add()([inputs, other_input]))
            ),
            "with one input, got 2: join them into one tensor inside the network.",
        ),
        (
            keras.Model(inputs, [dense(inputs), dense(inputs), inputs]),
            "with one output, got 3: join them into one tensor inside the network.",
        ),
        (
            keras.Model(inputs, layers.Reshape([2, 2])(inputs)),
            "outputs of shape [B, N], got (None, 2, 2).",
        ),
    ):
        with pytest.raises(ValueError) as error:
            Network(model)
        assert str(error.value).startswith("expected ")
        assert str(error.value).endswith(message_end)


def test_a_network_must_end_in_logits():
    softmax_models = [
        chain(layers.Dense(2, activation="softmax", name="end")),
        chain(layers.Dense(2), layers.Softmax(name="end")),
        chain(layers.Dense(2), layers.Activation("softmax", name="end")),
    ]
    softmax_models.append(chain(layers.Dense(4), softmax_models[0]))
    softmax_models.append(keras.Sequential([keras.Input([4]), softmax_models[1]]))
    for model in softmax_models:
        with pytest.raises(ValueError) as error:
            network_checks.require_logits(model)
        assert str(error.value) == (
            "expected a network that gives logits, which the loss normalizes, got one "
            "that ends in a softmax: layer 'end'."
        )
    attention = layers.Dense(4, activation="softmax")
    inputs = keras.Input([4])
    for model in (
        chain(attention, layers.Dense(2)),
        keras.Model(inputs, layers.Multiply()([inputs, attention(inputs)])),
        keras.Model(inputs, layers.Dense(2)(inputs) * 2),
        chain(layers.Dense(2), keras.Sequential([layers.ReLU()])),
        networks.mlp(),
        smooth.network(),
    ):
        network_checks.require_logits(model)


# Helpers.


def test_only_dense_networks_vectorize():
    dense = networks.mlp(input_shape=(3, 2))
    assert Network(dense).vectorizes()
    norm = layers.BatchNormalization()
    nested = keras.Sequential([keras.Input([3, 2]), dense, norm, layers.ReLU()])
    assert Network(nested).vectorizes()
    assert not Network(networks.conv4(filters=2)).vectorizes()
    nested.add(layers.Dropout(0.5))
    assert not Network(nested).vectorizes()


def test_with_outputs_changes_the_number_of_outputs():
    parts = [layers.Dense(3, activation="tanh"), layers.BatchNormalization()]
    parts.append(layers.Dense(2))
    for model in (chain(*parts), keras.Sequential([keras.Input([4]), *parts])):
        copy = network.with_outputs(model, 7)
        assert type(copy) is type(model) and copy.output_shape == (None, 7)
        shapes = [v.shape for v in model.variables[:-2]]
        assert [v.shape for v in copy.variables[: len(shapes)]] == shapes
        assert model.output_shape != (None, 7)
    with pytest.raises(ValueError, match=r"can change; \w+ ends in ReLU\."):
        network.with_outputs(chain(layers.Dense(2), layers.ReLU()), 7)


def test_policy_is_the_one_of_layers_with_weights():
    half = layers.Dense(2, dtype="mixed_float16")
    assert network.policy(chain(half, layers.ReLU())).name == "mixed_float16"
    assert network.policy(smooth.network()).name == "float64"
    assert network.policy(chain(half, layers.Dense(2))) == "float32"
    assert network.policy(chain(layers.ReLU())) == "float32"


def test_class_means_match_numpy():
    random = np.random.RandomState(0)
    x, labels = random.normal(size=[3, 6, 4]), np.tile([0, 1, 2, 0, 1, 2], [3, 1])
    labels = labels.astype("int32")
    labels[1] = [0, 0, 1, 1, 1, 0]
    for classes, expected_classes in ((5, 5), (None, 3)):
        means, present = network.class_means(tf.constant(x), labels, classes)
        assert means.shape == (3, expected_classes, 4)
        np.testing.assert_array_equal(present, [3, 2, 3])
        for task in range(3):
            for c in range(expected_classes):
                class_features = x[task][labels[task] == c]
                mean = class_features.mean(0) if len(class_features) else np.zeros(4)
                np.testing.assert_allclose(means[task, c], mean, rtol=1e-12)


def test_dense_gradients_of_an_embedding():
    table = tf.Variable([[1.0], [2.0], [3.0]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.gather(table, [2, 0, 2]) ** 2)
    gradient = tape.gradient(total, table)
    assert isinstance(gradient, tf.IndexedSlices)
    (dense_gradient,) = network.dense([gradient])
    np.testing.assert_array_equal(dense_gradient, [[2.0], [0.0], [12.0]])
