"""What a network must be, and what else is known of one."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_meta import network, network_checks, networks
from tests import smooth
from tests.nets import chain

layers = keras.layers
Network = network.Network


# What is no network.


def test_networks_of_other_shapes_are_refused():
    inputs, more = keras.Input([4]), keras.Input([4])
    dense = layers.Dense(2)
    for wrong, sentence in (
        (None, "built keras.Model (start it with a keras.Input), got NoneType."),
        (keras.Sequential([dense]), "a keras.Input), got Sequential."),
        (
            keras.Model([inputs, more], dense(layers.Add()([inputs, more]))),
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
        with pytest.raises(ValueError) as info:
            Network(wrong)
        assert str(info.value).startswith("expected ")
        assert str(info.value).endswith(sentence)


def test_a_network_must_end_in_logits():
    softmax = [
        chain(layers.Dense(2, activation="softmax", name="end")),
        chain(layers.Dense(2), layers.Softmax(name="end")),
        chain(layers.Dense(2), layers.Activation("softmax", name="end")),
    ]
    softmax.append(chain(layers.Dense(4), softmax[0]))
    softmax.append(keras.Sequential([keras.Input([4]), softmax[1]]))
    for wrong in softmax:
        with pytest.raises(ValueError) as info:
            network_checks.require_logits(wrong)
        assert str(info.value) == (
            "expected a network that gives logits, which the loss normalizes, got one "
            "that ends in a softmax: layer 'end'."
        )
    attention = layers.Dense(4, activation="softmax")
    inputs = keras.Input([4])
    for right in (
        chain(attention, layers.Dense(2)),
        keras.Model(inputs, layers.Multiply()([inputs, attention(inputs)])),
        keras.Model(inputs, layers.Dense(2)(inputs) * 2),
        chain(layers.Dense(2), keras.Sequential([layers.ReLU()])),
        networks.mlp(),
        smooth.network(),
    ):
        network_checks.require_logits(right)


# Helpers.


def test_only_dense_networks_run_as_one_batch():
    dense = networks.mlp(input_shape=(3, 2))
    assert Network(dense).vectorizes()
    norm = layers.BatchNormalization()
    nested = keras.Sequential([keras.Input([3, 2]), dense, norm, layers.ReLU()])
    assert Network(nested).vectorizes()
    assert not Network(networks.conv4(filters=2)).vectorizes()
    nested.add(layers.Dropout(0.5))
    assert not Network(nested).vectorizes()


def test_a_network_with_other_outputs():
    some = [layers.Dense(3, activation="tanh"), layers.BatchNormalization()]
    some.append(layers.Dense(2))
    for model in (chain(*some), keras.Sequential([keras.Input([4]), *some])):
        copy = network.with_outputs(model, 7)
        assert type(copy) is type(model) and copy.output_shape == (None, 7)
        shapes = [v.shape for v in model.variables[:-2]]
        assert [v.shape for v in copy.variables[: len(shapes)]] == shapes
        assert model.output_shape != (None, 7)
    with pytest.raises(ValueError, match=r"other in number; \w+ ends in ReLU\."):
        network.with_outputs(chain(layers.Dense(2), layers.ReLU()), 7)


def test_the_policy_is_that_of_layers_with_weights():
    half = layers.Dense(2, dtype="mixed_float16")
    assert network.policy(chain(half, layers.ReLU())).name == "mixed_float16"
    assert network.policy(smooth.network()).name == "float64"
    assert network.policy(chain(half, layers.Dense(2))) == "float32"
    assert network.policy(chain(layers.ReLU())) == "float32"


def test_class_means_are_numpys():
    random = np.random.RandomState(0)
    x, labels = random.normal(size=[3, 6, 4]), np.tile([0, 1, 2, 0, 1, 2], [3, 1])
    labels = labels.astype("int32")
    labels[1] = [0, 0, 1, 1, 1, 0]
    for classes, expected in ((5, 5), (None, 3)):
        means, present = network.class_means(tf.constant(x), labels, classes)
        assert means.shape == (3, expected, 4)
        np.testing.assert_array_equal(present, [3, 2, 3])
        for task in range(3):
            for c in range(expected):
                chosen = x[task][labels[task] == c]
                mean = chosen.mean(0) if len(chosen) else np.zeros(4)
                np.testing.assert_allclose(means[task, c], mean, rtol=1e-12)


def test_dense_gradients_of_an_embedding():
    table = tf.Variable([[1.0], [2.0], [3.0]])
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(tf.gather(table, [2, 0, 2]) ** 2)
    gradient = tape.gradient(total, table)
    assert isinstance(gradient, tf.IndexedSlices)
    (found,) = network.dense([gradient])
    np.testing.assert_array_equal(found, [[2.0], [0.0], [12.0]])
