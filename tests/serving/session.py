"""Answers requests as TensorFlow Serving does: the v1 loader and a plain Session.

    python session.py EXPORT REQUESTS ANSWERS

REQUESTS is an .npz of `<number>/<signature>/<input>` arrays, an input `after` being the
number of a request whose outputs are inputs too; ANSWERS gets `<number>/<output>`
arrays, or `<number>/error`. It cannot import keras_meta.
"""

import sys

import numpy as np


class Forbidden:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "keras_meta":
            raise ImportError(f"{name} is not there at serving time")


sys.meta_path.insert(0, Forbidden())

import tensorflow.compat.v1 as tf  # noqa: E402


def main(export, requests, answers):
    given, found = np.load(requests, allow_pickle=True), {}  # bytes are objects
    calls = {}
    for key in given:
        number, signature, name = key.split("/")
        calls.setdefault((int(number), signature), {})[name] = given[key]
    # Threads inside an op as the tests have them: others sum in another order, which
    # ten steps of twenty ways on noise made 2e-3 of.
    config = tf.ConfigProto(intra_op_parallelism_threads=1)
    with tf.Session(graph=tf.Graph(), config=config) as session:
        loaded = tf.saved_model.loader.load(session, ["serve"], export)
        for (number, signature), inputs in sorted(calls.items()):
            if "after" in inputs:
                before = f"{inputs.pop('after')}/"
                inputs |= {
                    key.removeprefix(before): value
                    for key, value in found.items()
                    if key.startswith(before)
                }
            definition = loaded.signature_def[signature]
            feed = {definition.inputs[k].name: v for k, v in inputs.items()}
            fetch = {k: v.name for k, v in definition.outputs.items()}
            try:
                outputs = session.run(fetch, feed)
            except tf.errors.InvalidArgumentError as error:
                outputs = {"error": np.array(error.message)}
            found |= {f"{number}/{name}": value for name, value in outputs.items()}
    np.savez(answers, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
