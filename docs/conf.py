"""Sphinx configuration: `python -m sphinx -W docs docs/_build/html`."""

import os
import pathlib
import re
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
# What the pages run: the commands beside this Python, modules from the root.
os.environ["PYTHONPATH"] = str(ROOT)
bin_folder = pathlib.Path(sys.executable).parent
os.environ["PATH"] = f"{bin_folder}{os.pathsep}{os.environ['PATH']}"

project = "keras-meta"
author = "the keras-meta authors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["_build", "conf.py"]
html_theme = "furo"
html_title = "keras-meta"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_custom_sections = [("Call arguments", "params_style"), "State"]

myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
# Tutorials are scripts that run by themselves, too.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "docs" / "_build" / "cache")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_render_markdown_format = "myst"  # with tables
nb_output_stderr = "remove"
# Pages are read below this folder alone, and links are not for every system.
for tutorial in ("own_images.py",):
    shutil.copyfile(ROOT / "examples" / tutorial, ROOT / "docs/tutorials" / tutorial)


def as_written(app, what, name, thing, options, lines):
    """Docstrings are Markdown in `code` and in equations, which are indented."""
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines))
    found, above = [], ""  # the last line that is not empty
    for line in text.split("\n"):
        indented = line.startswith("    ")
        if indented and found and not found[-1] and not above.startswith(" "):
            found += ["::", ""]
        found.append(line)
        above = line or above
    lines[:] = found


def setup(app):
    app.connect("autodoc-process-docstring", as_written, priority=0)  # before napoleon
