"""Runs `keras-meta train` with the flags that the cards of older entries record.

python tools/train.py --recipe=maml.omniglot_5w1s --out=runs/maml
"""

import argparse
import sys

from keras_meta.zoo import cli


def main(argv):
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--recipe")
    arguments, rest = parser.parse_known_args(argv)
    names = [arguments.recipe] if arguments.recipe else []
    return cli.main(["train", *names, *map(_hyphenated, rest)])


def _hyphenated(argument):
    """Replaces the underscores of an option such as --validation_tasks by hyphens."""
    option, equals, value = argument.partition("=")
    if option.startswith("--"):
        option = option.replace("_", "-")
    return option + equals + value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
