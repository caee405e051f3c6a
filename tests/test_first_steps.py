"""Tests of a newcomer's first steps: reproducible outputs, errors of one sentence."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km


def task(tasks=2, queries=6):
    random = np.random.RandomState(0)
    labels = np.tile(np.arange(3), [tasks, 2]).astype("int32")
    x = random.normal(size=[tasks, 6, 4]).astype("float32")
    query_x = random.normal(size=[tasks, queries, 4]).astype("float32")
    query_y = np.tile(np.arange(3), [tasks, queries // 3]).astype("int32")
    return {"support_x": x, "support_y": labels, "query_x": query_x}, query_y


def chain(*layers):
    return keras.Sequential([keras.Input([4]), *layers])


def test_dropout_is_reproducible_after_loading(tmp_path):
    layers = keras.layers
    network = chain(layers.Dense(16), layers.Dropout(0.3), layers.Dense(3))
    learner = km.MAML(network, inner_rate=0.5)
    learner.compile("sgd")
    episode, query_y = task()
    learner.save(tmp_path / "learner.keras")
    loaded = keras.models.load_model(tmp_path / "learner.keras")
    expected, outputs = (
        model.infer(
            model.adapt(episode["support_x"], episode["support_y"]), episode["query_x"]
        ).numpy()
        for model in (learner, loaded)
    )
    np.testing.assert_array_equal(outputs, expected)
    # Dropout is active; in meta-training it differs by task.
    undropped = km.MAML(chain(*network.layers[::2]), inner_rate=0.5)
    state = undropped.adapt(episode["support_x"], episode["support_y"])
    assert np.abs(undropped.infer(state, episode["query_x"]) - expected).max() > 1e-3
    repeated = {key: np.repeat(value[:1], 2, axis=0) for key, value in episode.items()}
    *_, task_outputs = learner.meta_gradient(repeated, query_y)
    assert np.abs(task_outputs[0] - task_outputs[1]).max() > 1e-3


def softmax_by_ops():
    x = keras.Input([4])
    return keras.Model(x, keras.ops.softmax(keras.layers.Dense(3)(x)))


@pytest.mark.parametrize(
    "create",
    [
        softmax_by_ops,
        lambda: chain(keras.layers.Dense(3, activation=tf.nn.softmax)),
        lambda: chain(
            keras.layers.Dense(3, activation="softmax"), keras.layers.Reshape([3])
        ),
    ],
)
def test_a_network_that_ends_in_a_softmax_raises(create):
    with pytest.raises(ValueError, match="expected a network that gives logits"):
        km.MAML(create())
    km.MAML(create(), "mse")  # mse accepts any outputs


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.parametrize("kind", [km.MAML, km.ProtoNet])
def test_the_error_of_a_subclassed_model_states_a_remedy(kind):
    network = Subclassed()
    network(np.zeros([1, 4], "float32"))
    with pytest.raises(ValueError, match=r"makes one of it with x = keras\.Input"):
        kind(network)
    x = keras.Input([4])
    learner = kind(keras.Model(x, network(x)))
    episode, _ = task()
    learner.adapt(episode["support_x"], episode["support_y"])


@pytest.mark.thorough
def test_sample_weights_of_alternating_ranks():
    learner = km.MAML(chain(keras.layers.Dense(3)))
    learner.compile(keras.optimizers.SGD(0.0))
    episode, query_y = task()
    for _ in range(2):
        for shape in ([2], [2, 6]):
            weights = np.full(shape, 2.0, "float32")
            data = tf.data.Dataset.from_tensors((episode, query_y, weights))
            unweighted = learner.evaluate(episode, query_y, verbose=0, return_dict=True)
            weighted = learner.evaluate(data, verbose=0, return_dict=True)
            assert weighted["loss"] == pytest.approx(2 * unweighted["loss"], rel=1e-5)
            learner.fit(data, verbose=0)
    wrong = tf.data.Dataset.from_tensors((episode, query_y, np.ones([2, 5], "float32")))
    for method in (learner.fit, learner.evaluate):
        with pytest.raises(
            ValueError, match=r"sample_weight of shape \[T\] or \[T, Q\]"
        ):
            method(wrong, verbose=0)


def test_errors_state_the_unequal_numbers():
    learner = km.ProtoNet(chain(keras.layers.Dense(3)), 3)
    learner.compile()
    episode, query_y = task()
    support_x, support_y = episode["support_x"], episode["support_y"]
    with pytest.raises(ValueError, match=r"T and S, got \[2, 6\] and \[2, 5\]\.$"):
        learner.adapt(support_x, support_y[:, :5])
    with pytest.raises(
        ValueError, match=r"T and Q, got \[None, 6\] and \[None, 3\]\.$"
    ):
        learner.evaluate(episode, query_y[:, :3], verbose=0)
    weights = np.ones([2, 5], "float32")
    data = tf.data.Dataset.from_tensors((episode, query_y, weights))
    with pytest.raises(ValueError, match=r"Q\], here \[2, 6\], got \[2, 5\]\.$"):
        learner.evaluate(data, verbose=0)
    spec = tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None], tf.int32)
    graph = tf.function(learner.adapt).get_concrete_function(*spec)
    with pytest.raises(tf.errors.InvalidArgumentError, match="T and S, they differ"):
        graph(tf.constant(support_x), tf.constant(support_y[:, :5]))


def test_a_fine_tuned_model_accepts_integers():
    learner = km.LSTMLearner(example_shape=[4], outputs=5, units=8)
    x = np.arange(20).reshape(5, 4).astype("int32")
    model = km.finetune(learner, x, np.arange(5))
    np.testing.assert_allclose(
        model.predict(x, verbose=0), model.predict(x.astype("float32"), verbose=0)
    )
