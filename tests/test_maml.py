"""Tests of MAML's and FOMAML's meta-gradients: closed forms and finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta.learners import gradient
from tests import smooth

LEARNERS = {"MAML": km.MAML, "FOMAML": km.FOMAML}


def linear_regression(seed=0, tasks=3, support=5, query=4, width=3):
    """Draws float64 regression tasks: an episode, query targets and initial weights."""
    random = np.random.RandomState(seed)
    episode = {
        "support_x": random.normal(size=[tasks, support, width]),
        "support_y": random.normal(size=[tasks, support, 1]),
        "query_x": random.normal(size=[tasks, query, width]),
    }
    return (
        episode,
        random.normal(size=[tasks, query, 1]),
        random.normal(size=[width, 1]),
    )


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
@pytest.mark.parametrize("name", LEARNERS)
def test_linear_regression_closed_form(name, steps):
    # The mean square of y - X w has the gradient H w - b with H = 2 X'X / S and
    # b = 2 X'y / S. K steps lead to (I - aH)^K w + ..., whose Jacobian is (I - aH)^K.
    rate = 0.1
    episode, query_y, start = linear_regression()
    with smooth.float64():
        network = keras.Sequential(
            [keras.Input([3]), keras.layers.Dense(1, use_bias=False)]
        )
    network.set_weights([start])
    learner = LEARNERS[name](network, loss="mse", inner_rate=rate, inner_steps=steps)
    loss, (meta_gradient,), variables, outputs = learner.meta_gradient(episode, query_y)

    losses, gradients, predictions = [], [], []
    for x, y, query_x, targets in zip(
        *(episode[k] for k in ("support_x", "support_y", "query_x")),
        query_y,
        strict=True,
    ):
        hessian, offset = 2 * x.T @ x / len(x), 2 * x.T @ y / len(x)
        weights = start
        for _ in range(steps):
            weights = weights - rate * (hessian @ weights - offset)
        errors = query_x @ weights - targets
        jacobian = np.linalg.matrix_power(np.eye(3) - rate * hessian, steps)
        if name == "FOMAML":
            jacobian = np.eye(3)
        losses.append(np.mean(errors**2))
        gradients.append(jacobian.T @ (2 * query_x.T @ errors / len(errors)))
        predictions.append(query_x @ weights)
    # All computations are in float64 and differ by rounding only.
    np.testing.assert_allclose(loss, np.mean(losses), rtol=1e-10)
    np.testing.assert_allclose(meta_gradient, np.mean(gradients, axis=0), rtol=1e-10)
    np.testing.assert_allclose(outputs, predictions, rtol=1e-10)
    assert variables[0] is network.trainable_variables[0]


def adapt_eagerly(learner, support_x, support_y, query_x, steps):
    """Adapts the network eagerly; returns weights, query logits and a tape."""
    network, start = learner.network, learner.network.get_weights()
    for _ in range(steps):
        with tf.GradientTape() as tape:
            loss = smooth.LOSS(support_y, network(support_x, training=True))
        variables = network.trainable_variables
        for v, g in zip(variables, tape.gradient(loss, variables), strict=True):
            v.assign_sub(learner.inner_rate * g)
    network(support_x, training=True)  # momentum 0 keeps this batch's statistics
    with tf.GradientTape() as tape:
        logits = network(query_x, training=learner.normalization == "transductive")
    weights = [v.numpy() for v in network.trainable_variables]
    network.set_weights(start)
    return weights, logits.numpy(), tape


@pytest.mark.thorough
@pytest.mark.parametrize("normalization", gradient.NORMALIZATIONS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_meta_gradient_matches_finite_differences(steps, normalization):
    learner = km.MAML(
        smooth.network(),
        inner_rate=0.3,
        inner_steps=steps,
        normalization=normalization,
    )
    episode, query_y = smooth.episode()

    def compute_loss():
        logits = learner(episode)
        return float(smooth.LOSS(query_y, logits))

    loss, gradients, variables, _ = learner.meta_gradient(episode, query_y)
    assert float(loss) == pytest.approx(compute_loss(), rel=1e-10)
    for direction, slope in smooth.slopes(compute_loss, variables):
        # The error of differences is O(1e-10) times the third derivative.
        expected = smooth.along(gradients, direction)
        assert slope == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.thorough
@pytest.mark.parametrize("normalization", gradient.NORMALIZATIONS)
def test_eager_graph_and_saved_model_agree(normalization, tmp_path):
    learner = km.MAML(
        smooth.network(),
        inner_rate=0.3,
        inner_steps=2,
        evaluation_steps=4,
        normalization=normalization,
    )
    episode, _ = smooth.episode()
    expected = np.stack(
        [
            adapt_eagerly(learner, *task, steps=4)[1]
            for task in zip(*episode.values(), strict=True)
        ]
    )
    np.testing.assert_allclose(learner(episode), expected, rtol=1e-8)
    state = learner.adapt(episode["support_x"], episode["support_y"])
    np.testing.assert_allclose(
        learner.infer(state, episode["query_x"]), expected, rtol=1e-8
    )
    # Keras' own loops convert NumPy arrays to float32.
    np.testing.assert_allclose(learner.predict(episode, verbose=0), expected, atol=1e-6)
    if normalization == "inductive":
        path = km.export(learner, tmp_path)
        served = tf.saved_model.load(str(path)).signatures["serving_default"]
        outputs = served(**{k: tf.constant(v) for k, v in episode.items()})
        np.testing.assert_allclose(
            outputs["probabilities"], tf.nn.softmax(expected), rtol=1e-8
        )


def test_first_order_is_the_query_gradient_at_the_adapted_weights():
    learner = km.FOMAML(
        smooth.network(),
        inner_rate=0.3,
        inner_steps=3,
        normalization="transductive",
    )
    episode, query_y = smooth.episode(tasks=1)
    _, gradients, _, _ = learner.meta_gradient(episode, query_y)
    weights, _, _ = adapt_eagerly(
        learner, *(value[0] for value in episode.values()), steps=3
    )
    network = learner.network
    for variable, value in zip(network.trainable_variables, weights, strict=True):
        variable.assign(value)
    with tf.GradientTape() as tape:
        loss = smooth.LOSS(query_y[0], network(episode["query_x"][0], training=True))
    expected = tape.gradient(loss, network.trainable_variables)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


@pytest.mark.thorough
def test_inner_batches_are_consecutive():
    episode, _ = smooth.episode(tasks=1)
    examples = episode["support_x"].shape[1]
    network = smooth.network()
    settings = {
        "inner_rate": 0.3,
        "normalization": "transductive",
        "support_order": "given",
    }
    batched = km.MAML(network, inner_steps=3, inner_batch=4, **settings)
    weights = batched.adapt(episode["support_x"], episode["support_y"])["weights"]
    for first in (0, 4, 8):  # one step, from the weights of the last step
        indices = np.arange(first, first + 4) % examples
        single_step = km.MAML(network, **settings)
        x, y = episode["support_x"][:, indices], episode["support_y"][:, indices]
        assert y.max() == episode["support_y"].max()  # no class is masked
        for variable, value in zip(
            network.trainable_variables, single_step.adapt(x, y)["weights"], strict=True
        ):
            variable.assign(value[0])
    for a, b in zip(weights, network.trainable_variables, strict=True):
        np.testing.assert_allclose(a[0], b, rtol=1e-8)

    full_batch = km.MAML(network, inner_batch=100, **settings)
    np.testing.assert_allclose(
        full_batch(episode), km.MAML(network, **settings)(episode), rtol=1e-8
    )
    with pytest.raises(ValueError, match="inner_batch to be an integer >= 1, got 0"):
        km.MAML(network, inner_batch=0)


@pytest.mark.thorough
def test_logits_do_not_depend_on_the_momentum():
    episode, _ = smooth.episode()
    logits = [
        km.MAML(smooth.network(momentum), inner_rate=0.3)(episode).numpy()
        for momentum in (0.0, 0.9, 0.99)
    ]
    np.testing.assert_allclose(logits[1], logits[0], rtol=1e-8)
    np.testing.assert_allclose(logits[2], logits[0], rtol=1e-8)


def test_a_frozen_normalization_keeps_its_statistics():
    network = smooth.network(frozen=True)
    norm = network.layers[2]
    norm.moving_mean.assign([1.0, 2.0, 3.0])
    learner = km.MAML(network, inner_rate=0.3)
    episode, _ = smooth.episode()
    state = learner.adapt(episode["support_x"], episode["support_y"])
    assert state["statistics"] == [] and len(state["weights"]) == 4
    weights, logits, _ = adapt_eagerly(
        learner, *(value[0] for value in episode.values()), steps=1
    )
    np.testing.assert_allclose(
        learner.infer(state, episode["query_x"])[0], logits, rtol=1e-8
    )


def test_regularizers_of_weights_act_once_in_the_outer_loss():
    penalty = keras.regularizers.L2(0.5)
    network = keras.Sequential(
        [
            keras.Input([3]),
            keras.layers.Dense(1, "tanh", False, kernel_regularizer=penalty),
        ]
    )
    learner = km.MAML(network, loss="mse", inner_rate=0.1, inner_steps=3)
    (start,) = network.get_weights()
    x = np.zeros([1, 2, 3], "float32")  # so that the gradient of the data is zero
    y = np.zeros([1, 2, 1], "float32")
    state = learner.adapt(x, y)
    np.testing.assert_array_equal(state["weights"][0][0], start)
    episode = {"support_x": x, "support_y": y, "query_x": x}
    loss, (meta_gradient,), _, _ = learner.meta_gradient(episode, y)
    np.testing.assert_allclose(loss, 0.5 * np.sum(start**2), rtol=1e-6)
    np.testing.assert_allclose(meta_gradient, start, rtol=1e-6)


def test_dropout_differs_by_task_and_step_in_training_only():
    network = keras.Sequential(
        [
            keras.Input([8]),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(2),
        ]
    )
    learner = km.MAML(network, inner_rate=1.0)
    learner.compile(keras.optimizers.SGD(0.1))
    (seed,) = learner.bound.seeds
    assert seed is network.layers[0].seed_generator.state
    x = np.ones([2, 2, 8], "float32")
    y = np.tile(np.arange(2, dtype="int32"), [2, 1])
    episode = {"support_x": x, "support_y": y, "query_x": x}
    # The two tasks differ only in their dropout.
    _, _, _, outputs = learner.meta_gradient(episode, y)
    assert np.abs(outputs[0] - outputs[1]).max() > 1e-3
    learner.optimizer.iterations.assign(1)
    _, _, _, later = learner.meta_gradient(episode, y)
    assert np.abs(outputs[0] - later[0]).max() > 1e-3
    np.testing.assert_array_equal(learner(episode), learner(episode))
    with pytest.raises(ValueError, match="without random layers"):
        km.MAML(network, normalization="transductive")


def test_an_epoch_of_fine_tuning_is_an_inner_step():
    episode, _ = smooth.episode(tasks=1)
    x, y = episode["support_x"][0], episode["support_y"][0]
    network = smooth.network()
    unadapted = km.MAML(network, inner_rate=0.3, inner_steps=0)
    model = km.finetune(unadapted, x, y)
    model.fit(x, y, epochs=2, batch_size=len(x), verbose=0)
    two_steps = km.MAML(network, inner_rate=0.3, inner_steps=2)
    state = two_steps.adapt(x[None], y[None])
    for variable, value in zip(
        model.trainable_variables, state["weights"], strict=True
    ):
        # Keras' fit converts NumPy arrays to float32.
        np.testing.assert_allclose(variable, value[0], atol=1e-6)


def test_published_networks_have_the_published_sizes():
    # 3x3 convolutions, scale and offset of each normalization, and the head.
    expected = 9 * 64 + 3 * 9 * 64 * 64 + 4 * 2 * 64 + 64 * 5 + 5
    assert km.networks.conv4().count_params() == expected + 4 * 2 * 64
    assert km.networks.mlp().count_params() == 2 * 40 + 40 * 41 + 41
    for halving in ("stride", "max"):  # 28, 14, 7, then 4 and 2, or 3 and 1
        network = km.networks.conv4(halving=halving, pooling="none")
        positions = {"stride": 4, "max": 1}[halving]
        assert network.get_layer("head").kernel.shape == [64 * positions, 5]
    # The reported size is 12.4 million weights without the head.
    residual = km.networks.resnet12()
    count, channels = 0, 3
    for filters in (64, 160, 320, 640):
        kernels = channels * 9 + filters * 9 * 2 + channels
        count, channels = count + kernels * filters + 4 * 4 * filters, filters
    assert residual.count_params() == count + 640 * 5 + 5
    assert round(count / 1e6, 1) == 12.4
    flat = km.networks.resnet12((28, 28, 1), filters=(4, 6), pooling="none")
    assert flat.get_layer("head").kernel.shape == [7 * 7 * 6, 5]
    for arguments in ({"halving": "mean"}, {"pooling": "max"}):
        with pytest.raises(ValueError, match="expected (halving|pooling) to be"):
            km.networks.conv4(**arguments)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"inner_rate": 0}, "inner_rate to be a number above 0"),
        ({"inner_steps": -1}, "inner_steps to be an integer >= 0"),
        ({"evaluation_steps": 1.5}, "evaluation_steps to be an integer >= 0"),
        ({"normalization": "batch"}, "normalization to be one of"),
        ({"loss": "hinge"}, "loss to be one of"),
    ],
)
def test_arguments_are_checked(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        km.MAML(km.networks.mlp(outputs=2), **arguments)


def test_the_network_is_checked():
    with pytest.raises(ValueError, match="built keras.Model"):
        km.MAML(keras.Sequential([keras.layers.Dense(1)]))
    inputs = keras.Input([4, 4, 1])
    with pytest.raises(ValueError, match=r"shape \[B, N\]"):
        km.MAML(keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs)))


@pytest.mark.thorough
def test_methods_of_keras_raise_one_sentence():
    episode, query_y = smooth.episode()
    learner = km.MAML(smooth.network())
    learner.compile("sgd")
    invalid = {**episode, "support_x": np.full_like(episode["support_x"], np.nan)}
    data = tf.data.Dataset.from_tensors((invalid, query_y))
    for method in (learner.fit, learner.evaluate, learner.predict):
        with pytest.raises(ValueError, match=r"^expected finite values in support_x"):
            method(data, verbose=0)
