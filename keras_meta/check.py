"""Checks whether a network and a learner can be meta-trained: derivatives, cost."""

import dataclasses
import inspect
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf

from keras_meta import batch_norm, keras_private, runtime, steps
from keras_meta import learner as learner_module
from keras_meta import network as network_module
from keras_meta.learners import gradient, imaml

# Central differences of gradients in float64, of width 1e-6, are right to about 1e-8.
WIDTH = 1e-6
TOLERANCE = 1e-4
# Float32, compiled or not, loses about five digits of seven in second derivatives.
SINGLE_TOLERANCE = 5e-3
# A direction may cross a kink of a ReLU or a maximum; the best of several does not.
DIRECTIONS = 3
INNER_STEPS = (1, 5)
ORDERS = {1: "first", 2: "second"}


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check.

    Args:
        what: a layer's name, or a part of the learner.
        state: "right", "wrong" or "note".
        sentence: the result in words.
    """

    what: str
    state: str
    sentence: str


def check(learner, jit=None, cost=True):
    """Compares a learner's derivatives with finite differences, layer by layer.

    Each layer runs on its own input in float64. Its derivative along a direction is
    compared with a finite difference: the first derivative, or the second for a learner
    that differentiates an inner loop. With `jit`, the layer compiled by XLA is compared
    with the layer that is not. Then the learner's meta-gradient is compared: eager, in
    a graph, in float32, and with finite differences of its loss where it is the
    gradient of that loss (first-order, implicit and Reptile's are not).

    Args:
        learner: a `Learner`; the check generates a task of random numbers for it.
        jit: whether to compare with XLA; by default if the learner is compiled with
            `jit_compile=True`.
        cost: whether to measure time and memory of a meta-step by number of inner
            steps, each in its own process; for learners with inner steps.

    Returns:
        A list of `Finding`, in the order of the layers.

    Raises:
        ValueError: not a learner.
    """
    if not isinstance(learner, learner_module.Learner):
        raise ValueError(f"expected a Learner, got {type(learner).__name__}.")
    jit = bool(getattr(learner, "jit_compile", False)) if jit is None else jit
    precise = in_dtype(learner, "float64")
    episode, query_y = random_episode(precise)
    found = []
    for network, single in zip(_networks(precise), _networks(learner), strict=True):
        found += _layers(network, single if jit else None, _order(learner))
    try:
        found += _whole(learner, precise, episode, query_y)
    except LookupError as error:  # no gradient is registered for an operation
        reason = str(error).strip().split("\n")[0]
        return [*found, Finding("meta-gradient", "wrong", reason)]
    if cost and isinstance(learner, gradient.GradientLearner):
        found.append(_cost(learner))
    return found


def in_dtype(learner, dtype):
    """Returns a copy of a learner that computes in another precision."""
    policy = {
        "module": "keras",
        "class_name": "DTypePolicy",
        "config": {"name": dtype},
        "registered_name": None,
    }

    def convert(config):
        if isinstance(config, dict):
            return {
                key: (policy if isinstance(value, dict) else dtype)
                if key == "dtype" and value is not None
                else convert(value)
                for key, value in config.items()
            }
        if isinstance(config, list | tuple):
            return type(config)(map(convert, config))
        return config

    # Layers of the user's own, registered with Keras or not.
    kinds = {
        type(each).__name__: type(each) for each in keras_private.layers_of(learner)
    }
    with keras.saving.custom_object_scope(kinds):
        copy = type(learner).from_config(convert(learner.get_config()))
    copy(copy.example())
    for new, old in zip(copy.weights, learner.weights, strict=True):
        new.assign(tf.cast(old.value, new.dtype))
    copy.compile(keras.optimizers.SGD(), loss=None)
    return copy


def random_episode(learner, tasks=2, shots=2):
    """Returns `(episode, query_y)` of normal random numbers in the learner's shapes.

    Args:
        learner: a `Learner`.
        tasks: number of tasks T.
        shots: support and query examples per class; for regression a fifth of S and of
            Q.
    """
    random = np.random.RandomState(0)
    if learner.classification:
        classes = min(learner.output_size or 5, 5)
        labels = np.tile(np.arange(classes), [tasks, shots])
        if learner.label_shape:
            labels = random.randint(0, classes, [*labels.shape, *learner.label_shape])
        y = query_y = labels.astype("int32")
    else:
        shape = [tasks, 5 * shots, learner.output_size]
        y, query_y = (random.normal(size=shape) for _ in range(2))
    x, query_x = (
        random.normal(size=[*y.shape[:2], *learner.example_shape]) for _ in range(2)
    )
    cast = learner.compute_dtype
    episode = {"support_x": x.astype(cast), "support_y": y, "query_x": query_x}
    if not learner.classification:
        episode["support_y"], query_y = y.astype(cast), query_y.astype(cast)
    episode["query_x"] = query_x.astype(cast)
    return tf.nest.map_structure(tf.constant, (episode, query_y))


def _networks(learner):
    """The Keras models that a learner is made of."""
    return [
        layer
        for layer in keras_private.layers_of(learner, recursive=False)
        if isinstance(layer, keras.Model) and layer.layers
    ]


# Layers.


def _order(learner):
    """Returns the order of the derivatives of the network that a learner uses."""
    bends = isinstance(learner, imaml.Implicit) or getattr(learner, "unrolled", False)
    return 2 if bends else 1


def _layers(network, single, order):
    """Findings on each layer; `single` is the network to compile, or None."""
    found = []
    for position, layer in enumerate(network.layers):
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if isinstance(layer, keras.Model):
            found += _layers(layer, single and single.layers[position], order)
            continue
        if isinstance(network, keras.Sequential):  # calls its layers by two ways
            # One by one: a Sequential has its own precision, whatever theirs.
            x = tf.cast(_input(network), layer.compute_dtype)
            for earlier in network.layers[:position]:
                x = earlier(x, **_training(earlier))
        else:
            try:
                ahead = keras.Model(network.input, layer.input)
            except (AttributeError, ValueError):
                sentence = "is called more than once or not at all: not looked at alone"
                found.append(Finding(layer.name, "note", sentence))
                continue
            if not isinstance(layer.input, keras.KerasTensor):
                continue  # joins tensors, with nothing of its own
            x = ahead(_input(network), training=True)
        if getattr(layer, "seed_generator", None) is not None:
            sentence = "draws at random while training: not looked at alone"
            found.append(Finding(layer.name, "note", sentence))
            continue
        found.append(_layer(batch_norm.exact_form(layer), x, order))
        if single is not None:
            compiled = batch_norm.exact_form(single.layers[position])
            found += _compiled(compiled, tf.cast(x, compiled.compute_dtype), order)
    return found


def _training(layer):
    """The argument that runs a layer in training mode, if it has one."""
    takes = "training" in inspect.signature(layer.call).parameters
    return {"training": True} if takes else {}


def _input(network):
    shape = [6, *(size or 8 for size in network.input_shape[1:])]
    values = np.random.RandomState(1).normal(size=shape)
    return tf.constant(values, network.compute_dtype)


def _slopes(layer, x, weights, direction, order):
    """A weighted sum of a layer's squared outputs, and its change along a direction.

    Returns:
        `(base, along)`, lists of tensors: the sum and its derivative along the
        direction, or its gradient and the derivative of that.
    """
    statistics = network_module.values(layer.non_trainable_variables)
    point = [x, *weights]
    zero = {"unconnected_gradients": tf.UnconnectedGradients.ZERO}
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        outer.watch(point)
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(point)
            outputs, _ = layer.stateless_call(
                weights, statistics, x, **_training(layer)
            )
            marks = np.random.RandomState(4).normal(size=outputs.shape)
            # Squared, so that the way back depends on what came in.
            value = tf.reduce_sum(tf.cast(marks, outputs.dtype) * outputs**2)
        slope = inner.gradient(value, point, **zero)
    if order == 1:
        return [value], [steps.inner_product(slope, direction)]
    # A second derivative is symmetric, so this is its product with the direction.
    return slope, outer.gradient(slope, point, output_gradients=direction, **zero)


def _directions(x, weights):
    random = np.random.RandomState(2)
    for _ in range(DIRECTIONS):
        yield [tf.constant(random.normal(size=v.shape), v.dtype) for v in [x, *weights]]


def _error(found, expected):
    """Largest difference, over the largest value."""
    found, expected = (
        np.concatenate([np.ravel(each) for each in side]) for side in (found, expected)
    )
    largest = max(np.abs(expected).max(), np.abs(found).max())
    return float(np.abs(found - expected).max() / largest) if largest > 1e-8 else 0.0


def _layer(layer, x, order):
    """Finding on a layer in float64."""
    weights = network_module.values(layer.trainable_variables)
    source = getattr(layer, "source", layer)
    kind = f"{type(source).__name__}: its {ORDERS[order]} derivative"
    errors = []
    for direction in _directions(x, weights):
        try:
            _, along = _slopes(layer, x, weights, direction, order)
        except (LookupError, NotImplementedError, tf.errors.OpError) as error:
            reason = str(error).strip().split("\n")[0]
            return Finding(layer.name, "wrong", f"{kind} is not there: {reason}")
        sides = []
        for sign in (1, -1):
            moved = [
                v + sign * WIDTH * d
                for v, d in zip([x, *weights], direction, strict=True)
            ]
            base, _ = _slopes(layer, moved[0], moved[1:], direction, order)
            sides.append(base)
        expected = [(a - b) / (2 * WIDTH) for a, b in zip(*sides, strict=True)]
        errors.append(_error(along, expected))
    error = min(errors)
    if error > TOLERANCE:
        sentence = f"{kind} is off by {error:.0e} of what differences say"
        return Finding(layer.name, "wrong", sentence)
    return Finding(layer.name, "right", f"{kind} is right to {error:.0e}")


def _compiled(layer, x, order):
    """Returns findings on errors of a layer compiled by XLA, in its own precision."""
    weights = network_module.values(layer.trainable_variables)
    direction = next(_directions(x, weights))
    _, expected = _slopes(layer, x, weights, direction, order)
    run = tf.function(
        lambda: _slopes(layer, x, weights, direction, order)[1],
        jit_compile=True,
        autograph=False,
    )
    kind = type(layer).__name__
    try:
        error = _error(run(), expected)
    except tf.errors.OpError as failure:
        reason = str(failure).strip().split("\n")[0]
        sentence = f"{kind}: XLA cannot compile it: {reason}"
        return [Finding(layer.name, "wrong", sentence)]
    if error <= SINGLE_TOLERANCE:
        return []
    sentence = (
        f"{kind}: compiled by XLA, its {ORDERS[order]} derivative is off by {error:.0e}"
    )
    return [Finding(layer.name, "wrong", sentence)]


# The whole.


def _whole(learner, precise, episode, query_y):
    """Findings on the meta-gradient."""
    if precise.normalization == "transductive":
        sentence = "transductive: an answer depends on the other queries of its task"
        found = [Finding("normalization", "note", sentence)]
    else:
        found = []

    def meta_gradient(of, *data):
        loss, slopes, variables, _ = of.meta_gradient(*data)
        slopes = [
            tf.zeros_like(v.value) if s is None else s
            for s, v in zip(slopes, variables, strict=True)
        ]
        return loss, slopes

    in_graph = tf.function(
        lambda: meta_gradient(precise, episode, query_y), autograph=False
    )
    _, expected = in_graph()
    variables = precise.meta_gradient(episode, query_y)[2]
    _, eager = meta_gradient(precise, episode, query_y)
    error = _error(eager, expected)
    state = "right" if error < TOLERANCE else "wrong"
    sentence = f"eager and in a graph the same to {error:.0e}"
    found.append(Finding("meta-gradient", state, sentence))

    bound = getattr(precise, "bound", None)
    if bound is not None and bound.seeds:
        sentence = "random layers draw otherwise in float32: not compared"
        found.append(Finding("meta-gradient", "note", sentence))
        return [*found, _differences(precise, in_graph, expected, variables)]
    copy = in_dtype(learner, "float32")
    data = tf.nest.map_structure(
        lambda v: tf.cast(v, "float32") if v.dtype.is_floating else v,
        (episode, query_y),
    )
    _, single = meta_gradient(copy, *data)
    error = _error(single, expected)
    state = "right" if error < 0.02 else "wrong"
    sentence = f"float32 differs from float64 by {error:.0e}"
    found.append(Finding("meta-gradient", state, sentence))

    return [*found, _differences(precise, in_graph, expected, variables)]


def _differences(learner, loss_and_gradient, expected, variables):
    """Finding on a meta-gradient against differences of its loss."""
    if not getattr(learner, "unrolled", True):
        sentence = (
            f"{type(learner).__name__}'s is no gradient of its loss, on purpose: not "
            "compared with differences"
        )
        return Finding("meta-gradient", "note", sentence)
    start = [v.numpy() for v in variables]
    random = np.random.RandomState(3)
    errors = []
    for _ in range(DIRECTIONS):
        direction = [random.normal(size=v.shape) for v in start]
        # Of length one: a long way crosses many kinks of ReLUs, and at each of them a
        # loss after an inner step jumps.
        length = np.sqrt(sum(np.sum(d**2) for d in direction))
        direction = [d / length for d in direction]
        sides = []
        for sign in (1, -1):
            for v, at, d in zip(variables, start, direction, strict=True):
                v.assign(at + sign * WIDTH * d)
            sides.append(float(loss_and_gradient()[0]))
        for v, at in zip(variables, start, strict=True):
            v.assign(at)
        slope = (sides[0] - sides[1]) / (2 * WIDTH)
        along = sum(
            float(np.sum(np.asarray(s) * d))
            for s, d in zip(expected, direction, strict=True)
        )
        errors.append(abs(slope - along) / max(abs(slope), abs(along), 1e-8))
    error = min(errors)
    state = "right" if error < TOLERANCE else "wrong"
    sentence = f"differs from differences of the loss by {error:.0e}"
    return Finding("meta-gradient", state, sentence)


# Cost.


def _cost(learner):
    """Measures a meta-step by inner steps, each number in its own process."""
    measured = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "learner.keras"
        learner.save(path)
        for steps in INNER_STEPS:
            done = subprocess.run(
                [sys.executable, "-m", "keras_meta.check", str(path), str(steps)],
                capture_output=True,
                text=True,
                cwd=pathlib.Path(__file__).resolve().parents[1],
            )
            if done.returncode:
                reason = done.stderr.strip().split("\n")[-1]
                return Finding("cost", "note", f"could not be measured: {reason}")
            measured.append(json.loads(done.stdout.splitlines()[-1]))
    return Finding("cost", "note", _cost_sentence(measured))


def _cost_sentence(measured):
    """Describes the measurements with few and with many inner steps."""
    few, many = INNER_STEPS
    known = [key for key in ("ms", "MB") if measured[0][key] is not None]
    step, start = {}, {}
    for key in known:
        step[key] = max(measured[1][key] - measured[0][key], 0) / (many - few)
        start[key] = max(measured[0][key] - few * step[key], 0)
    sentence = (
        f"a meta-step of 4 tasks, {measured[0]['images']} examples each, takes about "
        f"{start['ms']:.0f} ms and {step['ms']:.1f} ms for each inner step; "
    )
    if "MB" not in known:
        return sentence + "this system does not tell the peak memory of a process"
    return sentence + (
        f"memory with TensorFlow's own {start['MB']:.0f} MB and {step['MB']:.1f} MB "
        "for each"
    )


def _measure(path, steps):
    """Milliseconds of a meta-step of four tasks, and the peak memory of the process."""
    learner = keras.models.load_model(path)
    learner.inner_steps = steps
    learner.compile("sgd")  # whose steps random layers draw by
    episode, query_y = random_episode(learner, tasks=4)
    run = tf.function(lambda: learner.meta_gradient(episode, query_y)[:2])
    run()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    images = int(episode["support_x"].shape[1] + query_y.shape[1])
    return {
        "ms": 1000 * float(np.median(times)),
        "MB": runtime.peak_memory(),
        "images": images,
    }


if __name__ == "__main__":
    import keras_meta  # noqa: F401  registers the learners

    print(json.dumps(_measure(sys.argv[1], int(sys.argv[2]))))
