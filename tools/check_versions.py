"""Runs the default suite with the lowest and the newest versions that setup.py admits.

    python tools/check_versions.py                        # 3.11, 3.12 and 3.13
    python tools/check_versions.py --python=3.11 --versions=lowest
    python tools/check_versions.py --python=/opt/python/bin/python3

Each configuration has a fresh virtual environment, made by uv, and a line of the
output: its versions, what passed and failed, and the seconds of the suite. What pytest
said goes into files in --logs. Nothing is downloaded but packages: an interpreter that
this machine does not have is named and left out.
"""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

from absl import app, flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
# How uv calls the two ends. Of what the newest Python has no wheels for, nothing is
# built: the lowest version is the lowest that can be had for it.
RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
SHOWN = (
    "tensorflow",
    "keras",
    "tensorflow-probability",
    "tensorflow-datasets",
    "numpy",
)
COUNTED = ("passed", "failed", "error")

FLAGS = flags.FLAGS
flags.DEFINE_list("python", "3.11,3.12,3.13", "Interpreters: versions or paths.")
flags.DEFINE_list("versions", "lowest,newest", "Ends of what setup.py admits.")
flags.DEFINE_list("tests", [], "Files for pytest in place of all tests but slow ones.")
flags.DEFINE_integer("processes", 1, "Processes of pytest.")
flags.DEFINE_string("logs", "runs/versions", "Folder of what pytest said.")


def requirements(text, extras=("test",)):
    """The requirements of a setup.py, with those of extras.

    Args:
        text: of the file.
        extras: names of extras.

    Returns:
        `{name: lower bound}`, None where there is no bound.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.keywords:
            given = {each.arg: each.value for each in node.keywords}
            if "install_requires" in given:
                break
    else:
        raise ValueError("expected a call with install_requires in setup.py, got none.")
    lines = ast.literal_eval(given["install_requires"])
    more = ast.literal_eval(given.get("extras_require", ast.Dict([], [])))
    for extra in extras:
        lines = [*lines, *more[extra]]
    found = {}
    for line in lines:
        name = re.match(r"[\w.-]+", line)[0]
        bound = re.search(r">=\s*([\w.]+)", line)
        found[name.lower().replace("_", "-")] = bound and bound[1]
    return found


def counts(said):
    """How many tests passed, failed and erred, from what pytest said.

    Args:
        said: its output with `-q`; the last line that counts is taken.

    Returns:
        `{"passed": n, "failed": n, "error": n}`, or None if it says nothing.
    """
    for line in reversed(said.splitlines()):
        found = dict(
            (word, int(number))
            for number, word in re.findall(r"(\d+) (passed|failed|error)s?\b", line)
        )
        if found and re.search(r" in [\d.]+s", line):
            return {word: found.get(word, 0) for word in COUNTED}
    return None


def unreached(bounds, versions):
    """Requirements whose lower bound another requirement does not let be had.

    Args:
        bounds: what `requirements` gave.
        versions: `{name: installed version}`.

    Returns:
        Sentences, such as `keras>=3.10 is 3.12.0`.
    """

    def numbers(version):
        """`3.12.0` as (3, 12): zeros at the end say nothing."""
        found = [int(each) for each in re.findall(r"\d+", version)]
        while found and not found[-1]:
            found.pop()
        return found

    return [
        f"{name}>={bound} is {versions[name]}"
        for name, bound in bounds.items()
        if bound and name in versions and numbers(versions[name]) != numbers(bound)
    ]


def line(python, end, versions, found, seconds):
    """What is printed of a configuration."""
    shown = ", ".join(f"{name} {versions.get(name, 'none')}" for name in SHOWN)
    result = "no result"
    if found:
        result = f"{found['passed']} passed, {found['failed'] + found['error']} failed"
    return f"Python {python}, {end}: {shown}: {result}, {seconds:.0f} s"


def uv(*arguments, **environment):
    """Runs uv, and gives what it did."""
    here = shutil.which("uv")
    return subprocess.run(
        [*([here] if here else [sys.executable, "-m", "uv"]), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def interpreter(name):
    """The path of an interpreter, or None."""
    # What pyenv puts on the path works for the version that it is told.
    told = {"PYENV_VERSION": name} if re.fullmatch(r"[\d.]+", name) else {}
    done = uv("python", "find", "--no-project", "--no-python-downloads", name, **told)
    return None if done.returncode else done.stdout.strip()


def installed(python, end, folder):
    """Makes an environment in a folder.

    Returns:
        `(python, versions)`: the path of its interpreter, and `{name: version}`.

    Raises:
        ValueError: the requirements cannot be installed together.
    """
    done = uv("venv", "--no-project", f"--python={python}", folder)
    binary = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    path = str(pathlib.Path(folder) / binary)
    if not done.returncode:
        text = (ROOT / "setup.py").read_text(encoding="utf-8")
        done = uv(
            "pip",
            "install",
            f"--python={path}",
            f"--resolution={RESOLUTIONS[end]}",
            *(f"--only-binary={name}" for name in requirements(text)),
            f"--editable={ROOT}[test]",
            "pip>=24",  # which an environment of uv lacks, and the tests run
        )
    if done.returncode:
        raise ValueError(" ".join(done.stderr.split()))
    listed = json.loads(uv("pip", "list", f"--python={path}", "--format=json").stdout)
    return path, {each["name"].lower(): each["version"] for each in listed}


def check(name, python, end):
    """Runs the suite in a fresh environment; whether all of it passed."""
    out = pathlib.Path(FLAGS.logs)
    out.mkdir(parents=True, exist_ok=True)
    log = out / f"{re.sub(r'[^0-9A-Za-z.]+', '-', name).strip('-')}-{end}.txt"
    with tempfile.TemporaryDirectory() as folder:
        try:
            path, versions = installed(python, end, folder)
        except ValueError as error:
            print(f"Python {name}, {end}: could not be installed: {error}", flush=True)
            return False
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        }
        # The commands of this environment come first.
        kept["PATH"] = f"{pathlib.Path(path).parent}{os.pathsep}{kept['PATH']}"
        began = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(
                [path, "-m", "pytest", "-q", "-m", "not slow", f"-n{FLAGS.processes}"]
                + FLAGS.tests,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=kept,
            )
        seconds = time.monotonic() - began
    said = log.read_text(encoding="utf-8", errors="replace")
    print(line(name, end, versions, counts(said), seconds), flush=True)
    if end == "lowest":
        text = (ROOT / "setup.py").read_text(encoding="utf-8")
        for sentence in unreached(requirements(text), versions):
            print(f"  bound not reached: {sentence}", flush=True)
    if done.returncode:
        print(f"  what pytest said: {log}", flush=True)
        for each in re.findall(r"^(?:FAILED|ERROR)\b.*", said, re.MULTILINE):
            print(f"  {each}", flush=True)
    return done.returncode == 0


def main(_):
    unknown = set(FLAGS.versions) - set(RESOLUTIONS)
    if unknown:
        sys.exit(f"check_versions: error: expected lowest, newest, got {unknown.pop()}")
    if uv("--version").returncode:
        sys.exit("check_versions: error: expected uv (pip install uv), found none")
    passed = []
    for name in FLAGS.python:
        python = interpreter(name)
        if python is None:
            print(f"Python {name}: no such interpreter here, left out", flush=True)
            continue
        passed += [check(name, python, end) for end in FLAGS.versions]
    if not passed:
        sys.exit("check_versions: error: expected an interpreter, found none of them")
    sys.exit(int(not all(passed)))


if __name__ == "__main__":
    app.run(main)
