"""Tests of runs: exact meta-steps, compared settings, one process per folder."""

import csv
import dataclasses
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta.zoo import cluster, recipes, runs, training
from keras_meta.zoo.recipes import characters, gradient, sources

ROOT = pathlib.Path(__file__).resolve().parents[1]


def train(directory, steps, every, tasks=2, **settings):
    """Trains MAML on sinusoids; returns the last checkpoint's learner and the log."""
    family = km.tasks.sinusoid()

    def build():
        keras.utils.set_random_seed(0)
        learner = km.MAML(km.networks.mlp(units=(4,)), "mse")
        learner.compile(keras.optimizers.Adam(use_ema=True))
        learner.optimizer.build(learner.trainable_variables)
        return learner

    def load():
        validation = family.episodes(seed=1).take(4).batch(2)
        return build, lambda start: family.episodes(start=start), validation

    training.fit(load, directory, {"steps": steps, **settings}, tasks, every, "mse")
    with (directory / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    learner = keras.models.load_model(directory / "last.keras")
    return learner, rows


def values(learner):
    variables = [*learner.variables, *learner.optimizer.variables]
    return [variable.numpy() for variable in variables]


@pytest.mark.thorough
def test_checkpoint_intervals_do_not_change_the_weights(tmp_path, monkeypatch):
    whole, rows = train(tmp_path / "whole", 25, 25)
    assert [int(row["step"]) for row in rows] == [25]

    directory = tmp_path / "resumed"
    with monkeypatch.context() as patch:
        # An interrupt in the first steps ends the run at the checkpoint after them.
        patch.setattr(
            training.Run,
            "on_train_batch_begin",
            lambda self, batch, logs=None: (
                signal.raise_signal(signal.SIGINT) if batch == 0 else None
            ),
        )
        with pytest.raises(SystemExit):
            train(directory, 25, 10)
    resumed, resumed_rows = train(directory, 25, 7)
    steps = [int(row["step"]) for row in resumed_rows]
    assert steps == [10, 14, 21, 25]
    assert int(resumed.optimizer.iterations) == int(whole.optimizer.iterations) == 25
    for a, b in zip(values(whole), values(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    # Each row has the mean loss of the meta-steps since the row before it.
    losses = [float(row["loss"]) for row in resumed_rows]
    mean = np.average(losses, weights=np.diff([0, *steps]))
    np.testing.assert_allclose(mean, float(rows[0]["loss"]), rtol=1e-5)


@pytest.mark.parametrize(
    ("steps", "every", "tasks", "message"),
    [
        (0, 1, 1, "steps to be an integer >= 1, got 0"),
        (-5, 1, 1, "steps to be an integer >= 1, got -5"),
        (5, 0, 1, "every to be an integer >= 1, got 0"),
        (5, True, 1, "every to be an integer >= 1, got True"),
        (5, 1, 2.0, "tasks to be an integer >= 1, got 2.0"),
    ],
)
def test_invalid_numbers_are_rejected(tmp_path, steps, every, tasks, message):
    with pytest.raises(ValueError, match=message):
        training.fit(None, tmp_path / "run", {"steps": steps}, tasks, every, "mse")
    assert not (tmp_path / "run").exists()


def resume_error(directory, settings):
    """Returns the message of the error that `fit` raises before it loads data."""
    with pytest.raises(ValueError) as error:
        training.fit(None, directory, settings, 1, 1, "mse")
    return str(error.value)


def test_a_run_with_other_settings_is_not_resumed(tmp_path):
    settings = {
        "recipe": "maml.tiny",
        "steps": 10,
        "rate": 0.1,
        "learner": {"inner_rate": 0.4, "layers": [{"units": 3}, {"units": 4}]},
        "commit": "one",
    }
    runs.record(tmp_path, settings | {"tasks": 1})
    runs.record(tmp_path, settings | {"tasks": 1, "commit": "two", "new": 1})
    for change, old, new in (
        ({"steps": 20}, "steps = 10", "steps = 20"),
        ({"rate": 0.2}, "rate = 0.1", "rate = 0.2"),
        (
            {"learner": {"inner_rate": 0.1, "layers": [{"units": 3}, {"units": 5}]}},
            "learner.inner_rate = 0.4, learner.layers[1].units = 4",
            "learner.inner_rate = 0.1, learner.layers[1].units = 5",
        ),
    ):
        assert resume_error(tmp_path, settings | change) == (
            f"expected the settings that the run in {tmp_path} began with, {old}, "
            f"got {new}: a new run needs another folder."
        )
    (tmp_path / "other").mkdir()
    runs.record(tmp_path / "other", dict.fromkeys("abcd", 0))
    message = resume_error(tmp_path / "other", {"steps": 1, **dict.fromkeys("abcd", 1)})
    assert "got a = 1, b = 1, c = 1 (1 more differ)" in message


@pytest.mark.thorough
def test_a_run_with_another_number_of_tasks_is_not_resumed(tmp_path):
    train(tmp_path, 2, 2)
    with pytest.raises(ValueError, match="tasks = 2, got tasks = 3"):
        train(tmp_path, 2, 2, tasks=3)


@pytest.mark.thorough
def test_a_record_with_fewer_keys_resumes(tmp_path):
    train(tmp_path, 2, 1)
    (tmp_path / "run.json").write_text('{"steps": 2, "tasks": 2, "commit": "old"}')
    train(tmp_path, 2, 1, rate=0.3, validation_tasks=7)
    (tmp_path / "run.json").write_text("{")
    assert f"a run in {tmp_path / 'run.json'}, got no JSON" in resume_error(
        tmp_path, {"steps": 2}
    )


def test_recorded_settings_of_a_recipe():
    def record(recipe_name="maml.omniglot_5w1s", origin=None):
        settings = training.settings(recipe_name, 10, 0, 20, origin)
        assert json.loads(json.dumps(settings)) == settings  # JSON keeps the settings
        return settings

    def changes(**fields):
        recipe = recipes.RECIPES["maml.omniglot_5w1s"]
        with pytest.MonkeyPatch.context() as patch:
            replaced = dataclasses.replace(recipe, **fields)
            patch.setitem(recipes.RECIPES, "maml.omniglot_5w1s", replaced)
            return [name for name, *_ in runs.differences(base, record())]

    base = record()
    # The numbers that Keras appends to names cause no difference.
    assert list(runs.differences(base, record())) == []
    assert changes(rate=0.5) == ["rate"]
    assert changes(average=0.5) == ["average"]
    assert changes(clip=1.0) == ["clip"]
    assert changes(dtype_policy="mixed_float16") == ["dtype_policy"]
    assert changes(optimizer="sgd") == ["optimizer"]
    assert changes(paper="another") == []
    task = characters.OMNIGLOT_5W1S
    curriculum = dataclasses.replace(task, queries=3)
    assert changes(task=curriculum) == ["task.queries"]
    source = dataclasses.replace(task.source, load=sources.tfds("other"))
    other_task = dataclasses.replace(task, source=source)
    assert changes(task=other_task) == ["task.source.load.captured.name"]
    learner = gradient._drawn("MAML", inner_rate=0.1)
    assert changes(learner=learner) == ["learner.inner_rate"]

    warm = record(origin="maml.glyphs_5w1s-inductive")
    names = [name for name, *_ in runs.differences(base, warm)]
    assert names == ["initial_weights", "initial_sha256"]
    assert len(warm["initial_sha256"]) == 64
    with pytest.raises(ValueError, match="no file at missing.keras"):
        record(origin="missing.keras")


@pytest.mark.thorough
def test_one_process_trains_in_a_folder(tmp_path):
    directory = tmp_path / "run"
    claim = (
        "import pathlib, sys, time\n"
        "from keras_meta.zoo import runs\n"
        "with runs.claimed(pathlib.Path(sys.argv[1])):\n"
        "    print('claimed', flush=True)\n"
        "    time.sleep(100)\n"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", claim, str(directory)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert holder.stdout.readline() == "claimed\n"
    assert resume_error(directory, {"steps": 2}) == (
        f"expected {directory} to be free, another process is training in it."
    )
    assert not (directory / "run.json").exists()
    holder.kill()
    holder.wait()
    train(directory, 2, 1)
    train(directory, 2, 1)  # a finished run holds no lock
    with runs.claimed(directory):
        assert "to be free" in resume_error(directory, {"steps": 2})


def test_a_file_instead_of_a_folder_is_rejected(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert f"a folder for the run, got {path}, which is a file" in resume_error(
            path, {"steps": 2}
        )
    assert (tmp_path / "file").read_text() == "mine"


def test_cluster_configurations():
    def config(kind="worker", index=0, **jobs):
        jobs = jobs or {"worker": ["a:1", "b:1"]}
        return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})

    assert cluster.parse(config()) == (2, True)
    assert cluster.parse(config(index=1)) == (2, False)
    chief = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    assert cluster.parse(config("chief", **chief)) == (3, True)
    assert cluster.parse(config("worker", **chief)) == (3, False)
    for text, message in (
        ("{}", "got no cluster: {}."),
        ("[]", "got no cluster: []."),
        ("{", "got no JSON"),
        ('{"cluster": {"worker": ["a:1"]}}', "got no task"),
        ('{"task": {"type": "worker", "index": 0}}', "got no cluster"),
        (config(index=2), "a task that its cluster lacks"),
        (config(index="0"), "a task that its cluster lacks"),
        (config(kind=None), "a task that its cluster lacks"),
        (config(kind=["worker"]), "a task that its cluster lacks"),
        (config("ps", ps=["a:1"]), "got ps = ['a:1'] in its cluster"),
        (config(worker=[]), "got worker = [] in its cluster"),
        (config(worker="a:1"), "got worker = 'a:1' in its cluster"),
    ):
        with pytest.raises(ValueError) as error:
            cluster.parse(text)
        assert str(error.value).startswith("expected TF_CONFIG to be JSON such as")
        assert message in str(error.value) and "\n" not in str(error.value)


COMMAND = """
import sys
from unittest import mock
sys.path.insert(0, "tools")
import train
from keras_meta.zoo.recipes import protocols
patch = mock.patch.object(protocols.Functions, "episodes", side_effect=SystemError)
with patch:
    sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        (["--validation_tasks=0"], None, "expected an integer >= 2, got 0"),
        ([], "{}", "expected TF_CONFIG to be JSON such as"),
    ],
)
def test_the_command_rejects_options_before_it_loads_data(
    tmp_path, options, config, message
):
    options = ["--recipe=maml.sinusoid", f"--out={tmp_path / 'run'}", *options]
    environment = {"TF_CONFIG": config} if config else {}
    process = subprocess.run(
        [sys.executable, "-c", COMMAND, *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    assert process.returncode == 2
    last_line = process.stderr.strip().splitlines()[-1]
    assert f"error: {message}" in last_line.replace("argument --validation-tasks: ", "")
    assert "Traceback" not in process.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("numbers", "workers", "message"),
    [
        ({"steps": -1}, 1, "steps to be an integer >= 1, got -1"),
        ({"every": 0}, 1, "every to be an integer >= 1, got 0"),
        ({"validation_tasks": 0}, 1, "validation_tasks to be an integer >= 1, got 0"),
        ({"workers": 0}, 0, "workers to be an integer >= 1, got 0"),
        ({"seed": -1}, 1, "seed to be an integer >= 0, got -1"),
        ({}, 3, "workers to divide the 16 tasks of a meta-step, got 3"),
    ],
)
def test_invalid_numbers_of_the_command_are_rejected(numbers, workers, message):
    recipe = recipes.recipe("maml.omniglot_5w1s")
    training.check(recipe, 4, {"steps": None, "seed": 0, "every": 1})
    with pytest.raises(ValueError, match=re.escape(message)):
        training.check(recipe, workers, numbers)


@pytest.mark.parametrize("write", [pathlib.Path.mkdir, lambda p: p.write_text("mine")])
def test_a_lock_that_cannot_be_created_raises_an_error(tmp_path, write):
    write(tmp_path / "run.lock")
    with pytest.raises(OSError, match=f"cannot lock {re.escape(str(tmp_path))}"):
        with runs.claimed(tmp_path):
            raise AssertionError("claimed")
