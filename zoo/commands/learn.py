"""`keras-meta learn`."""

import pathlib

from keras_meta.zoo import console, folders, learn_curve, learn_images

PICTURES = (".png", ".pdf", ".svg", ".jpg")

HELP = "learn your own classes or curve from a few examples"
DESCRIPTION = """\
Learns classes from a few images of each and classifies other images:

  keras-meta learn drawings/ --support examples/

  examples/cat/1.png examples/cat/2.png examples/dog/1.png   one folder a class
  drawings/a.png drawings/b.png                              images to classify

Without --support, DIR holds the two folders as DIR/support/ and DIR/query/.
Classes may have different numbers of images. The examples decide whether the
default model is one for photographs or for drawings, and whether ink is dark or
light. HEIC and AVIF files need pip install 'keras-meta[photos]'. Images are
resized to squares: crop them to the object or drawing first, and draw strokes
as thick as a pen's.

Put images whose class is known into sub-folders named after the classes. The
command then reports accuracy and a confusion table:

  drawings/cat/3.png drawings/dog/4.png

Learns a curve from a few points and predicts others:

  keras-meta learn points.csv

  x,y
  -1.5,2.1
  0.3,-0.4
  2,

A row with an empty y, such as the last, is an x to predict.

--csv writes one row for each query: file, class, confidence, label (if classes
are known), unknown (with --unknown) and a probability p_CLASS for each class;
or x, mean and scale (one standard deviation, if the model predicts it).
"""


def add(parser):
    parser.add_argument(
        "queries",
        metavar="DIR|points.csv",
        type=pathlib.Path,
        help="images to classify; or points of a curve",
    )
    parser.add_argument(
        "--support",
        metavar="DIR",
        type=pathlib.Path,
        help="a sub-folder of images for each class (default: DIR/support)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME|FILE.keras",
        help="an entry, or a learner that you saved (default: the entry with the best "
        "validation score for your numbers of classes and examples, or for curves)",
    )
    parser.add_argument(
        "--unknown",
        action="store_true",
        help="mark images that seem to belong to none of the classes",
    )
    console.add_out(
        parser, folders.PICTURE, "FILE", "the picture, " + ", ".join(PICTURES)
    )
    console.add_output(parser)


def run(arguments, output):
    queries, out = arguments.queries, arguments.out
    if out.suffix.lower() not in PICTURES:
        raise ValueError(f"expected --out to end in {', '.join(PICTURES)}, got {out}.")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"expected a folder for --out, got none at {out.parent}.")
    output.keep_apart(out, queries, *filter(None, [arguments.model]))
    if not queries.exists():
        raise ValueError(f"expected images or points, got nothing at {queries}.")
    if queries.is_dir():
        return learn_images.run(arguments, output)
    if queries.suffix.lower() != ".csv":
        raise ValueError(f"expected a folder of images or a .csv file, got {queries}.")
    if arguments.support:
        raise ValueError(
            "expected no --support with a .csv file, whose rows with y are the "
            "examples."
        )
    if arguments.unknown:
        raise ValueError(
            "expected no --unknown with a .csv file: a curve has no classes."
        )
    return learn_curve.run(arguments, output)
