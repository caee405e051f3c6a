"""Tests of Reptile: joint training at one step, the inner Adam, the update."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import smooth


def joint_gradients(network, x, y):
    with tf.GradientTape() as tape:
        loss = smooth.LOSS(y, network(x, training=True))
    return tape.gradient(loss, network.trainable_variables)


def test_one_step_equals_joint_training():
    episode, query_y = smooth.episode()
    network = smooth.network()
    learner = km.Reptile(network, inner_rate=0.3, inner_steps=1)
    _, meta_gradients, _, _ = learner.meta_gradient(episode, query_y)
    x = np.concatenate([episode["support_x"], episode["query_x"]], 1)
    y = np.concatenate([episode["support_y"], query_y], 1)
    gradients = [joint_gradients(network, x[task], y[task]) for task in range(2)]
    for meta_gradient, *task_gradients in zip(meta_gradients, *gradients, strict=True):
        # The step starts from phi, so phi - theta_hat is the rate times the gradient.
        expected = 0.3 * np.mean(task_gradients, axis=0)
        np.testing.assert_allclose(meta_gradient, expected, rtol=1e-8, atol=1e-14)


def test_published_inner_adam_by_hand():
    episode, query_y = smooth.episode(tasks=1)
    network = smooth.network()
    initial = [v.numpy() for v in network.trainable_variables]
    learner = km.Reptile(
        network, inner_rate=0.01, inner_steps=3, inner_optimizer="adam", joint=False
    )
    state = learner.adapt(episode["support_x"], episode["support_y"])
    optimizer = keras.optimizers.Adam(0.01, beta_1=0.0, beta_2=0.999, epsilon=1e-8)
    for _ in range(3):
        gradients = joint_gradients(
            network, episode["support_x"][0], episode["support_y"][0]
        )
        optimizer.apply_gradients(
            zip(gradients, network.trainable_variables, strict=True)
        )
    for weight, variable in zip(
        state["weights"], network.trainable_variables, strict=True
    ):
        # Keras computes the powers of beta in float32, and Adam divides by them.
        np.testing.assert_allclose(weight[0], variable, rtol=1e-3, atol=1e-6)
    for variable, value in zip(network.trainable_variables, initial, strict=True):
        variable.assign(value)


def test_sgd_at_rate_one_moves_to_the_adapted_weights():
    episode, query_y = smooth.episode(tasks=1)
    network = smooth.network()
    learner = km.Reptile(network, inner_rate=0.3, inner_steps=2, joint=False)
    learner.compile(keras.optimizers.SGD(1.0))
    state = learner.adapt(episode["support_x"], episode["support_y"])
    learner.train_on_batch(episode, query_y)
    for variable, value in zip(
        network.trainable_variables, state["weights"], strict=True
    ):
        # Keras' own loops convert NumPy arrays to float32.
        np.testing.assert_allclose(variable, value[0], atol=1e-6)


def test_unknown_inner_optimizer_is_rejected():
    with pytest.raises(ValueError, match="one of sgd, adam, got 'rmsprop'"):
        km.Reptile(smooth.network(), inner_optimizer="rmsprop")
