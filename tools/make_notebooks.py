"""Makes the notebooks of examples/ from its scripts, by running them.

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


def make(script):
    """Runs a script cell by cell in a folder of its own, and keeps what it shows."""
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
        cell["metadata"] = {}  # when it ran
        if cell.cell_type == "code":
            # What libraries log names the machine it ran on.
            cell["outputs"] = [
                output for output in cell.outputs if output.get("name") != "stderr"
            ]
            for output in cell.outputs:
                if "text" in output:
                    output["text"] = COLOURS.sub("", output["text"])
    jupytext.write(notebook, script.with_suffix(".ipynb"))


def main(_):
    bin_folder = pathlib.Path(sys.executable).parent
    os.environ["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"
    scripts = [
        path
        for path in EXAMPLES.glob("*.py")
        if "# %%" in path.read_text(encoding="utf-8")
    ]
    for script in rich.progress.track(scripts, "running"):
        make(script)


if __name__ == "__main__":
    app.run(main)
