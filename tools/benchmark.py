"""Measurements of time and memory, each in a process of its own.

    python tools/benchmark.py --what=memory      # peak memory by inner steps
    python tools/benchmark.py --what=freezing    # what frozen modules save
    python tools/benchmark.py --what=cnp         # a neural process by S and Q
    python tools/benchmark.py --what=serving     # a request against a call in process

Times are medians of interleaved repeats in one run, and are told as ratios.
"""

import csv
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import numpy as np
import rich.console
import rich.progress
import rich.table
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_enum(
    "what", None, ["memory", "freezing", "cnp", "serving"], "What to measure."
)
flags.DEFINE_string("csv", None, "File for the rows of the table.")
flags.DEFINE_string("case", None, "For the tool itself: a measurement as JSON.")

WAYS, QUERIES = 5, 15


def episode(tasks):
    """A batch of random 5-way 1-shot episodes of 28x28 images, and query labels."""
    random = np.random.RandomState(0)

    def images(count):
        return random.rand(tasks, count, 28, 28, 1).astype("float32")

    def labels(count):
        return np.tile(np.arange(count) % WAYS, [tasks, 1]).astype("int32")

    return {
        "support_x": images(WAYS),
        "support_y": labels(WAYS),
        "query_x": images(WAYS * QUERIES),
    }, labels(WAYS * QUERIES)


def memory_case(learner, steps):
    """Peak memory of this process, in MB, after meta-gradients of four tasks."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    network = km.networks.conv4((28, 28, 1), outputs=WAYS)
    built = getattr(km, learner)(network, inner_rate=0.1, inner_steps=steps)
    batch, query_y = tf.nest.map_structure(tf.constant, episode(4))
    gradient = tf.function(lambda: built.meta_gradient(batch, query_y)[:2])
    for _ in range(3):
        gradient()
    return {"MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def memory():
    """Peak memory at 100 inner steps against that at 5."""
    learners = ("MAML", "FOMAML", "Reptile", "IMAML", "SigmaIMAML", "SigmaReptile")
    rows = []
    for learner in rich.progress.track(learners, "measuring"):
        few, many = (
            in_process({"measure": "memory", "learner": learner, "steps": steps})["MB"]
            for steps in (5, 100)
        )
        rows.append(
            {
                "learner": learner,
                "MB at 5 steps": round(few),
                "MB at 100 steps": round(many),
                "ratio": round(many / few, 3),
            }
        )
    return "Peak memory of meta-training, Conv-4 5w1s, 4 tasks, whole process", rows


def freezing_case(steps, repeats):
    """Median seconds to adapt to one task, by what is frozen."""
    import tensorflow as tf

    import keras_meta as km
    import zoo

    km.runtime.configure()
    batch, _ = tf.nest.map_structure(tf.constant, episode(1))
    learners = {}
    scales = zoo.load("sigma_maml.omniglot_5w1s").scales()
    thresholds = sorted(scales.values())
    for count in (0, len(scales) // 2, len(scales) - 1):
        learner = zoo.load("sigma_maml.omniglot_5w1s")
        learner.evaluation_steps = steps
        frozen = learner.freeze_below(thresholds[count])
        learner.adapt(batch["support_x"], batch["support_y"])  # traces
        learners[", ".join(m for m in scales if m not in frozen)] = learner
    times = {name: [] for name in learners}
    for _ in range(repeats):
        for name, learner in learners.items():
            began = time.perf_counter()
            state = learner.adapt(batch["support_x"], batch["support_y"])
            np.asarray(state["weights"][-1])
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(each)) for name, each in times.items()}


def freezing():
    """Time to adapt with all modules, and with those of the largest scales."""
    found = in_process({"measure": "freezing", "steps": 100, "repeats": 15})
    whole = max(found.values())
    rows = [
        {
            "adapted": name,
            "ms": round(1000 * seconds, 1),
            "ratio": round(seconds / whole, 3),
        }
        for name, seconds in found.items()
    ]
    return "Adapting sigma_maml.omniglot_5w1s to one task, 100 steps", rows


def cnp_case(sizes, repeats):
    """Median seconds to adapt to S points and to ask Q, by (S, Q)."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    encoder = km.networks.mlp((2,), 128, (128, 128, 128))
    learner = km.CNP(encoder, km.networks.mlp((129,), 2, (128, 128)))
    points = tf.random.stateless_normal([1, max(map(max, sizes)), 1], [0, 0])
    times = {f"{s} {q}": [] for s, q in sizes}
    for repeat in range(repeats + 1):  # the first traces
        for s, q in sizes:
            began = time.perf_counter()
            state = learner.adapt(points[:, :s], points[:, :s])
            mean, _ = learner.infer(state, points[:, :q])
            np.asarray(mean)
            if repeat:
                times[f"{s} {q}"].append(time.perf_counter() - began)
    return {name: float(np.median(each)) for name, each in times.items()}


def cnp():
    """Time of a neural process, which is linear in S + Q."""
    sizes = [(100, 100), (1000, 100), (10_000, 100), (100, 1000), (100, 10_000)]
    sizes += [(3000, 3000), (10_000, 10_000)]
    found = in_process({"measure": "cnp", "sizes": sizes, "repeats": 15})
    counts = [sum(size) for size in sizes]
    each, start = np.polyfit(counts, list(found.values()), 1)
    rows = [
        {
            "S": s,
            "Q": q,
            "ms": round(1000 * seconds, 2),
            "over the line": round(seconds / (start + each * (s + q)), 2),
        }
        for (s, q), seconds in zip(sizes, found.values(), strict=True)
    ]
    title = (
        f"CNP of 128 units, 1 task: the line is {1000 * start:.2f} ms and "
        f"{1e6 * each:.2f} us a point"
    )
    return title, rows


def serving_case(model, repeats):
    """Median seconds of a task of five questions, by how it is asked."""
    import tensorflow as tf

    import keras_meta as km
    import zoo

    km.runtime.configure()
    learner = zoo.load(model)
    batch, _ = episode(1)
    batch["query_x"] = batch["query_x"][:, :WAYS]
    with tempfile.TemporaryDirectory() as folder:
        export = km.export(learner, f"{folder}/{model}")
        graph, v1 = tf.Graph(), tf.compat.v1
        with graph.as_default():
            # The threads that a call in process has.
            threads = tf.config.threading
            config = v1.ConfigProto(
                intra_op_parallelism_threads=threads.get_intra_op_parallelism_threads(),
                inter_op_parallelism_threads=threads.get_inter_op_parallelism_threads(),
            )
            session = v1.Session(config=config)
            loaded = v1.saved_model.loader.load(session, ["serve"], str(export))

    def asked(signature, inputs):
        """As TF Serving does it: by the names in the signature."""
        definition = loaded.signature_def[signature]
        feed = {definition.inputs[name].name: inputs[name] for name in inputs}
        fetch = {name: info.name for name, info in definition.outputs.items()}
        return session.run(fetch, feed)

    def in_process():
        state = learner.adapt(batch["support_x"], batch["support_y"])
        return tf.nn.softmax(learner.infer(state, batch["query_x"])).numpy()

    support = {name: batch[name] for name in ("support_x", "support_y")}
    state = asked("adapt", support)
    ways = {
        "in process, adapt and infer": in_process,
        "session, serving_default": lambda: asked("serving_default", batch)[
            "probabilities"
        ],
        "session, adapt": lambda: asked("adapt", support),
        "session, infer": lambda: asked(
            "infer", {**state, "query_x": batch["query_x"]}
        )["probabilities"],
    }
    answers = [way() for name, way in ways.items() if name != "session, adapt"]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], rtol=1e-4, atol=1e-5)
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - began)
    return {name: float(np.median(each)) for name, each in times.items()}


def serving():
    """A request that adapts and answers, against the same in process."""
    model = "maml.omniglot_5w1s-inductive"
    found = in_process({"measure": "serving", "model": model, "repeats": 300})
    whole = next(iter(found.values()))
    rows = [
        {
            "asked": name,
            "ms": round(1000 * seconds, 2),
            "ratio": round(seconds / whole, 3),
        }
        for name, seconds in found.items()
    ]
    return f"{model}: one task, 5 support images, 5 queries", rows


CASES = {
    "memory": memory_case,
    "freezing": freezing_case,
    "cnp": cnp_case,
    "serving": serving_case,
}
TABLES = {"memory": memory, "freezing": freezing, "cnp": cnp, "serving": serving}


def in_process(case):
    """Runs a case in a fresh process, and gives what it measured."""
    output = subprocess.run(
        [sys.executable, __file__, f"--case={json.dumps(case)}"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    return json.loads(output.splitlines()[-1])


def main(_):
    if FLAGS.case:
        case = json.loads(FLAGS.case)
        print(json.dumps(CASES[case.pop("measure")](**case)))
        return
    if FLAGS.what is None:
        sys.exit(f"benchmark: error: expected --what={'|'.join(TABLES)}")
    title, rows = TABLES[FLAGS.what]()
    table = rich.table.Table(title=title)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(str, row.values()))
    rich.console.Console(width=120).print(table)
    if FLAGS.csv:
        with open(FLAGS.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
