"""Time and memory of MAML by number of tasks, inner steps, shots and filters."""

import rich.progress

from benchmarks import harness, problems

DEFAULTS = {"tasks": 16, "steps": 1, "shots": 1, "filters": 64}
VALUES = {
    "tasks": (4, 16, 64),
    "steps": (2, 5, 10),
    "shots": (5, 10),
    "filters": (32, 128),
}
REPEATS = 7


def measure(tasks, steps, shots, filters):
    """Returns `[seconds of a meta-training step, peak MB of this process]`."""
    import tensorflow as tf

    import keras_meta as km

    km.runtime.configure()
    network = km.networks.conv4((28, 28, 1), problems.WAYS, filters)
    learner = km.MAML(network, inner_rate=problems.INNER_RATE, inner_steps=steps)
    learner.compile("adam")
    data = tf.data.Dataset.from_tensors(problems.images(tasks, shots)).repeat()
    data = iter(data)
    learner.make_train_function()
    calls = {"step": lambda: float(learner.train_function(data)["loss"])}
    seconds = harness.interleaved(calls, REPEATS, untimed=1)["step"]
    return [seconds, harness.peak_memory()]


def table():
    cases = [
        {**DEFAULTS, name: value} for name, values in VALUES.items() for value in values
    ]
    rows = []
    for case in rich.progress.track(cases, "measuring"):
        seconds, peak = harness.in_process(measure, **case)
        rows.append(
            {
                **case,
                "ms a step": round(1000 * seconds),
                "ms a task": round(1000 * seconds / case["tasks"], 1),
                "peak MB": round(peak),
            }
        )
    few, many = VALUES["tasks"][0], VALUES["tasks"][-1]
    memory = {row["tasks"]: row["peak MB"] for row in rows[: len(VALUES["tasks"])]}
    note = f"{many} tasks take {memory[many] / memory[few]:.2f} times the memory of "
    note += f"{few}."
    title = f"Second-order MAML, Conv-4, 5 ways, {problems.QUERIES} queries"
    return harness.Table(title, rows, (note,))
