"""Tests of `tools/check_versions.py`: requirements, test counts and exit code."""

import pathlib
import subprocess
import sys
import types

import pytest

from tools import check_versions

ROOT = pathlib.Path(__file__).resolve().parents[1]


SETUP = """
import setuptools
setuptools.setup(
    name="x",
    install_requires=["absl-py>=2.1", "Some_thing[tf] >= 0.25.1", "bare", "a<3,>=2"],
    extras_require={"test": ["pytest>=8.0"], "docs": ["furo>=1"]},
)
"""


def test_requirements():
    base = {"absl-py": "2.1", "some-thing": "0.25.1", "bare": None, "a": "2"}
    assert check_versions.requirements(SETUP) == base | {"pytest": "8.0"}
    assert check_versions.requirements(SETUP, extras=()) == base
    with pytest.raises(ValueError, match="^expected a call with install_requires"):
        check_versions.requirements("import setuptools\nsetuptools.setup(name='x')")


def test_the_requirements_of_this_project():
    bounds = check_versions.requirements(
        (ROOT / "setup.py").read_text(encoding="utf-8")
    )
    assert {"keras", "tensorflow", "tensorflow-probability", "pytest"} <= set(bounds)
    assert all(bounds.values())  # each has a bound


@pytest.mark.parametrize(
    "output, expected",
    [
        (".....\n12 passed, 3 deselected in 1.20s\n", (12, 0, 0)),
        (
            "FAILED a\n=== 2 failed, 1 passed, 4 warnings in 62.05s (0:01:02) ===",
            (1, 2, 0),
        ),
        ("1 failed, 9 passed, 2 errors in 3.10s", (9, 1, 2)),
        ("ERROR tests/a.py\n1 error in 0.30s", (0, 0, 1)),
        ("3 passed in 1.0s\nthe test said 5 failed\n7 passed in 2.0s\n", (7, 0, 0)),
        ("no tests ran in 0.1s", None),
        ("Segmentation fault", None),
        ("", None),
    ],
)
def test_counts(output, expected):
    counts = check_versions.counts(output)
    assert counts == (
        expected and dict(zip(check_versions.COUNTED, expected, strict=True))
    )


def test_bounds_that_are_not_reached():
    bounds = {"keras": "3.10", "numpy": "1.26", "rich": None, "absent": "1", "a": "2.1"}
    versions = {"keras": "3.12.0", "numpy": "1.26.0", "rich": "14.1", "a": "2.10"}
    assert check_versions.unreached(bounds, versions) == [
        "keras>=3.10 is 3.12.0",
        "a>=2.1 is 2.10",
    ]


def test_the_line_of_a_configuration():
    versions = {"tensorflow": "2.19.0", "keras": "3.10.0", "numpy": "1.26.0"}
    counts = {"passed": 9, "failed": 1, "error": 2}
    assert check_versions.line("3.11", "lowest", versions, counts, 61.4) == (
        "Python 3.11, lowest: tensorflow 2.19.0, keras 3.10.0, tensorflow-probability "
        "none, tensorflow-datasets none, numpy 1.26.0: 9 passed, 3 failed, 61 s"
    )
    assert check_versions.line("3.11", "newest", versions, None, 5).endswith(
        ": no result, 5 s"
    )


def test_missing_interpreters_are_reported(monkeypatch, capsys):
    flags = types.SimpleNamespace(python=["3.99", "3.98"], versions=["lowest"])
    monkeypatch.setattr(check_versions, "FLAGS", flags)
    monkeypatch.setattr(
        check_versions, "uv", lambda *a: subprocess.CompletedProcess(a, 0)
    )
    monkeypatch.setattr(check_versions, "interpreter", lambda name: None)
    with pytest.raises(SystemExit, match="^check_versions: error: expected an interp"):
        check_versions.main([])
    assert capsys.readouterr().out.splitlines() == [
        "Python 3.99: no such interpreter here, left out",
        "Python 3.98: no such interpreter here, left out",
    ]


@pytest.mark.parametrize("results, code", [([True, True], 0), ([True, False], 1)])
def test_a_failed_configuration_sets_the_exit_code(results, code, monkeypatch):
    flags = types.SimpleNamespace(python=["3.11"], versions=["lowest", "newest"])
    monkeypatch.setattr(check_versions, "FLAGS", flags)
    remaining = list(results)
    monkeypatch.setattr(
        check_versions, "uv", lambda *a: subprocess.CompletedProcess(a, 0)
    )
    monkeypatch.setattr(check_versions, "interpreter", lambda name: sys.executable)
    monkeypatch.setattr(check_versions, "check", lambda *a: remaining.pop(0))
    with pytest.raises(SystemExit) as info:
        check_versions.main([])
    assert (info.value.code, remaining) == (code, [])


def test_installed_versions_are_read_from_uv(monkeypatch, tmp_path):
    calls = []

    def uv(*arguments):
        calls.append(arguments)
        stdout = '[{"name": "Keras", "version": "3.14.0"}]'
        return subprocess.CompletedProcess(arguments, 0, stdout=stdout, stderr="")

    monkeypatch.setattr(check_versions, "uv", uv)
    _, versions = check_versions.installed("python3", "lowest", str(tmp_path))
    assert versions == {"keras": "3.14.0"}
    assert "--resolution=lowest-direct" in calls[1]
    assert "--only-binary=numpy" in calls[1]
    monkeypatch.setattr(
        check_versions,
        "uv",
        lambda *a: subprocess.CompletedProcess(a, 1, "", "no\n  way"),
    )
    with pytest.raises(ValueError, match="^no way$"):
        check_versions.installed("python3", "lowest", str(tmp_path))
