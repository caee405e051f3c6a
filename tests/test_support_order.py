"""Tests of `support_order`, the order in which learners read support examples."""

import functools
import json
import zipfile

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import keras_private, ordered, zoo
from keras_meta.zoo import cli

CLASSES, SHOTS, TASKS, QUERIES = 3, 4, 2, 2
SUPPORT = CLASSES * SHOTS
# Values of `ordered.permutation`. Each inserts examples into the order before it. Saved
# learners keep their predictions only with these orders.
PERMUTATIONS = {1: [0], 5: [1, 3, 0, 4, 2], 10: [7, 1, 3, 6, 0, 8, 4, 2, 9, 5]}
SMALL = {"units": 6, "rows": 5, "width": 3, "heads": 1}


def network(outputs=CLASSES):
    return km.networks.mlp((6,), outputs, (8,), activation="tanh")


def mini_batched(kind, **options):
    """Returns a function that builds a gradient learner with mini-batches."""
    # Without vectorization tracing is faster; all learners map tasks in the same way.
    defaults = {"inner_rate": 0.1, "inner_steps": 2, "vectorize": False}
    return lambda: kind(network(), inner_batch=5, **{**defaults, **options})


LEARNERS = {
    "LSTM": lambda: km.LSTMLearner(example_shape=[6], outputs=CLASSES, units=7),
    "LSTM, regression": lambda: km.LSTMLearner(
        example_shape=[6], outputs=2, loss="mse", units=7
    ),
    "MANN": lambda: km.MANN(network(4), outputs=CLASSES, **SMALL),
    "MANN, strings": lambda: km.MANN(
        example_shape=[6], outputs=5, labels="strings", **SMALL
    ),
    "MAML": mini_batched(km.MAML),
    "MAML, vectorized": mini_batched(km.MAML, vectorize=True),
    "FOMAML": mini_batched(km.FOMAML),
    "ANIL": mini_batched(km.ANIL),
    "MetaSGD": mini_batched(km.MetaSGD),
    "IMAML": mini_batched(km.IMAML),
    "Reptile": mini_batched(km.Reptile, evaluation_steps=3),
    "Reptile, Adam": mini_batched(km.Reptile, inner_optimizer="adam", inner_rate=0.02),
    "SigmaMAML": mini_batched(km.SigmaMAML),
    "SigmaIMAML": mini_batched(km.SigmaIMAML),
    "SigmaReptile": mini_batched(km.SigmaReptile),
}
learners = pytest.mark.parametrize("name", LEARNERS)


def build(name):
    keras.utils.set_random_seed(1)
    return LEARNERS[name]()


def episode(learner):
    """Returns a batch of episodes with support sets sorted by class."""
    random = np.random.RandomState(0)
    x, query_x = (
        random.normal(size=[TASKS, count, 6]).astype("float32")
        for count in (SUPPORT, QUERIES)
    )
    y = np.repeat(np.arange(CLASSES, dtype="int32"), SHOTS)
    y = np.tile(y, [TASKS, 1])
    if learner.label_shape:
        y = random.randint(0, 5, [TASKS, SUPPORT, 5]).astype("int32")
    if not learner.classification:
        y = random.normal(size=[TASKS, SUPPORT, 2]).astype("float32")
    return {"support_x": x, "support_y": y, "query_x": query_x}


def reordered(episode):
    """Returns the episodes with support sets in the order that "shuffled" reads."""
    order = ordered.permutation(episode["support_y"].shape[1]).numpy()
    parts = {key: episode[key][:, order] for key in ("support_x", "support_y")}
    return {**episode, **parts}


def predict(learner, episode, **options):
    state = learner.adapt(episode["support_x"], episode["support_y"], **options)
    return np.asarray(learner.infer(state, episode["query_x"]))


# The tolerances allow float32 sums of a batch in another order.
assert_close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)


def test_the_permutation_depends_only_on_the_number_of_examples():
    graph = tf.function(
        ordered.permutation, input_signature=[tf.TensorSpec([], tf.int32)]
    )
    for examples, expected in PERMUTATIONS.items():
        order = ordered.permutation(examples)
        assert order.dtype == tf.int32
        np.testing.assert_array_equal(order, expected)
        np.testing.assert_array_equal(graph(examples), expected)
    for examples in (2, 75, 1000):
        tf.random.set_seed(examples)
        order = ordered.permutation(examples).numpy()
        assert sorted(order) == list(range(examples))
        np.testing.assert_array_equal(graph(examples), order)
    # By chance, one pair of neighbours in a thousand stays together.
    assert np.mean(np.abs(np.diff(order)) == 1) < 0.01


@pytest.mark.thorough
@learners
def test_shuffled_equals_given_in_the_documented_order(name):
    learner = build(name)
    data = episode(learner)
    assert learner.support_order == "shuffled"  # the default
    shuffled = predict(learner, data)
    trained = predict(learner, data, training=True)
    learner.support_order = "given"  # takes effect after a call too
    assert_close(shuffled, predict(learner, reordered(data)))
    given = predict(learner, data)
    assert np.abs(given - shuffled).max() > 1e-4
    # Meta-training reads the examples in the order of the episodes.
    assert_close(trained, predict(learner, data, training=True))
    learner.support_order = "shuffled"
    np.testing.assert_array_equal(predict(learner, data), shuffled)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["MANN", "MAML, vectorized", "Reptile"])
def test_methods_of_keras_read_in_the_order_of_adapt(name):
    learner = build(name)
    learner.compile()
    data = episode(learner)
    query_y = np.array([[0, 1], [2, 1]])
    losses = []
    for order in ordered.ORDERS:
        learner.support_order = order
        expected = predict(learner, data)
        assert_close(learner.predict(data, verbose=0), expected)
        loss = learner.evaluate(data, query_y, verbose=0, return_dict=True)["loss"]
        cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        assert loss == pytest.approx(float(cross_entropy(query_y, expected)), rel=1e-5)
        losses.append(loss)
    assert losses[0] != losses[1]


@pytest.mark.thorough
def test_a_traced_time_axis_keeps_its_length():
    learner = km.LSTMLearner(example_shape=[6], outputs=CLASSES, units=7, unroll=True)
    data = {key: tf.constant(value) for key, value in episode(learner).items()}
    rolled = km.LSTMLearner(example_shape=[6], outputs=CLASSES, units=7)
    rolled.set_weights(learner.get_weights())
    specs = {  # any number of tasks
        key: tf.TensorSpec([None, *value.shape[1:]], value.dtype)
        for key, value in data.items()
    }
    assert_close(tf.function(learner, input_signature=[specs])(data), rolled(data))


@pytest.mark.thorough
def test_a_full_batch_reads_all_examples_in_any_order():
    learner = km.MAML(network(), inner_steps=2)
    data = episode(learner)
    shuffled = predict(learner, data)
    learner.support_order = "given"
    np.testing.assert_array_equal(predict(learner, data), shuffled)
    assert_close(predict(learner, reordered(data)), shuffled, atol=1e-4)


@pytest.mark.parametrize("name", ["LSTM", "MANN", "MANN, strings"])
def test_a_sequence_is_read_in_the_given_order(name):
    learner = build(name)
    data = episode(learner)
    outputs = learner.sequence(data["support_x"], data["support_y"])
    learner.support_order = "given"
    given_outputs = learner.sequence(data["support_x"], data["support_y"])
    np.testing.assert_array_equal(outputs, given_outputs)
    # The output of the first example does not depend on later examples.
    first = learner.sequence(data["support_x"][:, :1], data["support_y"][:, :1])
    assert_close(outputs[:, :1], first)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["MANN", "MAML", "SigmaReptile"])
def test_an_export_reads_in_the_order_of_the_learner(name, tmp_path):
    learner = build(name)
    data = {key: tf.constant(value) for key, value in episode(learner).items()}
    served = {}
    for order in ordered.ORDERS:
        learner.support_order = order
        path = km.export(learner, tmp_path / order)
        signatures = tf.saved_model.load(str(path)).signatures
        expected = tf.nn.softmax(predict(learner, data)).numpy()
        served[order] = signatures["serving_default"](**data)["probabilities"].numpy()
        assert_close(served[order], expected)
        # S differs from the S at export.
        part = {key: value[:, :7] for key, value in data.items()}
        part["support_y"] = tf.constant([[0, 0, 0, 1, 1, 2, 2]] * TASKS)
        expected = tf.nn.softmax(predict(learner, part)).numpy()
        assert_close(signatures["serving_default"](**part)["probabilities"], expected)
        support = {key: part[key] for key in ("support_x", "support_y")}
        state = signatures["adapt"](**support)
        outputs = signatures["infer"](query_x=part["query_x"], **state)
        assert_close(outputs["probabilities"], expected)
        loaded = keras.models.load_model(tmp_path / order / "model.keras")
        assert loaded.support_order == order
    assert np.abs(served["given"] - served["shuffled"]).max() > 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["LSTM", "Reptile, Adam", "SigmaReptile"])
def test_a_fine_tuned_model_starts_from_the_adapted_state(name):
    learner = build(name)
    data = episode(learner)
    model = km.finetune(learner, data["support_x"][0], data["support_y"][0])
    assert_close(
        model.predict(data["query_x"][0], verbose=0), predict(learner, data)[0]
    )
    if name != "Reptile, Adam":
        return
    # The optimizer continues from the same inner steps.
    learner.support_order = "given"
    data = reordered(data)
    given = km.finetune(learner, data["support_x"][0], data["support_y"][0])
    for velocity, expected in zip(
        keras_private.adam_velocities(model.optimizer),
        keras_private.adam_velocities(given.optimizer),
        strict=True,
    ):
        assert np.abs(expected).max() > 0
        assert_close(velocity, expected)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["MANN", "MAML", "Reptile"])
def test_support_order_is_saved(name, tmp_path):
    learner = build(name)
    data = episode(learner)
    for order in ordered.ORDERS:
        learner.support_order = order
        config = learner.get_config()
        assert config["support_order"] == order
        assert type(learner).from_config(config).support_order == order
        if name != "MANN":
            assert learner.with_classes(5).support_order == order
    learner.support_order = "shuffled"
    learner.save(tmp_path / "new.keras")
    loaded = keras.models.load_model(tmp_path / "new.keras")
    assert loaded.support_order == "shuffled"
    np.testing.assert_array_equal(predict(loaded, data), predict(learner, data))

    # A file older than the setting keeps its predictions.
    with (
        zipfile.ZipFile(tmp_path / "new.keras") as new,
        zipfile.ZipFile(tmp_path / "old.keras", "w") as old,
    ):
        for item in new.namelist():
            content = new.read(item)
            if item == "config.json":
                config = json.loads(content)
                del config["config"]["support_order"]
                content = json.dumps(config)
            old.writestr(item, content)
    loaded = keras.models.load_model(tmp_path / "old.keras")
    assert loaded.support_order == "given"
    learner.support_order = "given"
    np.testing.assert_array_equal(predict(loaded, data), predict(learner, data))


def test_other_orders_are_rejected():
    message = "expected support_order to be one of shuffled, given, got 'random'."
    with pytest.raises(ValueError, match=f"^{message}$"):
        km.LSTMLearner(example_shape=[6], support_order="random")
    learner = build("MAML")
    with pytest.raises(ValueError, match=f"^{message}$"):
        learner.support_order = "random"
    assert learner.support_order == "shuffled"
    # Learners without this setting reject it.
    with pytest.raises((TypeError, ValueError), match="support_order"):
        km.ProtoNet(network(), CLASSES, support_order="given")
    with pytest.raises((TypeError, ValueError), match="support_order"):
        encoder, decoder = km.networks.mlp((6,), 4), km.networks.mlp((8,), 1)
        loss = "sparse_categorical_crossentropy"
        km.CNP(encoder, decoder, loss, CLASSES, support_order="given")


# The zoo.


def glyph_episodes(learner, shots):
    """Returns episodes of glyphs with sorted support sets, and with shuffled ones."""
    pool = km.tasks.glyphs(range(20), prepare=learner.preprocess)
    episodes = pool.episodes(ways=5, shots=shots, queries=5, seed=0).batch(2)
    shuffled, query_y = next(episodes.as_numpy_iterator())
    orders = np.argsort(shuffled["support_y"], axis=1, kind="stable")
    by_class = dict(shuffled)
    for key in ("support_x", "support_y"):
        sets = zip(shuffled[key], orders, strict=True)
        by_class[key] = np.stack([examples[order] for examples, order in sets])
    assert (np.diff(by_class["support_y"]) >= 0).all()
    return by_class, shuffled, query_y


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name, shots, ceiling, stored",
    [
        # Chance is 0.2. The file is older than the setting.
        ("mann.omniglot_5w-on_protonet", 15, 0.6, "given"),
        # 40,000 meta-steps leave Reptile less sensitive: 0.86, shuffled 0.98.
        ("reptile.omniglot_5w1s", 10, 0.9, "shuffled"),
    ],
)
def test_entries_adapt_to_support_sets_sorted_by_class(name, shots, ceiling, stored):
    learner = zoo.load(name)
    assert learner.support_order == "shuffled"
    by_class, shuffled, query_y = glyph_episodes(learner, shots)

    def accuracy(data):
        return np.mean(predict(learner, data).argmax(-1) == query_y)

    assert accuracy(by_class) > 0.9
    learner.support_order = "given"
    assert accuracy(shuffled) > 0.9
    assert accuracy(by_class) < ceiling
    loaded = keras.models.load_model(zoo.card(name).weights, compile=False)
    assert loaded.support_order == stored  # the order of the golden logits


@pytest.mark.thorough
def test_learn_reads_folders_class_by_class(tmp_path, monkeypatch, capsys):
    pool = km.tasks.glyphs(range(5), prepare=km.ImagePreprocess(28, 28, 1))
    for label in range(5):
        for index, image in enumerate(pool.images_of(label).numpy()[:14, ..., 0]):
            part = f"support/{label}" if index < 10 else "query"
            (tmp_path / part).mkdir(parents=True, exist_ok=True)
            image = PIL.Image.fromarray(np.rint(255 * image).astype("uint8"))
            image.save(tmp_path / part / f"{label}-{index}.png")
    monkeypatch.chdir(tmp_path)
    model = ["--model", "sigma_reptile.omniglot_5w1s"]
    assert cli.main(["learn", str(tmp_path), *model]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    predictions = {row[0]: row[1] for row in rows if row and row[0].endswith(".png")}
    assert len(predictions) == 20
    assert sum(file[0] == label for file, label in predictions.items()) >= 18
