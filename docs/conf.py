"""Sphinx configuration: `python -m sphinx -W docs docs/_build/html`."""

import os
import pathlib
import re
import shutil
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]
# Pages run the commands beside this Python, and modules from the root.
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
    "sphinx-mathjax-offline",
    "sphinx_design",
]
exclude_patterns = ["_build", "conf.py", "gallery.py"]
html_theme = "furo"
html_title = "keras-meta"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_google_docstring = True
napoleon_custom_sections = [("Call arguments", "params_style"), "State"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
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
nb_ipywidgets_js = {}  # no widgets, whose scripts come from a server
html_static_path = ["_static"]
html_css_files = ["style.css"]
# Pages are read below this folder alone, and links are not for every system.
for tutorial in ("own_images.py",):
    shutil.copyfile(ROOT / "examples" / tutorial, ROOT / "docs/tutorials" / tutorial)

import gallery  # noqa: E402

gallery.write()

# Tags that load something when a page opens. Plain links are no part of them.
LOADED = re.compile(r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["']https?:""")


def as_written(app, what, name, thing, options, lines):
    """Docstrings are Markdown in `code` and in equations, which are indented."""
    text = re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", "\n".join(lines))
    literal, above = [], ""  # the last line that is not empty
    for line in text.split("\n"):
        indented = line.startswith("    ")
        if indented and literal and not literal[-1] and not above.startswith(" "):
            literal += ["::", ""]
        literal.append(line)
        above = line or above
    lines[:] = literal


def check_offline(app, exception):
    """Raises an error if a page loads a file from a server."""
    from sphinx import errors  # not at the top: tests run this file without Sphinx

    if exception:
        return
    for page in pathlib.Path(app.outdir).rglob("*.html"):
        match = LOADED.search(page.read_text(encoding="utf-8"))
        if match:
            raise errors.ExtensionError(
                f"expected pages that need no network, got {match[0]!r} in {page.name}."
            )


def setup(app):
    app.connect("build-finished", check_offline)
    app.connect("autodoc-process-docstring", as_written, priority=0)  # before napoleon
