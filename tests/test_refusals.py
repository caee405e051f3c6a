"""Tests that settings without an effect and invalid arguments are refused."""

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta.zoo import initial, recipes, serving_client
from tests import smooth

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def learner():
    learner = km.ProtoNet(km.networks.mlp((6,), 4, (8,)), 3)
    learner.compile()
    return learner


@pytest.fixture(scope="module")
def episodes():
    x = np.random.RandomState(0).normal(size=[40, 6]).astype("float32")
    pool = km.ClassPool.from_arrays(x, np.repeat(np.arange(8), 5))
    return pool.episodes(3, 1, 2).batch(2)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_numbers_of_batches_are_checked(learner, episodes, steps):
    for run, argument in (
        (lambda: learner.fit(episodes, steps_per_epoch=steps), "steps_per_epoch"),
        (lambda: learner.evaluate(episodes, steps=steps), "steps"),
        (lambda: learner.predict(episodes, steps=steps), "steps"),
        (
            lambda: learner.fit(
                episodes,
                steps_per_epoch=1,
                validation_data=episodes,
                validation_steps=steps,
            ),
            "validation_steps",
        ),
    ):
        with pytest.raises(ValueError, match=f"expected {argument} to be an integer"):
            run()


def test_a_batch_size_beside_batches_is_refused(learner, episodes):
    for run in (learner.fit, learner.evaluate, learner.predict):
        with pytest.raises(ValueError, match="batch_size beside a dict of arrays only"):
            run(episodes.take(1), batch_size=2, verbose=0)
    with pytest.raises(ValueError, match="validation_batch_size beside a dict"):
        learner.fit(
            episodes.take(1), validation_data=episodes.take(1), validation_batch_size=2
        )


@pytest.mark.parametrize(
    "arguments",
    [{"validation_steps": 1}, {"validation_batch_size": 1}, {"validation_freq": 2}],
)
def test_arguments_of_a_validation_require_one(learner, episodes, arguments):
    (name,) = arguments
    with pytest.raises(ValueError, match=f"validation_data beside {name}, got None"):
        learner.fit(episodes.take(1), **arguments)


def test_validation_data_and_a_split_are_refused(learner, episodes):
    x, y = next(episodes.as_numpy_iterator())
    with pytest.raises(ValueError, match="got both"):
        learner.fit(x, y, validation_data=(x, y), validation_split=0.5)
    history = learner.fit(
        x,
        y,
        batch_size=1,
        validation_data=(x, y),
        validation_batch_size=1,
        validation_freq=2,
        epochs=2,
        verbose=0,
    )
    assert len(history.history["val_loss"]) == 1


def test_statistics_of_endless_episodes_are_refused(learner, episodes):
    with pytest.raises(ValueError, match=r"never end; episodes.take\(n\) ends"):
        km.batch_norm.estimate(learner, episodes)


def test_episodes_without_targets_are_refused(learner, episodes):
    with pytest.raises(ValueError, match="expected query_y beside the episodes"):
        learner.fit(episodes.map(lambda x, y: x), steps_per_epoch=1, verbose=0)
    x, y = next(iter(episodes))
    for run in (learner.train_on_batch, learner.test_on_batch):
        with pytest.raises(ValueError, match="expected batches of episodes"):
            run(x["support_x"], y)


def test_iterators_of_names_are_read_once():
    learner = km.SigmaMAML(smooth.network())
    learner.frozen = (name for name in learner.modules if name != "head")
    assert learner.frozen == ("conv", "norm")
    assert km.ANIL(smooth.network(), layers=iter(["conv"])).layers_adapted == ("conv",)


def test_layers_that_adapt_have_unique_names():
    body = km.networks.mlp((6,), 4, (8,))  # its last layer is "head"
    inputs = keras.Input([6])
    outputs = keras.layers.Dense(3, name="head")(body(inputs))
    network = keras.Model(inputs, outputs)
    with pytest.raises(ValueError, match="'head', the name of 2 layers"):
        km.ANIL(network)


def test_settings_of_regression_are_refused_for_classification():
    learner = km.LSTMLearner(example_shape=[2], outputs=2, units=4)
    for name, value in (("target_scale", 2.0), ("target_mean", 1.0)):
        with pytest.raises(ValueError, match=f"expected {name} . for classification"):
            setattr(learner, name, value)
    regression = km.LSTMLearner(example_shape=[2], outputs=1, units=4, loss="mse")
    with pytest.raises(ValueError, match="target_mean to be a number"):
        regression.target_mean = float("nan")
    regression.target_mean = -3.0


@pytest.mark.parametrize(
    "create, message",
    [
        (
            lambda: km.MAML(km.networks.mlp((6,), 1)),
            "outputs to be an integer >= 2, got 1",
        ),
        (
            lambda: km.ProtoNet(km.networks.mlp((6,), 4), outputs=-5),
            "outputs to be an integer >= 2, got -5",
        ),
        (
            lambda: km.MAML(
                km.networks.mlp((6,), 3), keras.losses.CategoricalCrossentropy()
            ),
            r"CategoricalCrossentropy\(from_logits=True\)",
        ),
        (
            lambda: km.MAML(km.networks.mlp((6,), 3), vectorize="auto"),
            "vectorize to be True or False, got 'auto'",
        ),
        (
            lambda: km.Reptile(km.networks.mlp((6,), 3), joint="no"),
            "joint to be True or False, got 'no'",
        ),
        (
            lambda: km.MAML(km.networks.mlp((6,), 3), inner_rate=True),
            "inner_rate to be a number above 0, got True",
        ),
        (
            lambda: km.ImagePreprocess(invert="auto"),
            "invert to be True or False, got 'auto'",
        ),
        (
            lambda: km.ImagePreprocess(8, 8, 1).scale(np.zeros([8, 8, 1])),
            "expected uint8 images, got float64",
        ),
        (
            lambda: km.ClassPool.from_arrays(
                np.zeros([4, 2], "float32"), [0, 0, 1, 1], names=["ab", "cd"]
            ),
            "names to be {label: name}, got",
        ),
    ],
)
def test_invalid_arguments_are_refused(create, message):
    with pytest.raises(ValueError, match=message):
        create()


def test_a_loss_that_compile_refuses_changes_nothing():
    learner = km.MAML(km.networks.mlp((6,), 2), "mse")
    huber = keras.losses.Huber()
    learner.compile(loss=huber)
    with pytest.raises(ValueError, match="expected loss to be one of"):
        learner.compile(loss="typo")
    assert learner.query_loss is huber


def test_the_scheme_of_an_address_decides_before_its_port():
    for address, grpc in {
        "host:8500": True,
        "host:8501": False,
        "http://host:8500": False,
        "https://host:8500/": False,
        "grpc://host:9000": True,
    }.items():
        assert serving_client._is_grpc(address) == grpc, address


def test_initial_weights_of_another_network_are_refused(tmp_path):
    km.MAML(km.networks.mlp((6,), 3)).save(tmp_path / "other.keras")
    recipe = recipes.recipe("protonet.omniglot_5w1s")
    with pytest.raises(ValueError, match="other.keras to have weights of the paths"):
        initial.begin(recipe, 0, str(tmp_path / "other.keras"))


LABELS = np.zeros([2, 3], int)
TARGETS = np.zeros([2, 3, 1])


@pytest.mark.parametrize(
    ("metric", "y_true", "y_pred"),
    [
        (km.metrics.EpisodeAccuracy, LABELS, np.zeros([2, 3])),
        (km.metrics.EpisodeAccuracy, LABELS[:, :1], np.zeros([2, 3, 5])),
        (km.metrics.EpisodeAccuracy, LABELS[0], np.zeros([3, 5])),
        (km.metrics.EpisodeSquaredError, TARGETS, np.zeros([2, 3])),
        (km.metrics.EpisodeSquaredError, TARGETS, np.zeros([2, 1, 1])),
        (km.metrics.EpisodeNLL, TARGETS, np.zeros([2, 3, 1])),
        (km.metrics.PresentationAccuracy, LABELS, np.zeros([2, 4, 5])),
        (km.metrics.CalibrationError, LABELS, np.zeros([3, 5])),
    ],
)
def test_metrics_refuse_other_shapes(metric, y_true, y_pred):
    metric = metric()
    with pytest.raises(ValueError, match=r"expected y_(true|pred) of shape"):
        metric.update_state(y_true, y_pred)
    assert float(metric.result()) == 0


def test_a_proximal_step_needs_a_prior():
    learner = km.MAML(km.networks.mlp((1,), 1, (4,)), loss="mse", inner_rate=0.1)
    x = np.linspace(-1, 1, 6, dtype="float32")[:, None]
    model = km.finetune(learner, x, x, optimizer=km.priors.ProximalSGD(0.1))
    before = model.get_weights()
    with pytest.raises(ValueError, match="expected a model with a prior"):
        model.fit(x, x, verbose=0)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_states_of_other_learners_are_refused(learner):
    x = np.zeros([1, 3, 6], "float32")
    state = learner.adapt(x, [[0, 1, 2]])
    wider = km.ProtoNet(km.networks.mlp((6,), 5, (8,)), 3)
    maml = km.MAML(km.networks.mlp((6,), 3, (8,)))
    for other in (wider, maml):
        with pytest.raises(ValueError, match="expected a state that adapt returned"):
            other.infer(state, x)
    for wrong in (None, {}, {**state, "prototypes": "text"}):
        with pytest.raises(ValueError, match="expected a state that adapt returned"):
            learner.infer(wrong, x)
        with pytest.raises(ValueError, match="expected a state that adapt returned"):
            learner.distances(wrong, x)
    arrays = {key: np.asarray(value) for key, value in state.items()}
    np.testing.assert_array_equal(learner.infer(arrays, x), learner.infer(state, x))


def test_tools_refuse_words_that_are_not_flags():
    command = [sys.executable, "tools/check_versions.py", "proto"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    assert "expected flags alone, got proto." in process.stdout + process.stderr
    assert "Traceback" not in process.stderr


@pytest.mark.parametrize(
    ("make", "argument"),
    [
        (lambda: km.networks.mlp(units=64), "units"),
        (lambda: km.networks.mlp(units=(64, 0)), "each of units"),
        (lambda: km.networks.mlp(outputs=2.5), "outputs"),
        (lambda: km.networks.conv4(filters="64"), "filters"),
        (lambda: km.networks.conv4(outputs=0), "outputs"),
        (lambda: km.networks.resnet12((32, 32, 3), filters=64), "filters"),
        (lambda: km.LSTMLearner(example_shape=[2], units=[]), "units"),
        (lambda: km.LSTMLearner(example_shape=[2], units=[4, -1]), "each of units"),
        (lambda: km.MANN(example_shape=[2], width=0), "width"),
        (lambda: km.MANN(example_shape=[2], rows=4.0), "rows"),
        (lambda: km.ProtoNet(smooth.network(), 3).with_classes("5"), "classes"),
    ],
)
def test_sizes_are_integers(make, argument):
    with pytest.raises(ValueError, match=f"expected {argument} (to be|of at least)"):
        make()


def test_sizes_from_an_iterator_are_kept():
    network = km.networks.mlp((2,), 3, (size for size in (4, 5)))
    assert [layer.units for layer in network.layers[1:]] == [4, 5, 3]
