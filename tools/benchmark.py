"""Measurements of time and memory, each in a process of its own.

    python tools/benchmark.py --what=memory      # peak memory by inner steps
    python tools/benchmark.py --what=freezing    # what frozen modules save
    python tools/benchmark.py --what=cnp         # a neural process by S and Q
    python tools/benchmark.py --what=serving     # a request against a call in process
    python tools/benchmark.py --what=training    # MAML against PyTorch and JAX
    python tools/benchmark.py --what=recurrent   # LSTM, MANN, CNP against PyTorch
    python tools/benchmark.py --what=profile     # where a step of theirs goes
    python tools/benchmark.py --what=growth      # with tasks, steps, shots and width
    python tools/benchmark.py --what=pipeline    # do episodes keep up with training?
    python tools/benchmark.py --what=pool        # memory of a pool larger than memory
    python tools/benchmark.py --what=adaptation  # of every zoo entry: time and memory

Times are medians of interleaved repeats in one run, and are told as ratios. The peers
(pip install -e '.[bench]') start from the same weights and data, which their losses are
checked against, each with one thread and with all.
"""

import csv
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import rich.console
import rich.progress
import rich.table
from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("what", None, "What to measure.")
flags.DEFINE_string("csv", None, "File for the rows of the table.")
flags.DEFINE_string("case", None, "For the tool itself: a measurement as JSON.")

WAYS, QUERIES, TASKS = 5, 15, 16
INNER_RATE, RATE = 0.1, 1e-4
FEATURES = 64
PEAK_SIZE = 2048
LOSSES = 3  # losses of the first steps, which all sides must agree on
TOGETHER = 10  # steps of `fit` in one call of a graph (`steps_per_execution`)


def episode(tasks, shots=1):
    """A batch of random 5-way episodes of 28x28 images, and query labels."""
    random = np.random.RandomState(0)

    def images(count):
        return random.rand(tasks, count, 28, 28, 1).astype("float32")

    def labels(count):
        return np.tile(np.arange(count) % WAYS, [tasks, 1]).astype("int32")

    return {
        "support_x": images(WAYS * shots),
        "support_y": labels(WAYS * shots),
        "query_x": images(WAYS * QUERIES),
    }, labels(WAYS * QUERIES)


def untold(kind):
    """The end of a measurement that this system does not have."""
    return SystemExit(
        f"benchmark: error: expected a system that tells the {kind} memory of a "
        f"process, got {sys.platform}."
    )


def peak_memory():
    """Peak memory of this process in MB."""
    import keras_meta as km

    found = km.runtime.peak_memory()
    if found is None:
        raise untold("peak")
    return found


def anonymous_memory():
    """Memory of this process in MB, files left out."""
    if sys.platform != "linux":
        raise untold("anonymous")
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


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
    return {"MB": peak_memory()}


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
    from keras_meta import zoo

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
    from keras_meta import zoo

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


def conv4_flops(image_shape=(28, 28, 1), filters=64):
    """Floating point operations of `networks.conv4` on one image."""
    import tensorflow as tf

    import keras_meta as km

    network = km.networks.conv4(image_shape, WAYS, filters)
    total = 0
    for layer in network.layers:
        if layer.weights and not isinstance(layer, tf.keras.layers.BatchNormalization):
            places = np.prod(layer.output.shape[1:-1], dtype=int)
            total += 2 * int(places) * int(np.prod(layer.kernel.shape))
    return total


def maml_flops(image, steps):
    """Of a task's second-order meta-gradient, given those of one image forward.

    A pass back costs two forward ones; a pass back through an inner step, forward and
    back, twice those three.
    """
    return (9 * steps * WAYS + 3 * WAYS * QUERIES) * image


def prepared(kind, path, steps=1):
    """Writes a learner's first weights and its batch of tasks for every side."""
    batch, query_y = episode(TASKS)
    if kind != "maml":
        random = np.random.RandomState(0)
        shape = [TASKS, 50, FEATURES] if kind != "cnp" else [64, 18, 1]
        x = random.normal(size=shape).astype("float32")
        y = random.randint(WAYS, size=shape[:2]).astype("int32")
        if kind == "cnp":
            y = np.sin(x)
        cut = 49 if kind != "cnp" else 9
        batch = {"support_x": x[:, :cut], "support_y": y[:, :cut]}
        batch["query_x"], query_y = x[:, cut:], y[:, cut:]
    learner = built(kind, steps)
    weights = {f"weight{i}": v for i, v in enumerate(learner.trainable_variables)}
    np.savez(path, **weights, **batch, query_y=query_y)
    return {}


def loaded(path):
    """`(weights, episode, query_y)` of `prepared`."""
    with np.load(path) as file:
        found = dict(file)
    count = sum(name.startswith("weight") for name in found)
    weights = [found.pop(f"weight{i}") for i in range(count)]
    query_y = found.pop("query_y")
    return weights, found, query_y


def built(kind, steps=1, unroll=False):
    """The learner of a case; sequences in a loop of the graph, or written out."""
    import keras

    import keras_meta as km

    keras.utils.set_random_seed(0)
    if kind == "maml":
        network = km.networks.conv4((28, 28, 1), outputs=WAYS)
        learner = km.MAML(
            network,
            inner_rate=INNER_RATE,
            inner_steps=steps,
            normalization="transductive",
        )
    elif kind == "cnp":
        encoder = km.networks.mlp((2,), 128, (128, 128, 128))
        learner = km.CNP(encoder, km.networks.mlp((129,), 2, (128, 128)))
    else:
        make = {"lstm": km.LSTMLearner, "mann": km.MANN}[kind]
        learner = make(example_shape=[FEATURES], outputs=WAYS, units=200, unroll=unroll)
    learner.compile(keras.optimizers.Adam(RATE))
    return learner


def our_steps(kind, path, threads, inside=1, **settings):
    """Steps of `fit` on batches that are there already, with `inside` threads an op."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure(inside, threads)
    learner = built(kind, **settings)
    weights, batch, query_y = loaded(path)
    for variable, value in zip(learner.trainable_variables, weights, strict=True):
        variable.assign(value)
    data = iter(tf.data.Dataset.from_tensors((batch, query_y)).repeat())
    functions = {}
    for size in (TOGETHER, 1):
        learner.train_function = None  # made anew for another size
        learner.make_train_function()
        functions[size] = learner.train_function

    def take(count):
        loss = None
        for size, function in functions.items():
            learner.steps_per_execution = size  # is read when a function is traced
            for _ in range(count // size):
                learner.reset_metrics()
                loss = function(data)["loss"]
            count %= size
        return float(loss)

    return take


def in_turn(step):
    """Takes steps one by one."""

    def take(count):
        for _ in range(count):
            loss = step()
        return loss

    return take


def torch_steps(kind, path, threads, **settings):
    """A step of a PyTorch peer."""
    import peers_torch

    peers_torch.threads(threads)
    weights, batch, query_y = loaded(path)
    if kind.startswith("maml"):
        case = {"episode": batch, "query_y": query_y, "inner_rate": INNER_RATE}
        case["inner_steps"] = settings["steps"]
    elif kind == "cnp":
        case = {"support": (batch["support_x"], batch["support_y"])}
        case["query"] = (batch["query_x"], query_y)
    else:
        case = {
            "x": np.concatenate([batch["support_x"], batch["query_x"]], 1),
            "y": np.concatenate([batch["support_y"], query_y], 1),
            "classes": WAYS,
        }
    return in_turn(peers_torch.CASES[kind](weights=weights, rate=RATE, **case))


def jax_steps(kind, path, threads, steps):
    """A step of a JAX peer."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        if hasattr(os, "sched_setaffinity"):  # elsewhere the flag is all there is
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    import peers_jax

    weights, batch, query_y = loaded(path)
    return in_turn(
        peers_jax.CASES[kind](weights, batch, query_y, steps, INNER_RATE, RATE)
    )


def peak_steps(threads):
    """A product of two matrices: what this machine can do at most."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    matrix = tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [0, 0])
    product = tf.function(lambda: tf.matmul(matrix, matrix)[0, 0])
    return in_turn(lambda: float(product()))


SIDES = {"ours": our_steps, "torch": torch_steps, "jax": jax_steps, "peak": peak_steps}


def side(case):
    """For the tool itself: takes as many steps as each line of input says."""
    take = SIDES[case.pop("side")](**case)
    print(json.dumps([take(1) for _ in range(LOSSES)]), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        take(int(line))
        print(json.dumps(time.perf_counter() - began), flush=True)


def race(cases, rounds, seconds):
    """Lets sides step in turn, each in a process of its own.

    Args:
        cases: `{name: case}`; the losses of all but "peak" must agree.
        rounds: of turns.
        seconds: of each turn, about.

    Returns:
        `{name: median seconds of a step}`.
    """
    running, losses, times = {}, {}, {name: [] for name in cases}

    def heard(name):
        line = running[name].stdout.readline()
        if not line:
            sys.exit(f"benchmark: error: {name} failed; its own words are above")
        return json.loads(line)

    try:
        for name, case in rich.progress.track(cases.items(), "preparing"):
            running[name] = subprocess.Popen(
                [sys.executable, __file__, f"--case={json.dumps(case)}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            losses[name] = heard(name)

        def turn(name, steps):
            running[name].stdin.write(f"{steps}\n")
            running[name].stdin.flush()
            return heard(name) / steps

        steps = {
            name: max(TOGETHER * round(seconds / turn(name, 1) / TOGETHER), 1)
            for name in cases
        }
        for name in cases:
            turn(name, steps[name])  # what is traced only then
        for _ in rich.progress.track(range(rounds), "measuring"):
            for name in cases:
                times[name].append(turn(name, steps[name]))
    finally:
        for process in running.values():
            process.kill()
    losses.pop("peak", None)
    for name, found in losses.items():
        np.testing.assert_allclose(
            found, next(iter(losses.values())), rtol=0.02, err_msg=name
        )
    return {name: statistics.median(each) for name, each in times.items()}


def thread_settings():
    import keras_meta as km

    return dict.fromkeys((1, km.runtime.usable_cores()))


def against(kind, peers, forms, **settings):
    """`{name: seconds of a step}` of ours first, of peers in all thread settings.

    Ours has as many threads as there are cores, and is as each of `forms` says:
    `{name: arguments of our_steps}`.
    """
    import keras_meta as km

    cores = km.runtime.usable_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/case.npz"
        prepare = {"kind": kind, "path": path, **settings}
        in_process({"measure": "prepared", **prepare})
        cases = {}
        for name, form in forms.items():
            cases[name] = {"side": "ours", "threads": cores, **form, **prepare}
        for package, peer in peers:
            for threads in thread_settings():
                name = f"{package} {peer}, {threads} thread{'s' * (threads > 1)}"
                case = {**prepare, "side": package, "kind": peer, "threads": threads}
                cases[name] = case
        cases["peak"] = {"side": "peak", "threads": cores}
        return race(cases, rounds=7, seconds=1.5)


def training():
    """Second-order MAML against the same in PyTorch and JAX."""
    image = in_process({"measure": "conv4_flops"})
    peers = [("torch", "maml loop"), ("torch", "maml vmap")]
    peers += [("jax", f"maml {form}") for form in ("unrolled", "vmap", "map")]
    rows = []
    for steps in (1, 5):
        found = against("maml", peers, {"keras-meta": {}}, steps=steps)
        peak = 2 * PEAK_SIZE**3 / found.pop("peak")
        flops = maml_flops(image, steps)
        ours = found["keras-meta"]
        rows += [
            {
                "inner steps": steps,
                "side": name,
                "tasks a second": round(TASKS / seconds, 1),
                "ours is": f"{seconds / ours:.2f} times",
                "of the peak": f"{flops * TASKS / seconds / peak:.1%}",
            }
            for name, seconds in found.items()
        ]
        title = (
            f"Second-order MAML, Conv-4, 5w1s, {QUERIES} queries, {TASKS} tasks; peak "
            f"{peak / 1e9:.0f} GFLOP/s; {maml_flops(image, 1) / 1e9:.2f} GFLOP a task "
            "at 1 step"
        )
    return title, rows


def recurrent():
    """LSTM, MANN and CNP against the same in PyTorch."""
    rows = []
    forms = {
        f"keras-meta, {threads} in an op": {"inside": threads}
        for threads in thread_settings()
    }
    unrolled = {"keras-meta, written out": {"unroll": True}}
    for kind in ("lstm", "mann", "cnp"):
        each = {**forms, **unrolled} if kind == "lstm" else forms
        found = against(kind, [("torch", kind)], each)
        del found["peak"]
        ours = min(found[name] for name in each)
        rows += [
            {
                "learner": kind,
                "side": name,
                "ms a step": round(1000 * seconds, 2),
                "ours is": f"{seconds / ours:.2f} times",
            }
            for name, seconds in found.items()
        ]
    title = (
        f"A meta-training step: sequences of 50 of {FEATURES} features, {TASKS} tasks, "
        "200 units; CNP of 128 units, 64 tasks of 18 points"
    )
    return title, rows


# Kinds of operations, by a part of their names; the first that fits.
KINDS = {
    "convolutions": ("Conv2D",),
    "batch normalization": ("BatchNorm",),
    "matrix products": ("MatMul",),
    "loops and their stacks": (
        *("TensorList", "Enter", "Exit", "Switch", "Merge", "NextIteration"),
        *("LoopCond", "While"),
    ),
}


def profile_case(kind, repeats):
    """Milliseconds and calls of kinds of operations in a step, on one thread."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    import keras_meta as km

    km.runtime.configure(1, 1)
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/case.npz"
        prepared(kind, path)
        learner = built(kind)
        _, batch, query_y = loaded(path)
        data = iter(tf.data.Dataset.from_tensors((batch, query_y)).repeat())
        learner.steps_per_execution = TOGETHER
        learner.make_train_function()
        learner.train_function(data)
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            learner.train_function(data)
            times.append((time.perf_counter() - began) / TOGETHER)
        tf.profiler.experimental.start(folder)
        learner.train_function(data)
        tf.profiler.experimental.stop()
        (trace,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(trace.read_bytes())
        matrix = tf.random.stateless_normal([PEAK_SIZE, PEAK_SIZE], [0, 0])
        peaks = []
        for _ in range(5):
            began = time.perf_counter()
            tf.matmul(matrix, matrix)
            peaks.append(2 * PEAK_SIZE**3 / (time.perf_counter() - began))
    found = {}
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # Of an operation: its name in the graph, a colon, its type.
            name = plane.event_metadata[event.metadata_id].name.partition(":")[2]
            if not name.lstrip("_").isidentifier():
                continue
            fits = (k for k, parts in KINDS.items() if any(p in name for p in parts))
            group = found.setdefault(next(fits, "all others"), [0, 0.0])
            group[0] += 1 / TOGETHER
            group[1] += event.duration_ps / 1e9 / TOGETHER
    whole = 1000 * statistics.median(times)
    return {"ms": whole, "kinds": found, "peak": statistics.median(peaks)}


def profile():
    """Where the time of a meta-training step goes."""
    image = in_process({"measure": "conv4_flops"})
    rows = []
    for kind in ("maml", "lstm", "cnp"):
        found = in_process({"measure": "profile", "kind": kind, "repeats": 9})
        whole, kinds = found["ms"], found["kinds"]
        spent = sum(ms for _, ms in kinds.values())
        kinds["between operations"] = ["", max(whole - spent, 0.0)]
        rows += [
            {
                "learner": kind,
                "operations": name,
                "calls a step": calls and round(calls),
                "ms a step": round(ms, 2),
                "share": f"{ms / max(whole, spent):.0%}",
            }
            for name, (calls, ms) in sorted(kinds.items(), key=lambda k: -k[1][1])
        ]
        if kind == "maml":
            flops = TASKS * maml_flops(image, 1)
            pace = flops / (kinds["convolutions"][1] / 1000) / found["peak"]
            whole = flops / (whole / 1000) / found["peak"]
            title = (
                "Meta-training steps on one thread. MAML's convolutions run at "
                f"{pace:.0%} of what products of matrices reach there "
                f"({found['peak'] / 1e9:.0f} GFLOP/s), its step at {whole:.0%}"
            )
    return title, rows


def growth_case(tasks, steps, shots, filters):
    """Seconds of a meta-training step, and this process's peak memory in MB."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    network = km.networks.conv4((28, 28, 1), WAYS, filters)
    learner = km.MAML(network, inner_rate=INNER_RATE, inner_steps=steps)
    learner.compile("adam")
    data = tf.data.Dataset.from_tensors(episode(tasks, shots)).repeat()
    data = iter(data)
    learner.make_train_function()
    learner.train_function(data)
    times = []
    for _ in range(7):
        began = time.perf_counter()
        float(learner.train_function(data)["loss"])
        times.append(time.perf_counter() - began)
    return {"seconds": statistics.median(times), "MB": peak_memory()}


def growth():
    """Time and memory of MAML as one thing after another grows."""
    usual = {"tasks": 16, "steps": 1, "shots": 1, "filters": 64}
    cases = [
        {**usual, name: value}
        for name, values in (
            ("tasks", (4, 16, 64)),
            ("steps", (2, 5, 10)),
            ("shots", (5, 10)),
            ("filters", (32, 128)),
        )
        for value in values
    ]
    rows = []
    for case in rich.progress.track(cases, "measuring"):
        found = in_process({"measure": "growth", **case})
        rows.append(
            {
                **case,
                "ms a step": round(1000 * found["seconds"]),
                "ms a task": round(1000 * found["seconds"] / case["tasks"], 1),
                "peak MB": round(found["MB"]),
            }
        )
    first, last = rows[0]["peak MB"], rows[2]["peak MB"]
    return (
        f"Second-order MAML, Conv-4, 5 ways, {QUERIES} queries: 64 tasks take "
        f"{last / first:.2f} times the memory of 4",
        rows,
    )


def pipeline_case(images_on_disk, seconds):
    """Episodes a second alone, and training's steps a second with them and without."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    random = np.random.RandomState(0)
    images = random.randint(0, 256, [1100 * 20, 28, 28, 1], "uint8")
    labels = np.repeat(np.arange(1100), 20)
    learner = built("maml")
    with tempfile.TemporaryDirectory() as folder:
        if images_on_disk:
            np.save(f"{folder}/images.npy", images)
            images = np.load(f"{folder}/images.npy", mmap_mode="r")
        pool = km.ClassPool.from_arrays(images, labels, km.ImagePreprocess())
        drawn = pool.with_rotations().episodes(WAYS, 1, QUERIES).batch(TASKS)
        ready = tf.data.Dataset.from_tensors(next(iter(drawn))).repeat()
        learner.make_train_function()
        sources = {
            "alone": (iter(drawn), next),
            "drawn": (iter(drawn.prefetch(2)), learner.train_function),
            "ready": (iter(ready), learner.train_function),
        }
        times = {name: [] for name in sources}
        for _ in range(int(seconds)):
            for name, (data, use) in sources.items():
                use(data)
                began, count = time.perf_counter(), 0
                while time.perf_counter() - began < 1:
                    found = use(data)
                    if name != "alone":
                        float(found["loss"])
                    count += 1
                times[name].append((time.perf_counter() - began) / count)
    return {name: statistics.median(each) for name, each in times.items()}


def pipeline():
    """What the data pipeline gives, and what training waits for it."""
    rows = []
    for on_disk in (False, True):
        case = {"measure": "pipeline", "images_on_disk": on_disk, "seconds": 5}
        found = in_process(case)
        rows.append(
            {
                "images": "on disk" if on_disk else "in memory",
                "episodes a second, alone": round(TASKS / found["alone"]),
                "tasks a second, training": round(TASKS / found["drawn"], 1),
                "on a batch that is there": round(TASKS / found["ready"], 1),
                "lost": f"{1 - found['ready'] / found['drawn']:.1%}",
            }
        )
    return f"5w1s, {QUERIES} queries, 4400 classes of 20 images of 28x28", rows


def pool_case(classes, episodes):
    """Memory of this process, files left out, before and after drawing episodes."""
    import keras_meta as km

    km.runtime.configure()
    with tempfile.TemporaryDirectory() as folder:
        shape = (classes * 20, 28, 28, 1)
        path = f"{folder}/images.npy"
        images = np.lib.format.open_memmap(path, "w+", "uint8", shape)
        block = np.random.RandomState(0).randint(0, 256, [20, 28, 28, 1], "uint8")
        for index in range(classes):
            images[20 * index : 20 * index + 20] = block + np.uint8(index % 256)
        images.flush()
        del images
        size = os.path.getsize(path) / 2**20
        images, labels = np.load(path, mmap_mode="r"), np.repeat(range(classes), 20)
        before = anonymous_memory()
        pool = km.ClassPool.from_arrays(images, labels, km.ImagePreprocess())
        data = iter(pool.episodes(WAYS, 1, QUERIES).batch(TASKS))
        next(data)
        began, after = time.perf_counter(), []
        for _ in range(episodes // TASKS):
            next(data)
            after.append(anonymous_memory())
        rate = episodes / (time.perf_counter() - began)
    half = len(after) // 2
    return {
        "file MB": round(size),
        "pool MB": round(after[0] - before),
        "growth MB": round(
            statistics.mean(after[half:]) - statistics.mean(after[:half])
        ),
        "episodes a second": round(rate),
    }


def pool():
    """Memory of a pool of images on disk, by its number of classes."""
    rows = []
    for classes in (1000, 10_000, 100_000):
        case = {"measure": "pool", "classes": classes, "episodes": 3200}
        rows.append({"classes": classes, **in_process(case)})
    return (
        "A mapped file of 20 images a class: memory of the process but the file",
        rows,
    )


def adaptation_case(model, repeats):
    """Seconds to learn one task and to answer one query; peak memory in MB."""
    import tensorflow as tf

    import keras_meta as km
    from keras_meta import zoo

    km.runtime.configure()
    learner, card = zoo.load(model), zoo.card(model)
    ways = card.ways or 1
    random = np.random.RandomState(0)
    x = random.rand(1, ways * card.shots, *learner.example_shape).astype("float32")
    y = random.rand(1, card.shots, learner.output_size).astype("float32")
    if learner.classification:
        y = np.tile(np.arange(ways), [1, card.shots]).astype("int32")
        y %= learner.output_size
        if learner.label_shape:
            y = np.repeat(y[..., None], learner.label_shape[0], axis=-1)
    x, y = tf.constant(x[:, : y.shape[1]]), tf.constant(y)
    times = {"adapt": [], "infer": []}
    for _ in range(repeats):
        began = time.perf_counter()
        state = learner.adapt(x, y)
        tf.nest.map_structure(np.asarray, state)
        middle = time.perf_counter()
        np.asarray(km.learner.stacked(learner.infer(state, x[:, :1])))
        times["adapt"].append(middle - began)
        times["infer"].append(time.perf_counter() - middle)
    medians = {key: statistics.median(each) for key, each in times.items()}
    return {"MB": peak_memory(), **medians}


def adaptation():
    """What it costs to learn a task, by zoo entry."""
    from keras_meta.zoo import cards, facts

    base = "maml.omniglot_5w1s"
    names = [card.name for card in cards.stored()]
    print("\n".join(facts.skipped()), file=sys.stderr)
    found = {
        name: in_process({"measure": "adaptation", "model": name, "repeats": 40})
        for name in rich.progress.track(names, "measuring")
    }
    unit = found[base]["adapt"]
    rows = [
        {
            "model": name,
            "ms to adapt": round(1000 * each["adapt"], 1),
            "in that of MAML": round(each["adapt"] / unit, 2),
            "ms to answer a query": round(1000 * each["infer"], 1),
            "peak MB": round(each["MB"]),
        }
        for name, each in found.items()
    ]
    return f"One task as trained for, one query; MAML is {base}", rows


CASES = {
    "growth": growth_case,
    "pipeline": pipeline_case,
    "pool": pool_case,
    "adaptation": adaptation_case,
    "conv4_flops": conv4_flops,
    "prepared": prepared,
    "profile": profile_case,
    "memory": memory_case,
    "freezing": freezing_case,
    "cnp": cnp_case,
    "serving": serving_case,
}
TABLES = {
    "memory": memory,
    "freezing": freezing,
    "cnp": cnp,
    "serving": serving,
    "training": training,
    "recurrent": recurrent,
    "profile": profile,
    "growth": growth,
    "pipeline": pipeline,
    "pool": pool,
    "adaptation": adaptation,
}


def in_process(case):
    """Runs a case in a fresh process, and gives what it measured."""
    done = subprocess.run(
        [sys.executable, __file__, f"--case={json.dumps(case)}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:  # its own words are above
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def main(_):
    if FLAGS.case:
        case = json.loads(FLAGS.case)
        if "side" in case:
            side(case)
            return
        print(json.dumps(CASES[case.pop("measure")](**case)))
        return
    if FLAGS.what not in TABLES:
        sys.exit(f"benchmark: error: expected --what={'|'.join(TABLES)}")
    title, rows = TABLES[FLAGS.what]()
    table = rich.table.Table(title=title)
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*map(str, row.values()))
    rich.console.Console(width=120).print(table)
    if FLAGS.csv:
        with open(FLAGS.csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
