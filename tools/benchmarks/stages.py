"""Runs a keras-meta command and writes its seconds by stage.

    python -P tools/benchmarks/stages.py BEGAN REPORT WORD...

BEGAN is the start time of the process in seconds since the epoch. REPORT is a JSON
file. The stages are:

- import: start of Python, imports, start of TensorFlow;
- load: the model, and the data of a task;
- trace: construction of graphs in Python;
- run: all other work.

Time counts for the innermost stage. This file imports only small modules of the
standard library, because its own imports are not measured.
"""

import builtins
import functools
import importlib
import json
import pathlib
import sys
import threading
import time


class Stages:
    """Assigns the time of the main thread to stages.

    Args:
        began: start time of the process in seconds since the epoch.
    """

    def __init__(self, began):
        self.seconds = dict.fromkeys(("import", "load", "trace", "run"), 0.0)
        self.seconds["import"] = time.time() - began
        self.stage, self.since = "run", time.perf_counter()

    def enter(self, stage):
        """Begins a stage; returns the previous one."""
        now = time.perf_counter()
        self.seconds[self.stage] += now - self.since
        previous, self.stage, self.since = self.stage, stage, now
        return previous

    def timed(self, stage, function):
        """Wraps a function: its time counts for a stage."""

        @functools.wraps(function)
        def call(*args, **kwargs):
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            previous = self.enter(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self.enter(previous)

        return call

    def time(self, stage, owner, name):
        """Replaces a function of a module or a class by its timed wrapper."""
        setattr(owner, name, self.timed(stage, getattr(owner, name)))


def main(began, report, *arguments):
    stages = Stages(float(began))
    stages.time("import", builtins, "__import__")
    stages.time("import", importlib, "import_module")
    from keras_meta.zoo import cli, console

    start = stages.timed("import", console.start)

    def timed_start(*threads):
        km = start(*threads)
        from tensorflow.python.framework import func_graph

        from keras_meta import files, zoo

        stages.time("trace", func_graph, "func_graph_from_py_func")
        stages.time("load", zoo, "load")
        stages.time("load", km.tasks, "glyphs")
        stages.time("load", files, "load_image")
        return km

    console.start = timed_start
    code = cli.main(list(arguments))
    stages.enter("run")
    pathlib.Path(report).write_text(json.dumps(stages.seconds), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
