"""Tests that the tutorial runs and that its notebook has the same cells."""

import pathlib
import sys

import jupytext
import keras
import numpy as np
import PIL.Image
import pytest

import keras_meta as km

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = [
    path for path in EXAMPLES.glob("*.py") if "# %%" in path.read_text(encoding="utf-8")
]


def run_own_images(tmp_path, monkeypatch, capsys):
    """Runs the tutorial with two meta-steps; returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(pathlib.Path(sys.executable).parent), prepend=":")
    monkeypatch.setattr("keras_meta.runtime.configure", lambda: None)  # already run
    script = (EXAMPLES / "own_images.py").read_text(encoding="utf-8")
    assert "STEPS = 100 " in script
    script = script.replace("STEPS = 100 ", "STEPS = 2 ")
    exec(compile(script, "own_images.py", "exec"), {})
    assert (tmp_path / "own_images" / "predictions.png").stat().st_size > 10_000
    return capsys.readouterr().out


def draw(folder, classes, images):
    """Saves clean drawings of characters, like the pretrained model's training data."""
    pool = km.tasks.glyphs(range(5000, 5000 + classes))
    for label in pool.class_ids:
        (folder / f"character{label}").mkdir(parents=True)
        for i, image in enumerate(pool.images_of(label)[:images]):
            keras.utils.save_img(folder / f"character{label}" / f"{i}.png", image)


@pytest.mark.thorough
def test_own_images(tmp_path, monkeypatch, capsys):
    output = run_own_images(tmp_path, monkeypatch, capsys)
    assert "40 classes: 30 to train, 10 to test" in output
    assert sum(".png" in line for line in output.splitlines()) == 5
    # The paper has stains, so few of its pixels are white.
    files = sorted((tmp_path / "own_images" / "pictures").glob("*/0.png"))
    pixels = np.stack([keras.utils.img_to_array(PIL.Image.open(f)) for f in files])
    assert 100 < np.median(pixels) < 240


@pytest.mark.thorough
def test_own_images_of_five_classes(tmp_path, monkeypatch, capsys):
    draw(tmp_path / "own_images" / "pictures", 5, 6)
    output = run_own_images(tmp_path, monkeypatch, capsys)
    assert "5 classes: 3 to train, 2 to test" in output
    assert "learned from 2 pictures" in output
    # The export returns a row for each query, whose file name is its class.
    rows = [line.split() for line in output.splitlines() if ".png" in line]
    assert len(rows) == 5
    correct = sum(file == f"{prediction}.png" for file, prediction, _ in rows)
    assert correct >= 4


def test_own_images_of_too_few_classes(tmp_path, monkeypatch, capsys):
    draw(tmp_path / "own_images" / "pictures", 4, 6)
    with pytest.raises(SystemExit, match="^expected 5 classes in .*, got 4$"):
        run_own_images(tmp_path, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("option", "code", "text"),
    [
        ("--help", 0, "usage: own_images.py"),
        ("--x", 2, "unrecognized arguments: --x\n"),
    ],
)
def test_options_of_the_script(option, code, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = EXAMPLES / "own_images.py"
    monkeypatch.setattr(sys, "argv", [str(path), option])
    program = compile(path.read_text(encoding="utf-8"), "own_images.py", "exec")
    with pytest.raises(SystemExit) as exit_info:
        exec(program, {"__file__": str(path)})
    assert exit_info.value.code == code and text in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_has_the_cells_of_the_script(script):
    """`python tools/make_notebooks.py` writes the notebook."""
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    expected = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == expected
