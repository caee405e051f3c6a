"""Tests of batch normalization in `networks.conv4`."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km


def conv4(outputs):
    keras.utils.set_random_seed(0)
    return km.networks.conv4((8, 8, 1), outputs, filters=3)


def episode(images):
    """Returns a 2-way episode, batched: 4 support and 4 query images `[8, 8, 1]`."""
    labels = np.array([[0, 1, 0, 1]], "int32")
    x = images[None].astype("float32")
    parts = {"support_x": x[:, :4], "support_y": labels, "query_x": x[:, 4:]}
    return tf.data.Dataset.from_tensors((parts, labels))


# The learners of the docstrings, with the batch normalization of `conv4`.
LEARNERS = {
    "ProtoNet": lambda: km.ProtoNet(conv4(4), outputs=2),
    "MANN": lambda: km.MANN(conv4(4), outputs=2),
    "CNP": lambda: km.CNP(
        conv4(4),
        km.networks.mlp((8,), 1, (4,)),
        "sparse_categorical_crossentropy",
        outputs=2,
    ),
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", LEARNERS)
def test_evaluation_does_not_normalize_with_the_last_batch(kind):
    learner = LEARNERS[kind]()
    learner.compile(keras.optimizers.SGD(0.0))
    network = learner.encoder if kind == "CNP" else learner.network
    norm = network.get_layer("norm1")
    images = np.random.RandomState(0).uniform(size=[8, 8, 8, 1])
    learner.fit(episode(images).repeat(30), verbose=0)
    mean_before = norm.moving_mean.numpy()
    learner.fit(episode(np.full([8, 8, 8, 1], 9.0)), verbose=0)
    # The mean over equal images is the mean over one image.
    last_mean = network.get_layer("conv1")(np.full([1, 8, 8, 1], 9.0, "float32"))
    last_mean = np.mean(last_mean, axis=(0, 1, 2))
    decay = 0.9**2  # one pass over the support set, one over the queries
    np.testing.assert_allclose(
        norm.moving_mean,
        decay * mean_before + (1 - decay) * last_mean,
        rtol=1e-4,
        atol=1e-5,
    )


def test_moving_averages_of_conv4_match_numpy():
    random = np.random.RandomState(1)
    network = conv4(2)
    first, second = random.uniform(size=[2, 6, 8, 8, 1]).astype("float32")
    second *= 3
    mean, variance = 0.0, 1.0
    for batch in (first, second):
        network(batch, training=True)
        x = network.get_layer("conv1")(batch).numpy().astype("float64")
        mean = 0.9 * mean + 0.1 * x.mean((0, 1, 2))
        variance = 0.9 * variance + 0.1 * x.var((0, 1, 2))
    norm = network.get_layer("norm1")
    np.testing.assert_allclose(norm.moving_mean, mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, variance, rtol=1e-4)


@pytest.mark.thorough
def test_gradient_learners_do_not_use_moving_averages():
    images = np.random.RandomState(2).uniform(size=[8, 8, 8, 1])
    parts, _ = next(iter(episode(images)))
    logits = []
    for momentum in (0.0, 0.9):
        keras.utils.set_random_seed(0)
        network = km.networks.conv4((8, 8, 1), 2, filters=3, momentum=momentum)
        logits.append(km.MAML(network, inner_rate=0.1, inner_steps=2)(parts))
    np.testing.assert_allclose(*logits, rtol=1e-3, atol=1e-5)


def test_recipes_of_gradient_learners_keep_the_momentum_of_training():
    from keras_meta.zoo import recipes

    for name in ("maml.omniglot_5w1s", "anil.omniglot_20w1s", "maml.cifar_fs_5w1s"):
        network = recipes.recipe(name).learner().network
        assert [network.get_layer(f"norm{i}").momentum for i in (1, 2, 3, 4)] == [0] * 4
