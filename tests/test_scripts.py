"""Tests of the command in scripts: CSV, JSON, exit codes, and terminals."""

import csv
import io
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import warnings

import numpy as np
import pytest

import keras_meta as km
from keras_meta import check, saved_model, zoo
from keras_meta import findings as findings_module
from keras_meta.zoo import cards, cli, console, intervals, lake, predictions
from tests import test_cli
from tests.test_cli import (  # noqa: F401  fixtures
    CURVES,
    IMAGES,
    by_hand,
    glyphs,
    here,
    models,
    write_image,
    write_task,
)

NAMES = ["[b] $x$", "ant", "cow"]  # class folders of `write_task`, sorted
ORDER = [1, 0, 2]  # indices in NAMES of the classes of `by_hand`
EXPECTED_FILES = [f"{label}-{i}.png" for label in range(3) for i in range(4, 8)]


def read_csv(text):
    return list(csv.DictReader(io.StringIO(text)))


def numbers(rows, *columns):
    return np.array([[float(row[name]) for name in columns] for row in rows])


@pytest.fixture
def task(glyphs):  # noqa: F811
    return write_task("task", glyphs)


@pytest.mark.thorough
def test_learn_writes_one_row_per_query(task, glyphs, capsys):  # noqa: F811
    assert cli.main(["learn", "task", "--csv", "-"]) == 0
    out, err = capsys.readouterr()
    rows = read_csv(out)
    columns = ["file", "class", "confidence", *(f"p_{name}" for name in NAMES)]
    assert list(rows[0]) == columns
    assert [row["file"] for row in rows] == EXPECTED_FILES
    expected = by_hand(glyphs)[:, np.argsort(ORDER)]
    # CSV has full precision; the table rounds to 0.1%.
    np.testing.assert_allclose(numbers(rows, *columns[3:]), expected, rtol=1e-5)
    np.testing.assert_allclose(
        numbers(rows, "confidence")[:, 0], expected.max(axis=1), rtol=1e-5
    )
    assert [row["class"] for row in rows] == [NAMES[i] for i in expected.argmax(axis=1)]
    assert "learned 3 classes from 6 images" in err and "Picture: " in err

    assert cli.main(["learn", "task", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert err == "" and result.keys() == {"model", "classes", "predictions"}
    assert result["model"] == IMAGES and result["classes"] == NAMES
    assert numbers(result["predictions"], *columns[3:]).tolist() == (
        numbers(rows, *columns[3:]).tolist()
    )

    assert cli.main(["learn", "task", "--csv", "made.csv"]) == 0
    out, err = capsys.readouterr()
    assert read_csv(pathlib.Path("made.csv").read_text(encoding="utf-8")) == rows
    assert test_cli.rows(out) and "Picture: " in out and err == ""
    assert cli.main(["learn", "task", "--csv", "made.csv", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_points_in_full_precision(capsys):
    pathlib.Path("p.csv").write_text("x,y\n-1,2\n0.5,0.25\n3,-4\n4,\n-2.5,\n")
    assert cli.main(["learn", "p.csv", "--csv", "-"]) == 0
    rows = read_csv(capsys.readouterr().out)
    assert [list(row) for row in rows] == [["x", "mean"]] * 2
    x, y = np.array([-1.0, 0.5, 3.0]), np.array([2.0, 0.25, -4.0])
    slope, level = 2 * test_cli.RATE * np.array([np.mean(x * y), np.mean(y)])
    expected = [[query, slope * query + level] for query in (4, -2.5)]
    np.testing.assert_allclose(numbers(rows, "x", "mean"), expected, rtol=1e-6)


def test_points_with_a_scale(capsys):

    arguments = cli._parser().parse_args(["learn", "p.csv", "--json"])
    output = console.Output(arguments)
    third = np.float32(1) / 3
    predictions.show_points(output, "any", [2.0], [third, 0.0], [np.nan])
    (row,) = json.loads(capsys.readouterr().out)["predictions"]
    assert row == {"x": 2.0, "mean": float(third), "scale": None}  # JSON has no NaN


def test_csv_files_are_replaced_atomically(task, capsys, monkeypatch):
    pathlib.Path("made.csv").write_text("kept")
    arguments = ["learn", "task", "--csv", "made.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(console, "_csv", lambda rows: b"half")

        def raise_disk_full(*_):
            raise OSError(28, "No space left on device", "made.csv")

        patch.setattr(os, "replace", raise_disk_full)
        assert cli.main(arguments) == 2
    assert "No space left on device: made.csv" in capsys.readouterr().err
    assert pathlib.Path("made.csv").read_text() == "kept"
    assert not list(pathlib.Path().glob(".*")), "a draft is left"


def test_csv_paths_are_checked_before_the_computation(task, capsys, monkeypatch):
    def start(*_):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(console, "start", start)
    fails = test_cli.assert_fails
    for argv in (["learn", "task"], ["evaluate", IMAGES], ["check", IMAGES]):
        fails(
            capsys, "No such file or directory: .*made.csv", *argv, "--csv=no/made.csv"
        )
        fails(capsys, "Is a directory: .*task", *argv, "--csv=task")
        fails(capsys, "--json or --csv -, not both", *argv, "--csv=-", "--json")
    # The command overwrites no input file.
    message = "--csv to be a file of its own"
    pathlib.Path("p.csv").write_text("x,y\n1,2\n3,\n")
    fails(
        capsys,
        message,
        "learn",
        "p.csv",
        "--csv",
        "../" + pathlib.Path().resolve().name + "/p.csv",
    )
    fails(capsys, message, "learn", "task", "--csv=x.png", "--out=x.png")
    monkeypatch.setattr(console, "start", lambda: km)
    fails(capsys, message, "learn", "task", "--csv=task/query/0-4.png")
    argv = ["evaluate", IMAGES, "--data=task/support"]
    fails(capsys, message, *argv, "--csv=task/support/ant/0.png")
    pathlib.Path("mine.keras").write_bytes(b"a model")
    argv = ["evaluate", "mine.keras", "--data=task/support"]
    fails(capsys, message, *argv, "--csv=mine.keras")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_written_to_and_not_replaced():
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert cli.main(["info", CURVES, "--csv", "pipe", "--quiet"]) == 0
    assert os.read(reader, 2**16).startswith(b"fact,value\n")
    os.close(reader)
    assert pathlib.Path("pipe").is_fifo()


def test_list_and_info_as_csv_and_json(capsys):
    assert cli.main(["list", "--csv", "-"]) == 0
    rows = {row["name"]: row for row in read_csv(capsys.readouterr().out)}
    assert rows[IMAGES]["mean"] == "0.9" and rows[IMAGES]["trained"] == "True"
    assert rows["maml.cifar_fs_5w1s"]["trained"] == "False"
    assert cli.main(["list", "--json"]) == 0
    json_data = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert json_data.keys() == rows.keys() and json_data[CURVES]["mean"] is None
    assert cli.main(["info", IMAGES, "--json"]) == 0
    json_data = json.loads(capsys.readouterr().out)
    assert json_data["test_classes"] == zoo.card(IMAGES).test_classes
    assert json_data["figures"] == zoo.card(IMAGES).figures
    assert cli.main(["info", "maml.cifar_fs_5w1s", "--csv", "-"]) == 0
    facts = {row["fact"]: row["value"] for row in read_csv(capsys.readouterr().out)}
    assert facts["command"] == "keras-meta train maml.cifar_fs_5w1s"


def test_check_as_csv_and_json(capsys, monkeypatch):
    findings = [
        findings_module.Finding("dense", "right", "fine"),
        findings_module.Finding("b", "wrong", "é"),
    ]
    monkeypatch.setattr(check, "check", lambda *_: findings)
    assert cli.main(["check", IMAGES, "--csv", "-"]) == 1
    assert read_csv(capsys.readouterr().out)[1] == dict(
        part="b", state="wrong", finding="é"
    )
    assert cli.main(["check", IMAGES, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["state"] == "right"


# Queries whose class is known


def label_queries(task):
    """Moves the queries into sub-folders of their classes."""
    for path in sorted((task / "query").iterdir()):
        name = NAMES[ORDER[int(path.name[0])]]
        (task / "query" / name).mkdir(exist_ok=True)
        path.rename(task / "query" / name / path.name)


def test_labelled_queries_are_scored(task, glyphs, capsys):  # noqa: F811
    label_queries(task)
    assert cli.main(["learn", "task", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    predicted = by_hand(glyphs)[:, np.argsort(ORDER)].argmax(axis=1)
    truth = np.repeat(ORDER, 4)
    confusion = np.zeros([3, 3], int)
    for true_class, predicted_class in zip(truth, predicted, strict=True):
        confusion[true_class, predicted_class] += 1
    assert result["confusion"] == confusion.tolist()
    assert (
        result["accuracy"] == np.mean(predicted == truth) and result["labelled"] == 12
    )
    rows = {row["file"]: row for row in result["predictions"]}
    assert rows["ant/0-5.png"]["label"] == "ant"
    low, high = result["interval"]
    assert 0 < low < result["accuracy"] <= high <= 1

    write_image(task / "query" / "more.png", glyphs[0, 4])  # unlabelled
    assert cli.main(["learn", "task"]) == 0
    out = capsys.readouterr().out
    hits = np.trace(confusion)
    assert f"Accuracy: {hits / 12:.1%}, {hits} of 12 queries of known class" in out
    assert len(re.findall(r"\.png +.* [\d.]+%", out)) == 13
    table = [
        line.split() for line in out.splitlines() if line.startswith(("ant ", "cow "))
    ]
    cells = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in table]
    assert cells == confusion[1:].tolist()


def test_unknown_query_folders_are_rejected(task, glyphs, capsys):  # noqa: F811
    label_queries(task)
    (task / "query" / "cwo").mkdir()
    test_cli.assert_fails(
        capsys, "named as classes of task/support, got cwo", "learn", "task"
    )
    # The support examples are never queries.
    arguments = ["learn", "task/support", "--support", "task/support"]
    test_cli.assert_fails(capsys, "images to classify", *arguments)


def test_interval_of_a_proportion():
    # The ends are at the threshold of the normal test of a proportion.
    z = statistics.NormalDist().inv_cdf(0.975)
    for correct, count in ((0, 5), (3, 7), (12, 12)):
        for end in intervals.proportion(correct, count):
            width = z * (end * (1 - end) / count) ** 0.5
            assert abs(correct / count - end) == pytest.approx(width, abs=1e-6)
    assert intervals.proportion(12, 12)[1] == pytest.approx(1)


# evaluate


def write_classes(folder, drawings):
    for index, images in enumerate(drawings):
        for i, image in enumerate(images):
            write_image(pathlib.Path(folder) / f"class{index}" / f"{i}.png", image)


@pytest.mark.thorough
def test_evaluate_on_a_folder(glyphs, capsys):  # noqa: F811
    write_classes("mine", glyphs)
    arguments = ["evaluate", IMAGES, "--data", "mine", "--episodes", "6", "--seed", "5"]
    assert cli.main([*arguments, "--shots=2", "--queries=3", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    learner = zoo.load(IMAGES)
    pool = km.ClassPool.from_directory("mine", learner.preprocess)
    expected = []
    for episode, query_y in pool.episodes(3, 2, 3, seed=5).take(6).batch(1):
        state = learner.adapt(episode["support_x"], episode["support_y"])
        predicted = np.argmax(learner.infer(state, episode["query_x"])[..., :3], -1)
        expected.append(np.mean(predicted == query_y.numpy()))
    np.testing.assert_allclose(result["tasks"], expected, rtol=1e-6)
    width = 1.96 * np.std(expected, ddof=1) / 6**0.5
    assert result["interval"] == pytest.approx(width, rel=1e-4)
    fields = {"ways": 3, "shots": 2, "queries": 3, "seed": 5, "data": "mine"}
    assert fields.items() <= result.items() and result["normalization"] == "inductive"

    # Preprocessing inverts light ink on a dark background, by the support set.
    write_classes("chalk", [[255 - image for image in images] for images in glyphs])
    arguments[3] = "chalk"
    assert cli.main([*arguments, "--shots=2", "--queries=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == result["tasks"]
    arguments[3] = "mine"

    # A folder has fewer classes and images than the entry's own tasks.
    assert cli.main(arguments) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "from the classes in mine, seed 5; 3-way 1-shot, 7 queries of each" in output
    assert "inductive: each query" in output
    fails = test_cli.assert_fails
    fails(capsys, "at least 4 classes", *arguments, "--ways=4")
    fails(capsys, "at most 5 classes", *arguments, "--ways=6")
    fails(capsys, r"at least 9 \+ 1 images in each class", *arguments, "--shots=9")
    fails(capsys, "a model of classes of images", "evaluate", CURVES, "--data=mine")
    fails(capsys, "a folder of classes, got none", "evaluate", IMAGES, "--data=no")


def test_evaluate_rejects_options_without_effect(capsys, monkeypatch):
    fails = test_cli.assert_fails
    fails(capsys, "no --ways, --queries with --protocol lake", "evaluate", IMAGES,
          "--protocol=lake", "--ways=3", "--queries=2")  # fmt: skip
    fails(capsys, "no --episodes, --first, --seed with --lake-runs", "evaluate", IMAGES,
          "--lake-runs=x", "--episodes=3", "--first=0", "--seed=0")  # fmt: skip
    with pytest.raises(SystemExit):
        cli.main(["evaluate", IMAGES, "--protocol=lake", "--data=x"])
    received = []

    def evaluate(*arguments):
        received.extend(arguments)
        name, count, seed, first = arguments
        score = {"metric": "accuracy", "mean": 0.5, "interval": 0.1, "seed": seed}
        score |= {"episodes": count, "ways": 20, "shots": 1, "queries": 1}
        score |= {"first": first, "tasks": [0.5], "bins": {}}
        return score | {"normalization": "inductive"}

    monkeypatch.setattr(lake, "evaluate", evaluate)
    command = ["evaluate", IMAGES, "--protocol=lake", "--episodes=7", "--seed=3"]
    assert cli.main([*command, "--first=5"]) == 0
    assert received == [IMAGES, 7, 3, 5]
    assert "Lake's protocol" in capsys.readouterr().out


# export


@pytest.mark.thorough
def test_export_of_all(capsys, monkeypatch):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    def served_models():
        config = model_server_config_pb2.ModelServerConfig()
        text_format.Parse(pathlib.Path("served/models.config").read_text(), config)
        return {c.name: c.base_path for c in config.model_config_list.config}

    assert cli.main(["export", "--all", "served"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"served/{IMAGES}/1" and err == ""
    assert "2 models; start a server with: cd served && docker compose up" in out
    assert served_models() == {name: f"/models/{name}" for name in (IMAGES, CURVES)}
    compose = pathlib.Path("served/docker-compose.yml").read_text()
    assert (
        "batching.config" in compose and pathlib.Path("served/batching.config").exists()
    )

    # The command reports an export with other predictions, keeps the version before it
    # and writes the rest.
    export = saved_model.checked_export
    other_learner = zoo.load(IMAGES)
    kernel = other_learner.network.get_layer(index=-1).kernel
    kernel.assign(np.random.RandomState(0).normal(size=kernel.shape))

    def export_wrongly(learner, base, *arguments):
        warnings.warn("it is transductive", UserWarning, stacklevel=2)
        other = other_learner if base.name == IMAGES else learner
        return export(other, base, *arguments)

    monkeypatch.setattr(saved_model, "checked_export", export_wrongly)
    assert cli.main(["export", "--all", "served"]) == 1
    out, err = capsys.readouterr()
    assert f"error: {IMAGES}: expected the export to give the predictions of" in err
    assert not pathlib.Path("served", IMAGES, "2").exists()
    assert f"warning: {CURVES}: it is transductive\n" in err
    assert f"failed: {IMAGES}\n" in err and f"served/{CURVES}/2" in out
    assert sorted(served_models()) == sorted([IMAGES, CURVES])


def test_export_without_a_name_is_rejected(capsys):
    fails = test_cli.assert_fails
    fails(capsys, "NAME of an entry or --all", "export", "served")
    fails(capsys, "NAME of an entry or --all", "export", "--all", IMAGES, "served")


# Terminals


def test_unknown_names_get_a_suggestion():
    names = ["maml.sinusoid", "maml.omniglot_5w1s"]
    assert "such as maml.sinusoid (" in cards.unknown("a model", "maml.sinusiod", names)
    assert cards.unknown("a model", "xyz", names) == (
        "expected the name of a model (`keras-meta list` lists all), got 'xyz'."
    )


@pytest.mark.thorough
def test_terminals_without_unicode(monkeypatch, capsys, task):
    for encoding in ("ascii", "cp1252"):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        assert cli.main(["list"]) == 0
        findings = [findings_module.Finding("é✓\udcff", "wrong", "→")]
        monkeypatch.setattr(check, "check", lambda *_: findings)  # noqa: B023
        assert cli.main(["check", IMAGES]) == 1
        assert cli.main(["learn", "task"]) == 0
        assert cli.main(["list", "--csv", "-"]) == 0
        stream.flush()
        text = raw.getvalue().decode(encoding)
        name = {"ascii": "\\xe9", "cp1252": "é"}[encoding]
        assert f"{name}+\\udcff" in text and "\nx " in text
        assert ("90.00% +- 1.00%" in text) == (encoding == "ascii")


@pytest.mark.thorough
def test_quiet_json_has_no_messages_of_tensorflow():
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONIOENCODING": "ascii"}
    # oneDNN reports an error for the first integer operation of a process.
    program = (
        "import sys\nfrom keras_meta.zoo import cli\ncode = cli.main(sys.argv[1:])\n"
    )
    program += "import tensorflow as tf; tf.transpose([[1]]); sys.exit(code)"
    arguments = [
        "evaluate",
        "maml.sinusoid",
        "--episodes=2",
        "--queries=5",
        "--json",
        "--quiet",
    ]
    process = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert json.loads(process.stdout)["metric"] == "mse"


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_a_closed_pipe_ends_the_command(options):
    command = [sys.executable, "-m", "keras_meta", "list", *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b"" and process.wait() == cli.BROKEN_PIPE


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_of_a_shell(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["--print-completion", "bash"])
    assert error.value.code == 0
    script = capsys.readouterr().out + (
        "COMP_WORDS=(keras-meta evaluate maml.sinu); COMP_CWORD=2\n"
        "_shtab_keras_meta; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    process = subprocess.run(["bash"], input=script, capture_output=True, text=True)
    assert (process.stdout.split(), process.stderr) == (["maml.sinusoid"], "")


def test_the_help_has_the_exit_codes_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for code in ("0    done", "1    demo", "2    invalid input", "130  interrupted"):
        assert code in out
    for command in ([], *([name] for name in cli.COMMANDS)):
        with pytest.raises(SystemExit):
            cli.main([*command, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80, command


def test_repr_of_a_pool_and_confusion_matrix(glyphs):  # noqa: F811
    pool = km.ClassPool.from_arrays(
        glyphs.reshape(24, 28, 28, 1), np.repeat(range(3), 8)
    )
    assert repr(pool) == "ClassPool(3 classes, 24 images, (28, 28, 1))"
    assert repr(pool.select([1])) == "ClassPool(1 classes, 8 images, (28, 28, 1))"
    confusion = predictions.confused(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    assert confusion.tolist() == [[1, 0], [1, 1]]


# train


@pytest.fixture
def calls(monkeypatch):
    """Replaces `entries.run`; returns the list of its calls."""
    from keras_meta.zoo import entries

    calls = []

    def run(name, directory, command, workers, publish, **options):
        calls.append((name, directory, command, workers, publish, options))
        return 0

    monkeypatch.setattr(entries, "run", run)
    return calls


def test_train_passes_its_options_to_run(calls, monkeypatch, capsys):
    assert cli.main(["train", CURVES]) == 0
    flags = "--out=here --steps=9 --seed=0 --every=3 --validation-tasks=4 --workers=2"
    flags += " --warm-start=none --publish --float16 --pretraining-steps=5"
    assert cli.main(["train", CURVES, *flags.split()]) == 0
    # Older cards have commands of tools/train.py, with underscores in option names.
    monkeypatch.syspath_prepend(test_cli.ROOT / "tools")
    import train

    assert (
        train.main(
            [
                f"--recipe={CURVES}",
                *flags.replace("n-t", "n_t").replace("g-s", "g_s").split(),
            ]
        )
        == 0
    )
    plain, full, older = calls
    defaults = dict.fromkeys(("steps", "seed", "every", "validation_tasks"))
    defaults |= {"pretraining_steps": None, "float16": False}
    name, directory, command, *rest = plain
    assert (name, directory) == (CURVES, pathlib.Path("runs", CURVES))
    assert rest == [1, False, {**defaults, "warm_start": None}]
    options = {"steps": 9, "seed": 0, "every": 3, "validation_tasks": 4}
    options |= {"pretraining_steps": 5, "float16": True}
    name, directory, command, *rest = full
    assert directory == pathlib.Path("here")
    assert rest == [2, True, {**options, "warm_start": "none"}] and older == full
    # Worker processes run with the same options.
    assert cli.main(command) == 0
    assert calls[-1] == full
    test_cli.assert_fails(capsys, "got 'maml.none'", "train", "maml.none")


def test_an_interrupted_run_exits_with_130(monkeypatch, capsys):
    from keras_meta.zoo import entries, training

    def raise_stopped(*_, **options):
        raise training.Stopped(training.STOPPED)

    monkeypatch.setattr(entries, "run", raise_stopped)
    assert cli.main(["train", CURVES]) == 130
    assert capsys.readouterr().err == f"keras-meta: {training.STOPPED}\n"


def test_commit_is_recorded_if_the_repository_contains_the_code(tmp_path, monkeypatch):
    from keras_meta.zoo import runs

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=tmp_path, capture_output=True)

    git("init")
    (tmp_path / "runs.py").touch()
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    git("-c", "user.name=a", "-c", "user.email=a", "commit", "--allow-empty", "-m", "a")
    assert runs.commit() is None  # installed in another repository
    git("add", ".")
    assert runs.commit() == git("rev-parse", "HEAD").stdout.decode().strip()
