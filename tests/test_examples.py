"""The tutorial runs, and its notebook is the same."""

import pathlib
import sys

import jupytext
import pytest

EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = [
    path for path in EXAMPLES.glob("*.py") if "# %%" in path.read_text(encoding="utf-8")
]


def test_own_images(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(pathlib.Path(sys.executable).parent), prepend=":")
    monkeypatch.setattr("keras_meta.runtime.configure", lambda: None)  # done already
    script = (EXAMPLES / "own_images.py").read_text(encoding="utf-8")
    assert "STEPS = 100 " in script
    script = script.replace("STEPS = 100 ", "STEPS = 2 ")
    exec(compile(script, "own_images.py", "exec"), {})
    said = capsys.readouterr().out
    assert "40 classes: 30 to train, 10 not" in said
    # The answer of the export: a row for each question, named as its class.
    rows = [line.split() for line in said.splitlines() if ".png" in line]
    assert len(rows) == 5
    right = sum(file == f"{prediction}.png" for file, prediction, _ in rows)
    assert right >= 4
    assert (tmp_path / "own_images" / "predictions.png").stat().st_size > 10_000


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_notebook_is_the_script(script):
    """`python tools/make_notebooks.py` makes it."""
    notebook = jupytext.read(script.with_suffix(".ipynb"))
    expected = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == expected
