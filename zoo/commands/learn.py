"""`keras-meta learn`."""

import pathlib

from keras_meta.zoo import console, learn

HELP = "learn your own classes or curve from a few examples"
DESCRIPTION = """\
Learns classes from a few images of each and classifies other images:

  keras-meta learn drawings/ --support examples/

  examples/cat/1.png examples/cat/2.png examples/dog/1.png   a folder a class
  drawings/a.png drawings/b.png                              to be classified

Without --support, DIR holds the two folders as DIR/support/ and DIR/query/.
Classes may have different numbers of images. The pretrained models know drawn
characters; the examples show whether ink is dark or light. HEIC and AVIF files
need pip install 'keras-meta[photos]'. Images are resized to a square: crop them
to the drawing first, and draw strokes as thick as a pen's.

Images to classify whose class is known lie in sub-folders of the classes'
names. Their accuracy and confusion table are reported:

  drawings/cat/3.png drawings/dog/4.png

Learns a curve from a few points and predicts others:

  keras-meta learn points.csv

  x,y
  -1.5,2.1
  0.3,-0.4
  2,

A row without y, such as the last, is an x to predict.

--csv writes a row a query: file, class, confidence, label (the known class,
where there are any) and a probability p_CLASS for each class; or x, mean and
scale (one standard deviation, where the model has one).
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
        help="an entry, or a learner that you saved (default: the entry best on "
        "validation tasks of as many classes and examples; or of curves)",
    )
    console.add_out(
        parser, learn.LEARNED, "FILE", "the picture, " + ", ".join(learn.PICTURES)
    )
    console.add_output(parser)


def run(arguments, output):
    return learn.run(arguments, output)
