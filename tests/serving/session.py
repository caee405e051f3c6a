"""Runs requests as TensorFlow Serving does: the v1 loader and a plain Session.

    python session.py EXPORT REQUESTS RESULTS

REQUESTS is an .npz of `<number>/<signature>/<input>` arrays. An input `after` is the
number of a request whose outputs are inputs too. The script writes `<number>/<output>`
arrays or `<number>/error` to RESULTS. It cannot import keras_meta.
"""

import sys

import numpy as np


class Forbidden:
    def find_spec(self, name, *_):
        if name.partition(".")[0] == "keras_meta":
            raise ImportError(f"{name} is not there at serving time")


sys.meta_path.insert(0, Forbidden())

import tensorflow.compat.v1 as tf  # noqa: E402


def main(export, requests, results_path):
    arrays, results = np.load(requests, allow_pickle=True), {}  # bytes are objects
    calls = {}
    for key in arrays:
        number, signature, name = key.split("/")
        calls.setdefault((int(number), signature), {})[name] = arrays[key]
    # As many threads inside an op as in the tests: others sum in another order. Ten
    # inner steps of twenty ways on noise amplified this to 2e-3.
    config = tf.ConfigProto(intra_op_parallelism_threads=1)
    with tf.Session(graph=tf.Graph(), config=config) as session:
        loaded = tf.saved_model.loader.load(session, ["serve"], export)
        for (number, signature), inputs in sorted(calls.items()):
            if "after" in inputs:
                before = f"{inputs.pop('after')}/"
                inputs |= {
                    key.removeprefix(before): value
                    for key, value in results.items()
                    if key.startswith(before)
                }
            definition = loaded.signature_def[signature]
            feed = {definition.inputs[k].name: v for k, v in inputs.items()}
            fetch = {k: v.name for k, v in definition.outputs.items()}
            try:
                outputs = session.run(fetch, feed)
            except tf.errors.InvalidArgumentError as error:
                outputs = {"error": np.array(error.message)}
            results |= {f"{number}/{name}": value for name, value in outputs.items()}
    np.savez(results_path, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
