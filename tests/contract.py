"""The contract: what every learner does, checked on one tiny learner a row."""

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
    """Episodes of 6-vectors around their class's centre: learnable by anything."""
    random = np.random.RandomState(0)
    centres = random.normal(size=[60, 1, 6])
    x = centres + 0.3 * random.normal(size=[60, 12, 6])
    pool = km.ClassPool.from_arrays(
        x.reshape(-1, 6).astype("float32"), np.repeat(np.arange(60), 12)
    )
    return pool.episodes(WAYS, SHOTS, QUERIES, seed=seed)


def waves(seed=0):
    """Sinusoids of one frequency, short enough to learn in a moment."""
    family = tasks.sinusoid(amplitude=(0.5, 1.5), x=(-2.0, 2.0))
    return family.episodes(shots=WAYS * SHOTS, queries=WAYS * QUERIES, seed=seed)


def normalized(outputs=WAYS):
    """A small network with batch normalization."""
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
    """A learner's place in the contract.

    Attributes:
        make: makes the uncompiled learner.
        episodes: seed -> endless dataset of a family that it learns.
        loss: that its meta-steps bring the loss below.
        support_order: whether permuting the support set changes nothing; if not, the
            learner has the setting of that name.
        query_independent: whether an answer does not depend on the other queries.
        steps: meta-steps; learning to bind labels starts with a plateau.
    """

    make: typing.Callable
    episodes: typing.Callable
    loss: float
    support_order: bool = True
    query_independent: bool = True
    steps: int = 120


# How tasks are mapped is the same for all; tracing this way is quicker.
SIDE_BY_SIDE = {"vectorize": False}
ROWS = {
    "MAML": Row(
        lambda: km.MAML(normalized(), inner_rate=0.5, inner_steps=2), blobs, 0.35
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
    """A row's learner after its meta-steps, its weights before and after `FIRST`.

    Returns:
        `(learner, [weights at 0, at FIRST, and at FIRST once more from 0])`.
    """
    learner = begun(name)
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


def begun(name):
    """A row's compiled learner."""
    keras.utils.set_random_seed(0)
    learner = ROWS[name].make()
    learner.compile(keras.optimizers.Adam(0.01))
    learner.optimizer.build(learner.trainable_variables)
    return learner


def batch(name, tasks=TASKS):
    """One batch of episodes not trained on, as NumPy arrays."""
    return next(ROWS[name].episodes(seed=1).batch(tasks).as_numpy_iterator())


def answers(learner, episode):
    state = learner.adapt(episode["support_x"], episode["support_y"])
    return infer(learner, state, episode["query_x"])


def infer(learner, state, query_x):
    """Logits or predictions, mean and scale stacked, as an array."""
    return np.asarray(km.learner.stacked(learner.infer(state, query_x)))


# Sums in another order differ by a few float32 roundings, amplified by inner steps.
close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
# The default suite checks one learner of each kind.
OF_EACH_KIND = {"MAML", "ProtoNet", "CNP, regression", "LSTMLearner"}
rows = pytest.mark.parametrize(
    "name",
    [
        name if name in OF_EACH_KIND else pytest.param(name, marks=pytest.mark.thorough)
        for name in ROWS
    ],
)


@rows
def test_fit_learns_a_family(name):
    learner, _ = trained(name)
    data = ROWS[name].episodes(seed=1).batch(TASKS)
    result = learner.evaluate(data, steps=10, verbose=0, return_dict=True)
    assert result["loss"] < ROWS[name].loss


@rows
def test_same_seed_same_weights(name):
    _, (start, first, again) = trained(name)
    for expected, found in zip(start, begun(name).get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    for expected, found in zip(first, again, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert any((a != b).any() for a, b in zip(start, first, strict=True))


@rows
def test_shapes_and_other_shots(name):
    learner, _ = trained(name)
    episode, _ = batch(name)
    for repeats in (1, 2, 3):
        x = np.repeat(episode["support_x"], repeats, axis=1)
        y = np.repeat(episode["support_y"], repeats, axis=1)
        state = learner.adapt(x, y)
        assert {leaf.shape[0] for leaf in tf.nest.flatten(state)} == {TASKS}
        for queries in (1, 5):
            outputs = infer(learner, state, episode["query_x"][:, :queries])
            assert outputs.shape[:3] == (TASKS, queries, learner.output_size)


@rows
def test_tasks_are_independent(name):
    learner, _ = trained(name)
    episode, _ = batch(name)
    together = answers(learner, episode)
    for task in (0, TASKS - 1):
        alone = {key: value[task : task + 1] for key, value in episode.items()}
        close(answers(learner, alone)[0], together[task])


@rows
def test_queries(name):
    learner, _ = trained(name)
    episode, _ = batch(name)
    state = learner.adapt(episode["support_x"], episode["support_y"])
    query_x = episode["query_x"]
    together = infer(learner, state, query_x)
    backwards = infer(learner, state, query_x[:, ::-1])
    close(backwards[:, ::-1], together)
    alone = infer(learner, state, query_x[:, :1])
    independent = np.allclose(alone, together[:, :1], rtol=1e-4, atol=1e-4)
    assert independent == ROWS[name].query_independent


@rows
def test_support_order(name, monkeypatch):
    learner, _ = trained(name)
    episode, _ = batch(name)

    def reordered(order):
        parts = {key: episode[key][:, order] for key in ("support_x", "support_y")}
        return {**episode, **parts}

    if not ROWS[name].support_order:  # then it mixes sets that come class by class
        expected = answers(learner, episode)
        monkeypatch.setattr(learner, "support_order", "given")
        mixed = reordered(ordered.permutation(WAYS * SHOTS))
        close(answers(learner, mixed), expected)
        assert np.abs(answers(learner, episode) - expected).max() > 1e-3
        return
    shuffled = reordered(np.random.RandomState(0).permutation(WAYS * SHOTS))
    # Adam's steps are as long for a gradient that is rounding and nothing else.
    limit = 1e-3 if "Adam" in name else 1e-4
    close(answers(learner, shuffled), answers(learner, episode), atol=limit)


@rows
def test_query_labels_are_not_seen(name):
    learner, _ = trained(name)
    episode, query_y = batch(name)
    expected = answers(learner, episode)
    close(learner.predict(tf.data.Dataset.from_tensors(episode), verbose=0), expected)
    wrong = (query_y + 1) % WAYS
    # Reptile adapts on the queries too while meta-training, as published.
    training = not getattr(learner, "joint", False)
    leaks.check(learner, episode, query_y, wrong, expected, training)


@rows
def test_keras_file_round_trip(name, tmp_path):
    learner, _ = trained(name)
    episode, query_y = batch(name)
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    np.testing.assert_array_equal(answers(loaded, episode), answers(learner, episode))
    for key, value in learner.get_config().items():
        assert isinstance(value, dict) or loaded.get_config()[key] == value
    expected = learner.evaluate(episode, query_y, verbose=0, return_dict=True)
    found = loaded.evaluate(episode, query_y, verbose=0, return_dict=True)
    assert found == pytest.approx(expected, rel=1e-5)


@rows
def test_saved_model_round_trip(name, tmp_path):
    learner, _ = trained(name)
    if ROWS[name].query_independent:
        path = km.export(learner, tmp_path / "served")
    else:
        with pytest.warns(UserWarning, match="transductive"):
            path = km.export(learner, tmp_path / "served")
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    for tasks_, support, queries in ((1, 6, 1), (3, 5, 7)):
        episode, _ = batch(name, tasks_)
        request = {
            "support_x": episode["support_x"][:, :support],
            "support_y": episode["support_y"][:, :support],
            "query_x": episode["query_x"][:, :queries],
        }
        if learner.classification:  # any labels without a gap
            request["support_y"] = np.tile(np.arange(support) % WAYS, [tasks_, 1])
            request["support_y"] = request["support_y"].astype("int32")
        found = served(**{k: tf.constant(v) for k, v in request.items()})
        expected = answers(learner, request)
        if learner.classification:
            close(found["probabilities"], tf.nn.softmax(expected))
        elif "scale" in found:
            close(np.stack([found["mean"], found["scale"]], -1), expected)
        else:
            close(found["mean"], expected)


@rows
def test_bad_input(name):
    learner, _ = trained(name)
    episode, query_y = batch(name)
    x, y = episode["support_x"], episode["support_y"]
    state = learner.adapt(x, y)

    def evaluate(query_y):
        learner.evaluate(tf.data.Dataset.from_tensors((episode, query_y)), verbose=0)

    def refused(sentence, call, *args):
        with pytest.raises(ValueError, match=sentence) as caught:
            call(*args)
        assert "\n" not in str(caught.value).strip()

    refused("support_x of shape", learner.adapt, x[0], y[0])
    refused("support_x of shape", learner.adapt, x[..., :0], y)
    refused("support_y of shape", learner.adapt, x, y[0])
    refused("equal T and S", learner.adapt, x, y[:, 1:])
    refused("equal T and S", learner.adapt, x[1:], y)
    refused("at least one task and one support", learner.adapt, x[:0], y[:0])
    if learner.least_support:
        refused("at least one task and one support", learner.adapt, x[:, :0], y[:, :0])
    else:
        nothing = learner.adapt(x[:, :0], y[:, :0])
        assert np.isfinite(infer(learner, nothing, x)).all()
    refused("NaN", learner.adapt, np.where(x == x[0, 0, 0], np.nan, x), y)
    refused("uint8", learner.adapt, x.astype("uint8"), y)
    refused("query_x of shape", learner.infer, state, x[0])
    refused("same number of tasks", learner.infer, state, x[1:])
    refused("NaN", learner.infer, state, x * np.nan)
    refused("query_x and query_y of equal T and Q", evaluate, query_y[:, 1:])
    if learner.classification:
        refused(r"query_y to hold labels in \[0, 3\)", evaluate, query_y + 3)
        refused("integer labels", learner.adapt, x, y.astype("float32"))
        refused(r"labels in \[0, 3\)", learner.adapt, x, y + 1)
        refused(r"labels in \[0, 3\)", learner.adapt, x, y - 1)
        if learner.gapless:
            refused("gap", learner.adapt, x, np.where(y == 1, 2, y))
    else:
        refused("NaN", learner.adapt, x, y * np.nan)
        refused("finite values in query_y", evaluate, query_y * np.nan)


@rows
def test_fewer_classes_than_outputs(name):
    learner, _ = trained(name)
    if not learner.classification:
        return
    episode, _ = batch(name)
    y = np.minimum(episode["support_y"], 1)
    logits = answers(learner, {**episode, "support_y": y})
    chances = tf.nn.softmax(logits).numpy()
    assert np.isfinite(logits).all()
    if not learner.gapless:  # then nobody knows which classes a task has
        return
    assert (chances[..., 2] == 0).all() and (chances[..., :2].sum(-1) > 0.999).all()


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
    more = learner.with_classes(WAYS + 2)
    assert more.output_size == WAYS + 2
    if name not in ("MAML", "MetaSGD", "SigmaMAML", "ProtoNet", "CNP"):
        return  # as those do it; ANIL has a test of its own
    episode, _ = batch(name)
    close(answers(more, episode)[..., :WAYS], answers(learner, episode))
    labels = np.arange(WAYS * SHOTS) % (WAYS + 2)
    episode["support_y"] = np.tile(labels, [TASKS, 1])
    logits = answers(more, episode)
    assert logits.shape[-1] == WAYS + 2 and (logits > -1e6).all()


@rows
def test_finetune_starts_from_the_adapted_model(name, tmp_path):
    learner, _ = trained(name)
    episode, _ = batch(name)
    x, y = episode["support_x"][0], episode["support_y"][0]
    model = km.finetune(learner, x, y)
    if ROWS[name].query_independent:
        expected = answers(learner, episode)[0]
        close(model.predict(episode["query_x"][0], verbose=0), expected)
    model.fit(x, y, epochs=5, verbose=0)
    # Under a prior the loss of the data alone may rise, but not to that of a guess.
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
