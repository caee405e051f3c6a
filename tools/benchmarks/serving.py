"""Time of a request to an exported model, and of the same computation in process."""

import tempfile

import numpy as np

from benchmarks import harness, problems

MODEL = "maml.omniglot_5w1s-inductive"
REPEATS = 300


def measure():
    """Returns `{request: median seconds}` for one task with one query of each class."""
    import tensorflow as tf

    import keras_meta as km
    from keras_meta import zoo

    km.runtime.configure()
    learner = zoo.load(MODEL)
    batch, _ = problems.images(1, queries=1)
    with tempfile.TemporaryDirectory() as folder:
        export = km.export(learner, f"{folder}/{MODEL}")
        graph, v1 = tf.Graph(), tf.compat.v1
        with graph.as_default():
            # The session has as many threads as the computation in process.
            threads = tf.config.threading
            config = v1.ConfigProto(
                intra_op_parallelism_threads=threads.get_intra_op_parallelism_threads(),
                inter_op_parallelism_threads=threads.get_inter_op_parallelism_threads(),
            )
            session = v1.Session(config=config)
            loaded = v1.saved_model.loader.load(session, ["serve"], str(export))

    def request(signature, inputs):
        """Runs a signature by the names of its tensors, as TensorFlow Serving does."""
        definition = loaded.signature_def[signature]
        feed = {definition.inputs[name].name: inputs[name] for name in inputs}
        fetch = {name: info.name for name, info in definition.outputs.items()}
        return session.run(fetch, feed)

    def in_process():
        state = learner.adapt(batch["support_x"], batch["support_y"])
        return tf.nn.softmax(learner.infer(state, batch["query_x"])).numpy()

    support = {name: batch[name] for name in ("support_x", "support_y")}
    queries = {**request("adapt", support), "query_x": batch["query_x"]}
    predictions = {
        "in process, adapt and infer": in_process,
        "session, serving_default": lambda: request("serving_default", batch)[
            "probabilities"
        ],
        "session, infer": lambda: request("infer", queries)["probabilities"],
    }
    expected = in_process()
    for predict in predictions.values():
        np.testing.assert_allclose(predict(), expected, rtol=1e-4, atol=1e-5)
    calls = {**predictions, "session, adapt": lambda: request("adapt", support)}
    return harness.interleaved(calls, REPEATS)


def table():
    seconds = harness.in_process(measure)
    rows = harness.ratios("request", seconds, seconds["in process, adapt and infer"], 2)
    return harness.Table(f"{MODEL}: one task, 5 support images, 5 queries", rows)
