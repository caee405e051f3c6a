"""Several workers on the same episodes do what one process does."""

import csv
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests import worker

ROOT = pathlib.Path(__file__).resolve().parents[1]


def addresses(count):
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    found = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    return found


def test_two_workers_are_as_good_as_one(tmp_path):
    there = addresses(2)
    command = [sys.executable, "-m", "tests.worker"]
    running = [
        subprocess.Popen(
            [*command, tmp_path / f"{index}.npz", str(index), *there],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    worker.main(tmp_path / "one.npz")
    said = [each.communicate(timeout=120)[0] for each in running]
    expected = dict(np.load(tmp_path / "one.npz"))
    for index in range(2):
        assert (tmp_path / f"{index}.npz").exists(), said[index]
        found = dict(np.load(tmp_path / f"{index}.npz"))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_a_command_for_local_workers(tmp_path):
    def train(name, *options):
        command = [sys.executable, "tools/train.py", "--recipe=lstm.boolean"]
        command += ["--steps=4", "--every=2", "--validation_tasks=64"]
        command += [f"--out={tmp_path / name}", *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        with (tmp_path / name / "log.csv").open() as file:
            return list(csv.DictReader(file)), done.stdout

    one, _ = train("one")
    two, _ = train("two", "--workers=2")
    for expected, found in zip(one, two, strict=True):
        for key in expected.keys() - {"seconds"}:
            assert float(found[key]) == pytest.approx(float(expected[key]), abs=1e-4)
    _, said = train("two", "--workers=2")
    assert "4 of 4 meta-steps are done" in said

    command = [sys.executable, "tools/train.py", "--recipe=lstm.boolean", "--workers=3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "workers to divide the 64 tasks of a meta-step, got 3" in done.stderr
