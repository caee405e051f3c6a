"""Learners with networks, policies, losses and weights that few users have."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import batch_norm, keras_private, logits, losses, priors, signatures

layers = keras.layers


def task(classes=3, size=4, examples=6, queries=5, tasks=2, dtype="float32"):
    """Returns `(episode, query_y)` of random numbers."""
    random = np.random.RandomState(0)
    x, query_x = (random.normal(size=[tasks, n, size]) for n in (examples, queries))
    y, query_y = (np.arange(n) % classes for n in (examples, queries))
    episode = {
        "support_x": x.astype(dtype),
        "support_y": np.tile(y, [tasks, 1]),
        "query_x": query_x.astype(dtype),
    }
    return episode, np.tile(query_y, [tasks, 1])


def one(episode):
    return episode["support_x"][0], episode["support_y"][0]


def nested(outputs=3, sizes=(8, 8)):
    """Returns a network inside another model."""
    inputs = keras.Input([4])
    return keras.Model(inputs, km.networks.mlp((4,), outputs, sizes)(inputs))


def in_policy(policy, outputs=3):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    network = km.networks.mlp((4,), outputs, (8,))
    keras.config.set_dtype_policy(before)
    return network


# Layers.


@pytest.mark.parametrize("kind", [km.MAML, km.ProtoNet])
def test_copies_keep_an_adapted_normalization(kind):
    inputs = keras.Input([4])
    standard = layers.Normalization()
    standard.adapt(np.random.RandomState(0).normal(5, 10, [50, 4]))
    learner = kind(keras.Model(inputs, layers.Dense(3)(standard(inputs))))
    episode, _ = task()
    state = learner.adapt(episode["support_x"], episode["support_y"])
    expected = np.asarray(learner.infer(state, episode["query_x"]))[0]
    model = km.finetune(learner, *one(episode))
    predictions = model.predict(episode["query_x"][0], verbose=0)
    np.testing.assert_allclose(predictions, expected, rtol=1e-5, atol=1e-5)
    if kind is km.MAML:
        copy = learner.with_classes(4)
        x = tf.constant(episode["query_x"][0])
        np.testing.assert_allclose(
            copy.network.layers[1](x), learner.network.layers[1](x)
        )


def test_the_last_layer_of_a_nested_network_is_its_head():
    network = nested()
    names = [layer.name for layer in keras_private.in_order(network)]
    assert names[-3:] == ["dense1", "dense2", "head"]
    assert km.ANIL(network).layers_adapted == ("head",)


def test_fine_tuning_of_nested_networks_fixes_the_norms_after_a_layer_that_adapts():
    def network():
        inputs = x = keras.Input([4])
        for i in "12":
            x = layers.BatchNormalization(name=f"norm{i}")(
                layers.Dense(4, name=f"d{i}")(x)
            )
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    inputs = keras.Input([4])
    learner = km.ANIL(keras.Model(inputs, network()(inputs)), layers=["d2"])
    model = km.finetune(learner, *one(task()[0]))
    norms = {
        layer.name: layer
        for layer in keras_private.layers_of(model)
        if isinstance(layer, layers.BatchNormalization)
    }
    assert isinstance(norms["norm2"], batch_norm.ConstantAffine)
    assert type(norms["norm1"]) is layers.BatchNormalization
    assert not norms["norm1"].trainable


@keras.saving.register_keras_serializable("test_unusual")
class Block(layers.Layer):
    """A layer with a weight of its own, and a layer inside."""

    def build(self, shape):
        self.scale = self.add_weight(shape=[shape[-1]], initializer="ones")
        self.inner = layers.Dense(shape[-1])
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x) * self.scale


def test_fine_tuning_trains_only_what_adapts():
    inputs = keras.Input([4])
    network = keras.Model(inputs, layers.Dense(3, name="head")(Block()(inputs)))
    learner = km.ANIL(network, layers=["head"])
    model = km.finetune(learner, *one(task()[0]))
    paths = [v.path.split("/")[-2] for v in model.trainable_variables]
    assert paths == ["head", "head"]


def test_the_prior_of_nested_encoders_of_equal_names():
    inputs = keras.Input([4])
    outputs = []
    for name in "ab":
        encoder = km.networks.mlp((4,), 3, (5,))
        outputs.append(
            keras.Model(encoder.inputs, encoder.outputs[0], name=name)(inputs)
        )
    network = keras.Model(inputs, layers.Add()(outputs))
    learner = km.SigmaMAML(network, initial_scale=0.5)
    model = km.finetune(learner, *one(task()[0]), keras.optimizers.SGD(0.1))
    pairs = list(zip(model.trainable_variables, model.centres, strict=True))
    expected = sum(
        np.sum((theta.numpy() - phi.numpy()) ** 2) / (2 * 6 * 0.5**2)
        for theta, phi in pairs
    )
    assert float(model.prior_penalty()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.filterwarnings("ignore:You passed `rms_scaling=True`")
def test_layer_normalization_with_rms_scaling_is_computed_by_keras():
    try:
        layer = layers.LayerNormalization(rms_scaling=True)
    except (TypeError, ValueError):
        pytest.skip("expected a version of Keras that has rms_scaling")
    inputs = keras.Input([4])
    network = keras.Model(inputs, layers.Dense(3)(layer(inputs)))
    learner = km.MAML(network, inner_steps=0)
    episode, _ = task()
    state = learner.adapt(episode["support_x"], episode["support_y"])
    outputs = np.asarray(learner.infer(state, episode["query_x"]))[0]
    expected = network(episode["query_x"][0])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [km.MAML, km.ProtoNet])
def test_networks_with_lora_are_refused(kind):
    network = km.networks.mlp((4,), 3, (8,))
    network.layers[-1].enable_lora(2)
    with pytest.raises(ValueError, match="expected a network without LoRA"):
        kind(network)


def test_estimate_refuses_a_subclass_of_batch_normalization():
    class Mine(layers.BatchNormalization):
        pass

    inputs = keras.Input([4])
    learner = km.ProtoNet(keras.Model(inputs, Mine(name="mine")(inputs)))
    with pytest.raises(ValueError, match="got layer 'mine' of Mine"):
        batch_norm.estimate(learner, [task()])


def test_examples_of_any_length():
    inputs = keras.Input([None, 3])
    x = layers.Conv1D(4, 3, padding="same")(inputs)
    encoder = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    learner = km.ProtoNet(encoder)
    for length in (4, 7):
        x = np.random.RandomState(0).rand(1, 4, length, 3).astype("float32")
        state = learner.adapt(x, np.array([[0, 1, 0, 1]]))
        features = np.asarray(encoder(x[0]))
        expected = (features[0::2].mean(0), features[1::2].mean(0))
        np.testing.assert_allclose(state["prototypes"][0], expected, rtol=1e-5)
        assert learner.infer(state, x).shape == (1, 4, 2)


def test_the_input_type_of_an_export_that_starts_with_a_random_layer():
    network = keras.Sequential(
        [keras.Input([4]), layers.GaussianNoise(0.1), layers.Dense(3)]
    )
    learner = km.MAML(network)
    learner.compile()
    model = km.finetune(learner, *one(task()[0]))
    (function,) = signatures.model_signatures(model).values()
    specs = tf.nest.flatten(function.structured_input_signature)
    assert [spec.dtype for spec in specs] == [tf.float32]


@pytest.mark.parametrize("layers_adapted", ["head", ["typo"], []])
def test_unknown_layers_cannot_be_assigned(layers_adapted):
    learner = km.ANIL(km.networks.mlp((4,), 3, (8,)))
    with pytest.raises(ValueError, match=r"list of layers with weights \(dense1, head"):
        learner.layers_adapted = layers_adapted
    assert learner.layers_adapted == ("head",)


# Types.


@pytest.mark.thorough
def test_fine_tuning_in_float16_takes_proximal_steps():
    learner = km.SigmaMAML(in_policy("mixed_float16"), initial_scale=0.5)
    model = km.finetune(learner, *one(task()[0]))
    optimizer = model.optimizer.inner_optimizer
    assert isinstance(optimizer, priors.ProximalSGD)
    before = [w.numpy() for w in model.trainable_variables]
    model.fit(*one(task()[0]), epochs=30, verbose=0)
    for old, new in zip(before, model.trainable_variables, strict=True):
        # With the optimizer's own prior around zero, the weights would shrink.
        assert np.linalg.norm(new) > 0.8 * np.linalg.norm(old)


@pytest.mark.thorough
def test_fine_tuning_under_a_global_policy():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        for learner in (
            km.ProtoNet(km.networks.mlp((4,), 5, (8,))),
            km.LSTMLearner(example_shape=[4], outputs=3, units=4),
        ):
            model = km.finetune(learner, *one(task()[0]))
            model.fit(*one(task()[0]), verbose=0)
            assert np.isfinite(model.predict(one(task()[0])[0], verbose=0)).all()
    finally:
        keras.config.set_dtype_policy(before)


@pytest.mark.parametrize(
    "create",
    [
        lambda net, loss: km.MAML(net, loss, inner_rate=0.1),
        lambda net, loss: km.Reptile(net, loss, inner_rate=0.1),
        lambda net, loss: km.LSTMLearner(net, outputs=3, loss=loss, units=4),
        lambda net, loss: km.MANN(net, outputs=3, loss=loss, units=4, rows=4),
    ],
    ids=["MAML", "Reptile", "LSTMLearner", "MANN"],
)
def test_float64_learners_with_a_loss_in_float32(create):
    learner = create(in_policy("float64"), keras.losses.MeanSquaredError())
    learner.compile("sgd", run_eagerly=True)
    episode, query_y = task(dtype="float64")
    episode["support_y"] = np.eye(3)[episode["support_y"]]
    learner.train_on_batch(episode, np.eye(3)[query_y])
    assert learner.variable_dtype == "float64"
    assert all(np.isfinite(w).all() for w in learner.get_weights())


def test_absent_classes_in_float16():
    values = tf.zeros([1, 2, 3], "float16")
    masked = logits.masked(values, tf.constant([2]))
    assert np.isfinite(masked).all()
    np.testing.assert_array_equal(logits.present(masked)[0, 0], [True, True, False])
    assert float(tf.nn.softmax(masked)[0, 0, 2]) == 0


# Losses and weights.

WEIGHTED = keras.losses.SparseCategoricalCrossentropy(
    from_logits=True, reduction="mean_with_sample_weight"
)


def test_weights_of_tasks_equal_those_of_all_their_queries():
    _, query_y = task()
    outputs = np.random.RandomState(0).normal(size=[2, 5, 3]).astype("float32")
    for weights in ([1.0, 1.0], [0.5, 3.0]):
        by_query = np.repeat(np.array(weights)[:, None], 5, axis=1)
        terms = keras.losses.sparse_categorical_crossentropy(query_y, outputs, True)
        expected = np.sum(terms * by_query) / np.sum(by_query)
        for form in (np.array(weights), by_query):
            value = losses.of(WEIGHTED, query_y, outputs, form)
            assert float(value) == pytest.approx(expected, rel=1e-5)


def test_a_batch_whose_weights_are_zero_changes_nothing():
    learner = km.MAML(km.networks.mlp((4,), 3, (8,)))
    learner.compile(keras.optimizers.SGD(0.1), loss=WEIGHTED, run_eagerly=True)
    before = learner.get_weights()
    learner.train_on_batch(*task(), sample_weight=np.zeros([2, 5]))
    for old, new in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize(
    "create",
    [
        lambda: km.MAML(km.networks.mlp((4,), 3, (8,))),
        lambda: km.LSTMLearner(example_shape=[4], outputs=3, units=4),
    ],
    ids=["MAML", "LSTMLearner"],
)
def test_weights_may_be_arrays(create):
    learner = create()
    episode, query_y = task()
    weights = np.array([1.0, 2.0], "float32")
    loss, *_ = learner.meta_gradient(episode, query_y, weights)
    expected, *_ = learner.meta_gradient(episode, query_y, tf.constant(weights))
    assert float(loss) == float(expected)


def test_compile_without_a_loss_restores_that_of_the_constructor():
    learner = km.MAML(km.networks.mlp((4,), 1, (8,)), "mse")
    learner.compile("sgd", loss=keras.losses.MeanAbsoluteError())
    assert isinstance(learner.query_loss, keras.losses.MeanAbsoluteError)
    learner.compile("sgd")
    assert learner.query_loss is learner.support_loss


# Optimizers.


def test_averages_of_meta_sgd_with_a_frozen_layer():
    learner = km.MetaSGD(km.networks.mlp((4,), 3, (4, 4)))
    learner.network.layers[1].trainable = False
    learner.compile(keras.optimizers.SGD(0.0, use_ema=True), run_eagerly=True)
    before = learner.get_weights()
    learner.fit(*task(), epochs=2, verbose=0)
    for old, new in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    trained = {id(v) for v in learner.trainable_variables}
    assert len(trained) == 8 and id(learner.rates[0]) not in trained


def test_accumulated_gradients_with_dropout():
    network = keras.Sequential(
        [keras.Input([4]), layers.Dropout(0.5), layers.Dense(3, name="head")]
    )
    learner = km.MAML(network)
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    learner.compile(optimizer)
    before = learner.get_weights()[0]
    learner.fit(*task(), epochs=2, verbose=0)
    assert (learner.get_weights()[0] != before).any()
