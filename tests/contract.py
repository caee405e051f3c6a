"""The contract: tests that every learner passes, with one tiny learner per row."""

import dataclasses
import functools
import typing

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from examples.matching_network import MatchingNetwork
from keras_meta import losses, ordered, tasks
from tests import leaks

WAYS, SHOTS, QUERIES, TASKS = 3, 2, 4, 8


def blobs(seed=0):
    """Returns episodes of 6-vectors near their class centre, easy for any learner."""
    random = np.random.RandomState(0)
    centres = random.normal(size=[60, 1, 6])
    x = centres + 0.3 * random.normal(size=[60, 12, 6])
    pool = km.ClassPool.from_arrays(
        x.reshape(-1, 6).astype("float32"), np.repeat(np.arange(60), 12)
    )
    return pool.episodes(WAYS, SHOTS, QUERIES, seed=seed)


def waves(seed=0):
    """Returns episodes of sinusoids of one frequency; a few meta-steps learn them."""
    family = tasks.sinusoid(amplitude=(0.5, 1.5), x=(-2.0, 2.0))
    return family.episodes(shots=WAYS * SHOTS, queries=WAYS * QUERIES, seed=seed)


def normalized(outputs=WAYS):
    """Returns a small network with batch normalization."""
    inputs = keras.Input([6])
    x = keras.layers.Dense(16)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.0)(x)
    x = keras.layers.ReLU()(x)
    return keras.Model(inputs, keras.layers.Dense(outputs)(x))


def features(inputs=6, outputs=16, units=(32,), activation="relu"):
    return km.networks.mlp((inputs,), outputs, units, activation=activation)


SMALL_MEMORY = {"units": 32, "rows": 8, "width": 12, "heads": 2}


@dataclasses.dataclass(frozen=True)
class Row:
    """A learner in the contract.

    Attributes:
        build: returns the uncompiled learner.
        episodes: seed -> endless dataset of a task family that the learner can learn.
        loss: upper limit of the loss after meta-training.
        support_order: whether predictions are invariant to the order of the support
            set; if not, the learner has the setting of that name.
        query_independent: whether a prediction is independent of the other queries.
        steps: meta-steps; learning to bind labels starts with a plateau.
    """

    build: typing.Callable
    episodes: typing.Callable
    loss: float
    support_order: bool = True
    query_independent: bool = True
    steps: int = 120


# All gradient learners map tasks in the same way. Separate computations trace faster;
# SigmaMAML is the row with the vectorized default.
SIDE_BY_SIDE = {"vectorize": False}
ROWS = {
    "MAML": Row(
        lambda: km.MAML(normalized(), **SIDE_BY_SIDE, inner_rate=0.5, inner_steps=2),
        blobs,
        0.35,
    ),
    "MAML, transductive": Row(
        lambda: km.MAML(
            normalized(), **SIDE_BY_SIDE, inner_rate=0.5, normalization="transductive"
        ),
        blobs,
        0.35,
        query_independent=False,
    ),
    "MAML, regression": Row(
        lambda: km.MAML(
            km.networks.mlp(units=(32, 32), activation="tanh"),
            "mse",
            inner_rate=0.1,
            evaluation_steps=3,
        ),
        waves,
        0.25,
    ),
    "FOMAML": Row(
        lambda: km.FOMAML(normalized(), **SIDE_BY_SIDE, inner_rate=0.5, inner_steps=2),
        blobs,
        0.35,
    ),
    "Reptile": Row(
        lambda: km.Reptile(normalized(), **SIDE_BY_SIDE, inner_rate=0.1, inner_steps=5),
        blobs,
        0.5,
    ),
    "Reptile, Adam inside": Row(
        lambda: km.Reptile(
            normalized(),
            **SIDE_BY_SIDE,
            inner_rate=0.03,
            inner_steps=5,
            inner_optimizer="adam",
        ),
        blobs,
        0.5,
    ),
    "IMAML": Row(
        lambda: km.IMAML(
            normalized(), **SIDE_BY_SIDE, regularization=0.5, inner_steps=5
        ),
        blobs,
        0.5,
    ),
    "MetaSGD": Row(
        lambda: km.MetaSGD(normalized(), **SIDE_BY_SIDE, inner_rate=0.5, inner_steps=1),
        blobs,
        0.35,
    ),
    "ANIL": Row(
        lambda: km.ANIL(normalized(), **SIDE_BY_SIDE, inner_rate=0.5, inner_steps=2),
        blobs,
        0.35,
    ),
    "SigmaMAML": Row(
        lambda: km.SigmaMAML(normalized(), inner_rate=0.5, inner_steps=2), blobs, 0.35
    ),
    "SigmaIMAML": Row(
        lambda: km.SigmaIMAML(
            normalized(),
            **SIDE_BY_SIDE,
            inner_rate=0.5,
            inner_steps=5,
            initial_scale=0.5,
        ),
        blobs,
        0.5,
    ),
    "SigmaReptile": Row(
        lambda: km.SigmaReptile(
            normalized(), **SIDE_BY_SIDE, inner_rate=0.1, inner_steps=5
        ),
        blobs,
        0.5,
    ),
    "ProtoNet": Row(lambda: km.ProtoNet(features(), WAYS), blobs, 0.35),
    "MatchingNetwork": Row(lambda: MatchingNetwork(features(), WAYS), blobs, 0.5),
    "CNP": Row(
        lambda: km.CNP(
            features(),
            features(32, 1),
            "sparse_categorical_crossentropy",
            WAYS,
        ),
        blobs,
        0.35,
    ),
    "CNP, regression": Row(
        lambda: km.CNP(features(2, 16), features(17, 2)), waves, 0.25
    ),
    "CNP, attention": Row(
        lambda: km.CNP(features(2, 16), features(17, 2), aggregate="attention"),
        waves,
        0.25,
    ),
    "LSTMLearner": Row(
        lambda: km.LSTMLearner(example_shape=[6], outputs=WAYS, units=48),
        blobs,
        0.8,
        support_order=False,
        steps=1000,
    ),
    "MANN": Row(
        lambda: km.MANN(example_shape=[1], outputs=1, loss="mse", **SMALL_MEMORY),
        waves,
        0.3,
        support_order=False,
        steps=200,
    ),
}
FIRST = 5


@functools.cache
def trained(name):
    """Meta-trains the learner of a row; its first `FIRST` steps run twice.

    Returns:
        `(learner, [initial weights, weights at FIRST, weights at FIRST again])`.
    """
    learner = build_compiled(name)
    data = ROWS[name].episodes().batch(TASKS)
    variables = [*learner.variables, *learner.optimizer.variables]
    start = [variable.numpy() for variable in variables]
    weights = [learner.get_weights()]
    for _ in range(2):
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)
        learner.fit(data, steps_per_epoch=FIRST, verbose=0, shuffle=False)
        weights.append(learner.get_weights())
    data = ROWS[name].episodes().skip(FIRST * TASKS).batch(TASKS)
    learner.fit(
        data, steps_per_epoch=ROWS[name].steps - FIRST, verbose=0, shuffle=False
    )
    return learner, weights


def build_compiled(name):
    """Returns the compiled learner of a row before meta-training."""
    keras.utils.set_random_seed(0)
    learner = ROWS[name].build()
    learner.compile(keras.optimizers.Adam(0.01))
    learner.optimizer.build(learner.trainable_variables)
    return learner


def batch(name, tasks=TASKS):
    """Returns one batch of held-out episodes, as NumPy arrays."""
    return next(ROWS[name].episodes(seed=1).batch(tasks).as_numpy_iterator())


def predict(learner, episode):
    state = learner.adapt(episode["support_x"], episode["support_y"])
    return infer(learner, state, episode["query_x"])


def infer(learner, state, query_x):
    """Returns logits or predictions (mean and scale stacked) as an array."""
    return np.asarray(km.learner.stacked(learner.infer(state, query_x)))


# Another order of sums changes a few float32 roundings, which inner steps amplify.
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)


def rows_by_default(*names):
    """Parametrizes a test by all rows; those with other names are thorough."""
    marks = {name: () if name in names else pytest.mark.thorough for name in ROWS}
    params = [pytest.param(name, marks=marks[name]) for name in ROWS]
    return pytest.mark.parametrize("name", params)


# The default suite checks one gradient learner, one metric learner and one neural
# process. The learners with memory take longer to trace and to train.
rows = rows_by_default("MAML", "ProtoNet", "CNP, regression")


@rows
def test_fit_learns_a_family(name):
    learner, _ = trained(name)
    data = ROWS[name].episodes(seed=1).batch(TASKS)
    result = learner.evaluate(data, steps=10, verbose=0, return_dict=True)
    assert result["loss"] < ROWS[name].loss


@rows
def test_same_seed_same_weights(name):
    _, (start, first, repeated) = trained(name)
    for expected, value in zip(start, build_compiled(name).get_weights(), strict=True):
        np.testing.assert_array_equal(value, expected)
    for expected, value in zip(first, repeated, strict=True):
        np.testing.assert_array_equal(value, expected)
    assert any((a != b).any() for a, b in zip(start, first, strict=True))


@rows
def test_shapes_and_other_shots(name):
    learner, _ = trained(name)
    episode, _ = batch(name)
    for repeats in (1, 2, 3):
        x = np.repeat(episode["support_x"], repeats, axis=1)
        y = np.repeat(episode["support_y"], repeats, axis=1)
        state = learner.adapt(x, y)
        assert {tensor.shape[0] for tensor in tf.nest.flatten(state)} == {TASKS}
        for queries in (1, 5):
            outputs = infer(learner, state, episode["query_x"][:, :queries])
            assert outputs.shape[:3] == (TASKS, queries, learner.output_size)


@rows
def test_tasks_are_independent(name):
    learner, _ = trained(name)
    episode, _ = batch(name)
    all_tasks = predict(learner, episode)
    for task in (0, TASKS - 1):
        single_task = {key: value[task : task + 1] for key, value in episode.items()}
        close(predict(learner, single_task)[0], all_tasks[task])


@rows
def test_query_order_and_independence(name):
    learner, _ = trained(name)
    episode, _ = batch(name)
    state = learner.adapt(episode["support_x"], episode["support_y"])
    query_x = episode["query_x"]
    expected = infer(learner, state, query_x)
    reversed_outputs = infer(learner, state, query_x[:, ::-1])
    close(reversed_outputs[:, ::-1], expected)
    single_query = infer(learner, state, query_x[:, :1])
    independent = np.allclose(single_query, expected[:, :1], rtol=1e-4, atol=1e-4)
    assert independent == ROWS[name].query_independent


@rows
def test_support_order(name, monkeypatch):
    learner, _ = trained(name)
    episode, _ = batch(name)

    def reordered(indices):
        support = {key: episode[key][:, indices] for key in ("support_x", "support_y")}
        return {**episode, **support}

    if not ROWS[name].support_order:  # then it shuffles the support set
        expected = predict(learner, episode)
        monkeypatch.setattr(learner, "support_order", "given")
        permuted = reordered(ordered.permutation(WAYS * SHOTS))
        close(predict(learner, permuted), expected)
        assert np.abs(predict(learner, episode) - expected).max() > 1e-3
        return
    shuffled = reordered(np.random.RandomState(0).permutation(WAYS * SHOTS))
    # Adam's step has the same length for a gradient of rounding errors only.
    limit = 1e-3 if "Adam" in name else 1e-4
    close(predict(learner, shuffled), predict(learner, episode), atol=limit)


@rows
def test_predictions_do_not_depend_on_query_labels(name):
    learner, _ = trained(name)
    episode, query_y = batch(name)
    expected = predict(learner, episode)
    close(learner.predict(tf.data.Dataset.from_tensors(episode), verbose=0), expected)
    wrong_labels = (query_y + 1) % WAYS
    # During meta-training, Reptile adapts on the queries too, as published.
    training = not getattr(learner, "joint", False)
    leaks.check(learner, episode, query_y, wrong_labels, expected, training)


@rows
def test_keras_file_round_trip(name, tmp_path):
    learner, _ = trained(name)
    episode, query_y = batch(name)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(predict(loaded, episode), predict(learner, episode))
    for key, value in learner.get_config().items():
        assert isinstance(value, dict) or loaded.get_config()[key] == value
    expected = learner.evaluate(episode, query_y, verbose=0, return_dict=True)
    metrics = loaded.evaluate(episode, query_y, verbose=0, return_dict=True)
    assert metrics == pytest.approx(expected, rel=1e-5)


@rows
def test_saved_model_round_trip(name, tmp_path):
    learner, _ = trained(name)
    if ROWS[name].query_independent:
        path = km.export(learner, tmp_path / "served")
    else:
        with pytest.warns(UserWarning, match="transductive"):
            path = km.export(learner, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    for task_count, support, queries in ((1, 6, 1), (3, 5, 7)):
        episode, _ = batch(name, task_count)
        request = {
            "support_x": episode["support_x"][:, :support],
            "support_y": episode["support_y"][:, :support],
            "query_x": episode["query_x"][:, :queries],
        }
        if learner.classification:  # labels without a gap
            request["support_y"] = np.tile(np.arange(support) % WAYS, [task_count, 1])
            request["support_y"] = request["support_y"].astype("int32")
        outputs = served(**{k: tf.constant(v) for k, v in request.items()})
        expected = predict(learner, request)
        if learner.classification:
            close(outputs["probabilities"], tf.nn.softmax(expected))
        elif "scale" in outputs:
            close(np.stack([outputs["mean"], outputs["scale"]], -1), expected)
        else:
            close(outputs["mean"], expected)


@rows
def test_invalid_inputs_raise_value_errors(name):
    learner, _ = trained(name)
    episode, query_y = batch(name)
    x, y = episode["support_x"], episode["support_y"]
    state = learner.adapt(x, y)

    def evaluate(query_y):
        learner.evaluate(tf.data.Dataset.from_tensors((episode, query_y)), verbose=0)

    def assert_raises(message, function, *args):
        with pytest.raises(ValueError, match=message) as info:
            function(*args)
        assert "\n" not in str(info.value).strip()

    assert_raises("support_x of shape", learner.adapt, x[0], y[0])
    assert_raises("support_x of shape", learner.adapt, x[..., :0], y)
    assert_raises("support_y of shape", learner.adapt, x, y[0])
    assert_raises("equal T and S", learner.adapt, x, y[:, 1:])
    assert_raises("equal T and S", learner.adapt, x[1:], y)
    assert_raises("at least one task and one support", learner.adapt, x[:0], y[:0])
    if learner.least_support:
        assert_raises(
            "at least one task and one support", learner.adapt, x[:, :0], y[:, :0]
        )
    else:
        prior = learner.adapt(x[:, :0], y[:, :0])
        assert np.isfinite(infer(learner, prior, x)).all()
    assert_raises("NaN", learner.adapt, np.where(x == x[0, 0, 0], np.nan, x), y)
    assert_raises("uint8", learner.adapt, x.astype("uint8"), y)
    assert_raises("query_x of shape", learner.infer, state, x[0])
    assert_raises("same number of tasks", learner.infer, state, x[1:])
    assert_raises("NaN", learner.infer, state, x * np.nan)
    assert_raises("query_x and query_y of equal T and Q", evaluate, query_y[:, 1:])
    if learner.classification:
        assert_raises(r"query_y to hold labels in \[0, 3\)", evaluate, query_y + 3)
        assert_raises("integer labels", learner.adapt, x, y.astype("float32"))
        assert_raises(r"labels in \[0, 3\)", learner.adapt, x, y + 1)
        assert_raises(r"labels in \[0, 3\)", learner.adapt, x, y - 1)
        if learner.gapless:
            assert_raises("gap", learner.adapt, x, np.where(y == 1, 2, y))
    else:
        assert_raises("NaN", learner.adapt, x, y * np.nan)
        assert_raises("finite values in query_y", evaluate, query_y * np.nan)


@rows
def test_absent_classes_have_zero_probability(name):
    learner, _ = trained(name)
    if not learner.classification:
        return
    episode, _ = batch(name)
    y = np.minimum(episode["support_y"], 1)
    logits = predict(learner, {**episode, "support_y": y})
    probabilities = tf.nn.softmax(logits).numpy()
    assert np.isfinite(logits).all()
    if not learner.gapless:  # then the classes of a task are unknown
        return
    assert (probabilities[..., 2] == 0).all() and (
        probabilities[..., :2].sum(-1) > 0.999
    ).all()


@rows
def test_other_numbers_of_classes(name):
    learner, _ = trained(name)
    if not learner.classification:
        with pytest.raises(ValueError, match="classification"):
            learner.with_classes(WAYS + 2)
        return
    if not learner.gapless:
        with pytest.raises(ValueError, match=f"train another one for {WAYS + 2}"):
            learner.with_classes(WAYS + 2)
        return
    extended = learner.with_classes(WAYS + 2)
    assert extended.output_size == WAYS + 2
    if name not in ("MAML", "MetaSGD", "SigmaMAML", "ProtoNet", "CNP"):
        return  # the others share this code; test_anil.py tests ANIL
    episode, _ = batch(name)
    close(predict(extended, episode)[..., :WAYS], predict(learner, episode))
    labels = np.arange(WAYS * SHOTS) % (WAYS + 2)
    episode["support_y"] = np.tile(labels, [TASKS, 1])
    logits = predict(extended, episode)
    assert logits.shape[-1] == WAYS + 2 and (logits > -1e6).all()


@rows
def test_finetune_starts_from_the_adapted_model(name, tmp_path):
    learner, _ = trained(name)
    episode, _ = batch(name)
    x, y = episode["support_x"][0], episode["support_y"][0]
    model = km.finetune(learner, x, y)
    if ROWS[name].query_independent:
        expected = predict(learner, episode)[0]
        close(model.predict(episode["query_x"][0], verbose=0), expected)
    model.fit(x, y, epochs=5, verbose=0)
    # Under a prior the loss of the data may rise, but not to that of a constant output.
    loss = model.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    if learner.classification:
        assert loss < np.log(WAYS)
    elif isinstance(learner.support_loss, losses.GaussianNLL):
        assert loss < np.log(2 * np.pi * np.e * np.var(y)) / 2
    else:
        assert loss < np.var(y) / 2
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(x), model(x))
