"""`keras-meta app`."""

from keras_meta.zoo import console

HELP = "a page in the browser: draw examples, see predictions"
DESCRIPTION = """\
Opens a page in the browser, served on this machine alone:

  keras-meta app

Draw or upload examples of up to 20 classes and images to classify, or click
the points of a curve, and see the predictions of any entry of the zoo. The page
saves tasks as folders for `keras-meta learn` and `keras-meta request`, and
exports the adapted model. Ctrl-C ends it.

It needs pip install 'keras-meta[app]', and no network.
"""
TASKS = "tasks"


def add(parser):
    parser.add_argument(
        "--port",
        metavar="N",
        type=console.integer(1),
        help="to listen on (default: the first free one from 7860)",
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="print the address and open nothing"
    )
    console.add_out(parser, TASKS, "DIR", "where saved tasks go")


def run(arguments, output):
    try:
        from keras_meta.zoo.app import page
    except ModuleNotFoundError as error:
        if error.name != "gradio":
            raise
        raise ValueError(
            "expected Gradio, which is not installed: pip install 'keras-meta[app]'."
        ) from error

    def ready(url):
        output.print(f"{url}  (Ctrl-C ends it)")

    page.serve(arguments.out, arguments.port, not arguments.no_browser, ready)
