"""Tests that several workers train the same weights as one process."""

import csv
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from keras_meta.zoo import workers
from tests import worker

ROOT = pathlib.Path(__file__).resolve().parents[1]


def check_equal(actual, expected):
    """Checks weights and results, but not which tasks a process computed."""
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        if not key.startswith("tasks/"):
            np.testing.assert_allclose(actual[key], value, atol=1e-5, err_msg=key)


@pytest.mark.thorough
def test_two_workers_divide_the_tasks_and_train_the_weights_of_one(tmp_path):
    addresses = workers.free_addresses(2)
    command = [sys.executable, "-m", "tests.worker"]
    processes = [
        subprocess.Popen(
            [*command, tmp_path / f"{index}.npz", str(index), *addresses],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    worker.main(tmp_path / "one.npz")
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    for index in range(2):
        assert (tmp_path / f"{index}.npz").exists(), outputs[index]
    expected = dict(np.load(tmp_path / "one.npz"))
    results = [dict(np.load(tmp_path / f"{index}.npz")) for index in range(2)]
    for actual in results:
        check_equal(actual, expected)
    for key in (f"tasks/{name}" for name in worker.LEARNERS):
        first, second = (set(actual[key]) for actual in results)
        assert len(first) >= 40 and len(second) >= 40
        assert not first & second  # no task is computed twice
        # The training tasks, episodes 0 to 79, are all computed.
        assert set(expected[key][:80]) <= first | second


@pytest.mark.slow
def test_two_devices_of_one_process_train_the_weights_of_one(tmp_path):
    command = [sys.executable, "-m", "tests.worker", tmp_path / "two.npz", "mirrored"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    worker.main(tmp_path / "one.npz")
    actual, expected = (dict(np.load(tmp_path / f"{n}.npz")) for n in ("two", "one"))
    check_equal(actual, expected)
    for key in (f"tasks/{name}" for name in worker.LEARNERS):
        computed = actual[key].tolist()
        assert set(expected[key][:80]) <= set(computed)
        # Training, validation (16 tasks) and evaluation (20) each restart the stream,
        # and compute some batches in advance.
        assert max(map(computed.count, computed)) <= 3


@pytest.mark.slow
def test_the_command_trains_with_local_workers(tmp_path):
    def train(name, *options):
        command = [sys.executable, "tools/train.py", "--recipe=lstm.boolean"]
        command += ["--steps=4", "--every=2", "--validation_tasks=64"]
        command += [f"--out={tmp_path / name}", *options]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        with (tmp_path / name / "log.csv").open() as file:
            return list(csv.DictReader(file)), process.stdout

    single, _ = train("one")
    double, _ = train("two", "--workers=2")
    for expected, actual in zip(single, double, strict=True):
        for key in expected.keys() - {"seconds"}:
            assert float(actual[key]) == pytest.approx(float(expected[key]), abs=1e-4)
    _, stdout = train("two", "--workers=2")
    assert "4 of 4 meta-steps are done" in stdout

    command = [sys.executable, "tools/train.py", "--recipe=lstm.boolean", "--workers=3"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 2
    assert "workers to divide the 64 tasks of a meta-step, got 3" in process.stderr


@pytest.mark.slow
def test_a_run_continues_after_a_worker_is_killed(tmp_path):
    """Kills one of two hosts on loopback addresses, and restarts both."""
    command = [sys.executable, "-m", "keras_meta", "train", "lstm.boolean"]
    command += ["--steps=40", "--every=10", "--validation-tasks=64"]
    (first_port, second_port) = (
        a.rpartition(":")[2] for a in workers.free_addresses(2)
    )
    hosts = [f"127.0.0.1:{first_port}", f"127.0.0.2:{second_port}"]
    log, checkpoint = (tmp_path / "two" / n for n in ("log.csv", "last.keras"))

    def start(index):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": hosts}, "task": task})
        return subprocess.Popen(
            [*command, f"--out={tmp_path / 'two'}"],
            env={**os.environ, "TF_CONFIG": config},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    survivor, killed = start(0), start(1)
    while not checkpoint.exists():
        assert survivor.poll() is None and killed.poll() is None
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    _, error = survivor.communicate(timeout=120)
    killed.communicate()
    assert survivor.returncode == 2
    (message,) = [line for line in error.splitlines() if "keras-meta" in line]
    assert "one of them stopped" in message and "start all workers again" in message
    assert "the same command resumes at the last checkpoint" in message
    with log.open() as file:
        assert len(list(csv.DictReader(file))) < 4

    restarted = [start(0), start(1)]
    outputs = [process.communicate(timeout=240) for process in restarted]
    assert [process.returncode for process in restarted] == [0, 0], outputs
    assert "resuming at meta-step" in outputs[0][0]
    single = subprocess.run(
        [*command, f"--out={tmp_path / 'one'}"], capture_output=True
    )
    assert single.returncode == 0
    rows = []
    for run in ("one", "two"):
        with (tmp_path / run / "log.csv").open() as file:
            rows.append(list(csv.DictReader(file)))
    assert len(rows[0]) == len(rows[1]) == 4
    for expected, actual in zip(*rows, strict=True):
        for key in expected.keys() - {"seconds"}:
            assert float(actual[key]) == pytest.approx(float(expected[key]), abs=1e-4)
