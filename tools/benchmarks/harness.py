"""Measurements in separate processes, times of alternating libraries, and tables."""

import csv
import dataclasses
import importlib
import json
import pathlib
import statistics
import subprocess
import sys
import time

import numpy as np
import rich.console
import rich.progress
import rich.table
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_integer("rounds", 7, "Timed turns of each side.", lower_bound=1)
flags.DEFINE_float(
    "seconds", 1.5, "Approximate duration of a turn in seconds.", lower_bound=0.0
)

COMMAND = pathlib.Path(__file__).resolve().parents[1] / "benchmark.py"
LOSSES = 3  # first steps in which the losses of all sides must agree
# Relative and absolute. Rounding differs, and Adam's first steps amplify differences.
# In bfloat16, losses near zero differ by some thousandths.
TOLERANCE, ABSOLUTE = 0.02, 0.005
STEPS_PER_CALL = 10  # `steps_per_execution` of `fit`
KERAS_META = "keras-meta"
WIDTH = 140  # characters of a printed table


@dataclasses.dataclass(frozen=True)
class Table:
    """The result of a benchmark.

    Attributes:
        title: the setting, with units.
        rows: dicts with equal keys.
        notes: sentences below the table.
    """

    title: str
    rows: list
    notes: tuple = ()

    def print(self):
        table = rich.table.Table(title=self.title)
        for name in self.rows[0]:
            table.add_column(name)
        for row in self.rows:
            table.add_row(*map(str, row.values()))
        console = rich.console.Console(width=WIDTH)
        console.print(table)
        for note in self.notes:
            console.print(note)

    def write_csv(self, path):
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


# Measurements in separate processes.


def _command(function, arguments, in_turns=False):
    case = {
        "module": function.__module__,
        "function": function.__name__,
        "arguments": arguments,
        "in_turns": in_turns,
    }
    return [sys.executable, str(COMMAND), f"--case={json.dumps(case)}"]


def in_process(function, **arguments):
    """Calls a function of a module in a new process.

    Args:
        function: a function of a module of `benchmarks` with JSON-serializable result.
        **arguments: JSON-serializable arguments of the function.

    Returns:
        The result of the function.

    Raises:
        SystemExit: the process failed; its error is on standard error.
    """
    process = subprocess.run(
        _command(function, arguments), stdout=subprocess.PIPE, text=True
    )
    if process.returncode:
        sys.exit(process.returncode)
    return json.loads(process.stdout.splitlines()[-1])


def run_case(text):
    """Runs the function of `in_process` or `race` in the new process."""
    case = json.loads(text)
    function = getattr(importlib.import_module(case["module"]), case["function"])
    result = function(**case["arguments"])
    if case["in_turns"]:
        _take_turns(result)
    else:
        print(json.dumps(result))


def _take_turns(take_steps):
    """Reads the number of steps from each line of input; prints their seconds."""
    print(json.dumps([take_steps(1) for _ in range(LOSSES)]), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        take_steps(int(line))
        print(json.dumps(time.perf_counter() - start), flush=True)


def usable_cores():
    import keras_meta as km

    return km.runtime.usable_cores()


def thread_counts():
    """Numbers of threads to compare: one, and the number of usable cores."""
    return list(dict.fromkeys((1, usable_cores())))


# Memory of this process.


def _not_reported(kind):
    return SystemExit(
        f"benchmark: error: expected a system that reports the {kind} memory of a "
        f"process, got {sys.platform}."
    )


def peak_memory():
    """Returns the peak memory of this process in MB.

    Raises:
        SystemExit: the system does not report it.
    """
    import keras_meta as km

    peak = km.runtime.peak_memory()
    if peak is None:
        raise _not_reported("peak")
    return peak


def anonymous_memory():
    """Returns the memory of this process in MB, without mapped files.

    Raises:
        SystemExit: the system does not report it.
    """
    if sys.platform != "linux":
        raise _not_reported("anonymous")
    status = pathlib.Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


# Times.


def interleaved(calls, repeats, untimed=0):
    """Times functions in turn.

    Args:
        calls: `{name: function}`.
        repeats: timed calls of each function.
        untimed: calls of each function before the timed ones, for example for tracing.

    Returns:
        `{name: median seconds of a call}`.
    """
    times = {name: [] for name in calls}
    for repeat in range(untimed + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repeat >= untimed:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(column, seconds, baseline, digits):
    """Returns rows of milliseconds and their ratios to a baseline.

    Args:
        column: heading of the column of names.
        seconds: `{name: seconds}`.
        baseline: the seconds that the ratios are relative to.
        digits: decimal places of the milliseconds.
    """
    return [
        {
            column: name,
            "ms": round(1000 * duration, digits),
            "ratio": round(duration / baseline, 3),
        }
        for name, duration in seconds.items()
    ]


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison, which runs in a separate process.

    Attributes:
        library: name of the library, for example "keras-meta".
        form: variant of the library's computation; empty if there is only one.
        threads: number of threads, in words.
        prepare: a function of a module; returns `(steps) -> loss of the last step`.
        arguments: arguments of `prepare`.
    """

    library: str
    form: str
    threads: str
    prepare: object
    arguments: dict

    @property
    def name(self):
        return ", ".join(filter(None, (self.library, self.form)))


def race(sides):
    """Times the training steps of the sides in turn.

    A side takes its first steps and one whole turn before its timed turns. The flags
    `rounds` and `seconds` set the number of turns and their duration.

    Args:
        sides: a list of `Side`. The losses of all sides with a loss must agree.

    Returns:
        Median seconds of a step, in the order of `sides`.

    Raises:
        SystemExit: a side failed; its error is on standard error.
        AssertionError: the losses of two sides differ.
    """
    processes, losses = [], []

    def read_reply(index):
        line = processes[index].stdout.readline()
        if not line:
            side = sides[index]
            sys.exit(
                f"benchmark: error: {side.name}, {side.threads} failed; its error is "
                "above."
            )
        return json.loads(line)

    def time_step(index, steps):
        processes[index].stdin.write(f"{steps}\n")
        processes[index].stdin.flush()
        return read_reply(index) / steps

    indices = range(len(sides))
    times = [[] for _ in sides]
    try:
        for index in rich.progress.track(indices, "preparing"):
            side = sides[index]
            processes.append(
                subprocess.Popen(
                    _command(side.prepare, side.arguments, in_turns=True),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            losses.append(read_reply(index))
        check_losses(sides, losses)
        steps = [
            max(
                STEPS_PER_CALL
                * round(FLAGS.seconds / time_step(index, 1) / STEPS_PER_CALL),
                1,
            )
            for index in indices
        ]
        for index in indices:
            time_step(index, steps[index])  # traces the graph of several steps
        for _ in rich.progress.track(range(FLAGS.rounds), "measuring"):
            for index in indices:
                times[index].append(time_step(index, steps[index]))
    finally:
        for process in processes:
            process.kill()
    return [statistics.median(values) for values in times]


def check_losses(sides, losses):
    """Raises an AssertionError unless the sides have the losses of the first side.

    Args:
        sides: a list of `Side`.
        losses: a list of the first losses of each side; None for a side without a loss.
    """
    for side, values in zip(sides, losses, strict=True):
        if None not in values:
            np.testing.assert_allclose(
                values, losses[0], rtol=TOLERANCE, atol=ABSOLUTE, err_msg=side.name
            )


def one_by_one(step):
    """Converts a function of one step to a function of a number of steps."""

    def take_steps(count):
        for _ in range(count):
            loss = step()
        return loss

    return take_steps


def compared(sides, seconds, rates=None):
    """Returns rows of a comparison, relative to the fastest side of keras-meta.

    Args:
        sides: a list of `Side`.
        seconds: seconds of a step of each side.
        rates: `{column: number in a step}` for columns such as "images a second".
    """
    baseline, rates = fastest(sides, seconds, KERAS_META)[1], rates or {}
    return [
        {
            "side": side.name,
            "threads": side.threads,
            "ms a step": round(1000 * duration, 2),
            **{name: round(count / duration, 1) for name, count in rates.items()},
            "relative time": round(duration / baseline, 2),
        }
        for side, duration in zip(sides, seconds, strict=True)
    ]


def fastest(sides, seconds, library):
    """Returns the fastest side of a library and its seconds."""
    pairs = zip(sides, seconds, strict=True)
    pairs = [pair for pair in pairs if pair[0].library == library]
    return min(pairs, key=lambda pair: pair[1])


def verdict(sides, seconds, library):
    """Compares the fastest sides of a library and of keras-meta in a sentence.

    An example is "PyTorch, channels last (2 threads) takes 1.31 times the time of
    keras-meta (1 thread an op, 2 ops at once)".
    """
    baseline, baseline_time = fastest(sides, seconds, KERAS_META)
    peer, peer_time = fastest(sides, seconds, library)
    ratio = peer_time / baseline_time
    return (
        f"{peer.name} ({peer.threads}) takes {ratio:.2f} times the time of "
        f"{baseline.name} ({baseline.threads})"
    )
