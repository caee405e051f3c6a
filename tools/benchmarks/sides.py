"""Training steps of keras-meta, PyTorch and JAX with equal weights and equal data."""

import json
import os
import tempfile

import numpy as np

from benchmarks import harness, problems

RATE = 1e-4  # Adam's learning rate
PEAK_SIZE = 2048  # rows of the matrices whose product measures the peak rate


def write(problem, path, settings):
    """Writes the weights, the data and the settings of a problem for all sides."""
    instance = problems.build(problem, **settings)
    variables = instance.learner.trainable_variables
    weights = {
        f"weight{i}": np.asarray(variable) for i, variable in enumerate(variables)
    }
    np.savez(
        path,
        **weights,
        **instance.episode,
        query_y=instance.query_y,
        settings=json.dumps(instance.settings),
    )


def read(path):
    """Returns `(weights, episode, query_y, settings)` from a file of `write`."""
    with np.load(path) as file:
        arrays = dict(file)
    count = sum(name.startswith("weight") for name in arrays)
    weights = [arrays.pop(f"weight{i}") for i in range(count)]
    settings = json.loads(str(arrays.pop("settings")))
    query_y = arrays.pop("query_y")
    return weights, arrays, query_y, settings


def keras_meta_steps(problem, path, intra_op, inter_op, settings):
    """Training steps of `fit` on a batch in memory."""
    import keras
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure(intra_op, inter_op)
    learner = problems.build(problem, **settings).learner
    learner.compile(keras.optimizers.Adam(RATE))
    weights, episode, query_y, _ = read(path)
    for variable, value in zip(learner.trainable_variables, weights, strict=True):
        variable.assign(value)
    data = iter(tf.data.Dataset.from_tensors((episode, query_y)).repeat())
    functions = {}
    for size in (harness.STEPS_PER_CALL, 1):
        learner.train_function = None  # each size has its own function
        learner.make_train_function()
        functions[size] = learner.train_function

    def take_steps(count):
        loss = None
        for size, function in functions.items():
            learner.steps_per_execution = size  # tracing reads it
            for _ in range(count // size):
                learner.reset_metrics()
                loss = function(data)["loss"]
            count %= size
        return float(loss)

    return take_steps


def torch_steps(peer, path, threads, settings):
    """Training steps of a PyTorch peer."""
    import peers_torch
    import torch

    torch.set_num_threads(threads)
    weights, episode, query_y, problem_settings = read(path)
    step, _ = peers_torch.CASES[peer](
        weights, episode, query_y, rate=RATE, **problem_settings, **settings
    )
    return harness.one_by_one(step)


def jax_steps(peer, path, threads):
    """Training steps of a JAX peer."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        if hasattr(os, "sched_setaffinity"):  # other systems rely on XLA_FLAGS
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import peers_jax

    weights, episode, query_y, settings = read(path)
    return harness.one_by_one(
        peers_jax.CASES[peer](weights, episode, query_y, rate=RATE, **settings)
    )


def peak_steps(threads):
    """Products of two large matrices, which reach the peak rate of this machine."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    matrix = tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [0, 0])
    product = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])

    def step():
        product().numpy()  # has no loss

    return harness.one_by_one(step)


def threads_in_words(count):
    return f"{count} thread{'s' * (count > 1)}"


def keras_meta_side(problem, path, intra_op, settings, form=""):
    """The side of keras-meta: `intra_op` threads per op, one op per core at a time."""
    cores = harness.usable_cores()
    return harness.Side(
        harness.KERAS_META,
        form,
        f"{threads_in_words(intra_op)} an op, {cores} ops at once",
        keras_meta_steps,
        {
            "problem": problem,
            "path": path,
            "intra_op": intra_op,
            "inter_op": cores,
            "settings": settings,
        },
    )


def torch_peers(path, peer, forms):
    """The sides of a PyTorch peer, one for each number of threads.

    Args:
        path: path of the data.
        peer: a name in `peers_torch.CASES`.
        forms: `{form: settings of the peer}`.
    """
    return [
        harness.Side(
            "PyTorch",
            form,
            threads_in_words(count),
            torch_steps,
            {"peer": peer, "path": path, "threads": count, "settings": settings},
        )
        for form, settings in forms.items()
        for count in harness.thread_counts()
    ]


def jax_peers(path, peers):
    """The sides of JAX peers, `{form: name}`, one for each number of threads."""
    return [
        harness.Side(
            "JAX",
            form,
            threads_in_words(count),
            jax_steps,
            {"peer": peer, "path": path, "threads": count},
        )
        for form, peer in peers.items()
        for count in harness.thread_counts()
    ]


def peak():
    """The side that measures the peak rate on all cores."""
    cores = harness.usable_cores()
    words = threads_in_words(cores)
    return harness.Side("peak", "", words, peak_steps, {"threads": cores})


def compare(problem, list_sides, **settings):
    """Times the sides of a problem in turn.

    Args:
        problem: a name in `problems.PROBLEMS`.
        list_sides: a function that maps the path of the data to a list of sides.
        **settings: settings of the problem.

    Returns:
        `(sides, seconds of a step)`, lists in the same order.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/case.npz"
        harness.in_process(write, problem=problem, path=path, settings=settings)
        sides = list_sides(path)
        return sides, harness.race(sides)


def both_layouts(problem, **settings):
    """Times a problem of images with each layout and number of threads of PyTorch."""
    layouts = {
        "channels first": {"channels_last": False},
        "channels last": {"channels_last": True},
    }
    return compare(
        problem,
        lambda path: [
            *(
                keras_meta_side(problem, path, count, settings)
                for count in harness.thread_counts()
            ),
            *torch_peers(path, problem, layouts),
        ],
        **settings,
    )
