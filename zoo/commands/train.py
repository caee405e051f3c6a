"""`keras-meta train`."""

HELP = "train"


def add(parser):
    pass


def run(arguments, output):
    pass
