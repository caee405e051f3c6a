"""What the command's parts share: where results go, and how TensorFlow starts."""

import contextlib
import io
import os
import subprocess
import sys

import rich.box
import rich.console
import rich.table

from keras_meta import zoo
from keras_meta.zoo import recipes

# What TensorFlow's native code says at each start, before it reads its log level, and
# on every machine without a GPU.
START_NOISE = (
    r"^[IW]0000 |^WARNING: All log messages before absl::|failed call to cuInit"
)

# A filter of lines that reads to the end, whatever becomes of who writes.
FILTER = """
import re, signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
noise = re.compile(sys.argv[1].encode())
for line in sys.stdin.buffer:
    if not noise.search(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""


def console():
    """Where results go. Names are printed as they are, be there brackets in them."""
    # A pipe has no width; a table must not be folded to 80 columns for it.
    width = None if sys.stdout.isatty() else 160
    return rich.console.Console(width=width, markup=False, emoji=False, highlight=False)


def table(*columns):
    """A table with these headings; those that begin with ">" are right-aligned."""
    made = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for heading in columns:
        justify = "right" if heading.startswith(">") else "left"
        made.add_column(heading.lstrip(">"), justify=justify, overflow="fold")
    return made


def start():
    """`keras_meta` with its threads set; what TensorFlow says at its start is held."""
    noise = contextlib.nullcontext()
    if "TF_CPP_MIN_LOG_LEVEL" not in os.environ:  # whoever sets it wants to read it
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
        noise = start_noise_dropped()
    with noise:
        import tensorflow as tf

        import keras_meta as km
        from keras_meta import api  # noqa: F401  some seconds

        km.runtime.configure()
        tf.config.list_physical_devices()
    return km


@contextlib.contextmanager
def start_noise_dropped():
    """Sends stderr through a filter that outlives a crash and so hides no error."""
    sys.stderr.flush()
    kept = os.dup(2)
    command = [sys.executable, "-I", "-S", "-c", FILTER, START_NOISE]
    filtering = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=kept)
    os.dup2(filtering.stdin.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        filtering.communicate()


def save(figure, path):
    """Writes a figure; a file that is there is replaced whole or not at all."""
    picture = io.BytesIO()
    figure.savefig(picture, format=path.suffix[1:].lower())
    draft = path.with_name(f".{path.name}.draft")
    draft.write_bytes(picture.getvalue())
    os.replace(draft, path)


def trained_card(name):
    """The card of a trained entry, or one sentence on why there is none."""
    if name in recipes.RECIPES and name not in [c.name for c in zoo.list_models()]:
        raise ValueError(
            f"expected a trained model, {name} is a recipe without weights yet: "
            f"`keras-meta list` has both."
        )
    return zoo.card(name)
