"""Tests of encoders from keras.applications and of entries with weights of Keras."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from keras.src.utils import file_utils

import keras_meta as km
from keras_meta import applications, zoo
from keras_meta.zoo import cards, choice, cli, facts, publishing, recipes

SIZE = 32
EXTERNAL = [name for name, recipe in recipes.RECIPES.items() if recipe.external]


def random_images(*shape):
    shape = [*shape, SIZE, SIZE, 3]
    return np.random.RandomState(0).uniform(size=shape).astype("float32")


@pytest.fixture(scope="module")
def plain():
    """Returns a network of Keras with weights that give each image other features."""
    keras.utils.set_random_seed(0)
    network = keras.applications.MobileNetV2(
        (SIZE, SIZE, 3), alpha=0.35, include_top=False, weights=None, pooling="avg"
    )
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.gamma.assign(3 * layer.gamma)
    return network


@pytest.fixture(scope="module")
def file(plain, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    plain.save_weights(path)
    return str(path)


def encoder(file=None, **settings):
    return km.networks.pretrained(
        "MobileNetV2", SIZE, weights=file, alpha=0.35, **settings
    )


def test_features_equal_those_of_keras_on_preprocessed_images(plain, file):
    x = random_images(3)
    # The preprocessing of MobileNetV2 maps pixels in [0, 255] to [-1, 1].
    expected = plain(2 * x - 1).numpy()
    assert expected.std(axis=0).max() > 1e-3
    features = encoder(file)(x)
    assert features.shape == (3, 1280)
    np.testing.assert_allclose(features, expected, rtol=1e-3, atol=1e-5)


def test_preprocessing_with_means_and_reversed_channels():
    x = random_images(2)
    preprocessed = applications.ApplicationInput("ResNet50")(x)
    expected = 255 * x[..., ::-1] - [103.939, 116.779, 123.68]
    np.testing.assert_allclose(preprocessed, expected, atol=1e-3)
    layer = applications.ApplicationInput("ResNet50", name="prepare")
    copy = type(layer).from_config(layer.get_config())
    np.testing.assert_array_equal(copy(x), layer(x))


def test_every_application_has_its_preprocessing():
    names = inspect.getmembers(keras.applications, inspect.isfunction)
    assert len(names) > 30
    for name, _ in names:
        assert callable(applications.module_of(name).preprocess_input)


@pytest.mark.parametrize("trainable", [False, True])
def test_trainable_applies_to_all_layers_but_the_head(trainable):
    network = encoder(outputs=4, trainable=trainable)
    assert network.output_shape == (None, 4)
    head, *rest = network.layers[::-1]
    assert head.name == "head" and head.trainable
    assert {layer.trainable for layer in rest} == {trainable}
    if not trainable:
        assert len(network.trainable_variables) == 2


def test_unavailable_networks_and_weights_are_reported(monkeypatch):
    with pytest.raises(ValueError, match="a network in keras.applications .*'Nope'"):
        km.networks.pretrained("Nope")
    with pytest.raises(ValueError, match="weights"):
        encoder("no such file")

    def offline(*args, **kwargs):
        raise Exception("URL fetch failure on x: None -- no route to host")

    monkeypatch.setattr(file_utils, "get_file", offline)
    with pytest.raises(ValueError) as info:
        km.networks.pretrained("MobileNetV2", 96)
    assert str(info.value) == (
        "expected the imagenet weights of MobileNetV2, which Keras downloads on first "
        "use (URL fetch failure on x: None -- no route to host): connect to the "
        "network once, or put the file into ~/.keras/models (KERAS_HOME/models)."
    )


def test_block_of():
    blocks = {
        "block_3_expand/kernel": "block_3",
        "block_13_depthwise_BN/gamma": "block_13",
        "Conv1/kernel": "Conv1",
        "conv2_block1_1_conv/bias": "conv2_block1",
        "block2a_expand_conv/kernel": "block2a",
        "tiny_stage_1_block_0_layernorm/gamma": "tiny_stage_1_block_0",
        "head/kernel": "head",
        "norm2/gamma": "block2",
        "conv3_1/kernel": "block3",
        "norm4_shortcut/beta": "block4",
    }
    assert {path: km.networks.block_of(path) for path in blocks} == blocks
    network = km.networks.conv4((16, 16, 3), outputs=2, filters=2)
    learner = km.SigmaMAML(network, modules=km.networks.block_of)
    assert learner.modules == ["block1", "block2", "block3", "block4", "head"]
    copy = type(learner).from_config(learner.get_config())
    assert copy.modules == learner.modules


def episode(tasks=1):
    x = random_images(tasks, 4)
    y = np.tile([[0, 0, 1, 1]], [tasks, 1]).astype("int32")
    return {"support_x": x, "support_y": y, "query_x": x[:, :3]}


@pytest.mark.thorough
def test_a_prototypical_network_saves_its_frozen_encoder(file, tmp_path):
    prepare = km.ImagePreprocess(SIZE, SIZE, 3, invert=False)
    learner = km.ProtoNet(encoder(file), preprocess=prepare)
    learner.compile()
    assert learner.trainable_variables == []
    expected = learner(episode())
    assert np.std(expected) > 1e-3
    learner.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(episode()), expected, rtol=1e-4, atol=1e-4)
    assert loaded.trainable_variables == []


@pytest.mark.thorough
def test_anil_adapts_the_head_of_an_encoder(file):
    learner = km.ANIL(encoder(file, outputs=2), inner_rate=0.1)
    state = learner.adapt(episode()["support_x"], episode()["support_y"])
    assert [v.path.split("/")[-2] for v in learner.adapted()] == ["head", "head"]
    assert len(state["weights"]) == 2
    kernel, _ = learner.network.get_layer("head").get_weights()
    assert abs(state["weights"][0][0].numpy() - kernel).max() > 1e-6


@pytest.mark.thorough
def test_a_class_process_with_an_encoder_returns_logits(file):
    decoder = km.networks.mlp((2 * 1280,), 1, (8,))
    learner = km.CNP(
        encoder(file), decoder, "sparse_categorical_crossentropy", outputs=2
    )
    assert learner(episode()).shape == (1, 3, 2)


@pytest.mark.thorough
@pytest.mark.parametrize("name", EXTERNAL)
def test_entries_name_the_file_that_keras_downloads(name, monkeypatch):
    class DownloadError(Exception):
        """Contains the URL and the hash of the file that Keras would download."""

    def get_file(file, origin, file_hash=None, **kwargs):
        raise DownloadError(origin, file_hash)

    monkeypatch.setattr(file_utils, "get_file", get_file)
    with pytest.raises(ValueError) as info:
        zoo.load(name)
    recipe, card = recipes.recipe(name), zoo.card(name)
    assert info.value.__cause__.args == (recipe.external.url, recipe.external.md5)
    fields = dataclasses.asdict(recipe.external)
    assert {key: card.external[key] for key in fields} == fields
    assert card.initial_weights == cards.EXTERNAL and not card.figures
    assert not card.weights.exists() and card.any_units is False
    source = recipe.task.source
    assert (card.source, card.data) == (source.id, source.title)


@pytest.fixture
def random_weights(monkeypatch):
    """Replaces downloaded weights of Keras by random weights."""
    pretrained = applications.pretrained
    monkeypatch.setattr(
        km.networks,
        "pretrained",
        lambda *args: pretrained(*args, weights=None),
    )


def test_an_entry_loads_when_its_weights_are_available(random_weights):
    name = "protonet.imagenet-mobilenet_v2"
    learner, card = zoo.load(name), zoo.card(name)
    assert type(learner).__name__ == card.learner and learner.compiled
    assert card.external["bytes"] == 4 * learner.count_params()
    assert card.network == publishing.network_name(learner)
    assert learner.preprocess.shape == (160, 160, 3) and not learner.preprocess.invert


def test_commands_on_all_entries_report_skipped_entries(capsys, monkeypatch, tmp_path):
    skipped = facts.skipped()
    assert len(skipped) == len(EXTERNAL) == 2
    assert skipped[1].startswith(
        "skipped: protonet.imagenet-mobilenet_v2, whose weights (9.03 MB, external)"
    )
    assert not set(EXTERNAL) & {card.name for card in cards.stored()}
    assert not set(EXTERNAL) & {card.name for card in choice.candidates()}
    monkeypatch.setattr(cards, "stored", lambda: [])
    assert cli.main(["export", "--all", str(tmp_path)]) == 0
    stderr = capsys.readouterr().err
    assert all(f"keras-meta: {message}" in stderr for message in skipped)


def test_commands_on_an_entry_with_external_weights(capsys):
    name = "protonet.imagenet-efficientnet_v2"
    assert cli.main(["info", name]) == 0
    stdout = " ".join(capsys.readouterr().out.split())
    assert "Keras downloads them on first use" in stdout and "Apache-2.0" in stdout
    assert "initial weights Keras' weights" in stdout
    assert cli.main(["train", name]) == 2
    assert "a recipe that trains, got protonet.imagenet-eff" in capsys.readouterr().err
    for option in (
        *("--seed=3", "--steps=5", "--warm-start=x", "--workers=2"),
        *("--every=5", "--validation-tasks=9"),
    ):
        assert cli.main(["train", name, "--publish", option]) == 2
        expected = f"expected no {option.partition('=')[0]} for {name}"
        assert expected in capsys.readouterr().err
    assert cli.main(["list"]) == 0
    assert name in capsys.readouterr().out
