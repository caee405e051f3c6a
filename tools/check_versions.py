"""Runs the default suite with the lowest and the newest versions that setup.py admits.

    python tools/check_versions.py                        # 3.11, 3.12 and 3.13
    python tools/check_versions.py --python=3.11 --versions=lowest
    python tools/check_versions.py --python=/opt/python/bin/python3

uv creates a fresh virtual environment for each configuration. One line of output states
its versions, the numbers of passed and failed tests, and the seconds of the suite. The
output of pytest is written to files in --logs. Only packages are downloaded: an
interpreter that is not installed on this machine is reported and skipped.
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
# uv's names of the resolutions. Wheels are never built: for a new Python, the lowest
# version is the lowest one that has wheels for it.
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
flags.DEFINE_list("versions", "lowest,newest", "Resolutions: lowest, newest or both.")
flags.DEFINE_list("tests", [], "Test files; by default all. Slow tests are left out.")
flags.DEFINE_integer("processes", 1, "Processes of pytest.")
flags.DEFINE_string("logs", "runs/versions", "Folder for the output of pytest.")


def requirements(text, extras=("test",)):
    """Reads the requirements in a setup.py, including those of extras.

    Args:
        text: content of the file.
        extras: names of extras.

    Returns:
        `{name: lower bound}`; the value is None where there is no bound.
    """
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.keywords:
            arguments = {keyword.arg: keyword.value for keyword in node.keywords}
            if "install_requires" in arguments:
                break
    else:
        raise ValueError("expected a call with install_requires in setup.py, got none.")
    lines = ast.literal_eval(arguments["install_requires"])
    extra_lines = ast.literal_eval(arguments.get("extras_require", ast.Dict([], [])))
    for extra in extras:
        lines = [*lines, *extra_lines[extra]]
    bounds = {}
    for line in lines:
        name = re.match(r"[\w.-]+", line)[0]
        bound = re.search(r">=\s*([\w.]+)", line)
        bounds[name.lower().replace("_", "-")] = bound and bound[1]
    return bounds


def counts(output):
    """Reads the numbers of passed tests, failed tests and errors in pytest's output.

    Args:
        output: the output of `pytest -q`; its last line with counts is used.

    Returns:
        `{"passed": n, "failed": n, "error": n}`, or None if no line has counts.
    """
    for line in reversed(output.splitlines()):
        numbers = dict(
            (word, int(number))
            for number, word in re.findall(r"(\d+) (passed|failed|error)s?\b", line)
        )
        if numbers and re.search(r" in [\d.]+s", line):
            return {word: numbers.get(word, 0) for word in COUNTED}
    return None


def unreached(bounds, versions):
    """Lists lower bounds that another requirement prevents uv from installing.

    Args:
        bounds: the result of `requirements`.
        versions: `{name: installed version}`.

    Returns:
        Sentences, such as `keras>=3.10 is 3.12.0`.
    """

    def numbers(version):
        """Converts `3.12.0` to [3, 12]: trailing zeros have no meaning."""
        parts = [int(part) for part in re.findall(r"\d+", version)]
        while parts and not parts[-1]:
            parts.pop()
        return parts

    return [
        f"{name}>={bound} is {versions[name]}"
        for name, bound in bounds.items()
        if bound and name in versions and numbers(versions[name]) != numbers(bound)
    ]


def line(python, resolution, versions, numbers, seconds):
    """The line of output of a configuration."""
    packages = ", ".join(f"{name} {versions.get(name, 'none')}" for name in SHOWN)
    result = "no result"
    if numbers:
        failed = numbers["failed"] + numbers["error"]
        result = f"{numbers['passed']} passed, {failed} failed"
    return f"Python {python}, {resolution}: {packages}: {result}, {seconds:.0f} s"


def uv(*arguments, **environment):
    """Runs uv; returns the completed process with its output."""
    program = shutil.which("uv")
    return subprocess.run(
        [*([program] if program else [sys.executable, "-m", "uv"]), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def interpreter(name):
    """Returns the path of an interpreter, or None if it is not installed."""
    # An interpreter that pyenv puts on the path runs the version in this variable.
    environment = {"PYENV_VERSION": name} if re.fullmatch(r"[\d.]+", name) else {}
    process = uv(
        "python", "find", "--no-project", "--no-python-downloads", name, **environment
    )
    return None if process.returncode else process.stdout.strip()


def installed(python, resolution, folder):
    """Creates a virtual environment in a folder.

    Returns:
        `(path, versions)`: the path of its interpreter, and `{name: version}`.

    Raises:
        ValueError: the requirements cannot be installed together.
    """
    process = uv("venv", "--no-project", f"--python={python}", folder)
    binary = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    path = str(pathlib.Path(folder) / binary)
    if not process.returncode:
        text = (ROOT / "setup.py").read_text(encoding="utf-8")
        process = uv(
            "pip",
            "install",
            f"--python={path}",
            f"--resolution={RESOLUTIONS[resolution]}",
            *(f"--only-binary={name}" for name in requirements(text)),
            f"--editable={ROOT}[test]",
            "pip>=24",  # tests run pip, and an environment of uv has none
        )
    if process.returncode:
        raise ValueError(" ".join(process.stderr.split()))
    packages = json.loads(uv("pip", "list", f"--python={path}", "--format=json").stdout)
    return path, {package["name"].lower(): package["version"] for package in packages}


def check(name, python, resolution):
    """Runs the suite in a fresh environment; returns whether all tests passed."""
    out = pathlib.Path(FLAGS.logs)
    out.mkdir(parents=True, exist_ok=True)
    log = out / f"{re.sub(r'[^0-9A-Za-z.]+', '-', name).strip('-')}-{resolution}.txt"
    with tempfile.TemporaryDirectory() as folder:
        try:
            path, versions = installed(python, resolution, folder)
        except ValueError as error:
            sentence = f"Python {name}, {resolution}: could not be installed: {error}"
            print(sentence, flush=True)
            return False
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        }
        # Commands of this environment take precedence.
        folders = pathlib.Path(path).parent, environment["PATH"]
        environment["PATH"] = os.pathsep.join(map(str, folders))
        start = time.monotonic()
        with log.open("w", encoding="utf-8") as file:
            process = subprocess.run(
                [path, "-m", "pytest", "-q", "-m", "not slow", f"-n{FLAGS.processes}"]
                + FLAGS.tests,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=environment,
            )
        seconds = time.monotonic() - start
    output = log.read_text(encoding="utf-8", errors="replace")
    print(line(name, resolution, versions, counts(output), seconds), flush=True)
    if resolution == "lowest":
        text = (ROOT / "setup.py").read_text(encoding="utf-8")
        for sentence in unreached(requirements(text), versions):
            print(f"  bound not reached: {sentence}", flush=True)
    if process.returncode:
        print(f"  output of pytest: {log}", flush=True)
        for failure in re.findall(r"^(?:FAILED|ERROR)\b.*", output, re.MULTILINE):
            print(f"  {failure}", flush=True)
    return process.returncode == 0


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"expected flags alone, got {' '.join(argv[1:])}.")
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
        passed += [check(name, python, resolution) for resolution in FLAGS.versions]
    if not passed:
        sys.exit("check_versions: error: expected an interpreter, found none of them")
    sys.exit(int(not all(passed)))


if __name__ == "__main__":
    app.run(main)
