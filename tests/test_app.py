"""`keras-meta app` computes the predictions of `learn` on the saved task."""

import base64
import csv
import io
import json
import subprocess
import sys

import keras
import numpy as np
import PIL.Image
import pytest

import keras_meta as km
from keras_meta import plots
from keras_meta.zoo import cards, cli
from keras_meta.zoo.app import curves, images, models, saving
from tests import test_cli

LINEAR, SHRUNK, MIXED = "linear", "shrunk", "mixed"
WAVES, LINES = "waves", "lines"
PREPARE = km.ImagePreprocess(8, 8, 1)
RATE = 0.05


def write_entry(name, learner, **facts):
    facts |= {"family": "marks", "data": "marks: a few", "test_classes": None}
    test_cli.write_entry(name, learner, **facts)


def classifier():
    image = keras.Input((8, 8, 1))
    return keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(image)))


@pytest.fixture(scope="module", autouse=True)
def zoo(tmp_path_factory):
    """Creates a zoo of five entries with random weights."""
    keras.utils.set_random_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cards, "MODELS", tmp_path_factory.mktemp("models"))
        kinds = {"inputs": "images", "ways": 5, "shots": 1}
        kwargs = {"inner_rate": RATE, "preprocess": PREPARE}
        steps = {"inner_steps": 1, "evaluation_steps": 3}
        write_entry(LINEAR, km.MAML(classifier(), **kwargs, **steps), **kinds)
        shrunk = km.SigmaMAML(classifier(), initial_scale=0.3, **kwargs, **steps)
        write_entry(SHRUNK, shrunk, **kinds)
        mixed = km.MAML(classifier(), normalization="transductive", **kwargs)
        write_entry(MIXED, mixed, **kinds)
        kinds = {"inputs": "curves", "ways": None, "shots": 5}
        networks = km.networks.mlp((2,), 8, (8,)), km.networks.mlp((9,), 2, (8,))
        write_entry(WAVES, km.CNP(*networks, point_units=km.StandardUnits()), **kinds)
        lines = km.MAML(km.networks.mlp((1,), 1, ()), "mse", inner_rate=RATE)
        write_entry(LINES, lines, **kinds)
        models._loaded.cache_clear()
        yield
        models._loaded.cache_clear()


def mark(seed, height=20, width=20, channels=1):
    """Returns an image of dark strokes on white."""
    random = np.random.default_rng(seed)
    image = np.full([height, width, channels], 255, np.uint8)
    row, column = random.integers(2, 6, 2)
    image[row : row + 12, column : column + 3] = random.integers(0, 90)
    image[row : row + 3, column : column + random.integers(4, 12)] = 10
    return image


@pytest.fixture
def task():
    """Returns a task: three classes of 1 to 3 examples of several sizes, 11 queries."""
    task = images.Task()
    # These names are not in the order of their folders: upper case sorts first.
    for number, name in enumerate(["cow", "ant", "Ému [b] $x$"]):
        marks = [mark(10 * number + i, 20 + 4 * i) for i in range(number + 1)]
        task = task.with_class(name).with_examples(name, marks)
    # Eleven queries need two digits in their file names.
    queries = [mark(50 + i, 24, 20, 1 + 2 * (i % 2)) for i in range(11)]
    return task.with_queries(queries)


def learn(capsys, path, *arguments):
    """Runs `keras-meta learn`; returns its JSON."""
    assert cli.main(["learn", str(path), "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.thorough
@pytest.mark.parametrize("entry", [None, MIXED])
def test_class_predictions_equal_those_of_learn(
    entry, task, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    prediction = images.predict(task, entry)
    folder = saving.save_images(task, tmp_path / "tasks")
    arguments = ["--model", entry] if entry else []
    results = learn(capsys, folder, *arguments)
    assert prediction.entry == results["model"]
    assert prediction.names == results["classes"] == sorted(task.examples)
    rows = [[row[f"p_{n}"] for n in prediction.names] for row in results["predictions"]]
    np.testing.assert_array_equal(prediction.probabilities, np.float32(rows))
    assert ("transductive" in " ".join(prediction.notes)) == (entry == MIXED)
    row = results["predictions"][10]
    assert prediction.captions()[10] == f"{row['class']} {row['confidence']:.1%}"
    assert prediction.confidences(10)["ant"] == pytest.approx(row["p_ant"], abs=1e-7)


@pytest.mark.thorough
def test_inner_steps(task):
    assert images.predict(task, LINEAR).steps == 3
    assert models.steps_shown(4) == [0, 1, 2, 3, 4, 5, 10]
    steps = [0, 10]
    probabilities = images.by_step(task, LINEAR, steps, 4)
    # Reference: gradient steps on the mean loss from the entry's initial weights.
    learner = models.image_learner(LINEAR)
    support, labels, query = images.prepared(learner, LINEAR, task)
    x, query_x = (
        PREPARE(batch).numpy().reshape(len(batch), -1) for batch in (support, query)
    )
    weights, bias = (v.numpy()[..., :3] for v in learner.network.weights)
    expected = []
    for count in range(11):
        if count in steps:
            expected.append(softmax(query_x[4] @ weights + bias))
        error = (softmax(x @ weights + bias) - np.eye(3)[labels]) / len(x)
        weights, bias = weights - RATE * x.T @ error, bias - RATE * error.sum(0)
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    # Another number of steps does not change the shared learner.
    prediction = images.predict(task, LINEAR, 10)
    assert prediction.steps == 10
    np.testing.assert_allclose(prediction.probabilities[4], expected[-1], atol=1e-5)
    assert images.predict(task, LINEAR).steps == 3


def softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_only_sigma_entries_have_shares():
    learner = models.image_learner(SHRUNK)
    assert models.has_shares(learner)
    (share,) = set(learner.shares(6).values())
    np.testing.assert_allclose(share, 6 * 0.3**2 / (6 * 0.3**2 + RATE), rtol=1e-5)
    assert not models.has_shares(models.image_learner(LINEAR))
    assert models.inner_steps(models.curve_learner(WAVES)) is None


def test_legends_escape_names_that_matplotlib_interprets(tmp_path):
    rows = np.array([[0.5, 0.5], [0.2, 0.8]])
    figure = images.by_step_figure([r"$\frac", "_hidden"], [0, 1], rows)
    figure.savefig(tmp_path / "figure.png")
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == [" _hidden", r" \$\frac"]


def test_invalid_classes_and_examples_are_rejected(task):
    for name, message in (
        ("", "a name of 1 to 40 characters, got 0"),
        ("x" * 41, "a name of 1 to 40 characters, got 41"),
        ("a/b", "a name that a folder can have"),
        ("a\nb", "a name that a folder can have"),
        ("..", "a name without a dot at its ends"),
        (".a", "a name without a dot at its ends"),
        ("ANT", "a new name, the class ANT is there already"),
    ):
        with pytest.raises(ValueError, match=f"expected {message}"):
            task.with_class(name)
    with pytest.raises(ValueError, match="expected a class to be chosen"):
        task.with_examples(None, [mark(0)])
    largest = images.Task()
    for number in range(20):
        largest = largest.with_class(f"c{number}")
    with pytest.raises(ValueError, match="at most 20 classes, got c20 in addition"):
        largest.with_class("c20")
    assert len(largest.examples) == 20 and largest.classes[:3] == ["c0", "c1", "c10"]


def test_incomplete_tasks_are_rejected(task, tmp_path):
    for invalid, message in (
        (images.Task(queries=task.queries), "at least two classes, got 0"),
        (task.without_class("ant").without_class("cow"), "two classes, got 1"),
        (task.with_class("empty"), "an example of each class, got none of empty"),
        (task.without_queries(), "an image to classify, got none"),
    ):
        with pytest.raises(ValueError, match=message):
            images.predict(invalid)
        with pytest.raises(ValueError, match=message):
            saving.save_images(invalid, tmp_path)
    assert not list(tmp_path.iterdir())
    for number in range(3):
        task = task.with_class(f"more {number}").with_examples(
            f"more {number}", [mark(90)]
        )
    with pytest.raises(ValueError, match="at most 5 classes for linear, got 6"):
        images.predict(task, LINEAR)
    with pytest.raises(ValueError, match="at most 5 classes, got 6"):
        images.predict(task)


@pytest.mark.thorough
def test_a_model_that_refuses_the_task_leaves_no_prediction(tmp_path, monkeypatch):
    gradio = pytest.importorskip("gradio")
    from keras_meta.zoo.app import events, image_tab

    monkeypatch.setattr(events, "state", lambda error: None)
    with gradio.Blocks():
        tab = image_tab.ImageTab(tmp_path, tmp_path)
    task = images.Task().with_queries([mark(9)])
    for number in range(6):  # LINEAR has five outputs
        task = task.with_class(f"c{number}").with_examples(f"c{number}", [mark(number)])
    history, label = (images.Task(), task.without_class("c5")), tab.label
    page = tab.entry_chosen(history, LINEAR, 0, None)
    assert page[tab.prediction].entry == LINEAR and page[label].value
    assert page[tab.queries][0][1] and page[tab.by_step].visible
    page = tab.entry_chosen((*history, task), LINEAR, 3, LINEAR)
    assert page[tab.prediction] is None and not page[label].value
    assert page[tab.queries][0][1] == "" and not page[tab.by_step].visible
    assert page[tab.step_plot] is None and page[tab.share_plot] is None


def test_read_returns_the_readable_images(tmp_path):
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.txt")]
    PIL.Image.fromarray(mark(1)[..., 0]).save(paths[0])
    paths[1].write_bytes(b"\x89PNG\r\n\x1a\n")
    paths[2].write_text("no image")
    arrays, messages = images.read(paths)
    np.testing.assert_array_equal(arrays, [mark(1)])
    assert messages[1] == "expected an image file, c.txt is none."
    assert "b.png" in messages[0] and str(tmp_path) not in " ".join(messages)


def test_a_failed_save_leaves_no_folder(task, tmp_path, monkeypatch):
    first = saving.save_images(task, tmp_path / "tasks")
    assert first.name == "task-1"

    def raise_disk_full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PIL.Image.Image, "save", raise_disk_full)
    with pytest.raises(OSError):
        saving.save_images(task, tmp_path / "tasks")
    monkeypatch.undo()
    assert list((tmp_path / "tasks").iterdir()) == [first]
    assert saving.save_images(task, tmp_path / "tasks").name == "task-2"


@pytest.mark.thorough
def test_export_of_classes(task, tmp_path):
    inverted = images.Task(
        {n: tuple(255 - i for i in x) for n, x in task.examples.items()},
        tuple(255 - i for i in task.queries),
    )
    for sketch, name in ((task, "ink"), (inverted, "chalk")):
        folder = saving.export_images(sketch, SHRUNK, None, tmp_path / name)
        facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        assert facts["classes"] == sorted(task.examples)
        assert facts["preprocess"]["invert"] == (name == "ink")
        model = keras.models.load_model(folder / "model.keras")
        prepare = km.ImagePreprocess(**facts["preprocess"])
        logits = np.concatenate(
            [model(prepare(image[None])) for image in sketch.queries]
        )
        expected = images.predict(sketch, SHRUNK).probabilities
        np.testing.assert_allclose(softmax(logits), expected, atol=1e-5)
    assert (folder / "1" / "saved_model.pb").exists()


# Curves


def points(count=4):
    curve = curves.Curve()
    for column in np.linspace(120, 700, count):
        curve = curve.clicked(column, 300 + 100 * np.sin(column))
    return curve.with_queries("1.25; -3, 4e0")


def test_clicks_are_converted_to_axes_coordinates(monkeypatch):
    figures = []
    fit = plots.fit
    monkeypatch.setattr(
        plots, "fit", lambda *a, **k: figures.append(fit(*a, **k)) or figures[-1]
    )
    start = curves.Curve(queries=(2010.0,), base=(1990.0, 2030.0, -1e6, 1e6))
    picture = curves.picture(start)
    (axes,) = figures[0].axes
    for point in ((2000.0, 5e5), (1990.1, -9.9e5), (2029.9, 9.9e5)):
        column, up = axes.transData.transform(point)
        curve = start.clicked(column, picture.shape[0] - up)
        np.testing.assert_allclose(curve.points, [point], rtol=1e-6)
    for pixel in ((5, 200), (400, picture.shape[0] - 3), (picture.shape[1], 200)):
        with pytest.raises(ValueError, match="a click between the axes"):
            start.clicked(*pixel)
    # Clicked points do not change the axes; a query x beyond them does.
    assert curve.view() == start.view()
    assert curve.with_queries("2100").view()[:2] == (1990, 2100)


@pytest.mark.parametrize(
    "entry", [WAVES, pytest.param(LINES, marks=pytest.mark.thorough)]
)
def test_curve_predictions_equal_those_of_learn(entry, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    curve = points()
    fit = curves.predict(curve, entry)
    folder = saving.save_points(curve, tmp_path / "tasks")
    results = learn(capsys, folder / "points.csv", "--model", entry)["predictions"]
    assert [row["x"] for row in results] == [1.25, -3, 4]
    np.testing.assert_allclose(fit.mean, [row["mean"] for row in results], rtol=1e-6)
    if entry == WAVES:
        np.testing.assert_allclose(fit.scale, [row["scale"] for row in results], 1e-6)
    # Saved points are loaded unchanged.
    loaded = curves.read(folder / "points.csv")
    assert loaded.points == curve.points and loaded.queries == curve.queries
    assert curves.picture(curve, fit).shape == curves.picture(curves.Curve()).shape
    rows = list(csv.reader(io.StringIO(fit.table(curve.queries)), delimiter="|"))
    assert [row[1].strip() for row in rows[2:]] == ["1.25", "-3", "4"]


def test_a_curve_by_inner_step():
    curve = points()
    fits = [curves.predict(curve, LINES, steps) for steps in (0, 7)]
    learner = models.curve_learner(LINES)
    (slope,), level = (v.numpy() for v in learner.network.weights)
    x, y = curve.known().T
    for steps in range(8):
        if steps in (0, 7):
            fit = fits.pop(0)
            assert fit.steps == steps
            np.testing.assert_allclose(
                fit.curve, slope * fit.grid + level, rtol=1e-4, atol=1e-4
            )
        error = slope * x + level - y
        slope = slope - 2 * RATE * np.mean(error * x)
        level = level - 2 * RATE * np.mean(error)


@pytest.mark.parametrize("entry", [WAVES, LINES])
def test_export_of_a_curve(entry, tmp_path):
    curve = points()
    folder = saving.export_curve(curve, entry, None, tmp_path)
    units = json.loads((folder / "task.json").read_text())["units"]
    model = keras.models.load_model(folder / "model.keras")
    x = np.array(curve.queries)[:, None]
    fit = curves.predict(curve, entry)
    if entry == LINES:
        assert units is None
        np.testing.assert_allclose(model(x)[:, 0], fit.mean, rtol=1e-4, atol=1e-5)
        return
    end = units["end"]
    scaled = np.clip((x - units["centre"]) / units["unit"], -end, end)
    mean, scale = np.moveaxis(model(scaled)[:, 0].numpy(), -1, 0)
    mean = units["middle"] + units["spread"] * mean
    np.testing.assert_allclose(mean, fit.mean, rtol=1e-4)
    np.testing.assert_allclose(units["spread"] * scale, fit.scale, rtol=1e-4)


def test_invalid_curves_are_rejected(tmp_path):
    empty = curves.Curve()
    for function in (
        lambda: curves.predict(empty),
        lambda: saving.save_points(empty, tmp_path),
        lambda: saving.export_curve(empty, WAVES, None, tmp_path),
    ):
        with pytest.raises(ValueError, match="expected a point"):
            function()
    for text in ("1 two", "nan", "1e99"):
        with pytest.raises(ValueError, match=f"such as 1.5, got '{text.split()[-1]}'"):
            empty.with_queries(text)
    with pytest.raises(ValueError, match="an x to predict, got none"):
        empty.with_queries(" , ")
    (tmp_path / "bad.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="expected bad.csv to begin with the line x,y"):
        curves.read(tmp_path / "bad.csv")
    large = curves.Curve(points=((1.0, 2e30), (2e30, 1.0)))
    with pytest.raises(ValueError, match="like those of marks: a few: learning these"):
        curves.predict(large, LINES)


# The command


def test_without_gradio(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "keras_meta.zoo.app.page", raising=False)
    assert cli.main(["app"]) == 2
    assert capsys.readouterr().err == (
        "keras-meta: error: expected Gradio, which is not installed: pip install "
        "'keras-meta[app]'.\n"
    )


def test_drawings_are_decoded():
    file = io.BytesIO()
    PIL.Image.fromarray(mark(3)[..., 0]).convert("RGBA").save(file, "PNG")
    url = images.DRAWING + base64.b64encode(file.getvalue()).decode()
    np.testing.assert_array_equal(images.drawn(url), mark(3))
    with pytest.raises(ValueError, match="expected a drawing, the pad is empty"):
        images.drawn("")
    for invalid in (url[:60], url[:-40], "javascript:", images.DRAWING + "AAAA"):
        with pytest.raises(ValueError, match="expected a drawing, got something else"):
            images.drawn(invalid)


PROGRAM = """
import numpy as np
from keras_meta.zoo.app import images

def bar(upright):
    image = np.full([105, 105, 1], 255, "uint8")
    image[(slice(20, 80), slice(50, 55))[:: 1 if upright else -1]] = 0
    return image

task = images.Task().with_class("a").with_class("b")
task = task.with_examples("a", [bar(True)]).with_examples("b", [bar(False)])
task = task.with_queries([bar(False), bar(True)])
print(images.predict(task).probabilities.argmax(1).tolist())
"""


@pytest.mark.thorough
def test_a_new_process_predicts_with_the_default_entry():
    # The choice of the entry analyses the images with TensorFlow. TensorFlow's threads
    # must be set before.
    command = [sys.executable, "-c", PROGRAM]
    process = subprocess.run(command, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.splitlines()[-1] == "[1, 0]"
