"""The command in scripts: CSV, JSON, exit codes, and any terminal."""

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
from keras_meta import check, zoo
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

NAMES = ["[b] $x$", "ant", "cow"]  # of `write_task`, as folders are sorted
ORDER = [1, 0, 2]  # where the classes of `by_hand` are among them
EXPECTED_FILES = [f"{label}-{i}.png" for label in range(3) for i in range(4, 8)]


def read(text):
    return list(csv.DictReader(io.StringIO(text)))


def numbers(rows, *columns):
    return np.array([[float(row[name]) for name in columns] for row in rows])


@pytest.fixture
def task(glyphs):  # noqa: F811
    return write_task("task", glyphs)


def test_learn_gives_a_row_a_query(task, glyphs, capsys):  # noqa: F811
    assert cli.main(["learn", "task", "--csv", "-"]) == 0
    out, err = capsys.readouterr()
    rows = read(out)
    columns = ["file", "class", "confidence", *(f"p_{name}" for name in NAMES)]
    assert list(rows[0]) == columns
    assert [row["file"] for row in rows] == EXPECTED_FILES
    expected = by_hand(glyphs)[:, np.argsort(ORDER)]
    # In full precision, where the table has 0.1%.
    np.testing.assert_allclose(numbers(rows, *columns[3:]), expected, rtol=1e-5)
    np.testing.assert_allclose(
        numbers(rows, "confidence")[:, 0], expected.max(axis=1), rtol=1e-5
    )
    assert [row["class"] for row in rows] == [NAMES[i] for i in expected.argmax(axis=1)]
    assert "learned 3 classes from 6 images" in err and "Picture: " in err

    assert cli.main(["learn", "task", "--json", "--quiet"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert err == "" and found.keys() == {"model", "classes", "predictions"}
    assert found["model"] == IMAGES and found["classes"] == NAMES
    assert numbers(found["predictions"], *columns[3:]).tolist() == (
        numbers(rows, *columns[3:]).tolist()
    )

    assert cli.main(["learn", "task", "--csv", "made.csv"]) == 0
    out, err = capsys.readouterr()
    assert read(pathlib.Path("made.csv").read_text(encoding="utf-8")) == rows
    assert test_cli.rows(out) and "Picture: " in out and err == ""
    assert cli.main(["learn", "task", "--csv", "made.csv", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_points_in_full_precision(capsys):
    pathlib.Path("p.csv").write_text("x,y\n-1,2\n0.5,0.25\n3,-4\n4,\n-2.5,\n")
    assert cli.main(["learn", "p.csv", "--csv", "-"]) == 0
    rows = read(capsys.readouterr().out)
    assert [list(row) for row in rows] == [["x", "mean"]] * 2
    x, y = np.array([-1.0, 0.5, 3.0]), np.array([2.0, 0.25, -4.0])
    slope, level = 2 * test_cli.RATE * np.array([np.mean(x * y), np.mean(y)])
    expected = [[at, slope * at + level] for at in (4, -2.5)]
    np.testing.assert_allclose(numbers(rows, "x", "mean"), expected, rtol=1e-6)


def test_points_with_a_scale(capsys):

    arguments = cli._parser().parse_args(["learn", "p.csv", "--json"])
    output = console.Output(arguments)
    third = np.float32(1) / 3
    predictions.show_points(output, "any", [2.0], [third, 0.0], [np.nan])
    (row,) = json.loads(capsys.readouterr().out)["predictions"]
    assert row == {"x": 2.0, "mean": float(third), "scale": None}  # JSON has no NaN


def test_a_csv_file_is_whole_or_as_it_was(task, capsys, monkeypatch):
    pathlib.Path("made.csv").write_text("kept")
    words = ["learn", "task", "--csv", "made.csv"]
    with monkeypatch.context() as patch:
        patch.setattr(console, "_csv", lambda rows: b"half")

        def full(*_):
            raise OSError(28, "No space left on device", "made.csv")

        patch.setattr(os, "replace", full)
        assert cli.main(words) == 2
    assert "No space left on device: made.csv" in capsys.readouterr().err
    assert pathlib.Path("made.csv").read_text() == "kept"
    assert not list(pathlib.Path().glob(".*")), "a draft is left"


def test_a_csv_file_is_checked_before_the_work(task, capsys, monkeypatch):
    def start(*_):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(console, "start", start)
    fails = test_cli.assert_fails
    for words in (["learn", "task"], ["evaluate", IMAGES], ["check", IMAGES]):
        fails(
            capsys, "No such file or directory: .*made.csv", *words, "--csv=no/made.csv"
        )
        fails(capsys, "Is a directory: .*task", *words, "--csv=task")
        fails(capsys, "--json or --csv -, not both", *words, "--csv=-", "--json")
    # Nothing that was given is overwritten.
    apart = "--csv to be a file of its own"
    pathlib.Path("p.csv").write_text("x,y\n1,2\n3,\n")
    fails(
        capsys,
        apart,
        "learn",
        "p.csv",
        "--csv",
        "../" + pathlib.Path().resolve().name + "/p.csv",
    )
    fails(capsys, apart, "learn", "task", "--csv=x.png", "--out=x.png")
    monkeypatch.setattr(console, "start", lambda: km)
    fails(capsys, apart, "learn", "task", "--csv=task/query/0-4.png")
    words = ["evaluate", IMAGES, "--data=task/support"]
    fails(capsys, apart, *words, "--csv=task/support/ant/0.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such pipes")
def test_a_pipe_is_written_to_and_not_replaced():
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert cli.main(["info", CURVES, "--csv", "pipe", "--quiet"]) == 0
    assert os.read(reader, 2**16).startswith(b"fact,value\n")
    os.close(reader)
    assert pathlib.Path("pipe").is_fifo()


def test_list_and_info_as_data(capsys):
    assert cli.main(["list", "--csv", "-"]) == 0
    rows = {row["name"]: row for row in read(capsys.readouterr().out)}
    assert rows[IMAGES]["mean"] == "0.9" and rows[IMAGES]["trained"] == "True"
    assert rows["maml.cifar_fs_5w1s"]["trained"] == "False"
    assert cli.main(["list", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert found.keys() == rows.keys() and found[CURVES]["mean"] is None
    assert cli.main(["info", IMAGES, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["test_classes"] == zoo.card(IMAGES).test_classes
    assert found["figures"] == zoo.card(IMAGES).figures
    assert cli.main(["info", "maml.cifar_fs_5w1s", "--csv", "-"]) == 0
    facts = {row["fact"]: row["value"] for row in read(capsys.readouterr().out)}
    assert facts["command"] == "keras-meta train maml.cifar_fs_5w1s"


def test_check_as_data(capsys, monkeypatch):
    findings = [
        findings_module.Finding("dense", "right", "fine"),
        findings_module.Finding("b", "wrong", "é"),
    ]
    monkeypatch.setattr(check, "check", lambda *_: findings)
    assert cli.main(["check", IMAGES, "--csv", "-"]) == 1
    assert read(capsys.readouterr().out)[1] == dict(
        part="b", state="wrong", finding="é"
    )
    assert cli.main(["check", IMAGES, "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["state"] == "right"


# Queries whose class is known


def label(task):
    """Moves the queries into sub-folders of their classes."""
    for path in sorted((task / "query").iterdir()):
        name = NAMES[ORDER[int(path.name[0])]]
        (task / "query" / name).mkdir(exist_ok=True)
        path.rename(task / "query" / name / path.name)


def test_labelled_queries_are_scored(task, glyphs, capsys):  # noqa: F811
    label(task)
    assert cli.main(["learn", "task", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    guesses = by_hand(glyphs)[:, np.argsort(ORDER)].argmax(axis=1)
    truth = np.repeat(ORDER, 4)
    confusion = np.zeros([3, 3], int)
    for true, guess in zip(truth, guesses, strict=True):
        confusion[true, guess] += 1
    assert found["confusion"] == confusion.tolist()
    assert found["accuracy"] == np.mean(guesses == truth) and found["labelled"] == 12
    rows = {row["file"]: row for row in found["predictions"]}
    assert rows["ant/0-5.png"]["label"] == "ant"
    low, high = found["interval"]
    assert 0 < low < found["accuracy"] <= high <= 1

    write_image(task / "query" / "more.png", glyphs[0, 4])  # of no known class
    assert cli.main(["learn", "task"]) == 0
    out = capsys.readouterr().out
    right = np.trace(confusion)
    assert f"Accuracy: {right / 12:.1%}, {right} of 12 queries of known class" in out
    assert len(re.findall(r"\.png +.* [\d.]+%", out)) == 13
    table = [
        line.split() for line in out.splitlines() if line.startswith(("ant ", "cow "))
    ]
    cells = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in table]
    assert cells == confusion[1:].tolist()


def test_sub_folders_that_are_no_classes(task, glyphs, capsys):  # noqa: F811
    label(task)
    (task / "query" / "cwo").mkdir()
    test_cli.assert_fails(
        capsys, "named as classes of task/support, got cwo", "learn", "task"
    )
    # The support examples are never queries.
    words = ["learn", "task/support", "--support", "task/support"]
    test_cli.assert_fails(capsys, "images to classify", *words)


def test_the_interval_of_a_share():
    # Its ends are where the normal test of a share just fails.
    z = statistics.NormalDist().inv_cdf(0.975)
    for right, count in ((0, 5), (3, 7), (12, 12)):
        for end in intervals.proportion(right, count):
            width = z * (end * (1 - end) / count) ** 0.5
            assert abs(right / count - end) == pytest.approx(width, abs=1e-6)
    assert intervals.proportion(12, 12)[1] == pytest.approx(1)


# evaluate


def write_classes(folder, drawings):
    for name, each in enumerate(drawings):
        for i, image in enumerate(each):
            write_image(pathlib.Path(folder) / f"class{name}" / f"{i}.png", image)


def test_evaluate_on_a_folder(glyphs, capsys):  # noqa: F811
    write_classes("mine", glyphs)
    words = ["evaluate", IMAGES, "--data", "mine", "--episodes", "6", "--seed", "5"]
    assert cli.main([*words, "--shots=2", "--queries=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    learner = zoo.load(IMAGES)
    pool = km.ClassPool.from_directory("mine", learner.preprocess)
    expected = []
    for episode, query_y in pool.episodes(3, 2, 3, seed=5).take(6).batch(1):
        state = learner.adapt(episode["support_x"], episode["support_y"])
        answers = np.argmax(learner.infer(state, episode["query_x"])[..., :3], -1)
        expected.append(np.mean(answers == query_y.numpy()))
    np.testing.assert_allclose(found["tasks"], expected, rtol=1e-6)
    width = 1.96 * np.std(expected, ddof=1) / 6**0.5
    assert found["interval"] == pytest.approx(width, rel=1e-4)
    asked = {"ways": 3, "shots": 2, "queries": 3, "seed": 5, "data": "mine"}
    assert asked.items() <= found.items() and found["normalization"] == "inductive"

    # Light ink on a dark ground is inverted, by the support set of each task.
    write_classes("chalk", [[255 - image for image in each] for each in glyphs])
    words[3] = "chalk"
    assert cli.main([*words, "--shots=2", "--queries=3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tasks"] == found["tasks"]
    words[3] = "mine"

    # A folder has fewer classes and images than the entry's own tasks.
    assert cli.main(words) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "from the classes in mine, seed 5; 3-way 1-shot, 7 queries of each" in said
    assert "inductive: each query" in said
    fails = test_cli.assert_fails
    fails(capsys, "at least 4 classes", *words, "--ways=4")
    fails(capsys, "at most 5 classes", *words, "--ways=6")
    fails(capsys, r"at least 9 \+ 1 images in each class", *words, "--shots=9")
    fails(capsys, "a model of classes of images", "evaluate", CURVES, "--data=mine")
    fails(capsys, "a folder of classes, got none", "evaluate", IMAGES, "--data=no")


def test_evaluate_refuses_what_it_would_ignore(capsys, monkeypatch):
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
    words = ["evaluate", IMAGES, "--protocol=lake", "--episodes=7", "--seed=3"]
    assert cli.main([*words, "--first=5"]) == 0
    assert received == [IMAGES, 7, 3, 5]
    assert "Lake's protocol" in capsys.readouterr().out


# export


@pytest.mark.thorough
def test_export_of_all(capsys, monkeypatch):
    from google.protobuf import text_format
    from tensorflow_serving.config import model_server_config_pb2

    def served():
        config = model_server_config_pb2.ModelServerConfig()
        text_format.Parse(pathlib.Path("served/models.config").read_text(), config)
        return {c.name: c.base_path for c in config.model_config_list.config}

    assert cli.main(["export", "--all", "served"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == f"served/{IMAGES}/1" and err == ""
    assert "2 models; start a server with: cd served && docker compose up" in out
    assert served() == {name: f"/models/{name}" for name in (IMAGES, CURVES)}
    compose = pathlib.Path("served/docker-compose.yml").read_text()
    assert (
        "batching.config" in compose and pathlib.Path("served/batching.config").exists()
    )

    # An export that gives other answers is named, and the others are made.
    export = km.export
    other = zoo.load(IMAGES)
    kernel = other.network.get_layer(index=-1).kernel
    kernel.assign(np.random.RandomState(0).normal(size=kernel.shape))

    def wrong(learner, base):
        warnings.warn("it is transductive", UserWarning, stacklevel=2)
        return export(other if base.name == IMAGES else learner, base)

    monkeypatch.setattr(km, "export", wrong)
    assert cli.main(["export", "--all", "served"]) == 1
    out, err = capsys.readouterr()
    assert f"error: {IMAGES}: expected served/{IMAGES}/2 to give the predictions" in err
    assert f"warning: {CURVES}: it is transductive\n" in err
    assert f"failed: {IMAGES}\n" in err and f"served/{CURVES}/2" in out
    assert list(served()) == [CURVES]


def test_export_warns_and_refuses(capsys):
    fails = test_cli.assert_fails
    fails(capsys, "NAME of an entry or --all", "export", "served")
    fails(capsys, "NAME of an entry or --all", "export", "--all", IMAGES, "served")


# Terminals


def test_a_name_that_is_near_is_suggested():
    names = ["maml.sinusoid", "maml.omniglot_5w1s"]
    assert "such as maml.sinusoid (" in cards.unknown("a model", "maml.sinusiod", names)
    assert cards.unknown("a model", "xyz", names) == (
        "expected the name of a model (`keras-meta list` lists all), got 'xyz'."
    )


def test_a_terminal_of_ascii(monkeypatch, capsys, task):
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
def test_quiet_data_and_no_noise_of_tensorflow():
    environment = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONIOENCODING": "ascii"}
    # The first integer operation of a process, of which oneDNN reports an error.
    program = (
        "import sys\nfrom keras_meta.zoo import cli\ncode = cli.main(sys.argv[1:])\n"
    )
    program += "import tensorflow as tf; tf.transpose([[1]]); sys.exit(code)"
    words = [
        "evaluate",
        "maml.sinusoid",
        "--episodes=2",
        "--queries=5",
        "--json",
        "--quiet",
    ]
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["metric"] == "mse"


def test_a_reader_that_has_gone():
    command = [sys.executable, "-m", "keras_meta", "list", "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    running.stdout.close()
    assert running.stderr.read() == b"" and running.wait() == cli.BROKEN_PIPE


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_of_a_shell(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["--print-completion", "bash"])
    assert end.value.code == 0
    script = capsys.readouterr().out + (
        "COMP_WORDS=(keras-meta evaluate maml.sinu); COMP_CWORD=2\n"
        "_shtab_keras_meta; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["maml.sinusoid"], "")


def test_the_help_has_the_exit_codes_in_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    out = capsys.readouterr().out
    for code in ("0    done", "1    demo", "2    invalid input", "130  interrupted"):
        assert code in out
    for words in ([], *([name] for name in cli.COMMANDS)):
        with pytest.raises(SystemExit):
            cli.main([*words, "--help"])
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80, words


def test_a_pool_says_what_it_is(glyphs):  # noqa: F811
    pool = km.ClassPool.from_arrays(
        glyphs.reshape(24, 28, 28, 1), np.repeat(range(3), 8)
    )
    assert repr(pool) == "ClassPool(3 classes, 24 images, (28, 28, 1))"
    assert repr(pool.select([1])) == "ClassPool(1 classes, 8 images, (28, 28, 1))"
    found = predictions.confused(np.array([0, 1, 1]), np.array([0, 1, 0]), 2)
    assert found.tolist() == [[1, 0], [1, 1]]


# train


@pytest.fixture
def asked(monkeypatch):
    """What the command asks of a run that is not made."""
    from keras_meta.zoo import entries

    asked = []

    def run(name, directory, words, workers, publish, **options):
        asked.append((name, directory, words, workers, publish, options))
        return 0

    monkeypatch.setattr(entries, "run", run)
    return asked


def test_train_passes_on_what_it_is_given(asked, monkeypatch, capsys):
    assert cli.main(["train", CURVES]) == 0
    given = "--out=here --steps=9 --seed=0 --every=3 --validation-tasks=4 --workers=2"
    given += " --warm-start=none --publish --float16 --pretraining-steps=5"
    assert cli.main(["train", CURVES, *given.split()]) == 0
    # In the words of older cards.
    monkeypatch.syspath_prepend(test_cli.ROOT / "tools")
    import train

    assert (
        train.main(
            [
                f"--recipe={CURVES}",
                *given.replace("n-t", "n_t").replace("g-s", "g_s").split(),
            ]
        )
        == 0
    )
    plain, full, older = asked
    usual = {"steps": None, "seed": None, "every": 500, "validation_tasks": 200}
    usual |= {"pretraining_steps": None, "float16": False}
    name, directory, words, *rest = plain
    assert (name, directory) == (CURVES, pathlib.Path("runs", CURVES))
    assert rest == [1, False, {**usual, "warm_start": None}]
    options = {"steps": 9, "seed": 0, "every": 3, "validation_tasks": 4}
    options |= {"pretraining_steps": 5, "float16": True}
    name, directory, words, *rest = full
    assert directory == pathlib.Path("here")
    assert rest == [2, True, {**options, "warm_start": "none"}] and older == full
    # Other processes are given the same.
    assert cli.main(words) == 0
    assert asked[-1] == full
    test_cli.assert_fails(capsys, "got 'maml.none'", "train", "maml.none")


def test_a_run_that_is_interrupted(monkeypatch, capsys):
    from keras_meta.zoo import entries, training

    def stopped(*_, **options):
        raise training.Stopped(training.STOPPED)

    monkeypatch.setattr(entries, "run", stopped)
    assert cli.main(["train", CURVES]) == 130
    assert capsys.readouterr().err == f"keras-meta: {training.STOPPED}\n"


def test_the_commit_is_that_of_the_code_alone(tmp_path, monkeypatch):
    from keras_meta.zoo import runs

    def git(*words):
        return subprocess.run(["git", *words], cwd=tmp_path, capture_output=True)

    git("init")
    (tmp_path / "runs.py").touch()
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    git("-c", "user.name=a", "-c", "user.email=a", "commit", "--allow-empty", "-m", "a")
    assert runs.commit() is None  # an environment in another repository
    git("add", ".")
    assert runs.commit() == git("rev-parse", "HEAD").stdout.decode().strip()
