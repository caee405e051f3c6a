"""Time by kind of operation in a meta-training step."""

import pathlib
import statistics
import tempfile
import time

from benchmarks import flops, harness, problems, sides

# Parts of the names of operations; an operation belongs to the first kind that fits.
KINDS = {
    "convolutions": ("Conv2D",),
    "batch normalization": ("BatchNorm",),
    "matrix products": ("MatMul",),
    "loops and their stacks": (
        *("TensorList", "Enter", "Exit", "Switch", "Merge", "NextIteration"),
        *("LoopCond", "While"),
    ),
}
REPEATS = 9


def measure(problem):
    """Milliseconds and calls by kind of operation, on one thread.

    Returns:
        `{"ms": of a step, "kinds": {kind: [calls, ms]}, "peak": FLOP/s of a product of
        large matrices, "image": operations of one image}`.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    import keras_meta as km

    km.runtime.configure(1, 1)
    built = problems.build(problem)
    learner = built.learner
    learner.compile("adam", steps_per_execution=harness.TOGETHER)
    data = tf.data.Dataset.from_tensors((built.episode, built.query_y)).repeat()
    data = iter(data)
    learner.make_train_function()

    def steps():
        learner.train_function(data)

    seconds = harness.interleaved({problem: steps}, REPEATS, untimed=1)[problem]
    with tempfile.TemporaryDirectory() as folder:
        tf.profiler.experimental.start(folder)
        steps()
        tf.profiler.experimental.stop()
        (trace,) = pathlib.Path(folder).rglob("*.xplane.pb")
        space = xplane_pb2.XSpace.FromString(trace.read_bytes())
    return {
        "ms": 1000 * seconds / harness.TOGETHER,
        "kinds": _by_kind(space),
        "peak": _peak(),
        "image": flops.conv4(),
    }


def _peak():
    import tensorflow as tf

    matrix = tf.random.stateless_normal([sides.PEAK_SIZE, sides.PEAK_SIZE], [0, 0])
    rates = []
    for _ in range(5):
        began = time.perf_counter()
        tf.matmul(matrix, matrix)
        rates.append(2 * sides.PEAK_SIZE**3 / (time.perf_counter() - began))
    return statistics.median(rates)


def _by_kind(space):
    """`{kind: [calls, ms]}` of a step, from the profiler's protocol buffer."""
    totals = {}
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # An operation's event is its name in the graph, a colon, and its type.
            name = plane.event_metadata[event.metadata_id].name.partition(":")[2]
            if not name.lstrip("_").isidentifier():
                continue
            fits = (k for k, parts in KINDS.items() if any(p in name for p in parts))
            total = totals.setdefault(next(fits, "all others"), [0, 0.0])
            total[0] += 1 / harness.TOGETHER
            total[1] += event.duration_ps / 1e9 / harness.TOGETHER
    return totals


def table():
    rows, notes = [], ()
    for problem in ("maml", "lstm", "cnp"):
        measured = harness.in_process(measure, problem=problem)
        whole, kinds = measured["ms"], measured["kinds"]
        spent = sum(ms for _, ms in kinds.values())
        kinds["between operations"] = ["", max(whole - spent, 0.0)]
        rows += [
            {
                "learner": problem,
                "operations": name,
                "calls a step": calls and round(calls),
                "ms a step": round(ms, 2),
                "share": f"{ms / max(whole, spent):.0%}",
            }
            for name, (calls, ms) in sorted(kinds.items(), key=lambda k: -k[1][1])
        ]
        if problem == "maml":
            notes = _rates(measured)
    return harness.Table("Meta-training steps on one thread", rows, notes)


def _rates(measured):
    """Sentences on MAML's share of the peak rate."""
    operations = problems.TASKS * flops.maml(measured["image"], 1)
    peak = measured["peak"]
    convolutions = operations / (measured["kinds"]["convolutions"][1] / 1000) / peak
    step = operations / (measured["ms"] / 1000) / peak
    return (
        f"A product of large matrices reaches {peak / 1e9:.0f} GFLOP/s.",
        f"MAML's convolutions reach {convolutions:.0%} of it, a whole step {step:.0%}.",
    )
