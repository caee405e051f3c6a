"""`keras-meta merge`."""

import json
import pathlib

from keras_meta.zoo import console, merging
from keras_meta.zoo.commands import evaluate

HELP = "merge scores of parts of an evaluation"
DESCRIPTION = """\
Merges the scores of several runs of `evaluate`, such as those of two machines,
into the score of all tasks:

  keras-meta evaluate maml.sinusoid --first 0 --count 500 --json > a.json
  keras-meta evaluate maml.sinusoid --first 500 --count 500 --json > b.json
  keras-meta merge a.json b.json

The result is that of one run with --count 1000. The parts must follow one
another without a gap.
"""
NEEDED = {"model", "metric", "data", "normalization", "ways", "shots", "queries"}
NEEDED |= {"seed", *merging.OF_A_PART, *merging.LISTS}


def add(parser):
    parser.add_argument(
        "files", metavar="FILE", type=pathlib.Path, nargs="+", help="of evaluate --json"
    )
    console.add_output(parser)


def run(arguments, output):
    parts = [read(path) for path in arguments.files]
    output.keep_apart(*arguments.files)
    console.start()
    score = merging.merged(parts)
    evaluate.show(output, score["model"], score)


def read(path):
    """The JSON of `evaluate` in a file.

    Raises:
        ValueError: a file with something else.
    """
    try:
        part = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, got: {error}.") from error
    missing = NEEDED - part.keys() if isinstance(part, dict) else NEEDED
    if missing:
        raise ValueError(
            f"expected the output of `keras-meta evaluate --json` in {path}, got JSON "
            f"without the field {min(missing)}."
        )
    return part
