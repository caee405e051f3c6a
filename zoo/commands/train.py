"""`keras-meta train`."""

import pathlib
import sys

from keras_meta.zoo import console, recipes
from keras_meta.zoo.recipes import schema

HELP = "train an entry from its recipe; stops and resumes exactly"
DESCRIPTION = """\
Trains an entry from its recipe:

  keras-meta train maml.omniglot_5w1s

Ctrl-C or SIGTERM stops the run at the next checkpoint, a second signal at once.
The same command resumes at the last checkpoint. All files are written to --out:
checkpoints, the best weights, log.csv and TensorBoard events.

--publish stores the best weights in the zoo; a run that has ended is published
without further training. With --workers N (or TF_CONFIG set on each of several
machines) N processes share the tasks of each meta-step.
"""
# The arguments of `entries.run` with the same names.
OPTIONS = (
    "steps",
    "pretraining_steps",
    "seed",
    "every",
    "validation_tasks",
    "warm_start",
)


def add(parser):
    console.add_name(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=pathlib.Path,
        help="folder of the run (default: runs/NAME)",
    )
    for option, least, default, text in (
        ("steps", 1, None, "meta-steps (default: the recipe's)"),
        (
            "pretraining-steps",
            1,
            None,
            "steps of a recipe's pretraining (default: the recipe's)",
        ),
        ("seed", 0, None, "seed of weights and episodes (default: the recipe's)"),
        ("every", 1, schema.EVERY, "meta-steps between checkpoints and validations"),
        ("validation-tasks", 2, schema.VALIDATION_TASKS, "tasks in a validation"),
        ("workers", 1, 1, "processes on this machine that share a meta-step's tasks"),
    ):
        shown = f"{text} (default: {default})" if default else text
        parser.add_argument(
            f"--{option}", metavar="N", type=console.integer(least), help=shown
        )
    parser.add_argument(
        "--warm-start",
        metavar="NAME|FILE.keras|none",
        help="weights to start from (default: the recipe's)",
    )
    parser.add_argument(
        "--publish", action="store_true", help="store the best weights in the zoo"
    )
    parser.add_argument(
        "--float16",
        action="store_true",
        help="with --publish: store float16 weights if the validation score is kept",
    )


def run(arguments, output):
    name = arguments.name
    recipes.recipe(name)  # raises before TensorFlow starts
    if arguments.float16 and not arguments.publish:
        raise ValueError(
            "expected --publish with --float16, which is an option of publishing."
        )
    directory = arguments.out or pathlib.Path("runs", name)
    console.start(operation=False)  # the recipe sets threads and workers
    from keras_meta.zoo import entries, training

    try:
        return entries.run(
            name,
            directory,
            _words(arguments, directory),
            arguments.workers or 1,
            arguments.publish,
            float16=arguments.float16,
            **{option: getattr(arguments, option) for option in OPTIONS},
        )
    except OSError as error:
        raise OSError(
            f"{error.strerror or error}: nothing is lost, the same command resumes at "
            "the last checkpoint"
        ) from error
    except training.Stopped as stopped:
        print(f"keras-meta: {stopped}", file=sys.stderr)
        return console.INTERRUPTED


def _words(arguments, directory):
    """The arguments of the command, for the other processes."""
    words = ["train", arguments.name, f"--out={directory}"]
    for option in (*OPTIONS, "workers"):
        value = getattr(arguments, option)
        if value is not None:
            words.append(f"--{option.replace('_', '-')}={value}")
    flags = "publish", "float16"
    return words + [f"--{flag}" for flag in flags if getattr(arguments, flag)]
