"""`keras-meta request`."""

import pathlib

from keras_meta.zoo import console, request

HELP = "send examples and queries to an exported model in TensorFlow Serving"
DESCRIPTION = """\
Sends support examples and queries in one request. The served model learns from
the examples and returns predictions:

  keras-meta request localhost:8501 NAME --support examples/ --query drawings/
  keras-meta request localhost:8500 NAME --support points.csv

The same request without a server, through TensorFlow Serving's loader and
session:

  keras-meta request NAME --local served/ --support examples/ --query drawings/

Folders, points.csv and the columns of --csv are those of `keras-meta learn`.
"""


def add(parser):
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help="host:8501 or a URL for REST; host:8500 or grpc://host:port for gRPC",
    )
    parser.add_argument("model", metavar="MODEL", help="its name on the server")
    for option, needed, text in (
        ("--support", True, "a sub-folder of images for each class; or points.csv"),
        ("--query", False, "images to classify"),
        ("--local", False, "no server: the model exported to DIR/MODEL/"),
    ):
        parser.add_argument(
            option, metavar="DIR", type=pathlib.Path, required=needed, help=text
        )
    console.add_output(parser)


def run(arguments, output):
    return request.run(arguments, output)
