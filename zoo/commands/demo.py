"""`keras-meta demo`."""

import time

from keras_meta.zoo import console

HELP = "learn five new characters, fine-tune, export; under a minute"


def add(parser):
    console.add_out(parser, ".", "DIR", "where demo.png and the exported model go")
    parser.add_argument(
        "--seed",
        metavar="N",
        type=console.integer(),
        default=0,
        help="seed of the task",
    )


def run(arguments, output):
    began = time.time()
    console.start()
    from keras_meta.zoo import demo

    return demo.run(arguments.out, arguments.seed, began)
