"""Time by kind of operation in a meta-training step."""

import pathlib
import statistics
import tempfile
import time

from benchmarks import flops, harness, problems, sides

# Parts of operation names; an operation belongs to the first kind that matches.
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
    """Measures milliseconds and calls by kind of operation, on one thread.

    Returns:
        `{"ms": milliseconds of a step, "kinds": {kind: [calls, ms]}, "peak": FLOP/s of
        a product of large matrices, "image": operations of one image}`.
    """
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    import keras_meta as km

    km.runtime.configure(1, 1)
    instance = problems.build(problem)
    learner = instance.learner
    learner.compile("adam", steps_per_execution=harness.STEPS_PER_CALL)
    data = tf.data.Dataset.from_tensors((instance.episode, instance.query_y)).repeat()
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
        "ms": 1000 * seconds / harness.STEPS_PER_CALL,
        "kinds": _by_kind(space),
        "peak": _peak(),
        "image": flops.conv4(),
    }


def _peak():
    import tensorflow as tf

    matrix = tf.random.stateless_normal([sides.PEAK_SIZE, sides.PEAK_SIZE], [0, 0])
    rates = []
    for _ in range(5):
        start = time.perf_counter()
        tf.matmul(matrix, matrix)
        rates.append(2 * sides.PEAK_SIZE**3 / (time.perf_counter() - start))
    return statistics.median(rates)


def _by_kind(space):
    """Reads `{kind: [calls, ms]}` of a step from the profiler's protocol buffer."""
    totals = {}
    for plane in space.planes:
        for event in (event for line in plane.lines for event in line.events):
            # The name of an event is the operation's name, a colon, and its type.
            name = plane.event_metadata[event.metadata_id].name.partition(":")[2]
            if not name.lstrip("_").isidentifier():
                continue
            matches = (
                kind
                for kind, parts in KINDS.items()
                if any(part in name for part in parts)
            )
            total = totals.setdefault(next(matches, "all others"), [0, 0.0])
            total[0] += 1 / harness.STEPS_PER_CALL
            total[1] += event.duration_ps / 1e9 / harness.STEPS_PER_CALL
    return totals


def table():
    rows, notes = [], ()
    for problem in ("maml", "lstm", "cnp"):
        figures = harness.in_process(measure, problem=problem)
        step_ms, kinds = figures["ms"], figures["kinds"]
        operations_ms = sum(ms for _, ms in kinds.values())
        kinds["between operations"] = ["", max(step_ms - operations_ms, 0.0)]
        rows += [
            {
                "learner": problem,
                "operations": name,
                "calls a step": calls and round(calls),
                "ms a step": round(ms, 2),
                "share": f"{ms / max(step_ms, operations_ms):.0%}",
            }
            for name, (calls, ms) in sorted(kinds.items(), key=lambda item: -item[1][1])
        ]
        if problem == "maml":
            notes = _rates(figures)
    return harness.Table("Meta-training steps on one thread", rows, notes)


def _rates(figures):
    """Returns sentences that state MAML's share of the peak rate."""
    operations = problems.TASKS * flops.maml(figures["image"], 1)
    peak = figures["peak"]
    convolutions = operations / (figures["kinds"]["convolutions"][1] / 1000) / peak
    step = operations / (figures["ms"] / 1000) / peak
    return (
        f"A product of large matrices reaches {peak / 1e9:.0f} GFLOP/s.",
        f"MAML's convolutions reach {convolutions:.0%} of it, a whole step {step:.0%}.",
    )
