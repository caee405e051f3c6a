"""Writes the notebooks of examples/ by running its scripts.

pip install -e '.[notebooks]' && python tools/make_notebooks.py
"""

import os
import pathlib
import re
import sys
import tempfile

import jupytext
import nbclient
import rich.progress
from absl import app

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
EXAMPLES = pathlib.Path(__file__).resolve().parents[1] / "examples"


def write_notebook(script):
    """Runs a script in a temporary folder; writes its cells with their outputs."""
    notebook = jupytext.read(script)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    with tempfile.TemporaryDirectory() as folder:
        nbclient.NotebookClient(
            notebook, timeout=None, resources={"metadata": {"path": folder}}
        ).execute()
    for number, cell in enumerate(notebook.cells):
        cell["id"] = str(number)
        cell["metadata"] = {}  # contains the time of the run
        if cell.cell_type == "code":
            # Log messages of libraries contain details of the machine.
            cell["outputs"] = [
                output for output in cell.outputs if output.get("name") != "stderr"
            ]
            for output in cell.outputs:
                if "text" in output:
                    output["text"] = COLOURS.sub("", output["text"])
    jupytext.write(notebook, script.with_suffix(".ipynb"))


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"expected flags alone, got {' '.join(argv[1:])}.")
    bin_folder = pathlib.Path(sys.executable).parent
    os.environ["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    scripts = [
        path
        for path in EXAMPLES.glob("*.py")
        if "# %%" in path.read_text(encoding="utf-8")
    ]
    for script in rich.progress.track(scripts, "running"):
        write_notebook(script)


if __name__ == "__main__":
    app.run(main)
