"""Test configuration: threads as in the tools, and one worker per contract row."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from xdist.scheduler import loadscope


def pytest_configure(config):
    if not hasattr(config, "workerinput") and config.getoption("tx"):
        return  # the process that only distributes tests: without TensorFlow
    from keras_meta import runtime

    runtime.configure()


def pytest_collection_finish():
    # What TensorFlow's import allocates is never freed; it need not be traversed again.
    gc.freeze()


# `--doctest-modules` must not import this script.
collect_ignore = ["serving/session.py"]


class ByRow(loadscope.LoadScopeScheduling):
    """Assigns all contract tests of a learner to one worker, which trains it once.

    pytest-xdist's own groups (`--dist loadgroup`) have no effect under pytest 9.
    """

    def _split_scope(self, nodeid):
        file, _, row = nodeid.rpartition("[")
        return row if "contract" in file else nodeid


def pytest_xdist_make_scheduler(config, log):
    return ByRow(config, log)
