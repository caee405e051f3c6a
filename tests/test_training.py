"""Tests of parts of meta-training; `test_zoo` tests complete runs."""

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


def test_a_warm_start_copies_shared_weights():
    trained = km.SigmaMAML(km.networks.mlp(outputs=3), "mse", initial_scale=0.5)
    same = km.SigmaMAML(km.networks.mlp(outputs=3), "mse")
    assert transfer.copy_common(trained, same) == []
    for a, b in zip(same.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    meta_sgd = km.MetaSGD(km.networks.mlp(outputs=4), "mse", inner_rate=0.3)
    body = len(meta_sgd.network.weights) - 2
    new = transfer.copy_common(trained, meta_sgd)
    assert {"head/kernel", "head/bias"} <= set(new)
    assert len(new) == len(meta_sgd.rates) + 2
    pairs = zip(meta_sgd.network.weights[:body], trained.network.weights, strict=False)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    assert all((rate.numpy() == np.float32(0.3)).all() for rate in meta_sgd.rates)


def test_weights_of_a_memory_learner_on_features_are_copied_back():
    inputs = keras.Input([6, 6, 1])
    features = keras.layers.Dense(4)(keras.layers.Flatten()(inputs))
    standard = keras.layers.BatchNormalization(name="standard")
    network = keras.Model(inputs, standard(features))
    network.layers[-2].trainable = False
    learner = km.MANN(network, outputs=3, rows=8, width=6, units=5)
    images = np.random.RandomState(0).rand(2, 7, 6, 6, 1).astype("float32")
    labels = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])

    encoder, reader = transfer.split(learner)
    assert len(reader.trainable_variables) == len(learner.trainable_variables) > 0
    features = km.network.each(encoder, images)
    for variable in reader.variables:
        variable.assign(variable + 0.1)  # as if trained
    new = transfer.copy_common(reader, learner)
    encoder_paths = {v.path for v in encoder.variables}
    assert {path for path in new if "seed" not in path} == encoder_paths
    np.testing.assert_allclose(
        learner.infer(learner.adapt(images[:, :4], labels), images[:, 4:]),
        reader.infer(reader.adapt(features[:, :4], labels), features[:, 4:]),
        atol=1e-5,
    )


def test_weights_of_a_head_that_adapts_are_copied_back():
    encoder = km.networks.conv4((16, 16, 1), outputs=None, filters=2)
    encoder.trainable = False
    learner = km.ANIL(km.networks.with_hog(encoder, outputs=3), inner_steps=4)
    images = np.random.RandomState(0).rand(2, 7, 16, 16, 1).astype("float32")
    labels = np.array([[0, 1, 2, 0], [2, 1, 0, 1]])

    assert transfer.has_fixed_encoder(learner)
    encoder, reader = transfer.split(learner)
    assert reader.layers_adapted == ("head",) and reader.inner_steps == 4
    features = km.network.each(encoder, images)
    for variable in reader.variables:
        variable.assign(variable + 0.1)  # as if trained
    transfer.copy_common(reader, learner)
    np.testing.assert_allclose(
        learner.infer(learner.adapt(images[:, :4], labels), images[:, 4:]),
        reader.infer(reader.adapt(features[:, :4], labels), features[:, 4:]),
        atol=1e-5,
    )


def image_learner(kind):
    """Returns a learner on images that `transfer.on_features` accepts."""
    encoder = km.networks.conv4((16, 16, 1), outputs=None, filters=2)
    if kind == "ProtoNet":
        return km.ProtoNet(encoder, outputs=3)
    if kind == "MAML":
        return km.MAML(km.networks.conv4((16, 16, 1), outputs=3, filters=2))
    encoder.trainable = False
    return km.ANIL(km.networks.with_hog(encoder, outputs=3), inner_steps=2)


@pytest.mark.parametrize(
    ("kind", "separated"),
    [
        ("ProtoNet", True),
        pytest.param("ANIL", True, marks=pytest.mark.thorough),
        ("MAML", False),
    ],
)
def test_a_learner_on_features_predicts_like_the_complete_learner(kind, separated):
    complete = image_learner(kind)
    for variable in complete.variables:  # moving statistics that are not 0 and 1
        if variable.dtype == "float32":
            variable.assign(variable + 0.1)
    random = np.random.RandomState(0)
    pool = km.ClassPool.from_arrays(
        random.rand(24, 16, 16, 1).astype("float32"), np.repeat(np.arange(4), 6)
    )
    encoder, reader = transfer.on_features(complete)
    assert (encoder is not None) == separated and (reader is complete) != separated
    pools = pool, pool.encoded(encoder) if separated else pool
    logits = []
    for learner, classes in zip((complete, reader), pools, strict=True):
        episode, _ = next(iter(classes.episodes(3, 2, 2).batch(4)))
        state = learner.adapt(episode["support_x"], episode["support_y"])
        logits.append(learner.infer(state, episode["query_x"]))
    np.testing.assert_allclose(*logits, atol=2e-4)


def test_a_signal_is_handled_while_a_graph_is_traced(tmp_path, capsys):
    learner = km.MAML(km.networks.mlp(), "mse")
    learner.compile("sgd")
    run = training.Run(tmp_path, "mse", 40, 20)
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
    """Trains MAML on sinusoids with two tasks per meta-step."""
    family = km.tasks.sinusoid()

    def build_learner():
        learner = km.MAML(km.networks.mlp(), "mse")
        learner.compile(optimizer)
        learner.optimizer.build(learner.trainable_variables)
        return learner

    training.fit(
        lambda: (
            build_learner,
            lambda start: family.episodes(start=start),
            family.episodes(seed=1).take(4).batch(2),
        ),
        directory,
        {"steps": steps},
        2,
        every,
        "mse",
    )


@pytest.mark.thorough
def test_a_complete_run_loads_no_data(tmp_path, capsys):
    fit(keras.optimizers.Adam(use_ema=True), tmp_path, 4, 2)
    training.fit(
        lambda: pytest.fail("data was loaded"), tmp_path, {"steps": 4}, 2, 2, "mse"
    )
    assert "4 of 4 meta-steps are done" in capsys.readouterr().out


@pytest.mark.thorough
def test_an_interrupted_run_ends_at_a_checkpoint(tmp_path, monkeypatch, capsys):
    def interrupt(self, batch, logs=None):
        if batch == 10:  # the first batch of a group
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
    def interrupt(method):
        def call(*arguments):
            if when == "_checkpoint":
                signal.raise_signal(signal.SIGINT)
            method(*arguments)
            if when == "reset_metrics" and (tmp_path / "last.keras").exists():
                signal.raise_signal(signal.SIGINT)

        return call

    owner = training.Run if when == "_checkpoint" else km.MAML
    monkeypatch.setattr(owner, when, interrupt(getattr(owner, when)))
    with pytest.raises(SystemExit, match="resumes at the last checkpoint"):
        fit(keras.optimizers.Adam(use_ema=True), tmp_path, 40, 20)
    assert "stopping once this checkpoint is written" in capsys.readouterr().out
    learner = keras.models.load_model(tmp_path / "last.keras")
    assert int(learner.optimizer.iterations) == 20


@pytest.mark.thorough
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
def test_a_diverging_run_raises_an_error_and_keeps_its_last_checkpoint(tmp_path):
    rate = keras.optimizers.schedules.PiecewiseConstantDecay([5], [1e-3, 1e30])
    with pytest.raises(ValueError, match="finite loss by meta-step 10, got nan: trai"):
        fit(keras.optimizers.SGD(rate, use_ema=True), tmp_path, 20, 5)
    learner = keras.models.load_model(tmp_path / "last.keras")
    assert int(learner.optimizer.iterations) == 5
    assert all(np.isfinite(v.numpy()).all() for v in learner.variables)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "build",
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
def test_layer_names_do_not_depend_on_earlier_layers(build):
    learners = build(), build()
    learners[0](learners[0].example())
    learners[1](learners[1].example())
    new = transfer.copy_common(*learners)
    assert [path for path in new if "seed_generator" not in path] == []


def test_the_best_row_is_the_lowest_error_or_the_highest_accuracy():
    # Logs contain strings: 9.5 is below 10 only as a number.
    rows = [
        {"step": str(step), "val_accuracy": a, "val_mse": b, "val_nll": c}
        for step, a, b, c in (
            (10, "0.5", "10.0", "-1.0"),
            (20, "0.75", "9.5", "-2.5"),
            (30, "0.75", "9.5", "2.0"),
            (40, "0.25", "1e+1", "-2.0"),
        )
    ]
    # The last of equal rows is the best.
    for metric, step in (("accuracy", "30"), ("mse", "30"), ("nll", "20")):
        assert training.best_row(rows, metric)["step"] == step
    assert training.best_row(rows[:1], "mse") is rows[0]
    assert training.best_row(rows[::-1], "mse")["step"] == "20"
    # A validation score that is NaN is never the best.
    for metric, step in (("accuracy", "30"), ("mse", "30"), ("nll", "20")):
        undefined = {"step": "50", f"val_{metric}": "nan"}
        assert training.best_row([*rows, undefined], metric)["step"] == step
        assert training.best_row([undefined, *rows], metric)["step"] == step


@pytest.mark.thorough
def test_the_best_average_of_the_weights_is_validated_and_saved(tmp_path):
    family, momentum = km.tasks.sinusoid(amplitude=(0.5, 1.5), x=(-2.0, 2.0)), 0.7
    validation = family.episodes(seed=1).take(24).batch(8)

    def build_learner(**settings):
        keras.utils.set_random_seed(0)
        learner = km.MAML(km.networks.mlp(), "mse", inner_rate=1e-3)
        learner.network.get_layer("head").bias.assign([3.0])  # a wrong bias
        # The high rate of the last five meta-steps undoes the progress before them.
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([9], [0.01, 0.3])
        learner.compile(keras.optimizers.Adam(rate, **settings))
        learner.optimizer.build(learner.trainable_variables)
        return learner

    training.fit(
        lambda: (
            lambda: build_learner(use_ema=True, ema_momentum=momentum),
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
        """Returns the squared error of queries, averaged over tasks."""
        return np.mean(
            [
                np.mean((learner(episode).numpy() - query_y.numpy()) ** 2, (1, 2))
                for episode, query_y in validation
            ]
        )

    # NumPy averages the weights of the same meta-steps, run one by one.
    learner, raw, averages, errors = build_learner(), [], [], []
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
    copy = build_learner()
    for step in (4, 9, 14):
        for weights in (averages[step], raw[step]):
            for variable, value in zip(copy.trainable_variables, weights, strict=True):
                variable.assign(value)
            errors.append(error(copy))
    (first, _, second, plain, third, _) = errors
    assert second < first < third and abs(plain - second) > 0.02 * second

    with (tmp_path / "log.csv").open() as file:
        logged = [float(row["val_mse"]) for row in csv.DictReader(file)]
    np.testing.assert_allclose(logged, [first, second, third], rtol=1e-3)
    for name, expected in (("best", averages[9]), ("last", raw[14])):
        saved = keras.models.load_model(tmp_path / f"{name}.keras")
        for variable, value in zip(saved.trainable_variables, expected, strict=True):
            np.testing.assert_allclose(variable.numpy(), value, 1e-4, 1e-5)
    best = keras.models.load_model(tmp_path / "best.keras")
    np.testing.assert_allclose(error(best), min(logged), rtol=1e-3)


THREADS = """
import dataclasses, sys
from keras_meta.zoo import cli, recipes
recipe = recipes.RECIPES["cnp.gp_rbf"]
recipes.RECIPES["cnp.gp_rbf"] = dataclasses.replace(recipe, intra_op=2)
sys.exit(cli.main(["train", "cnp.gp_rbf", *sys.argv[1:]]))
"""


@pytest.mark.thorough
def test_the_command_sets_the_threads_of_the_recipe(tmp_path):
    command = [sys.executable, "-c", THREADS, "--steps=2", "--every=1"]
    command += ["--validation-tasks=4", f"--out={tmp_path / 'run'}"]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "step 2/2" in process.stdout
