"""What a user sets is what happens: single learners against independent values."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import batch_norm, task_network
from tests import smooth


def small(outputs=3, policy=None, seed=0):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([6])
    # A bias before a normalization has a gradient of rounding alone.
    x = keras.layers.Dense(16, use_bias=False, dtype=policy)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9, dtype=policy)(x)
    x = keras.layers.Activation("tanh", dtype=policy)(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, dtype=policy)(x))


def task(classes=3, shots=2, queries=4, tasks=2, seed=0):
    random = np.random.RandomState(seed)
    support_y = np.tile(np.arange(classes), [tasks, shots]).astype("int32")
    query_y = np.tile(np.arange(classes), [tasks, queries]).astype("int32")
    centres = random.normal(size=[tasks, classes, 6])
    x, query_x = (
        np.take_along_axis(centres, y[..., None], 1)
        + 0.3 * random.normal(size=[*y.shape, 6])
        for y in (support_y, query_y)
    )
    x, query_x = x.astype("float32"), query_x.astype("float32")
    return {"support_x": x, "support_y": support_y, "query_x": query_x}, query_y


# Implicit differentiation and weights that do not adapt.


@pytest.mark.thorough
def test_frozen_modules_have_the_meta_gradient_of_the_unrolled_loop():
    # 400 proximal steps reach the optimum; unrolled, they differentiate through it.
    with smooth.float64():
        settings = {
            "loss": smooth.LOSS,
            "inner_rate": 0.3,
            "inner_steps": 400,
            "initial_scale": 0.7,
            "frozen": ["conv"],
            "vectorize": False,
        }
        episode, query_y = smooth.episode()
        unrolled = km.SigmaMAML(smooth.network(), **settings)
        implicit = km.SigmaIMAML(smooth.network(), conjugate_steps=40, **settings)
        implicit.set_weights(unrolled.get_weights())
        slopes = []
        for learner in (unrolled, implicit):
            run = tf.function(lambda *data, of=learner: of.meta_gradient(*data)[1])
            gradients = run(episode, query_y)
            variables = tf.nest.flatten(learner.meta_variables())
            slopes.append(
                {
                    v.path.removeprefix(f"{learner.name}/"): g.numpy()
                    for g, v in zip(gradients, variables, strict=True)
                }
            )
    assert slopes[0].keys() == slopes[1].keys()
    for path, expected in slopes[0].items():
        error = np.linalg.norm(slopes[1][path] - expected)
        # A bias before a normalization has none.
        assert error < 1e-4 * max(np.linalg.norm(expected), 1e-6), path


# Fine-tuning.

RATE = {"inner_rate": 0.2, "inner_steps": 3}
LEARNERS = {
    "MAML": lambda: km.MAML(small(), **RATE),
    "FOMAML": lambda: km.FOMAML(small(), **RATE),
    "Reptile": lambda: km.Reptile(small(), **RATE),
    "Reptile, Adam": lambda: km.Reptile(
        small(), inner_rate=0.02, inner_steps=3, inner_optimizer="adam"
    ),
    "IMAML": lambda: km.IMAML(small(), regularization=0.5, **RATE),
    "MetaSGD": lambda: rated(km.MetaSGD(small(), **RATE)),
    "ANIL": lambda: km.ANIL(small(), **RATE),
    "SigmaMAML": lambda: scaled(km.SigmaMAML(small(), **RATE)),
    "SigmaIMAML": lambda: scaled(km.SigmaIMAML(small(), **RATE)),
    "SigmaReptile": lambda: scaled(km.SigmaReptile(small(), **RATE)),
    "frozen": lambda: scaled(km.SigmaMAML(small(), frozen=["dense"], **RATE)),
    "by weight": lambda: scaled(
        km.SigmaMAML(
            small(), modules="weight", frozen=["batch_normalization/beta"], **RATE
        )
    ),
}


def rated(learner):
    """Learned rates, some negative."""
    random = np.random.RandomState(1)
    for rate in learner.rates:
        rate.assign(random.uniform(-0.1, 0.4, rate.shape))
    return learner


def scaled(learner):
    """Scales of their own."""
    values = np.linspace(-0.3, 0.2, len(learner.modules))
    learner.scaled_log_variances.assign(values)
    return learner


@pytest.fixture
def names():
    """Layers of `small` have the same names in every test."""
    keras.backend.clear_session()


@pytest.mark.thorough
@pytest.mark.parametrize("classes", [3, 2])
@pytest.mark.parametrize("name", LEARNERS)
def test_an_epoch_of_fine_tuning_is_one_more_inner_step(name, classes, names):
    learner = LEARNERS[name]()
    episode, _ = task(classes)
    x, y = episode["support_x"], episode["support_y"]
    model = km.finetune(learner, x[0], y[0])
    model.fit(x[0], y[0], batch_size=len(y[0]), epochs=1, verbose=0)
    learner.inner_steps = 4
    expected = learner.adapt(x, y)["weights"]
    network = getattr(model, "network", model)
    assert len(network.trainable_variables) >= len(expected)
    moved = {v.path.split("/", 1)[-1]: v.numpy() for v in network.variables}
    by_layer = {v.path: v.numpy() for v in network.variables}
    for source, value in zip(learner.adapted(), expected, strict=True):
        found = by_layer.get(source.path, moved.get(source.path))
        # Some roundings in float32.
        np.testing.assert_allclose(found, value[0], rtol=1e-5, atol=2e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["SigmaMAML", "IMAML", "SigmaReptile"])
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_the_prior_survives_saving(name, optimizer, tmp_path, names):
    learner = LEARNERS[name]()
    episode, _ = task()
    x, y = episode["support_x"][0], episode["support_y"][0]
    if optimizer:
        optimizer = keras.optimizers.SGD(0.01)
    model = km.finetune(learner, x, y, optimizer)
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    one = model.evaluate(x, y, verbose=0, return_dict=True)
    two = loaded.evaluate(x, y, verbose=0, return_dict=True)
    assert two == pytest.approx(one, rel=1e-6)
    for each in (model, loaded):
        each.fit(x, y, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # Compiled with another optimizer, it still has its prior: -log p / S, by hand.
    loaded.compile(keras.optimizers.SGD(0.01), loss=learner.support_loss)
    total = loaded.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    logits = loaded.predict(x, verbose=0)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    data = -np.mean(np.log(chances[np.arange(len(y)), y]))
    scales = task_network.prior_scales(learner, learner.adapted(), len(y))
    prior = sum(
        0.5 / (len(y) * float(scale) ** 2) * np.sum((theta.numpy() - phi.numpy()) ** 2)
        for theta, phi, scale in zip(
            loaded.trainable_variables, learner.adapted(), scales, strict=True
        )
    )
    assert prior > 1e-4
    assert total == pytest.approx(data + prior, rel=1e-4)


def test_fine_tuning_a_prototypical_network_in_float16():
    learner = km.ProtoNet(small(5, "mixed_float16"))
    episode, _ = task()
    x, y = episode["support_x"][0], episode["support_y"][0]
    model = km.finetune(learner, x, y)
    model.fit(x, y, epochs=1, verbose=0)
    assert np.isfinite(model.predict(x, verbose=0)).all()


# Labels.


@pytest.mark.parametrize(
    "dtype, classes", [("uint8", 256), ("int8", 128), ("int16", 300)]
)
def test_labels_of_few_bits_with_many_classes(dtype, classes):
    keras.utils.set_random_seed(0)
    network = km.networks.mlp((6,), classes, (4,))
    learner = km.MAML(network)
    learner.compile(run_eagerly=True)
    episode, query_y = task(5)
    expected = learner.adapt(episode["support_x"], episode["support_y"])
    found = learner.adapt(episode["support_x"], episode["support_y"].astype(dtype))
    for a, b in zip(expected["weights"], found["weights"], strict=True):
        np.testing.assert_array_equal(a, b)
    episode["support_y"] = episode["support_y"].astype(dtype)
    learner.evaluate(episode, query_y.astype(dtype), verbose=0)


def test_labels_that_int32_cannot_hold_are_refused():
    learner = km.MAML(small())
    episode, _ = task()
    for far in (2**32, -(2**32)):  # which a cast to int32 makes 0
        y = episode["support_y"].astype("int64") + far
        with pytest.raises(ValueError, match=r"support_y to hold labels in \[0, 3\)"):
            learner.adapt(episode["support_x"], y)


# Reptile's report.


@pytest.mark.thorough
@pytest.mark.parametrize("reported", [None, 1])
def test_joint_reptile_reports_what_evaluate_would(reported):
    episode, _ = task(queries=5)
    random = np.random.RandomState(0)
    query_y = random.randint(0, 3, [2, 15]).astype("int32")  # nothing to learn
    learner = km.Reptile(
        small(), inner_rate=0.5, inner_steps=30, reported_tasks=reported
    )
    learner.compile(keras.optimizers.SGD(0.0))
    expected = {key: value[:reported] for key, value in episode.items()}
    expected = learner.evaluate(
        expected, query_y[:reported], verbose=0, return_dict=True
    )
    fitted = learner.fit(episode, query_y, verbose=0, shuffle=False).history
    for key in ("accuracy", "loss"):
        assert fitted[key][0] == pytest.approx(expected[key], rel=1e-4)
    # Adapted to those labels, it would know them.
    assert expected["accuracy"] < 0.7


# Moving statistics of averaged weights.


def test_statistics_are_those_of_the_weights_of_now():
    learner = km.ProtoNet(small(5))
    episodes = [task(seed=seed)[0] for seed in range(7)]
    norm = learner.network.layers[2]
    batch_norm.estimate(learner, [(episode, None) for episode in episodes])
    (kernel,) = learner.network.layers[1].get_weights()
    means, variances = [], []
    for episode in episodes:
        sides = [episode[key].reshape(-1, 6) for key in ("support_x", "query_x")]
        features = [x @ kernel for x in sides]
        means.append(np.mean([f.mean(0) for f in features], axis=0))
        variances.append(np.mean([f.var(0) for f in features], axis=0))
    np.testing.assert_allclose(
        norm.moving_mean, np.mean(means, 0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(norm.moving_variance, np.mean(variances, 0), rtol=1e-4)
    assert km.MAML(small()).moving_statistics() == []


# As many classes as an episode has.


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["ProtoNet", "CNP"])
def test_classes_come_from_the_episode(kind, tmp_path):
    keras.utils.set_random_seed(0)
    encoder = km.networks.mlp((6,), 8, (16,))
    if kind == "ProtoNet":
        learner = km.ProtoNet(encoder)
    else:
        decoder = km.networks.mlp((16,), 1, (16,))
        learner = km.CNP(encoder, decoder, "sparse_categorical_crossentropy")
    learner.compile()
    path = km.export(learner, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    for classes in (10, 2):
        episode, query_y = task(classes)
        learner.fit(episode, query_y, verbose=0)
        learner.evaluate(episode, query_y, verbose=0)
    for classes in (10, 2):
        episode, query_y = task(classes)
        learner = keras.models.load_model(tmp_path / "served" / "model.keras")
        state = learner.adapt(episode["support_x"], episode["support_y"])
        logits = learner.infer(state, episode["query_x"])
        assert logits.shape == (2, 4 * classes, classes)
        answers = served(**{k: tf.constant(v) for k, v in episode.items()})
        np.testing.assert_allclose(
            answers["probabilities"], tf.nn.softmax(logits), rtol=1e-4, atol=1e-6
        )
    with pytest.raises(ValueError, match=r"labels in \[0, N\), N being the classes"):
        learner.evaluate(episode, query_y + 1, verbose=0)


# What is refused in a sentence.


def ends_in_softmax():
    return keras.Sequential([small(), keras.layers.Softmax()])


def two_of(side):
    inputs = [keras.Input([6]) for _ in range(2)]
    outputs = [keras.layers.Dense(3)(x) for x in inputs]
    if side == "input":
        return keras.Model(inputs, keras.layers.Add()(outputs))
    return keras.Model(inputs[0], [outputs[0], keras.layers.Dense(3)(inputs[0])])


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: km.MAML(ends_in_softmax()), "gives logits.* ends in a softmax"),
        (
            lambda: km.ANIL(km.networks.mlp((6,), 3), keras.losses.get("mse")),
            "expected loss to be one of",
        ),
        (
            lambda: km.MAML(small(), keras.losses.SparseCategoricalCrossentropy()),
            r"SparseCategoricalCrossentropy\(from_logits=True\)",
        ),
        (lambda: km.MAML(two_of("input")), "one input, got 2: join them"),
        (lambda: km.ProtoNet(two_of("output")), "one output, got 2: join them"),
        (lambda: km.MAML(small(), inner_steps=None), "inner_steps to be an integer"),
        (lambda: km.MAML(small(), first_order=True), "got first_order: use km.FOMAML"),
        (lambda: km.Reptile(small(), lr=0.1), "got lr: use inner_rate"),
        (
            lambda: km.MAML(small(), keras.losses.MeanSquaredError(reduction=None)),
            "a loss of reduction",
        ),
    ],
)
def test_what_a_constructor_refuses(make, words):
    with pytest.raises(ValueError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_what_methods_refuse():
    learner = km.MAML(small())
    with pytest.raises(ValueError, match=r"km.export\(learner, base\)"):
        learner.export("somewhere")
    with pytest.raises(ValueError, match="no loss_weights"):
        learner.compile(loss_weights=[2.0])
    with pytest.raises(ValueError, match="a loss of classes"):
        learner.compile(loss="mse")
    dropout = keras.Sequential(
        [keras.Input([6]), keras.layers.Dropout(0.5), keras.layers.Dense(3)]
    )
    episode, query_y = task()
    with pytest.raises(ValueError, match="a compiled learner.* call compile first"):
        km.MAML(dropout).meta_gradient(episode, query_y)
    learner.network.layers[1].trainable = False
    learner.compile()
    learner.network.layers[1].trainable = True
    with pytest.raises(
        ValueError, match=r"compile\(\) after a layer is made trainable"
    ):
        learner.fit(episode, query_y, verbose=0)


@pytest.mark.thorough
def test_datasets_of_unknown_length_run_as_in_keras():
    learner = km.ProtoNet(km.networks.mlp((6,), 4, (8,)))
    learner.compile()
    episode, query_y = task()
    data = tf.data.Dataset.from_tensors((episode, query_y))
    unknown = data.repeat(3).filter(lambda *_: True)
    assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY
    learner.fit(unknown, validation_data=unknown, verbose=0)
    assert learner.predict(unknown, verbose=0).shape == (6, 12, 3)


def test_eager_steps_trace_nothing(capfd):
    episode, query_y = task()
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(tf.executing_eagerly())
            return x

    network = keras.Sequential([small(), Counted()])
    learner = km.MAML(network)
    learner.compile(run_eagerly=True)
    counts = []
    for _ in range(2):
        calls.clear()
        learner.fit(episode, query_y, verbose=0)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0 and all(calls)


# What to do about labels.


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda y: y + 3, "a learner of more outputs (with_classes) takes more."),
        (lambda y: np.where(y == 1, 0, y), "[1] renumbers the labels of a task."),
        (lambda y: np.eye(3)[y], "np.argmax(labels, axis=-1) turns one-hot labels"),
        (lambda y: np.eye(3, dtype="int32")[y], "np.argmax(labels, axis=-1) turns"),
        (lambda y: y.astype(str), "np.unique(labels, return_inverse=True)[1] renumb"),
        (lambda y: y.astype("float32"), "support_y.astype('int32') casts them."),
    ],
)
def test_a_refusal_of_labels_states_what_to_do(change, advice):
    learner = km.MAML(small())
    learner.compile()
    episode, query_y = task()
    support_y = change(episode["support_y"])
    changed = {**episode, "support_y": support_y}
    for refused in (
        lambda: learner.adapt(episode["support_x"], support_y),
        lambda: learner.fit(changed, query_y, verbose=0),  # in a graph
    ):
        with pytest.raises(ValueError) as info:
            refused()
        sentence = str(info.value)
        assert sentence.startswith("expected ") and sentence.endswith(".")
        assert advice in sentence and sentence.count(". ") == 0


# XLA, for learners without an inner loop.


def jitted(name):
    if name == "ProtoNet":
        return km.ProtoNet(small(4), outputs=3)
    if name == "CNP":
        decoder = km.networks.mlp((8,), 1, (8,))
        return km.CNP(small(4), decoder, "sparse_categorical_crossentropy", 3)
    if name == "LSTMLearner":
        return km.LSTMLearner(example_shape=[6], outputs=3, units=8)
    sizes = {"units": 8, "rows": 4, "width": 6, "heads": 2}
    return km.MANN(example_shape=[6], outputs=3, **sizes)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["ProtoNet", "CNP", "LSTMLearner", "MANN"])
def test_jit_compiles_to_the_same_step(name):
    episode, query_y = task()
    losses, weights = [], []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(0)
        learner = jitted(name)
        learner.compile(keras.optimizers.SGD(0.1), jit_compile=jit_compile)
        assert learner.jit_compile is jit_compile
        history = learner.fit(episode, query_y, verbose=0, shuffle=False).history
        losses.append(history["loss"][0])
        weights.append(learner.get_weights())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for a, b in zip(*weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    learner.compile()
    assert learner.jit_compile is False


def test_jit_of_second_derivatives_is_left_out_aloud():
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        (learner := km.MAML(small())).compile(jit_compile=True)
    assert learner.jit_compile is False


# Traces.


def test_estimate_traces_once_for_equal_settings():
    learner = km.ProtoNet(small(5))
    traces = []
    adapt_tasks = learner.adapt_tasks

    def counting(*args):
        traces.append(args)
        return adapt_tasks(*args)

    learner.adapt_tasks = counting
    episode, query_y = task()
    for _ in range(3):
        batch_norm.estimate(learner, [(episode, query_y)])
    assert len(traces) == 1
    norm = learner.network.layers[2]
    before = norm.moving_mean.numpy()
    learner.network.layers[1].kernel.assign(2 * learner.network.layers[1].kernel)
    batch_norm.estimate(learner, [(episode, query_y)])
    np.testing.assert_allclose(norm.moving_mean, 2 * before, rtol=1e-5)
