"""Tests of portability: missing CPU affinity (macOS) or POSIX modules (Windows)."""

import ast
import os
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from keras_meta import cost_check, runtime

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Removes the names of `os` and the modules that Windows lacks.
WINDOWS = """
import os, sys

for name in ("sched_getaffinity", "sched_setaffinity", "fork", "getuid"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
sys.path.insert(0, "tools")
"""


def run_program(program, **environment):
    process = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_usable_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert runtime.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert runtime.usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # unknown on some systems
    assert runtime.usable_cores() == 1


@pytest.mark.thorough
def test_configure_without_cpu_affinity():
    program = WINDOWS + (
        "import keras_meta as km, tensorflow as tf\n"
        "km.runtime.configure()\n"
        "print(tf.config.threading.get_inter_op_parallelism_threads())"
    )
    assert int(run_program(program)) == os.cpu_count()


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["train", "benchmark"])
def test_tools_run_without_functions_of_linux(tool):
    program = WINDOWS + (
        f"import {tool}, keras_meta.zoo.entries, keras_meta.check\n"
        f"if {tool!r} == 'benchmark':\n"
        "    print(benchmark.harness.thread_counts())"
    )
    expected = f"{list(dict.fromkeys((1, os.cpu_count())))}\n"
    assert run_program(program) == (expected if tool == "benchmark" else "")


@pytest.mark.thorough
def test_benchmark_reports_missing_memory_statistics():
    program = WINDOWS + (
        "from benchmarks import harness\n"
        "import keras_meta.api\n"
        "for measure in harness.peak_memory, harness.anonymous_memory:\n"
        "    sys.platform = 'win32'\n"
        "    try:\n"
        "        measure()\n"
        "    except SystemExit as error:\n"
        "        print(error)"
    )
    message = "expected a system that reports the {} memory of a process, got win32."
    assert run_program(program).splitlines() == [
        f"benchmark: error: {message.format(kind)}" for kind in ("peak", "anonymous")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="not available on Windows")
def test_peak_memory_is_the_maximum_over_time():
    before = runtime.peak_memory()
    array = np.ones([200, 2**20], "uint8")  # 200 MB, all pages written
    during = runtime.peak_memory()
    del array
    # The kernel updates its page counts in batches.
    assert during - 1 <= runtime.peak_memory() < during + 50
    assert during >= 200 and during >= before


@pytest.mark.skipif(sys.platform != "linux", reason="specific to getrusage of Linux")
def test_peak_memory_excludes_the_parent_process():
    child = (
        "import runpy, sys, types\n"
        "sys.modules['tensorflow'] = types.ModuleType('tensorflow')  # saves memory\n"
        f"path = {str(ROOT / 'keras_meta' / 'runtime.py')!r}\n"
        "print(runpy.run_path(path)['peak_memory']())"
    )
    program = (
        "import subprocess, sys, numpy\n"
        "array = numpy.ones([300, 2**20], 'uint8')\n"
        f"sys.exit(subprocess.call([sys.executable, '-c', {child!r}]))"
    )
    assert 5 < float(run_program(program)) < 200


@pytest.mark.parametrize("platform, unit", [("darwin", 2**20), ("freebsd14", 2**10)])
def test_peak_memory_in_the_unit_of_the_system(platform, unit, monkeypatch):
    fake = types.SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=300 * unit)
    )
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(sys, "platform", platform)
    assert runtime.peak_memory() == 300


def test_peak_memory_is_none_if_unavailable(monkeypatch):
    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(sys, "platform", "win32")
    assert runtime.peak_memory() is None
    sentence = cost_check.sentence(
        [{"ms": 10.0, "MB": None, "images": 30}, {"ms": 18.0, "MB": None, "images": 30}]
    )
    assert sentence == (
        "a meta-step of 4 tasks, 30 examples each, takes about 8 ms and 2.0 ms for "
        "each inner step; this system does not report the peak memory of a process"
    )


def test_cost_sentence():
    # By hand: 5 steps take 8 ms and 20 MB more than 1 step.
    sentence = cost_check.sentence(
        [{"ms": 10.0, "MB": 500.0, "images": 9}, {"ms": 18.0, "MB": 520.0, "images": 9}]
    )
    assert sentence == (
        "a meta-step of 4 tasks, 9 examples each, takes about 8 ms and 2.0 ms for each "
        "inner step; memory with TensorFlow's own 495 MB and 5.0 MB for each"
    )


def test_start_noise_is_dropped_without_a_grep():
    program = (
        "import os, sys\n"
        "from keras_meta.zoo import console\n"
        "os.dup2(1, 2)\n"
        "with console.start_noise_dropped():\n"
        "    os.write(2, b'I0000 00:00 noise\\nkept \\xff\\nW0000 x\\n')\n"
        "    os.write(2, b'... failed call to cuInit: no\\nthe last')\n"
        "os.write(2, b'after\\n')"
    )
    process = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": ""},
        check=True,
    )
    assert process.stdout in (
        b"kept \xff\nthe lastafter\n",
        b"kept \xff\nthe last\nafter\n",
    )


def unencoded(path):
    """Yields lines of a program that read or write text in the system's encoding."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or "encoding" in [
            keyword.arg for keyword in node.keywords
        ]:
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        if name == "open":
            # `open(path, mode)`, `path.open(mode)`; `Image.open(path)` has no mode.
            position = 1 if isinstance(node.func, ast.Name) else 0
            mode = node.args[position : position + 1]
            text = not mode or (
                isinstance(mode[0], ast.Constant) and "b" not in mode[0].value
            )
        else:
            receiver = getattr(getattr(node.func, "value", None), "id", None)
            # `atomic.write_text` writes UTF-8.
            text = name in ("read_text", "write_text") and receiver != "atomic"
        if text:
            yield node.lineno


@pytest.mark.thorough
def test_text_files_are_utf8_on_every_system():
    paths = [ROOT / "setup.py", ROOT / "docs" / "conf.py"]
    for folder in ("keras_meta", "zoo", "tools", "examples"):
        paths += (ROOT / folder).rglob("*.py")
    # This file reads and writes ASCII only.
    paths = {path.relative_to(ROOT).as_posix(): path for path in paths}
    del paths["zoo/training.py"]
    lines_of = {name: list(unencoded(path)) for name, path in paths.items()}
    assert {name: lines for name, lines in lines_of.items() if lines} == {}


def test_no_file_is_a_symbolic_link():
    files = subprocess.run(
        ["git", "ls-files", "-s"], capture_output=True, text=True, cwd=ROOT
    ).stdout.splitlines()
    assert [line for line in files if line.startswith("120000")] == []
    # docs/conf.py copies the tutorial, so that no link is needed.
    subprocess.run([sys.executable, "docs/conf.py"], check=True, cwd=ROOT)
    copy = ROOT / "docs" / "tutorials" / "own_images.py"
    assert not copy.is_symlink()
    assert copy.read_bytes() == (ROOT / "examples" / "own_images.py").read_bytes()
