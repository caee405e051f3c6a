"""Problems of the comparisons: a learner, its data, and the settings of the peers."""

import dataclasses

import numpy as np

WAYS, QUERIES, TASKS = 5, 15, 16
INNER_RATE = 0.1
# iMAML's lambda: plain conjugate gradient then converges, without the safeguards that
# `solvers.conjugate_gradient` has against negative curvature.
REGULARIZATION = 10.0
FEATURES, UNITS, LENGTH = 64, 200, 50  # for sequences
RESNET12 = (64, 96, 160, 256)
CLASSES, BATCH, SMOOTHING = 64, 128, 0.1  # for supervised pretraining


@dataclasses.dataclass(frozen=True)
class Problem:
    """A meta-training step, the same for every library.

    Attributes:
        learner: an uncompiled learner.
        episode: a batch of tasks, the input of `Learner`.
        query_y: query labels or targets of the tasks.
        settings: other arguments of a peer; JSON-serializable.
    """

    learner: object
    episode: dict
    query_y: np.ndarray
    settings: dict


def characters():
    """Returns random uint8 images `[n, 28, 28, 1]`, 20 of 1100 classes, and labels."""
    random = np.random.RandomState(0)
    images = random.randint(0, 256, [1100 * 20, 28, 28, 1], "uint8")
    return images, np.repeat(np.arange(1100), 20)


def images(tasks, shots=1, shape=(28, 28, 1), queries=QUERIES):
    """Returns a batch of random 5-way tasks: the episode and its query labels."""
    random = np.random.RandomState(0)

    def pixels(count):
        return random.rand(tasks, count, *shape).astype("float32")

    def labels(count):
        return np.tile(np.arange(count) % WAYS, [tasks, 1]).astype("int32")

    return {
        "support_x": pixels(WAYS * shots),
        "support_y": labels(WAYS * shots),
        "query_x": pixels(WAYS * queries),
    }, labels(WAYS * queries)


def _conv4(shape=(28, 28, 1), outputs=WAYS, filters=64):
    import keras_meta as km

    return km.networks.conv4(shape, outputs, filters)


def maml(inner_steps=1, tasks=TASKS):
    """Second-order MAML, Conv-4, 5 ways, 1 shot, 28x28."""
    import keras_meta as km

    settings = {"inner_steps": inner_steps, "inner_rate": INNER_RATE}
    learner = km.MAML(_conv4(), normalization="transductive", **settings)
    return Problem(learner, *images(tasks), settings)


def imaml(
    inner_steps=16,
    conjugate_steps=5,
    filters=64,
    tasks=TASKS,
    queries=QUERIES,
):
    """iMAML, Conv-4, 5 ways, 1 shot, 28x28."""
    import keras_meta as km

    settings = {
        "inner_steps": inner_steps,
        "inner_rate": INNER_RATE,
        "regularization": REGULARIZATION,
        "conjugate_steps": conjugate_steps,
    }
    learner = km.IMAML(
        _conv4(filters=filters), normalization="transductive", **settings
    )
    return Problem(learner, *images(tasks, queries=queries), settings)


def _encoder(name, size, filters, half=False):
    """An encoder of colour images, and the arguments of the peer's encoder.

    Args:
        name: "conv4" or "resnet12".
        size: height and width of the images in pixels.
        filters: filters of the layers.
        half: if True, the layers compute in bfloat16.
    """
    import keras_meta as km
    from keras_meta.zoo import precision

    with precision.policy("mixed_bfloat16" if half else "float32"):
        if name == "conv4":
            network = _conv4((size, size, 3), None, filters)
        else:
            network = km.networks.resnet12((size, size, 3), None, filters)
    return network, {"encoder": name, "filters": filters, "half": half}


def protonet(
    encoder="conv4",
    filters=64,
    size=32,
    tasks=4,
    shots=5,
    queries=QUERIES,
    half=False,
):
    """ProtoNet, 5 ways, 5 shots, 32x32x3."""
    import keras_meta as km

    network, settings = _encoder(encoder, size, filters, half)
    learner = km.ProtoNet(network)
    data = images(tasks, shots, (size, size, 3), queries)
    return Problem(learner, *data, _with_paths(learner, settings))


def cnp_classes(
    encoder="conv4", filters=64, size=32, tasks=4, shots=5, queries=QUERIES
):
    """A conditional neural process for classification, 5 ways, 5 shots, 32x32x3."""
    import keras_meta as km

    network, settings = _encoder(encoder, size, filters)
    width = network.output_shape[-1]
    decoder = km.networks.mlp((2 * width,), 1, (128, 128))
    learner = km.CNP(network, decoder, "sparse_categorical_crossentropy")
    data = images(tasks, shots, (size, size, 3), queries)
    return Problem(learner, *data, _with_paths(learner, settings))


def supervised(filters=RESNET12, size=32, batch=BATCH):
    """Supervised pretraining of an encoder on all training classes, 32x32x3."""
    from keras_meta.zoo import supervised as stage

    network, settings = _encoder("resnet12", size, filters)
    learner = stage.Supervised(network, CLASSES, SMOOTHING)
    random = np.random.RandomState(0)
    x = random.rand(1, batch, size, size, 3).astype("float32")
    y = random.randint(CLASSES, size=[1, batch]).astype("int32")
    settings |= {"classes": CLASSES, "smoothing": SMOOTHING}
    episode = {"support_x": x, "support_y": y, "query_x": x}
    return Problem(learner, episode, y, _with_paths(learner, settings))


def _with_paths(learner, settings):
    """Adds the paths of the weights, by which a peer loads its layers."""
    paths = [variable.path for variable in learner.trainable_variables]
    return {**settings, "paths": paths}


def lstm(unroll=False):
    """An LSTM learner on sequences; keras-meta computes it with `lstm_scan`."""
    import keras_meta as km

    return _sequences(km.LSTMLearner, unroll)


def mann():
    """A memory-augmented network on sequences."""
    import keras_meta as km

    return _sequences(km.MANN)


def _sequences(build, unroll=False):
    random = np.random.RandomState(0)
    x = random.normal(size=[TASKS, LENGTH, FEATURES]).astype("float32")
    y = random.randint(WAYS, size=x.shape[:2]).astype("int32")
    learner = build(example_shape=[FEATURES], outputs=WAYS, units=UNITS, unroll=unroll)
    return Problem(learner, *_split(x, y, LENGTH - 1), {"classes": WAYS})


def cnp():
    """A conditional neural process for regression of 128 units, 64 tasks."""
    import keras_meta as km

    x = np.random.RandomState(0).normal(size=[64, 18, 1]).astype("float32")
    encoder = km.networks.mlp((2,), 128, (128, 128, 128))
    learner = km.CNP(encoder, km.networks.mlp((129,), 2, (128, 128)))
    return Problem(learner, *_split(x, np.sin(x), 9), {})


def _split(x, y, examples):
    """Splits sequences: the first examples are the support set, the others queries."""
    support = {"support_x": x[:, :examples], "support_y": y[:, :examples]}
    return {**support, "query_x": x[:, examples:]}, y[:, examples:]


PROBLEMS = {
    function.__name__: function
    for function in (maml, imaml, protonet, cnp_classes, supervised, lstm, mann, cnp)
}


def build(name, **settings):
    """Builds a problem by name, with equal random weights in every process."""
    import keras

    keras.utils.set_random_seed(0)
    return PROBLEMS[name](**settings)
