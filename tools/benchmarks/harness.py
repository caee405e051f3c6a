"""Measures in separate processes, times the sides of a comparison in turn, tables."""

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
flags.DEFINE_integer("rounds", 7, "Turns of each side of a comparison.", lower_bound=1)
flags.DEFINE_float(
    "seconds", 1.5, "Approximate duration of a turn in seconds.", lower_bound=0.0
)

COMMAND = pathlib.Path(__file__).resolve().parents[1] / "benchmark.py"
LOSSES = 3  # losses of the first steps, which all sides must agree on
# Relative and absolute: rounding differs (most in bfloat16, where losses near zero
# differ by some thousandths), and Adam's first steps amplify it.
TOLERANCE, ABSOLUTE = 0.02, 0.005
TOGETHER = 10  # steps of `fit` in one call of a graph (`steps_per_execution`)
OURS = "keras-meta"
WIDTH = 140  # of a printed table, in characters


@dataclasses.dataclass(frozen=True)
class Table:
    """The result of a benchmark.

    Attributes:
        title: states the setting, with units.
        rows: dicts with equal keys.
        notes: sentences that follow the table.
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


# Measurements in a process of their own.


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
        function: a function of a module of `benchmarks`; returns what JSON can hold.
        **arguments: its arguments, which JSON can hold.

    Returns:
        What the function returned.

    Raises:
        SystemExit: the process failed; its error is on standard error.
    """
    done = subprocess.run(
        _command(function, arguments), stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout.splitlines()[-1])


def run_case(text):
    """Runs the function that `in_process` or `race` names, inside the new process."""
    case = json.loads(text)
    function = getattr(importlib.import_module(case["module"]), case["function"])
    result = function(**case["arguments"])
    if case["in_turns"]:
        _take_turns(result)
    else:
        print(json.dumps(result))


def _take_turns(take):
    """Takes as many steps as each line of input states; prints their seconds."""
    print(json.dumps([take(1) for _ in range(LOSSES)]), flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        take(int(line))
        print(json.dumps(time.perf_counter() - began), flush=True)


def usable_cores():
    import keras_meta as km

    return km.runtime.usable_cores()


def thread_counts():
    """Numbers of threads of a library: one, and as many as there are cores."""
    return list(dict.fromkeys((1, usable_cores())))


# Memory of this process.


def _not_reported(kind):
    return SystemExit(
        f"benchmark: error: expected a system that reports the {kind} memory of a "
        f"process, got {sys.platform}."
    )


def peak_memory():
    """Peak memory of this process in MB.

    Raises:
        SystemExit: the system does not report it.
    """
    import keras_meta as km

    peak = km.runtime.peak_memory()
    if peak is None:
        raise _not_reported("peak")
    return peak


def anonymous_memory():
    """Memory of this process in MB, without mapped files.

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
        repeats: timed calls of each.
        untimed: calls of each before them, such as those that trace.

    Returns:
        `{name: median seconds of a call}`.
    """
    times = {name: [] for name in calls}
    for repeat in range(untimed + repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if repeat >= untimed:
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(column, seconds, base, digits):
    """Rows of milliseconds, and their ratio to a time.

    Args:
        column: heading of the names.
        seconds: `{name: seconds}`.
        base: seconds.
        digits: of the milliseconds.
    """
    return [
        {
            column: name,
            "ms": round(1000 * spent, digits),
            "ratio": round(spent / base, 3),
        }
        for name, spent in seconds.items()
    ]


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison, which runs in a process of its own.

    Attributes:
        library: such as "keras-meta".
        form: what distinguishes it from other sides of the library.
        threads: the threads that it has, in words.
        prepare: a function of a module; returns `take(count) -> loss of the last step`.
        arguments: of `prepare`.
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
    """Lets sides take training steps in turn.

    A side takes its first steps, and one whole turn, before anything is timed. The
    flags `rounds` and `seconds` set the number of turns and their duration.

    Args:
        sides: a list of `Side`; the losses of all that have one must agree.

    Returns:
        Median seconds of a step, in the order of `sides`.

    Raises:
        SystemExit: a side failed; its error is on standard error.
        AssertionError: the losses of two sides differ.
    """
    running, losses = [], []

    def reply(place):
        line = running[place].stdout.readline()
        if not line:
            side = sides[place]
            sys.exit(
                f"benchmark: error: {side.name}, {side.threads} failed; its error is "
                "above."
            )
        return json.loads(line)

    def turn(place, steps):
        running[place].stdin.write(f"{steps}\n")
        running[place].stdin.flush()
        return reply(place) / steps

    places = range(len(sides))
    times = [[] for _ in sides]
    try:
        for place in rich.progress.track(places, "preparing"):
            side = sides[place]
            running.append(
                subprocess.Popen(
                    _command(side.prepare, side.arguments, in_turns=True),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            losses.append(reply(place))
        check_losses(sides, losses)
        steps = [
            max(TOGETHER * round(FLAGS.seconds / turn(place, 1) / TOGETHER), 1)
            for place in places
        ]
        for place in places:
            turn(place, steps[place])  # traces the call of several steps
        for _ in rich.progress.track(range(FLAGS.rounds), "measuring"):
            for place in places:
                times[place].append(turn(place, steps[place]))
    finally:
        for process in running:
            process.kill()
    return [statistics.median(values) for values in times]


def check_losses(sides, losses):
    """Raises an AssertionError unless the sides have the losses of the first side.

    Args:
        sides: a list of `Side`.
        losses: a list of each side's first losses; None for a side without a loss.
    """
    for side, values in zip(sides, losses, strict=True):
        if None not in values:
            np.testing.assert_allclose(
                values, losses[0], rtol=TOLERANCE, atol=ABSOLUTE, err_msg=side.name
            )


def one_by_one(step):
    """`take(count)` of a function that takes one step and returns its loss."""

    def take(count):
        for _ in range(count):
            loss = step()
        return loss

    return take


def compared(sides, seconds, rates=None):
    """Rows of a comparison, relative to the fastest side of keras-meta.

    Args:
        sides: a list of `Side`.
        seconds: of a step, in their order.
        rates: `{column: number a step}` of columns such as "images a second".
    """
    ours = fastest(sides, seconds, OURS)[1]
    return [
        {
            "side": side.name,
            "threads": side.threads,
            "ms a step": round(1000 * spent, 2),
            **{name: round(count / spent, 1) for name, count in (rates or {}).items()},
            "relative time": round(spent / ours, 2),
        }
        for side, spent in zip(sides, seconds, strict=True)
    ]


def fastest(sides, seconds, library):
    """The fastest side of a library, and its seconds."""
    pairs = zip(sides, seconds, strict=True)
    return min((p for p in pairs if p[0].library == library), key=lambda pair: pair[1])


def verdict(sides, seconds, library):
    """A sentence that compares the fastest side of a library with that of keras-meta.

    Such as "PyTorch, channels last (2 threads) takes 1.31 times the time of keras-meta
    (1 thread an op, 2 ops at once)".
    """
    ours, spent = fastest(sides, seconds, OURS)
    theirs, others = fastest(sides, seconds, library)
    return (
        f"{theirs.name} ({theirs.threads}) takes {others / spent:.2f} times the time "
        f"of {ours.name} ({ours.threads})"
    )
