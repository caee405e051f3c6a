"""Ten meta-steps of SGD, in one process or as one of several workers.

    python -m tests.worker OUT [ADDRESS INDEX ...]

The addresses are of all workers. Writes the weights and what `fit` and `evaluate` tell.
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
    # Its meta-gradient is not that of a loss, which Keras would divide by the workers.
    "Reptile": lambda: km.Reptile(contract.normalized(), inner_rate=0.1, inner_steps=2),
}


def train(name):
    """`(weights, told)` after ten steps on eight tasks each."""
    keras.utils.set_random_seed(0)
    learner = LEARNERS[name]()
    learner.compile(keras.optimizers.SGD(0.1))
    episodes = contract.blobs().batch(8)
    history = learner.fit(episodes, steps_per_epoch=10, verbose=0).history
    told = {key: values[-1] for key, values in history.items()}
    found = learner.evaluate(episodes, steps=3, verbose=0, return_dict=True)
    return learner.get_weights(), {**told, **{f"val_{k}": found[k] for k in found}}


def main(out, index=None, *addresses):
    strategy = tf.distribute.get_strategy()
    if addresses:
        task = {"type": "worker", "index": int(index)}
        cluster = {"cluster": {"worker": list(addresses)}, "task": task}
        os.environ["TF_CONFIG"] = json.dumps(cluster)
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    arrays = {}
    with strategy.scope() if addresses else contextlib.nullcontext():
        for name in LEARNERS:
            weights, told = train(name)
            arrays |= {f"{name}/{i}": value for i, value in enumerate(weights)}
            arrays |= {f"{name}/{key}": value for key, value in told.items()}
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
