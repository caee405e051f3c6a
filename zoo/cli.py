"""The `keras-meta` command."""

import argparse
import contextlib
import difflib
import functools
import importlib
import os
import pathlib
import sys
import warnings

import shtab

import keras_meta
from keras_meta import backend
from keras_meta.zoo import console, recipes

# The modules import TensorFlow only when they run a model: `list`, `info` and `--help`
# return at once.
COMMANDS = "list info demo learn app evaluate merge check export request train".split()
DESCRIPTION = "Few-shot learning with pretrained models: learn new classes or a curve."
EXITS = """\
exit codes:
  0    done
  1    demo, check or export detected an error
  2    invalid input; one sentence on standard error states the mistake
  130  interrupted

Shell completion: keras-meta --print-completion bash (or zsh, tcsh) writes a
script.
"""
MISTAKE, BROKEN_PIPE = 2, 141
# The function of bash that completes the names of entries.
ENTRIES = "_keras_meta_entries() {{ compgen -W '{names}' -- \"$1\"; }}"


def main(argv=None):
    """Runs the command.

    Args:
        argv: its arguments; by default those of the process.

    Returns:
        The exit code: 0; 1 if demo, check or export detects an error; 2 for invalid
        input, with one sentence on stderr; 130 if it is interrupted; 141 if the reader
        of its output has closed the pipe.
    """
    console.encode_anything()
    try:
        arguments = _parser().parse_args(argv)
        output = console.Output(arguments)
        with warnings.catch_warnings():
            # Matplotlib draws letters that its font lacks as boxes.
            warnings.filterwarnings("ignore", message="Glyph")
            warnings.showwarning = functools.partial(_warn, warnings.showwarning)
            code = arguments.run(arguments, output) or 0
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        with contextlib.suppress(OSError):  # Python flushes again at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (ValueError, OSError, backend.BackendError) as error:
        print(f"keras-meta: error: {_sentence(error)}", file=sys.stderr)
        return MISTAKE
    except KeyboardInterrupt:
        print("keras-meta: interrupted", file=sys.stderr)
        return console.INTERRUPTED


def _warn(show, message, category, *place):
    """Shows a warning to users as one line; others as Python does."""
    if category is UserWarning:
        console.warn(_sentence(message))
    else:
        show(message, category, *place)


def _sentence(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())


class Parser(argparse.ArgumentParser):
    """Reports an error in one line, even if it quotes several.

    Arguments that are paths have completion in shells.
    """

    def _add_action(self, action):
        if action.type is pathlib.Path:
            action.complete = shtab.FILE
        return super()._add_action(action)

    def error(self, message):
        super().error(" ".join(message.split()))


class Command(Parser):
    """The parser of one command, which reports unknown options with its own usage."""

    def parse_known_args(self, args=None, namespace=None):
        namespace, unknown = super().parse_known_args(args, namespace)
        if unknown:
            options = list(self._option_string_actions)
            near = difflib.get_close_matches(unknown[0].partition("=")[0], options, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return namespace, unknown


def _parser():
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        "keras-meta", description=DESCRIPTION, epilog=EXITS, formatter_class=raw
    )
    version = f"%(prog)s {keras_meta.__version__}"
    parser.add_argument("--version", action="version", version=version)
    names = " ".join(recipes.RECIPES)
    shtab.add_argument_to(parser, preamble={"bash": ENTRIES.format(names=names)})
    commands = parser.add_subparsers(
        metavar="COMMAND", required=True, parser_class=Command
    )
    for name in COMMANDS:
        module = importlib.import_module(f"keras_meta.zoo.commands.{name}")
        added = commands.add_parser(
            name,
            help=module.HELP,
            description=getattr(module, "DESCRIPTION", module.HELP),
            formatter_class=raw,
        )
        module.add(added)
        added.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
