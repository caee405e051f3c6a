"""Tests of the `keras-meta` command: tables, plots, exit codes and error messages."""

import argparse
import decimal
import os
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest

import keras_meta as km
from keras_meta import signatures, zoo
from keras_meta.zoo import (
    cards,
    cli,
    console,
    curves,
    demo,
    learn_images,
    photographs,
    predictions,
    recipes,
    scores,
)

ROOT = pathlib.Path(__file__).resolve().parents[1]
PREPROCESS = km.ImagePreprocess(28, 28, 1, invert=True)
IMAGES, CURVES = demo.GLYPHS, "maml.sinusoid"
RATE = 0.05


def write_entry(name, learner, **facts):
    learner.compile()
    (cards.MODELS / name).mkdir()
    path = cards.MODELS / name / "model.keras"
    learner.save(path)
    cards.Card(
        name=name,
        learner=type(learner).__name__,
        paper="none",
        source="none",
        licence="none",
        protocol="untrained",
        normalization=learner.normalization,
        seed=0,
        command="none",
        initial_weights=cards.RANDOM,
        steps=0,
        kept=0,
        hours=0.0,
        sha256=cards.sha256(path),
        any_units=learner.point_units is not None,
        **{"procedural": False, "photographs": False, **facts},
    ).write()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Writes two linear models with zero weights, whose step has a closed form."""
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        # `Card.write` writes to MODELS, which must not be the project's folder.
        patch.setattr(cards, "MODELS", folder)
        write_entries()
    return folder


def write_entries():
    image = keras.Input((28, 28, 1))
    flat = keras.layers.Flatten()(image)
    logits = keras.layers.Dense(5, kernel_initializer="zeros")(flat)
    write_entry(
        IMAGES,
        km.MAML(keras.Model(image, logits), inner_rate=RATE, preprocess=PREPROCESS),
        family="procedural glyphs",
        data="glyphs that a program drew: a few",
        procedural=True,
        test_classes=list(range(1000, 1012)),
        inputs="images",
        ways=5,
        shots=1,
        figures=[
            {"metric": "accuracy", "mean": 0.9, "interval": 0.01, "episodes": 9}
            | {"ways": 5, "shots": 1, "normalization": "inductive"}
        ],
    )
    x = keras.Input((1,))
    line = keras.layers.Dense(1, kernel_initializer="zeros")(x)
    write_entry(
        CURVES,
        km.MAML(keras.Model(x, line), "mse", inner_rate=RATE),
        family="lines",
        data="lines: a few",
        test_classes=None,
        inputs="curves",
        ways=None,
        shots=10,
    )


@pytest.fixture(autouse=True)
def here(models, tmp_path, monkeypatch):
    """Runs each test with only these entries, in a temporary working directory."""
    monkeypatch.setattr(cards, "MODELS", models)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def glyphs():
    """Drawings of three characters, uint8 `[3, 8, 28, 28]`."""
    pool = km.tasks.glyphs(3, drawings=8, prepare=PREPROCESS)
    ink = [pool.images_of(i).numpy()[..., 0] for i in range(3)]
    return np.rint(255 * (1 - np.stack(ink))).astype(np.uint8)


def write_image(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.fromarray(image).save(path)


def write_task(folder, drawings, shots=(1, 3, 2), names=("ant", "[b] $x$", "cow")):
    """Writes `folder/support/<name>/<i>.png` and `folder/query/<label>-<i>.png`."""
    folder = pathlib.Path(folder)
    for label, (name, images) in enumerate(zip(names, drawings, strict=True)):
        for i in range(shots[label]):
            write_image(folder / "support" / name / f"{i}.png", images[i])
        for i in range(4, 8):
            write_image(folder / "query" / f"{label}-{i}.png", images[i])
    return folder


def by_hand(drawings, shots=(1, 3, 2)):
    """Computes query probabilities `[12, 3]` after one step from zero weights."""
    ink = 1 - drawings.reshape(3, 8, -1) / 255
    support = np.concatenate([ink[c, : shots[c]] for c in range(3)])
    labels = np.repeat(range(3), shots)
    gradients = (1 / 3 - np.eye(3)[labels]) / len(labels)
    weights, bias = -RATE * support.T @ gradients, -RATE * gradients.sum(axis=0)
    exp = np.exp(ink[:, 4:].reshape(12, -1) @ weights + bias)
    return exp / exp.sum(axis=1, keepdims=True)


def rows(output):
    """Parses a table of predictions: file, class and confidence in percent."""
    matches = re.findall(r"^(\S+\.png) +(.+?) +([\d.]+)%", output, re.MULTILINE)
    return [(file, name, float(share)) for file, name, share in matches]


def assert_fails(capsys, sentence, *argv):
    """Asserts exit code 2, one sentence on stderr, no output and no new file."""
    files_before = sorted(pathlib.Path().rglob("*"))
    capsys.readouterr()
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert re.fullmatch(rf"keras-meta: error: [^\n]*{sentence}[^\n]*\n", err), err
    assert out == ""
    assert sorted(pathlib.Path().rglob("*")) == files_before


# Without TensorFlow


@pytest.mark.parametrize(
    "argv",
    [["list"], ["info", "maml.sinusoid"], ["--help"], ["learn", "--help"]],
    ids=" ".join,
)
def test_commands_run_without_tensorflow(argv):
    program = (
        "import sys\n"
        "from keras_meta.zoo import cli\n"
        "try:\n"
        f"    code = cli.main({argv})\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "slow = {'tensorflow', 'keras', 'matplotlib', 'PIL'} & set(sys.modules)\n"
        "assert (code, slow) == (0, set()), (code, slow)\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout


def test_list(capsys):
    assert cli.main(["list"]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    cells = [re.split(" {2,}", line) for line in lines]
    assert cells[2] == [IMAGES, "5-way 1-shot", "90.00% ± 1.00%", "ind."]
    assert cells[3] == [CURVES, "10 points", "not measured", "ind."]
    untrained = [row for row in cells if row[-1] == "untrained recipe"]
    assert ["maml.cifar_fs_5w1s", "5-way 1-shot"] in [row[:2] for row in untrained]
    assert not {IMAGES, CURVES} & {row[0] for row in untrained}


def test_list_on_a_wide_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "150")
    assert cli.main(["list"]) == 0
    size = f"{(cards.MODELS / IMAGES / 'model.keras').stat().st_size / 1e6:.2f} MB"
    text = re.sub("\x1b[^m]*m", "", capsys.readouterr().out)
    cells = [re.split(" {2,}", line.strip()) for line in text.splitlines()]
    assert cells[2] == [
        IMAGES,
        "images: procedural glyphs",
        "5-way 1-shot",
        "90.00% ± 1.00%, inductive",
        size,
    ]
    assert cells[3][:4] == [CURVES, "curves: lines", "10 points"] + [
        "not measured, inductive"
    ]
    assert ["maml.cifar_fs_5w1s", "images: CIFAR-FS", "5-way 1-shot"] in [
        row[:3] for row in cells if row[-1] == "untrained recipe"
    ]


def test_list_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setattr(cards, "MODELS", ROOT / "zoo" / "models")
    assert cli.main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) == 2 + len(recipes.RECIPES)  # no row is wrapped


def test_info(capsys):
    assert cli.main(["info", IMAGES]) == 0
    out = capsys.readouterr().out
    assert re.search(r"5-way 1-shot, inductive, 9 tasks +90.00% ± 1.00%", out)
    assert zoo.card(IMAGES).sha256 in out
    assert re.search(r"initial weights +random weights *\n", out)
    assert cli.main(["info", "maml.cifar_fs_5w1s"]) == 0
    assert "none: an untrained recipe" in capsys.readouterr().out
    assert_fails(capsys, "got 'maml.none'", "info", "maml.none")


# learn, images


def test_learn_images(glyphs, capsys):
    write_task("task", glyphs)
    assert cli.main(["learn", "task/query", "--support", "task/support"]) == 0
    out, err = capsys.readouterr()
    expected = by_hand(glyphs)
    names = np.array(["[b] $x$", "ant", "cow"])  # classes are sorted by name
    order = [1, 0, 2]
    table = rows(out)
    assert [file for file, _, _ in table] == [
        f"{label}-{i}.png" for label in range(3) for i in range(4, 8)
    ]
    assert [name for _, name, _ in table] == [
        names[order[predicted]] for predicted in expected.argmax(axis=1)
    ]
    # The table has a resolution of 0.1%.
    np.testing.assert_allclose(
        [share for _, _, share in table], 100 * expected.max(axis=1), atol=0.051
    )
    reason = f"{IMAGES}: no model has a validation figure for 3 ways"
    assert out.startswith(f"{reason}\n{IMAGES} learned 3 classes from 6 images\n")
    assert "Note" not in out
    with PIL.Image.open("predictions.png") as picture:
        assert picture.format == "PNG" and picture.size[0] > 500
    assert not list(pathlib.Path().glob(".*")), "a temporary file remains"

    # One folder contains both; its query folder contains the plot of an earlier call.
    write_image(pathlib.Path("task/query/predictions.png"), glyphs[0, 0])
    assert cli.main(["learn", "task", "--out", "other.pdf", "--model", IMAGES]) == 0
    out = capsys.readouterr().out
    assert rows(out) == table and out.startswith(f"{IMAGES} learned")
    assert pathlib.Path("other.pdf").read_bytes().startswith(b"%PDF")


def test_learn_in_batches_of_queries(glyphs, capsys, monkeypatch):
    write_task("task", glyphs)
    cli.main(["learn", "task"])
    table = rows(capsys.readouterr().out)
    monkeypatch.setattr(predictions, "QUERIES_AT_ONCE", 5)
    monkeypatch.setattr(learn_images, "DRAWN_QUERIES", 4)
    cli.main(["learn", "task"])
    out = capsys.readouterr().out
    assert rows(out) == table
    assert "predictions.png (the first 4)" in out


@pytest.mark.thorough
def test_light_ink_is_inverted(glyphs, capsys):
    write_task("dark", glyphs)
    cli.main(["learn", "dark"])
    dark_table = rows(capsys.readouterr().out)
    write_task("light", 255 - glyphs)
    cli.main(["learn", "light"])
    out = capsys.readouterr().out
    assert rows(out) == dark_table
    assert "most examples are light ink on a dark background; all images we" in out
    assert "unlike" not in out

    # The support examples determine the tone. A note reports a query of the other
    # tone; the other predictions do not change.
    write_image(pathlib.Path("light/query/1-5.png"), glyphs[1, 5])
    cli.main(["learn", "light"])
    out = capsys.readouterr().out
    mixed_table = rows(out)
    assert [row for row in mixed_table if row[0] != "1-5.png"] == [
        row for row in dark_table if row[0] != "1-5.png"
    ]
    assert mixed_table != dark_table
    assert "1 of 18 images seem to be dark ink on a light background, unlike" in out


def blobs(count):
    """Draws coloured blobs, `[count, 64, 64, 3]`."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, [count, 6, 6, 3]).astype(np.uint8)
    return [
        np.asarray(PIL.Image.fromarray(image).resize((64, 64), PIL.Image.BICUBIC))
        for image in pixels
    ]


def test_a_note_reports_photographs(glyphs, capsys):
    images = blobs(24)
    write_task("photographs", [images[:8], images[8:16], images[16:]])
    assert cli.main(["learn", "photographs"]) == 0
    out = capsys.readouterr().out
    assert len(rows(out)) == 12
    note = f"these look like photographs. {IMAGES} was trained on drawn characters"
    assert note in out


def test_detection_of_ink_tones_and_photographs(glyphs):
    def kinds(images):
        return {
            "photograph"
            if photographs.is_photograph(image)
            else {1: "light ink", -1: "dark ink"}[int(km.images.ink_tones(image))]
            for image in images
        }

    drawn = list(glyphs.reshape(-1, 28, 28, 1))
    assert kinds(drawn) == {"dark ink"}
    assert kinds(255 - image for image in drawn) == {"light ink"}
    random = np.random.default_rng(0)
    light = np.linspace(160, 250, 84)[:, None, None]  # paper lit from above
    scans = []
    for image in drawn:
        ink = 1 - np.kron(image, np.ones([3, 3, 1])) / 255
        scan = light * (1 - ink) + 70 * ink + random.normal(0, 10, ink.shape)
        scans.append(np.clip(scan, 0, 255).astype(np.uint8))
    assert kinds(scans) == {"dark ink"}
    blue_on_yellow = [
        np.where(scan < 130, [40, 60, 160], [250, 225, 90]).astype(np.uint8)
        for scan in scans
    ]
    assert kinds(blue_on_yellow) == {"dark ink"}
    coloured_blobs = blobs(30)
    assert kinds(coloured_blobs) == {"photograph"}
    assert kinds(image[..., :1] for image in coloured_blobs) == {"photograph"}


def test_learn_reports_invalid_folders(glyphs, capsys):
    task = write_task("task", glyphs)
    (task / "empty").mkdir()
    arguments = {
        "got nothing at none": ["none"],
        "expected --support DIR": ["task/query"],
        "got none at none": ["task/query", "--support", "none"],
        "images to classify in task/empty": ["task/empty", "--support", "task/support"],
        "at least two sub-folders .* got 0": ["task", "--support", "task/empty"],
        r"\.csv file, got file.txt": ["file.txt"],
        "--out to end in .png.* got x.gif": ["task", "--out", "x.gif"],
        "a folder for --out": ["task", "--out", "none/x.png"],
        "none of the images": ["task", "--out", "task/query/0-4.png"],
        "images to classify outside the classes in task, got its sub-folder query": [
            *("task/query", "--support", "task")
        ],
        "got 'maml.none'": ["task", "--model", "maml.none"],
        "a recipe without weights": ["task", "--model", "maml.cifar_fs_5w1s"],
        f"model of classes of images, {CURVES} is": ["task", "--model", CURVES],
    }
    pathlib.Path("file.txt").touch()
    for sentence, argv in arguments.items():
        assert_fails(capsys, sentence, "learn", *argv)

    (task / "support" / "dog").mkdir()
    assert_fails(capsys, "images in task/support/dog", "learn", "task")
    for name in ("dog", "eel", "fox"):
        write_image(task / "support" / name / "0.png", glyphs[0, 0])
    assert_fails(capsys, "at most 5 classes, got 6", "learn", "task")
    assert_fails(capsys, f"at most 5 .* {IMAGES}", "learn", "task", "--model", IMAGES)


def test_learn_reports_a_damaged_image(glyphs, capsys):
    task = write_task("task", glyphs)
    png = (task / "query" / "1-5.png").read_bytes()
    for content in (b"", b"no image", png[: len(png) // 2]):
        (task / "query" / "1-5.png").write_bytes(content)
        assert_fails(capsys, "an image file, .*task/query/1-5.png", "learn", "task")


# learn, a curve


def test_learn_points(capsys):
    x, y = np.array([-1.0, 0.5, 3.0]), np.array([2.0, 0.25, -4.0])
    support_rows = "".join(f"{a}, {b}\n" for a, b in zip(x, y, strict=True))
    pathlib.Path("points.csv").write_text(
        f"\ufeffX,Y\n4,\n{support_rows}\n-2.5,\n", encoding="utf-8"
    )
    assert cli.main(["learn", "points.csv", "--out", "curve.png"]) == 0
    out = capsys.readouterr().out
    slope, intercept = 2 * RATE * np.mean(x * y), 2 * RATE * np.mean(y)
    predicted = re.findall(r"^ *(-?[\d.]+) +(-?[\d.]+) *$", out, re.MULTILINE)
    assert predicted == [(f"{a:g}", f"{slope * a + intercept:.4g}") for a in (4, -2.5)]
    assert "learned a curve from 3 points" in out and "It was trained on lines" in out
    with PIL.Image.open("curve.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x,y\n1,2\n2,abc\n3,\n", "a number for y in line 3 of p.csv, got 'abc'"),
        ("x,y\n\n1,2\n,2\n3,\n", "a number for x in line 4 of p.csv, got ''"),
        ("x,y\n1,nan\n3,\n", "line 2 of p.csv, got 'nan'"),
        ("x,y\n1,1_0\n3,\n", "a number for y in line 2 of p.csv, got '1_0'"),
        ("x,y\n1,1e99\n3,\n", "line 2 of p.csv, got '1e99'"),
        ("x,y\n1,2,3\n3,\n", "two cells in line 2 of p.csv"),
        ("x\n1\n", "the line x,y, got x"),
        ("1,2\n3,\n", "the line x,y, got 1,2"),
        ("", "the line x,y, got nothing"),
        ("x,y\n1,\n", "one row with x and y in p.csv"),
        ("x,y\n1,2\n", "one row without y in p.csv"),
        ("x,y\n1,2e30\n2e30,\n", "like those of lines: a few: learning these diverged"),
        (b"\x89PNG\r\n\x00\xff", "a text file of x,y rows"),
    ],
)
def test_learn_reports_invalid_points(text, sentence, capsys):
    content = text if isinstance(text, bytes) else text.encode()
    pathlib.Path("p.csv").write_bytes(content)
    assert_fails(capsys, sentence, "learn", "p.csv")


def neural_process():
    keras.utils.set_random_seed(0)
    networks = km.networks.mlp((2,), 8, (8,)), km.networks.mlp((9,), 2, (8,))
    return km.CNP(*networks, point_units=km.StandardUnits(known=1.5))


@pytest.mark.thorough
def test_learn_points_with_a_neural_process(monkeypatch, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "MODELS", tmp_path / "models")
        (tmp_path / "models").mkdir()
        facts = {"data": "waves: a few", "test_classes": None, "ways": None}
        facts |= {"inputs": "curves", "figures": [], "family": "waves", "shots": 9}
        # An entry's name does not state that the model accepts points of any units.
        write_entry("waves", neural_process(), **facts)
        monkeypatch.chdir(tmp_path)
        x = [1_700_000_000.25, 1_700_000_010.5, 1_700_000_005.125, 1_700_000_020]
        csv_rows = [f"{x[0]},101320.001", f"{x[1]},101320.002", f"{x[2]},", f"{x[3]},"]
        (tmp_path / "p.csv").write_text("\n".join(["x,y", *csv_rows]))
        assert cli.main(["learn", "p.csv"]) == 0
        out = capsys.readouterr().out
        support = np.stack([x[:2], [101320.001, 101320.002]], axis=1)
        mean, scale = curves.predict(zoo.load("waves"), support, np.array(x[2:]))
        assert cli.main(["export", "waves", "served"]) == 0
        capsys.readouterr()
        argv = ["request", "waves", "--local", "served", "--support", "p.csv"]
        assert cli.main(argv) == 0
        request_output = capsys.readouterr().out
    assert "waves learned a curve from 2 points" in out
    assert "two standard deviations" in out and "scaled to [-1.5, 1.5]" in out
    assert "1 of 2 x lie outside the known points" in out
    # The known x span [-1.5, 1.5] of [-2, 2]; a sixth of 10.25 remains on each side.
    low, high = x[0] - 10.25 / 6, x[1] + 10.25 / 6
    assert f"constant below x = {low:.10g} and above {high:.10g}." in out
    table = [line.split() for line in out.splitlines() if line.strip()[:1].isdigit()]
    assert [row[0] for row in table] == ["1700000005.125", "1700000020"]
    for row, value, width in zip(table, mean, 2 * scale, strict=True):
        assert abs(float(row[1]) - value) < 0.05 * width
        assert float(row[2]) == float(f"{width:.1e}")
    # The request prints the same table, computed by the exported graph.
    assert request_output.splitlines()[:4] == out.splitlines()[1:5]
    assert request_output.endswith(
        "For waves, x and y were scaled by the known points.\n"
    )
    assert (tmp_path / "predictions.png").stat().st_size > 0


def decimal_places(text):
    """Counts the decimal places of a number without an exponent."""
    return -min(decimal.Decimal(text).as_tuple().exponent, 0)


def test_predictions_are_rounded_to_the_precision_of_their_width():
    expected = {
        (101320.12347, 0.0028): ("101320.1235", "0.0028"),
        (-0.04, 1.26): ("0.0", "1.3"),
        (9.996, 0.0996): ("10.00", "0.10"),
        (12345.6, 278.0): ("12350", "280"),
        (0.5, 99.7): ("0", "100"),
        (2.0512e30, 3.14e29): ("2.05e+30", "3.1e+29"),
        (4e28, 3.1e30): ("0", "3.1e+30"),
        (0.0, 2e-9): ("0", "2.0e-09"),
        (1.7e9, 30.4): ("1700000000", "30"),
        (np.nan, 1.0): ("nan", "1"),
        (5.097334177649393e-30, 1.0344527663702774e-28): ("1e-29", "1.0e-28"),
    }
    for (mean, width), texts in expected.items():
        assert predictions.with_width(mean, width) == texts
    random = np.random.default_rng(0)
    for mean, exponent in random.uniform([-3e3, -3], [3e3, 6], (300, 2)).tolist():
        width = 10**exponent
        text, width_text = predictions.with_width(mean, width)
        # Exact arithmetic: the width has two digits; the error of the mean is at most
        # half of their unit.
        context = decimal.Context(prec=2, rounding=decimal.ROUND_HALF_EVEN)
        rounded = context.create_decimal_from_float(width)
        assert decimal.Decimal(width_text) == rounded
        assert decimal_places(text) == decimal_places(width_text)
        unit = decimal.Decimal((0, (1,), rounded.as_tuple().exponent))
        error = abs(decimal.Decimal(text) - decimal.Decimal(mean))
        assert error <= unit / 2
        assert decimal.Decimal(text) % unit == 0


def test_x_are_printed_with_all_digits(capsys):
    x = [1.0, -2.5, 0.1, 2459000.5, 2459000.5000001, 1e30, 1_700_000_000.0]
    output = console.Output(argparse.Namespace())
    predictions.show_points(output, "model", np.array(x), np.zeros(7), None)
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert list(map(float, printed)) == x and printed[0] == "1"
    assert printed[-1] == "1700000000"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--episods=2"], "--episods=2 (did you mean --episodes?)"),
        (["--xyz", "3"], "--xyz 3"),
        (["more"], "more"),
    ],
)
def test_unknown_options_print_the_usage_of_the_command(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["evaluate", "maml.sinusoid", *arguments])
    assert exit_info.value.code == 2
    usage, error = capsys.readouterr().err.split("keras-meta evaluate: error: ")
    assert error == f"unrecognized arguments: {sentence}\n"
    assert usage.startswith("usage: keras-meta evaluate [-h]")


def test_invalid_options_for_points(capsys):
    pathlib.Path("p.csv").write_text("x,y\n1,2\n3,\n")
    assert_fails(capsys, "no --support", "learn", "p.csv", "--support", ".")
    assert_fails(capsys, "a model of curves", "learn", "p.csv", "--model", IMAGES)


# evaluate, export, demo


def test_evaluate(capsys):
    options = {"episodes": 4, "ways": 3, "shots": 2, "queries": 3, "seed": 7}
    argv = [f"--{name}={value}" for name, value in options.items()]
    assert cli.main(["evaluate", IMAGES, *argv]) == 0
    out = capsys.readouterr().out
    assert f"{IMAGES}: {scores.sentence(scores.evaluate(IMAGES, **options))}\n" in out
    assert "over 4 tasks, seed 7; 3-way 2-shot, 3 queries of each class; ind" in out
    assert_fails(capsys, "at most 5 classes", "evaluate", IMAGES, "--ways=6")
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["evaluate", IMAGES, "--shots=0"])
    assert exit_info.value.code == 2
    assert "expected an integer >= 1, got 0" in capsys.readouterr().err
    with pytest.raises(SystemExit) as exit_info:
        cli.main(["evaluate", IMAGES, f"--seed={2**63}"])
    assert exit_info.value.code == 2
    assert "expected an integer >= 0 and below 2^63" in capsys.readouterr().err


def test_interrupt(capsys, monkeypatch):
    def evaluate(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(scores, "evaluate", evaluate)
    assert cli.main(["evaluate", IMAGES]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_export(capsys):
    assert cli.main(["export", CURVES, "served"]) == 0
    out, err = capsys.readouterr()
    assert out == f"served/{CURVES}/1\n" and err == ""
    assert (pathlib.Path("served") / CURVES / "1" / "saved_model.pb").is_file()
    pathlib.Path("file").touch()
    assert_fails(capsys, "file", "export", CURVES, "file")
    assert_fails(capsys, "got 'maml.none'", "export", "maml.none", "served")


@pytest.mark.thorough
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_learners_of_mixed_precision_are_exported(capsys, policy):
    layers = [keras.Input([4]), keras.layers.Dense(3, dtype=policy)]
    km.ProtoNet(keras.Sequential(layers)).save("mixed.keras")
    assert cli.main(["export", "mixed.keras", "served"]) == 0
    assert capsys.readouterr().out == "served/mixed/1\n"


@pytest.mark.thorough
def test_an_export_with_other_predictions_is_not_written(capsys, monkeypatch):
    assert cli.main(["export", CURVES, "served"]) == 0
    files = {path: path.stat().st_mtime for path in pathlib.Path().rglob("*")}
    original = signatures.learner_signatures

    def others(learner):
        rate, learner.inner_rate = learner.inner_rate, 2 * learner.inner_rate
        functions = original(learner)
        learner.inner_rate = rate
        return functions

    monkeypatch.setattr(signatures, "learner_signatures", others)
    capsys.readouterr()
    assert cli.main(["export", CURVES, "served"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and re.search(
        rf"{CURVES}: expected the export to give the predictions of .* the largest "
        rf"difference is [0-9.e+-]+; served/{CURVES} is left unchanged\.\n$",
        err,
    )
    now = {path: path.stat().st_mtime for path in pathlib.Path().rglob("*")}
    assert now.keys() == files.keys()
    assert all(now[path] == files[path] for path in files if path.is_file())


@pytest.mark.thorough
def test_demo(capsys, monkeypatch):
    assert cli.main(["demo", "--out", "runs/demo", "--seed", "3"]) == 0
    out = capsys.readouterr().out
    counts = [
        [0 if cell == "·" else int(cell) for cell in row.split()]
        for row in re.findall(r"^[A-E] +((?:[\d·]+ *){5})$", out, re.MULTILINE)
    ]
    assert [sum(row) for row in counts] == [demo.QUERIES] * 5
    assert f"Accuracy: {np.trace(counts) / 75:.1%}" in out
    # Fine-tuning starts from the adapted weights; more drawings improve loss and
    # accuracy.
    values = re.search(r"loss (\S+) -> (\S+), accuracy (\S+)% -> (\S+)%", out).groups()
    loss, tuned_loss, accuracy, tuned_accuracy = map(float, values)
    assert f"{accuracy}%" == f"{np.trace(counts) / 75:.1%}"
    assert tuned_loss < loss and tuned_accuracy >= accuracy
    assert "the same predictions (largest difference" in out
    directory = pathlib.Path("runs/demo")
    with PIL.Image.open(directory / "demo.png") as picture:
        assert picture.size[0] > 1000
    assert (directory / "served" / IMAGES / "1" / "saved_model.pb").is_file()

    monkeypatch.setattr(demo, "_served", lambda *_: np.zeros([75, 5]))
    assert cli.main(["demo", "--out", "runs/demo", "--seed", "3"]) == 1
    assert "OTHER predictions (largest difference" in capsys.readouterr().out
    assert (directory / "served" / IMAGES / "2").is_dir()
    assert not demo._omniglot_is_prepared()


def test_startup_messages_are_suppressed_and_errors_are_not(capfd):
    with console.start_noise_dropped():
        os.write(
            2, b"E0000 00:00:1 util.cc:131] oneDNN supports DT_INT32 only on ...\n"
        )
        os.write(2, b"I0000 00:00:1 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1 gpu.cc:1] out of memory\n")
        os.write(2, b"E0000 00:00:1 cuda.cc:52] failed call to cuInit: UNKNOWN\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == ("E0000 00:00:1 gpu.cc:1] out of memory\nafter\n")
