"""Parts of meta-training; `test_zoo` runs the whole."""

import csv
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta.zoo import training, transfer


def test_a_warm_start_copies_what_the_learners_share():
    trained = km.SigmaMAML(km.networks.mlp(outputs=3), "mse", initial_scale=0.5)
    same = km.SigmaMAML(km.networks.mlp(outputs=3), "mse")
    assert transfer.copy_common(trained, same) == []
    for a, b in zip(same.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    other = km.MetaSGD(km.networks.mlp(outputs=4), "mse", inner_rate=0.3)
    body = len(other.network.weights) - 2
    new = transfer.copy_common(trained, other)
    assert {"head/kernel", "head/bias"} <= set(new)
    assert len(new) == len(other.rates) + 2
    pairs = zip(other.network.weights[:body], trained.network.weights, strict=False)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    assert all((rate.numpy() == np.float32(0.3)).all() for rate in other.rates)


def test_a_learner_of_features_is_put_together_again():
    inputs = keras.Input([6, 6, 1])
    features = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    standard = keras.layers.BatchNormalization(name="standard")
    network = keras.Model(inputs, standard(features))
    network.layers[-2].trainable = False
    whole = km.MANN(network, outputs=3, rows=8, width=6, units=5)
    images = np.random.RandomState(0).rand(2, 7, 6, 6, 1).astype("float32")
    labels = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])

    encoder, reader = transfer.split(whole)
    features = km.network.each(encoder, images)
    for variable in reader.variables:
        variable.assign(variable + 0.1)  # as if trained
    new = transfer.copy_common(reader, whole)
    kept = {v.path for v in encoder.variables}
    assert {path for path in new if "seed" not in path} == kept
    np.testing.assert_allclose(
        whole.infer(whole.adapt(images[:, :4], labels), images[:, 4:]),
        reader.infer(reader.adapt(features[:, :4], labels), features[:, 4:]),
        atol=1e-5,
    )


def test_a_head_that_adapts_is_put_together_again():
    encoder = km.networks.conv4((16, 16, 1), outputs=None, filters=2)
    encoder.trainable = False
    whole = km.ANIL(km.networks.with_hog(encoder, outputs=3), inner_steps=4)
    images = np.random.RandomState(0).rand(2, 7, 16, 16, 1).astype("float32")
    labels = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])

    assert transfer.has_fixed_encoder(whole)
    encoder, reader = transfer.split(whole)
    assert reader.layers_adapted == ["head"] and reader.inner_steps == 4
    features = km.network.each(encoder, images)
    for variable in reader.variables:
        variable.assign(variable + 0.1)  # as if trained
    transfer.copy_common(reader, whole)
    np.testing.assert_allclose(
        whole.infer(whole.adapt(images[:, :4], labels), images[:, 4:]),
        reader.infer(reader.adapt(features[:, :4], labels), features[:, 4:]),
        atol=1e-5,
    )


def on_images(kind):
    """A learner of images of each kind that `transfer.on_features` accepts."""
    encoder = km.networks.conv4((16, 16, 1), outputs=None, filters=2)
    if kind == "ProtoNet":
        return km.ProtoNet(encoder, outputs=3)
    if kind == "MAML":
        return km.MAML(km.networks.conv4((16, 16, 1), outputs=3, filters=2))
    encoder.trainable = False
    return km.ANIL(km.networks.with_hog(encoder, outputs=3), inner_steps=2)


@pytest.mark.parametrize(
    ("kind", "separated"), [("ProtoNet", True), ("ANIL", True), ("MAML", False)]
)
def test_a_learner_on_features_predicts_what_the_whole_does(kind, separated):
    whole = on_images(kind)
    for variable in whole.variables:  # moving statistics that are not 0 and 1
        if variable.dtype == "float32":
            variable.assign(variable + 0.1)
    random = np.random.RandomState(0)
    pool = km.ClassPool.from_arrays(
        random.rand(24, 16, 16, 1).astype("float32"), np.repeat(np.arange(4), 6)
    )
    encoder, reader = transfer.on_features(whole)
    assert (encoder is not None) == separated and (reader is whole) != separated
    pools = pool, pool.encoded(encoder) if separated else pool
    logits = []
    for learner, classes in zip((whole, reader), pools, strict=True):
        episode, _ = next(iter(classes.episodes(3, 2, 2).batch(4)))
        state = learner.adapt(episode["support_x"], episode["support_y"])
        logits.append(learner.infer(state, episode["query_x"]))
    np.testing.assert_allclose(*logits, atol=2e-4)


def test_a_signal_is_answered_while_a_graph_is_traced(tmp_path, capsys):
    learner = km.MAML(km.networks.mlp(), "mse")
    learner.compile("sgd")
    run = training.Run(tmp_path, None, "mse", 40, 20)
    run.set_model(learner)
    run.on_train_begin()

    @tf.function
    def traced():
        run._stop(2, None)
        return tf.constant(1)

    try:
        traced()
    finally:
        run.on_train_end()
    assert run.stop_signal
    assert "stopping at the next checkpoint" in capsys.readouterr().out


def fit(optimizer, directory, steps, every):
    """Trains MAML on sinusoids, two tasks a meta-step."""
    family = km.tasks.sinusoid()

    def make():
        learner = km.MAML(km.networks.mlp(), "mse")
        learner.compile(optimizer)
        learner.optimizer.build(learner.trainable_variables)
        return learner

    training.fit(
        lambda: (
            make,
            lambda start: family.episodes(start=start),
            family.episodes(seed=1).take(4).batch(2),
        ),
        directory,
        {"steps": steps},
        2,
        every,
        "mse",
    )


def test_an_interrupted_run_ends_at_a_checkpoint(tmp_path, monkeypatch, capsys):
    def interrupt(self, batch, logs=None):
        if batch == 10:  # the first of those taken together
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.Run, "on_train_batch_begin", interrupt)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit, match="resumes at the last checkpoint"):
        fit(keras.optimizers.Adam(use_ema=True), tmp_path, 40, 20)
    assert "stopping at the next checkpoint, 10 meta-steps" in capsys.readouterr().out
    assert signal.getsignal(signal.SIGINT) is before
    learner = keras.models.load_model(tmp_path / "last.keras")
    assert int(learner.optimizer.iterations) == 20


@pytest.mark.thorough
@pytest.mark.parametrize("when", ["_checkpoint", "reset_metrics"])
def test_a_signal_at_a_checkpoint_takes_no_more_meta_steps(
    when, tmp_path, monkeypatch, capsys
):
    def interrupted(plain):
        def call(*arguments):
            if when == "_checkpoint":
                signal.raise_signal(signal.SIGINT)
            plain(*arguments)
            if when == "reset_metrics" and (tmp_path / "last.keras").exists():
                signal.raise_signal(signal.SIGINT)

        return call

    of = training.Run if when == "_checkpoint" else km.MAML
    monkeypatch.setattr(of, when, interrupted(getattr(of, when)))
    with pytest.raises(SystemExit, match="resumes at the last checkpoint"):
        fit(keras.optimizers.Adam(use_ema=True), tmp_path, 40, 20)
    assert "stopping once this checkpoint is written" in capsys.readouterr().out
    learner = keras.models.load_model(tmp_path / "last.keras")
    assert int(learner.optimizer.iterations) == 20


def test_a_signal_right_after_a_checkpoint_stops_at_once(tmp_path, monkeypatch, capsys):
    def interrupt(self, batch, logs=None):
        if self.step == 20:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(training.Run, "on_train_batch_begin", interrupt)
    with pytest.raises(SystemExit, match="resumes at the last checkpoint"):
        fit(keras.optimizers.Adam(use_ema=True), tmp_path, 40, 20)
    assert "stopping" not in capsys.readouterr().out
    learner = keras.models.load_model(tmp_path / "last.keras")
    assert int(learner.optimizer.iterations) == 20


@pytest.mark.thorough
def test_a_run_that_diverges_says_so_and_keeps_what_was_before(tmp_path):
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([5], [1e-3, 1e30])
    with pytest.raises(ValueError, match="finite loss by meta-step 10, got nan: trai"):
        fit(keras.optimizers.SGD(rate, use_ema=True), tmp_path, 20, 5)
    learner = keras.models.load_model(tmp_path / "last.keras")
    assert int(learner.optimizer.iterations) == 5
    assert all(np.isfinite(v.numpy()).all() for v in learner.variables)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "make",
    [
        lambda: km.LSTMLearner(example_shape=[2], units=[3, 4]),
        lambda: km.MANN(example_shape=[2], units=3, rows=4, width=2, heads=1),
        lambda: km.CNP(
            km.networks.mlp((2,), 8, (8,)),
            km.networks.mlp((9,), 2, (8,)),
            aggregate="attention",
        ),
    ],
)
def test_layers_have_names_that_last(make):
    learners = make(), make()
    learners[0](learners[0].example())
    learners[1](learners[1].example())
    new = transfer.copy_common(*learners)
    assert [path for path in new if "seed_generator" not in path] == []


def test_the_best_row_is_the_lowest_error_or_the_highest_accuracy():
    # As a log gives them back, strings; 9.5 is below 10 as a number alone.
    rows = [
        {"step": str(step), "val_accuracy": a, "val_mse": b, "val_nll": c}
        for step, a, b, c in (
            (10, "0.5", "10.0", "-1.0"),
            (20, "0.75", "9.5", "-2.5"),
            (30, "0.75", "9.5", "2.0"),
            (40, "0.25", "1e+1", "-2.0"),
        )
    ]
    # Of equals, the last.
    for metric, step in (("accuracy", "30"), ("mse", "30"), ("nll", "20")):
        assert training.best_row(rows, metric)["step"] == step
    assert training.best_row(rows[:1], "mse") is rows[0]
    assert training.best_row(rows[::-1], "mse")["step"] == "20"


@pytest.mark.thorough
def test_the_best_average_of_the_weights_is_validated_and_kept(tmp_path):
    family, momentum = km.tasks.sinusoid(amplitude=(0.5, 1.5), x=(-2.0, 2.0)), 0.7
    validation = family.episodes(seed=1).take(24).batch(8)

    def make(**settings):
        keras.utils.set_random_seed(0)
        learner = km.MAML(km.networks.mlp(), "mse", inner_rate=1e-3)
        learner.network.get_layer("head").bias.assign([3.0])  # to be unlearned
        # The last five meta-steps undo what was learned before.
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.01, 0.3])
        learner.compile(keras.optimizers.Adam(rate, **settings))
        learner.optimizer.build(learner.trainable_variables)
        return learner

    training.fit(
        lambda: (
            lambda: make(use_ema=True, ema_momentum=momentum),
            lambda start: family.episodes(start=start),
            validation,
        ),
        tmp_path,
        {"steps": 15},
        8,
        5,
        "mse",
    )

    def error(learner):
        """The mean over tasks of the squared error of their queries."""
        return np.mean(
            [
                np.mean((learner(episode).numpy() - query_y.numpy()) ** 2, (1, 2))
                for episode, query_y in validation
            ]
        )

    # The same meta-steps one by one, averaged by NumPy.
    learner, raw, averages, errors = make(), [], [], []
    data = family.episodes().batch(8)
    for step in range(15):
        learner.fit(data.skip(step), steps_per_epoch=1, verbose=0)
        raw.append([v.numpy().astype("float64") for v in learner.trainable_variables])
        before = averages[-1] if averages else raw[0]
        averages.append(
            [
                momentum * a + (1 - momentum) * w
                for a, w in zip(before, raw[-1], strict=True)
            ]
        )
    other = make()
    for step in (4, 9, 14):
        for weights in (averages[step], raw[step]):
            for variable, value in zip(other.trainable_variables, weights, strict=True):
                variable.assign(value)
            errors.append(error(other))
    (one, _, two, plain, three, _) = errors
    assert two < one < three and abs(plain - two) > 0.02 * two

    with (tmp_path / "log.csv").open() as file:
        found = [float(row["val_mse"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(found, [one, two, three], rtol=1e-3)
    for name, expected in (("best", averages[9]), ("last", raw[14])):
        kept = keras.models.load_model(tmp_path / f"{name}.keras")
        for variable, value in zip(kept.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, 1e-4, 1e-5)
    best = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(error(best), min(found), rtol=1e-3)


THREADS = """
import dataclasses, sys
from keras_meta.zoo import cli, recipes
recipe = recipes.RECIPES["cnp.gp_rbf"]
recipes.RECIPES["cnp.gp_rbf"] = dataclasses.replace(recipe, intra_op=2)
sys.exit(cli.main(["train", "cnp.gp_rbf", *sys.argv[1:]]))
"""


def test_the_command_sets_the_threads_of_the_recipe(tmp_path):
    command = [sys.executable, "-c", THREADS, "--steps=2", "--every=1"]
    command += ["--validation-tasks=4", f"--out={tmp_path / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "step 2/2" in done.stdout
