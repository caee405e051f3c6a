"""What other systems lack is done without: macOS has no affinity, Windows less."""

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
# The names of `os`, and the modules, that Windows does not have.
WINDOWS = """
import os, sys

for name in ("sched_getaffinity", "sched_setaffinity", "fork", "getuid"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("resource", "fcntl", "pwd", "grp", "termios"):
    sys.modules[name] = None
sys.path.insert(0, "tools")
"""


def python(program, **environment):
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_usable_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert runtime.usable_cores() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert runtime.usable_cores() == 7
    monkeypatch.setattr(os, "cpu_count", lambda: None)  # where nobody knows
    assert runtime.usable_cores() == 1


@pytest.mark.thorough
def test_configure_without_an_affinity():
    program = WINDOWS + (
        "import keras_meta as km, tensorflow as tf\n"
        "km.runtime.configure()\n"
        "print(tf.config.threading.get_inter_op_parallelism_threads())"
    )
    assert int(python(program)) == os.cpu_count()


@pytest.mark.thorough
@pytest.mark.parametrize("tool", ["train", "benchmark"])
def test_tools_of_a_system_without_what_linux_has(tool):
    program = WINDOWS + (
        f"import {tool}, keras_meta.zoo.entries, keras_meta.check\n"
        f"if {tool!r} == 'benchmark':\n"
        "    print(benchmark.harness.thread_counts())"
    )
    expected = f"{list(dict.fromkeys((1, os.cpu_count())))}\n"
    assert python(program) == (expected if tool == "benchmark" else "")


@pytest.mark.thorough
def test_a_tool_says_what_a_system_does_not_tell():
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
    said = "expected a system that reports the {} memory of a process, got win32."
    assert python(program).splitlines() == [
        f"benchmark: error: {said.format(kind)}" for kind in ("peak", "anonymous")
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell")
def test_peak_memory_is_at_its_most():
    before = runtime.peak_memory()
    held = np.ones([200, 2**20], "uint8")  # 200 MB, every page of them
    during = runtime.peak_memory()
    del held
    # The kernel counts pages in batches of its own.
    assert during - 1 <= runtime.peak_memory() < during + 50
    assert during >= 200 and during >= before


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux' getrusage does")
def test_peak_memory_is_not_that_of_who_began_the_process():
    child = (
        "import runpy, sys, types\n"
        "sys.modules['tensorflow'] = types.ModuleType('tensorflow')  # is large\n"
        f"path = {str(ROOT / 'keras_meta' / 'runtime.py')!r}\n"
        "print(runpy.run_path(path)['peak_memory']())"
    )
    program = (
        "import subprocess, sys, numpy\n"
        "held = numpy.ones([300, 2**20], 'uint8')\n"
        f"sys.exit(subprocess.call([sys.executable, '-c', {child!r}]))"
    )
    assert 5 < float(python(program)) < 200


@pytest.mark.parametrize("platform, unit", [("darwin", 2**20), ("freebsd14", 2**10)])
def test_peak_memory_in_the_unit_of_the_system(platform, unit, monkeypatch):
    fake = types.SimpleNamespace(
        RUSAGE_SELF=0, getrusage=lambda who: types.SimpleNamespace(ru_maxrss=300 * unit)
    )
    monkeypatch.setitem(sys.modules, "resource", fake)
    monkeypatch.setattr(sys, "platform", platform)
    assert runtime.peak_memory() == 300


def test_peak_memory_that_is_not_told(monkeypatch):
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


def test_the_sentence_of_cost():
    # By hand: from 1 to 5 steps 8 ms and 20 MB more.
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
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PATH": ""},
        check=True,
    )
    assert done.stdout in (
        b"kept \xff\nthe lastafter\n",
        b"kept \xff\nthe last\nafter\n",
    )


def unencoded(path):
    """Lines of a program that read or write text as the system likes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or "encoding" in [
            each.arg for each in node.keywords
        ]:
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", None)
        if name == "open":
            # `open(path, mode)`, `path.open(mode)`; `Image.open(path)` has none.
            at = 1 if isinstance(node.func, ast.Name) else 0
            mode = node.args[at : at + 1]
            text = not mode or (
                isinstance(mode[0], ast.Constant) and "b" not in mode[0].value
            )
        else:
            receiver = getattr(getattr(node.func, "value", None), "id", None)
            # `atomic.write_text` writes UTF-8.
            text = name in ("read_text", "write_text") and receiver != "atomic"
        if text:
            yield node.lineno


def test_texts_are_utf8_whatever_the_system_writes():
    paths = [ROOT / "setup.py", ROOT / "docs" / "conf.py"]
    for folder in ("keras_meta", "zoo", "tools", "examples"):
        paths += (ROOT / folder).rglob("*.py")
    # It has nothing but ASCII to read and write.
    paths = {path.relative_to(ROOT).as_posix(): path for path in paths}
    del paths["zoo/training.py"]
    found = {name: list(unencoded(path)) for name, path in paths.items()}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_no_file_is_a_symbolic_link():
    files = subprocess.run(
        ["git", "ls-files", "-s"], capture_output=True, text=True, cwd=ROOT
    ).stdout.splitlines()
    assert [line for line in files if line.startswith("120000")] == []
    # What stands in for the link to the tutorial is made when the pages are.
    subprocess.run([sys.executable, "docs/conf.py"], check=True, cwd=ROOT)
    made = ROOT / "docs" / "tutorials" / "own_images.py"
    assert not made.is_symlink()
    assert made.read_bytes() == (ROOT / "examples" / "own_images.py").read_bytes()
