"""Trains for ten meta-steps of SGD, in one process or as one of several workers.

    python -m tests.worker OUT [INDEX ADDRESS ... | mirrored]

ADDRESS ... lists all workers; "mirrored" trains on two logical devices. Writes
the weights, the results of `fit` and `evaluate`, and the tasks that this process
computed (the sums of their images).
"""

import contextlib
import json
import os
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_meta as km
from tests import contract

LEARNERS = {
    "MAML": lambda: km.MAML(contract.normalized(), inner_rate=0.5, inner_steps=2),
    # Keras divides losses by the number of workers; this meta-gradient is of no loss.
    "Reptile": lambda: km.Reptile(contract.normalized(), inner_rate=0.1, inner_steps=2),
}


def recording_episodes(sums):
    """Returns episodes that append the sum of their support images to a list."""

    def record(episode, query_y):
        def append(total):
            sums.append(float(total))
            return query_y_dtype(0)

        query_y_dtype = query_y.dtype.as_numpy_dtype
        total = tf.reduce_sum(episode["support_x"])
        zero = tf.numpy_function(append, [total], query_y.dtype)
        return episode, query_y + tf.ensure_shape(zero, [])

    return contract.blobs().map(record)


def train(name):
    """Returns `(weights, results, sums)` of ten steps on eight tasks each."""
    keras.utils.set_random_seed(0)
    learner = LEARNERS[name]()
    learner.compile(keras.optimizers.SGD(0.1))
    sums = []
    episodes = recording_episodes(sums).batch(8)
    history = learner.fit(
        episodes,
        steps_per_epoch=10,
        validation_data=episodes.take(2),
        verbose=0,
    ).history
    results = {key: values[-1] for key, values in history.items()}
    # The last of these batches has four tasks.
    scores = learner.evaluate(
        recording_episodes(sums).take(20).batch(8), verbose=0, return_dict=True
    )
    results |= {f"evaluate_{key}": value for key, value in scores.items()}
    return learner.get_weights(), results, sums


def main(out, index=None, *addresses):
    strategy = tf.distribute.get_strategy()
    if addresses:
        task = {"type": "worker", "index": int(index)}
        cluster = {"cluster": {"worker": list(addresses)}, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    elif index == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        devices = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, devices)
        strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    arrays = {}
    with strategy.scope() if index else contextlib.nullcontext():
        for name in LEARNERS:
            weights, results, sums = train(name)
            arrays |= {f"{name}/{i}": value for i, value in enumerate(weights)}
            arrays |= {f"{name}/{key}": value for key, value in results.items()}
            arrays[f"tasks/{name}"] = sums
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
