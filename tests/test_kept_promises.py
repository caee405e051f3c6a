"""Tests that a user's settings take effect: learners against independent values."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import batch_norm, task_network
from tests import contract, smooth


def mlp(outputs=3, policy=None, seed=0, **norm):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input([6])
    # Before a normalization, the gradient of a bias is only rounding error.
    x = keras.layers.Dense(16, use_bias=False, dtype=policy)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9, dtype=policy, **norm)(x)
    x = keras.layers.Activation("tanh", dtype=policy)(x)
    return keras.Model(inputs, keras.layers.Dense(outputs, dtype=policy)(x))


def process(loss="gaussian"):
    return km.CNP(km.networks.mlp((2,), 4, (8,)), km.networks.mlp((5,), 2, (8,)), loss)


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


# Implicit differentiation and frozen weights.


@pytest.mark.thorough
def test_frozen_modules_have_the_meta_gradient_of_the_unrolled_loop():
    # 400 proximal steps reach the optimum; `unrolled` differentiates through them.
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
        gradients_by_path = []
        for learner in (unrolled, implicit):
            run = tf.function(
                lambda *data, model=learner: model.meta_gradient(*data)[1]
            )
            gradients = run(episode, query_y)
            variables = tf.nest.flatten(learner.meta_variables())
            gradients_by_path.append(
                {
                    v.path.removeprefix(f"{learner.name}/"): g.numpy()
                    for g, v in zip(gradients, variables, strict=True)
                }
            )
    assert gradients_by_path[0].keys() == gradients_by_path[1].keys()
    for path, expected in gradients_by_path[0].items():
        error = np.linalg.norm(gradients_by_path[1][path] - expected)
        # A bias before a normalization has a gradient of zero.
        assert error < 1e-4 * max(np.linalg.norm(expected), 1e-6), path


# Fine-tuning.

RATE = {"inner_rate": 0.2, "inner_steps": 3}
LEARNERS = {
    "MAML": lambda: km.MAML(mlp(), **RATE),
    "FOMAML": lambda: km.FOMAML(mlp(), **RATE),
    "Reptile": lambda: km.Reptile(mlp(), **RATE),
    "Reptile, Adam": lambda: km.Reptile(
        mlp(), inner_rate=0.02, inner_steps=3, inner_optimizer="adam"
    ),
    "IMAML": lambda: km.IMAML(mlp(), regularization=0.5, **RATE),
    "MetaSGD": lambda: with_rates(km.MetaSGD(mlp(), **RATE)),
    "ANIL": lambda: km.ANIL(mlp(), **RATE),
    "SigmaMAML": lambda: with_scales(km.SigmaMAML(mlp(), **RATE)),
    "SigmaIMAML": lambda: with_scales(km.SigmaIMAML(mlp(), **RATE)),
    "SigmaReptile": lambda: with_scales(km.SigmaReptile(mlp(), **RATE)),
    "frozen": lambda: with_scales(km.SigmaMAML(mlp(), frozen=["dense"], **RATE)),
    "frozen norm": lambda: with_scales(
        km.SigmaMAML(mlp(), frozen=["batch_normalization"], **RATE)
    ),
    "ANIL, first and last layer": lambda: km.ANIL(
        mlp(), layers=["dense", "dense_1"], **RATE
    ),
    "norm without weights": lambda: km.MAML(mlp(center=False, scale=False), **RATE),
    "by weight": lambda: with_scales(
        km.SigmaMAML(
            mlp(), modules="weight", frozen=["batch_normalization/beta"], **RATE
        )
    ),
}


def with_rates(learner):
    """Sets random learned rates, some of them negative."""
    random = np.random.RandomState(1)
    for rate in learner.rates:
        rate.assign(random.uniform(-0.1, 0.4, rate.shape))
    return learner


def with_scales(learner):
    """Sets a different scale for each module."""
    values = np.linspace(-0.3, 0.2, len(learner.modules))
    learner.scaled_log_variances.assign(values)
    return learner


@pytest.fixture
def reset_names():
    """Resets Keras' counters, so that layers have the same names in each test."""
    keras.backend.clear_session()


@pytest.mark.thorough
@pytest.mark.parametrize("classes", [3, 2])
@pytest.mark.parametrize("name", LEARNERS)
def test_an_epoch_of_fine_tuning_is_one_more_inner_step(name, classes, reset_names):
    learner = LEARNERS[name]()
    episode, _ = task(classes)
    x, y = episode["support_x"], episode["support_y"]
    model = km.finetune(learner, x[0], y[0])
    model.fit(x[0], y[0], batch_size=len(y[0]), epochs=1, verbose=0)
    learner.inner_steps = 4
    expected = learner.adapt(x, y)["weights"]
    network = getattr(model, "network", model)
    assert len(network.trainable_variables) >= len(expected)
    by_suffix = {v.path.split("/", 1)[-1]: v.numpy() for v in network.variables}
    by_path = {v.path: v.numpy() for v in network.variables}
    for source, value in zip(learner.adapted(), expected, strict=True):
        fine_tuned = by_path.get(source.path, by_suffix.get(source.path))
        # The tolerance covers a few float32 roundings.
        np.testing.assert_allclose(fine_tuned, value[0], rtol=1e-5, atol=2e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["frozen norm", "ANIL, first and last layer"])
def test_a_norm_that_does_not_adapt_stays_fixed_in_files(name, tmp_path, reset_names):
    learner = LEARNERS[name]()
    episode, _ = task()
    x, y = episode["support_x"][0], episode["support_y"][0]
    model = km.finetune(learner, x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    norm = getattr(model, "network", model).layers[2]
    before = [norm.gamma.numpy(), norm.beta.numpy()]
    for copy in (model, loaded):
        copy.fit(x, y, epochs=2, verbose=0, batch_size=len(y))
        norm = getattr(copy, "network", copy).layers[2]
        np.testing.assert_array_equal(norm.gamma, before[0])
        np.testing.assert_array_equal(norm.beta, before[1])
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["SigmaMAML", "IMAML", "SigmaReptile"])
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_saving_preserves_the_prior(name, optimizer, tmp_path, reset_names):
    learner = LEARNERS[name]()
    episode, _ = task()
    x, y = episode["support_x"][0], episode["support_y"][0]
    if optimizer:
        optimizer = keras.optimizers.SGD(0.01)
    model = km.finetune(learner, x, y, optimizer)
    model.fit(x, y, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    metrics = model.evaluate(x, y, verbose=0, return_dict=True)
    loaded_metrics = loaded.evaluate(x, y, verbose=0, return_dict=True)
    assert loaded_metrics == pytest.approx(metrics, rel=1e-6)
    for copy in (model, loaded):
        copy.fit(x, y, epochs=2, verbose=0, shuffle=False)
    for a, b in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    # After `compile` with another optimizer, the loss includes the prior -log p / S.
    loaded.compile(keras.optimizers.SGD(0.01), loss=learner.support_loss)
    loss = loaded.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    logits = loaded.predict(x, verbose=0)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    data_loss = -np.mean(np.log(probabilities[np.arange(len(y)), y]))
    scales = task_network.prior_scales(learner, learner.adapted(), len(y))
    prior = sum(
        0.5 / (len(y) * float(scale) ** 2) * np.sum((theta.numpy() - phi.numpy()) ** 2)
        for theta, phi, scale in zip(
            loaded.trainable_variables, learner.adapted(), scales, strict=True
        )
    )
    assert prior > 1e-4
    assert loss == pytest.approx(data_loss + prior, rel=1e-4)


def test_fine_tuning_a_prototypical_network_in_float16():
    learner = km.ProtoNet(mlp(5, "mixed_float16"))
    episode, _ = task()
    x, y = episode["support_x"][0], episode["support_y"][0]
    model = km.finetune(learner, x, y)
    model.fit(x, y, epochs=1, verbose=0)
    assert np.isfinite(model.predict(x, verbose=0)).all()


# Files.


@pytest.mark.parametrize("scaled", [True, False])
def test_a_loaded_learner_scales_its_loss_as_the_saved_one(tmp_path, scaled):
    learner = km.ProtoNet(mlp(5, "mixed_float16"))
    learner.compile("sgd", auto_scale_loss=scaled)
    learner.fit(*task(), verbose=0)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    scaling = keras.optimizers.LossScaleOptimizer
    for each in (learner, loaded):
        assert isinstance(each.optimizer, scaling) == scaled
        assert not isinstance(getattr(each.optimizer, "inner_optimizer", None), scaling)


# Labels.


@pytest.mark.parametrize(
    "dtype, classes",
    [
        ("uint8", 256),
        pytest.param("int8", 128, marks=pytest.mark.thorough),
        pytest.param("int16", 300, marks=pytest.mark.thorough),
    ],
)
def test_labels_of_small_integer_types_with_many_classes(dtype, classes):
    keras.utils.set_random_seed(0)
    network = km.networks.mlp((6,), classes, (4,))
    learner = km.MAML(network)
    learner.compile(run_eagerly=True)
    episode, query_y = task(5)
    expected = learner.adapt(episode["support_x"], episode["support_y"])
    state = learner.adapt(episode["support_x"], episode["support_y"].astype(dtype))
    for a, b in zip(expected["weights"], state["weights"], strict=True):
        np.testing.assert_array_equal(a, b)
    episode["support_y"] = episode["support_y"].astype(dtype)
    learner.evaluate(episode, query_y.astype(dtype), verbose=0)


def test_labels_outside_the_range_of_int32_raise():
    learner = km.MAML(mlp())
    episode, _ = task()
    for offset in (2**32, -(2**32)):  # a cast to int32 maps both to 0
        y = episode["support_y"].astype("int64") + offset
        with pytest.raises(ValueError, match=r"support_y to hold labels in \[0, 3\)"):
            learner.adapt(episode["support_x"], y)


# Metrics of Reptile.


@pytest.mark.thorough
@pytest.mark.parametrize("reported", [None, 1])
def test_joint_reptile_reports_metrics_of_the_queries_after_inner_steps(reported):
    episode, _ = task(queries=5)
    random = np.random.RandomState(0)
    query_y = random.randint(0, 3, [2, 15]).astype("int32")  # random labels
    learner = km.Reptile(mlp(), inner_rate=0.5, inner_steps=30, reported_tasks=reported)
    learner.compile(keras.optimizers.SGD(0.0))
    subset = {key: value[:reported] for key, value in episode.items()}
    expected = learner.evaluate(subset, query_y[:reported], verbose=0, return_dict=True)
    learner.evaluation_steps = 1
    history = learner.fit(episode, query_y, verbose=0, shuffle=False).history
    for key in ("accuracy", "loss"):
        assert history[key][0] == pytest.approx(expected[key], rel=1e-4)
    # Adaptation to the query labels would give a higher accuracy.
    assert expected["accuracy"] < 0.7


def test_reptile_reports_a_part_of_the_tasks_without_joint():
    episode, query_y = task(queries=5)
    learner = km.Reptile(mlp(), inner_rate=0.5, joint=False)
    reports = {}
    for reported in (None, 1):
        learner.reported_tasks = reported
        loss, gradients, _, outputs = learner.meta_gradient(episode, query_y)
        reports[reported] = outputs, gradients
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        expected = float(cross_entropy(query_y[:reported], outputs))
        assert float(loss) == pytest.approx(expected, rel=1e-5)
    assert reports[1][0].shape[0] == 1 < reports[None][0].shape[0]
    np.testing.assert_allclose(reports[1][0], reports[None][0][:1], rtol=1e-5)
    for part, every in zip(reports[1][1], reports[None][1], strict=True):
        np.testing.assert_allclose(part, every, rtol=1e-5)


# Moving statistics.


@pytest.mark.parametrize(
    "kind", [km.ProtoNet, pytest.param(km.LSTMLearner, marks=pytest.mark.thorough)]
)
def test_fit_with_trainable_false_keeps_the_moving_statistics(kind):
    episode, query_y = task(queries=5)
    learner = kind(mlp(5), outputs=3)
    learner.compile("sgd")
    before = learner.get_weights()
    learner.fit(episode, query_y, verbose=0, shuffle=False)
    pairs = zip(before, learner.get_weights(), strict=True)
    assert any((a != b).any() for a, b in pairs)
    learner.trainable = False
    learner.compile("sgd")
    expected, before = contract.predict(learner, episode), learner.get_weights()
    with pytest.warns(UserWarning, match="no trainable variables"):
        history = learner.fit(episode, query_y, verbose=0, shuffle=False).history
    assert np.isfinite(history["loss"][0])
    for a, b in zip(before, learner.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(contract.predict(learner, episode), expected)


def test_moving_statistics_match_the_current_weights():
    learner = km.ProtoNet(mlp(5))
    episodes = [task(seed=seed)[0] for seed in range(7)]
    norm = learner.network.layers[2]
    batch_norm.estimate(learner, [(episode, None) for episode in episodes])
    (kernel,) = learner.network.layers[1].get_weights()
    means, variances = [], []
    for episode in episodes:
        inputs = [episode[key].reshape(-1, 6) for key in ("support_x", "query_x")]
        features = [x @ kernel for x in inputs]
        means.append(np.mean([f.mean(0) for f in features], axis=0))
        variances.append(np.mean([f.var(0) for f in features], axis=0))
    np.testing.assert_allclose(
        norm.moving_mean, np.mean(means, 0), rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(norm.moving_variance, np.mean(variances, 0), rtol=1e-4)
    assert km.MAML(mlp()).moving_statistics() == []
    with pytest.raises(ValueError, match="expected batches of episodes, got none"):
        batch_norm.estimate(learner, [])


# Number of classes.


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["ProtoNet", "CNP"])
def test_the_episode_determines_the_number_of_classes(kind, tmp_path):
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
        outputs = served(**{k: tf.constant(v) for k, v in episode.items()})
        np.testing.assert_allclose(
            outputs["probabilities"], tf.nn.softmax(logits), rtol=1e-4, atol=1e-6
        )
    with pytest.raises(ValueError, match="in the support_y of its task"):
        learner.evaluate(episode, query_y + 1, verbose=0)


# Errors.


def softmax_network():
    return keras.Sequential([mlp(), keras.layers.Softmax()])


def with_two(side):
    inputs = [keras.Input([6]) for _ in range(2)]
    outputs = [keras.layers.Dense(3)(x) for x in inputs]
    if side == "input":
        return keras.Model(inputs, keras.layers.Add()(outputs))
    return keras.Model(inputs[0], [outputs[0], keras.layers.Dense(3)(inputs[0])])


@pytest.mark.parametrize(
    "create, message",
    [
        (lambda: km.MAML(softmax_network()), "gives logits.* ends in a softmax"),
        (
            lambda: km.ANIL(km.networks.mlp((6,), 3), keras.losses.get("mse")),
            "expected loss to be one of",
        ),
        (
            lambda: km.MAML(mlp(), keras.losses.SparseCategoricalCrossentropy()),
            r"SparseCategoricalCrossentropy\(from_logits=True\)",
        ),
        (lambda: km.MAML(with_two("input")), "one input, got 2: join them"),
        (lambda: km.ProtoNet(with_two("output")), "one output, got 2: join them"),
        (lambda: km.MAML(mlp(), inner_steps=None), "inner_steps to be an integer"),
        (lambda: km.MAML(mlp(), first_order=True), "got first_order: use km.FOMAML"),
        (lambda: km.Reptile(mlp(), lr=0.1), "got lr: use inner_rate"),
        (lambda: km.ProtoNet(mlp(), lr=0.1), "arguments of ProtoNet, got lr.$"),
        (lambda: km.MAML(mlp(), "gaussian"), "a loss of predictions alone"),
        (lambda: process("mse"), "mean and scale, such as gaussian, got mean_squ"),
        (
            lambda: km.MAML(mlp(), keras.losses.MeanSquaredError(reduction=None)),
            "a loss of reduction",
        ),
    ],
)
def test_invalid_constructor_arguments_raise(create, message):
    with pytest.raises(ValueError, match=message) as info:
        create()
    assert "\n" not in str(info.value)


def test_invalid_method_calls_raise():
    learner = km.MAML(mlp())
    with pytest.raises(ValueError, match=r"km.export\(learner, base\)"):
        learner.export("somewhere")
    with pytest.raises(ValueError, match="no loss_weights"):
        learner.compile(loss_weights=[2.0])
    with pytest.raises(ValueError, match="a loss of classes"):
        learner.compile(loss="mse")
    with pytest.raises(ValueError, match="mean and scale, such as gaussian"):
        process().compile(loss=keras.losses.Huber())
    with pytest.raises(ValueError, match="a loss of predictions alone"):
        km.MAML(mlp(), "mse").compile(loss="gaussian")
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
@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")  # Keras
def test_datasets_of_unknown_length_run_as_in_keras():
    learner = km.ProtoNet(km.networks.mlp((6,), 4, (8,)))
    learner.compile()
    episode, query_y = task()
    data = tf.data.Dataset.from_tensors((episode, query_y))
    unknown = data.repeat(3).filter(lambda *_: True)
    assert unknown.cardinality() == tf.data.UNKNOWN_CARDINALITY
    learner.fit(unknown, validation_data=unknown, verbose=0)
    assert learner.predict(unknown, verbose=0).shape == (6, 12, 3)


def test_eager_steps_are_not_traced(capfd):
    episode, query_y = task()
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            calls.append(tf.executing_eagerly())
            return x

    network = keras.Sequential([mlp(), Counted()])
    learner = km.MAML(network)
    learner.compile(run_eagerly=True)
    counts = []
    for _ in range(2):
        calls.clear()
        learner.fit(episode, query_y, verbose=0)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0 and all(calls)


# Label errors.


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("change", "advice"),
    [
        (lambda y: y + 3, "for more classes, use learner.with_classes(n)."),
        (lambda y: np.where(y == 1, 0, y), "[1] renumbers the labels of a task."),
        (lambda y: np.eye(3)[y], "np.argmax(labels, axis=-1) turns one-hot labels"),
        (lambda y: np.eye(3, dtype="int32")[y], "np.argmax(labels, axis=-1) turns"),
        (lambda y: y.astype(str), "np.unique(labels, return_inverse=True)[1] renumb"),
        (lambda y: y.astype("float32"), "support_y.astype('int32') casts them."),
    ],
)
def test_label_errors_state_a_remedy(change, advice):
    learner = km.MAML(mlp())
    learner.compile()
    episode, query_y = task()
    support_y = change(episode["support_y"])
    changed = {**episode, "support_y": support_y}
    for call in (
        lambda: learner.adapt(episode["support_x"], support_y),
        lambda: learner.fit(changed, query_y, verbose=0),  # in a graph
    ):
        with pytest.raises(ValueError) as info:
            call()
        message = str(info.value)
        assert message.startswith("expected ") and message.endswith(".")
        assert advice in message and message.count(". ") == 0


# XLA, for learners without an inner loop.


def create_learner(name):
    if name == "ProtoNet":
        return km.ProtoNet(mlp(4), outputs=3)
    if name == "CNP":
        decoder = km.networks.mlp((8,), 1, (8,))
        return km.CNP(mlp(4), decoder, "sparse_categorical_crossentropy", 3)
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
        learner = create_learner(name)
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


def test_jit_of_second_derivatives_is_disabled_with_a_warning():
    with pytest.warns(UserWarning, match="doesn't support `jit_compile=True`"):
        (learner := km.MAML(mlp())).compile(jit_compile=True)
    assert learner.jit_compile is False


# Tracing.


def test_estimate_traces_once_for_equal_settings():
    learner = km.ProtoNet(mlp(5))
    traces = []
    adapt_tasks = learner.adapt_tasks

    def count_calls(*args):
        traces.append(args)
        return adapt_tasks(*args)

    learner.adapt_tasks = count_calls
    episode, query_y = task()
    for _ in range(3):
        batch_norm.estimate(learner, [(episode, query_y)])
    assert len(traces) == 1
    norm = learner.network.layers[2]
    mean = norm.moving_mean.numpy()
    learner.network.layers[1].kernel.assign(2 * learner.network.layers[1].kernel)
    batch_norm.estimate(learner, [(episode, query_y)])
    np.testing.assert_allclose(norm.moving_mean, 2 * mean, rtol=1e-5)
