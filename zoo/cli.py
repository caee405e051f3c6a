"""The `keras-meta` command."""

import argparse
import functools
import pathlib
import sys
import time
import warnings

import rich.box
import rich.console
import rich.table

import keras_meta
from keras_meta import backend, zoo
from keras_meta.zoo import cards, console, learn, recipes, request, scores

# TensorFlow is imported by the commands that run a model, and not before: `list`,
# `info` and `--help` answer at once.

DESCRIPTION = "Few-shot learning with pretrained models: learn new classes or a curve."

LEARN = """\
Learns classes from a few images of each and classifies other images:

  keras-meta learn drawings/ --support examples/

  examples/cat/1.png examples/cat/2.png examples/dog/1.png   a sub-folder for each class
  drawings/a.png drawings/b.png                              the images to classify

Without --support, DIR holds the two folders as DIR/support/ and DIR/query/. Classes may
have different numbers of images. The pretrained models know drawn characters; the
examples show whether ink is dark or light. HEIC and AVIF files need
pip install 'keras-meta[photos]'.

Learns a curve from a few points and predicts others:

  keras-meta learn points.csv

  x,y
  -1.5,2.1
  0.3,-0.4
  2,

A row without y, such as the last, is an x to predict.
"""

MARKS = {"right": "✓", "wrong": "✗", "note": " "}
REQUEST = """\
Sends a few labelled examples and the questions in one request; the served model learns
and answers:

  keras-meta request localhost:8501 NAME --support examples/ --query drawings/
  keras-meta request localhost:8500 NAME --support points.csv

The same request without a server, through the loader and session that one would use:

  keras-meta request NAME --local served/ --support examples/ --query drawings/
"""


def main(argv=None):
    """Runs the command.

    Args:
        argv: its words; those of the process by default.

    Returns:
        The exit code: 0; 1 where demo or check finds that something is wrong; 2 for a
        mistake of the user's, which is named in one sentence on stderr.
    """
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            # Letters that matplotlib's font lacks become boxes: tables have the names.
            warnings.filterwarnings("ignore", message="Glyph")
            return arguments.run(arguments) or 0
    except (ValueError, OSError, backend.BackendError) as error:
        print(f"keras-meta: error: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("keras-meta: interrupted", file=sys.stderr)
        return 130


def _sentence(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split())


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, whatever the words it quotes."""

    def error(self, message):
        super().error(" ".join(message.split()))


def _parser():
    parser = Parser("keras-meta", description=DESCRIPTION)
    version = f"%(prog)s {keras_meta.__version__}"
    parser.add_argument("--version", action="version", version=version)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, run, text, **kwargs):
        added = commands.add_parser(name, help=text, **{"description": text, **kwargs})
        added.set_defaults(run=run)
        return added

    command("list", _list, "what the zoo has, with measured figures")

    added = command("info", _info, "all about one entry")
    added.add_argument("name", metavar="NAME", help="an entry, as `list` names it")

    added = command(
        "demo", _demo, "learn five new characters, fine-tune, export; under a minute"
    )
    _add_out(added, ".", "DIR", "where demo.png and the exported model go")
    added.add_argument(
        "--seed", metavar="N", type=_integer, default=0, help="of the task"
    )

    added = command(
        "learn",
        learn.run,
        "learn your own classes or curve from a few examples",
        description=LEARN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.add_argument(
        "queries",
        metavar="DIR|points.csv",
        type=pathlib.Path,
        help="images to classify; or points of a curve",
    )
    added.add_argument(
        "--support",
        metavar="DIR",
        type=pathlib.Path,
        help="a sub-folder of images for each class (default: DIR/support)",
    )
    added.add_argument("--model", metavar="NAME", help="an entry (default: one to fit)")
    _add_out(added, learn.LEARNED, "FILE", "the picture, " + ", ".join(learn.PICTURES))

    added = command("evaluate", _evaluate, "score an entry on tasks it has never seen")
    added.add_argument("name", metavar="NAME", help="an entry, as `list` names it")
    for option, least, default, text in (
        ("episodes", 2, 1000, "tasks"),
        ("ways", 2, None, "classes of a task (default: as trained)"),
        ("shots", 1, None, "examples of a class, or points (default: as trained)"),
        (
            "queries",
            1,
            None,
            "queries of a class, or points (default: as its recipe tests)",
        ),
    ):
        kind = functools.partial(_integer, least=least)
        added.add_argument(
            f"--{option}", metavar="N", type=kind, default=default, help=text
        )
    added.add_argument(
        "--seed", metavar="N", type=_integer, default=0, help="of the tasks"
    )

    added.add_argument(
        "--lake-runs",
        metavar="DIR",
        type=pathlib.Path,
        help="score Lake's official one-shot runs, DIR/run01 ... DIR/run20, instead",
    )

    added = command("export", _export, "write an entry as a SavedModel that adapts")
    added.add_argument("name", metavar="NAME", help="an entry, as `list` names it")
    added.add_argument(
        "directory", metavar="DIR", type=pathlib.Path, help="gets DIR/NAME/<version>/"
    )

    added = command(
        "check", _check, "whether a network can be meta-trained: derivatives, cost"
    )
    added.add_argument(
        "model", metavar="FILE.keras|NAME", help="a network, a learner or an entry"
    )
    added.add_argument(
        "--learner", metavar="NAME", help="for a network (default: MAML)"
    )
    added.add_argument(
        "--loss",
        default="sparse_categorical_crossentropy",
        help="for a network; or mse",
    )
    added.add_argument(
        "--jit", action="store_true", default=None, help="compare with XLA too"
    )

    added = command(
        "request",
        request.run,
        "send examples and queries to an exported model in TensorFlow Serving",
        description=REQUEST,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    added.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help="host:8501 or a URL for REST; host:8500 or grpc://host:port for gRPC",
    )
    added.add_argument("model", metavar="MODEL", help="its name on the server")
    for option, needed, text in (
        ("--support", True, "a sub-folder of images for each class; or points.csv"),
        ("--query", False, "images to classify"),
        ("--local", False, "no server: the model exported to DIR/MODEL/"),
    ):
        added.add_argument(
            option, metavar="DIR", type=pathlib.Path, required=needed, help=text
        )
    return parser


def _add_out(parser, default, metavar, text):
    parser.add_argument(
        "--out",
        metavar=metavar,
        type=pathlib.Path,
        default=pathlib.Path(default),
        help=f"{text} (default: {default})",
    )


def _integer(text, least=0):
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text}")
    return int(text)


# list, info, evaluate, export, demo


def _list(arguments):
    found = zoo.list_models()
    made = console.table("name", "for", "task", "on unseen tasks", ">size")
    made.columns[0].no_wrap, made.columns[3].min_width = True, len("transductive")
    for card in found:
        figure = scores.sentence(card.figures[0]) if card.figures else "not measured"
        made.add_row(
            card.name,
            _purpose(card.inputs, card.family),
            _task(card.ways, card.shots),
            f"{figure}, {card.normalization}",
            _size(card),
        )
    names = [card.name for card in found]
    for name, recipe in recipes.RECIPES.items():
        if name not in names:
            task = recipe.task
            made.add_row(
                name,
                _purpose(task.inputs, task.source.family),
                _task(task.ways, task.shots),
                "untrained recipe",
                style="dim",
            )
    console.console().print(made)


def _purpose(inputs, family):
    return f"{inputs}: {family}"


def _task(ways, shots):
    return f"{ways}-way {shots}-shot" if ways else f"{shots} points"


def _size(card):
    try:
        return f"{card.weights.stat().st_size / 1e6:.2f} MB"
    except FileNotFoundError:
        return "missing"


def _info(arguments):
    name = arguments.name
    if name in [card.name for card in zoo.list_models()]:
        card = zoo.card(name)
        facts = {
            "for": _purpose(card.inputs, card.family),
            "trained on": card.protocol,
            "normalization": card.normalization,
            **{_setting(figure): scores.sentence(figure) for figure in card.figures},
            "data": card.data,
            "licence of the data": card.licence,
            "paper": card.paper,
            "training": f"{card.steps} meta-steps, the weights of {card.kept} kept, "
            f"{card.hours} hours on two cores, "
            f"seed {card.seed}",
            "began from": "random weights"
            if card.initial_weights == cards.RANDOM
            else card.initial_weights,
            "command": card.command,
            "weights": f"{card.weights} ({_size(card)})",
            "sha256": card.sha256,
        }
        if card.test_classes:
            facts["unseen classes"] = (
                f"{len(card.test_classes)}, see zoo.card({name!r}).test_classes"
            )
    else:
        recipe = recipes.recipe(name)
        facts = {
            "for": _purpose(recipe.task.inputs, recipe.task.source.family),
            "weights": "none: an untrained recipe",
            "to be trained on": str(recipe.task),
            "data": recipe.task.source.title,
            "licence of the data": recipe.task.source.licence,
            "paper": recipe.paper,
            "command": f"python tools/train.py --recipe={name}",
        }
    grid = rich.table.Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for fact, text in facts.items():
        grid.add_row(fact, text)
    console.console().print(name, style="bold", end="\n\n")
    console.console().print(grid)


def _setting(figure):
    task = _task(figure["ways"], figure["shots"])
    return f"{task}, {figure['normalization']}, {figure['episodes']} tasks"


def _evaluate(arguments):
    card = console.trained_card(arguments.name)
    if arguments.lake_runs:
        console.start()
        return _lake_runs(card, arguments.lake_runs)
    console.start()
    with rich.console.Console(stderr=True).status("loading data, scoring tasks"):
        score = scores.evaluate(
            card.name,
            arguments.episodes,
            arguments.ways,
            arguments.shots,
            arguments.queries,
            arguments.seed,
        )
    each = {
        "inductive": "each query is answered by itself",
        "transductive": "the queries of a task share normalization statistics",
    }[score["normalization"]]
    out = console.console()
    out.print(f"{card.name}: {scores.sentence(score)}", style="bold")
    out.print(
        f"95% interval over {score['episodes']} tasks, seed {score['seed']}; "
        f"{_task(score['ways'], score['shots'])}, {score['queries']} queries"
        f"{' of each class' if score['ways'] else ''}; {score['normalization']}: {each}"
    )


def _lake_runs(card, directory):
    from keras_meta.zoo import lake

    errors = lake.official(card.name, directory)
    made = console.table("run", ">errors")
    for number, error in enumerate(errors, start=1):
        made.add_row(f"run{number:02d}", f"{error:.0%}")
    out = console.console()
    out.print(made)
    mean, interval = scores.summary(errors)
    out.print(
        f"{card.name}: {mean:.1%} ± {interval:.1%} errors in {len(errors)} runs, "
        f"{card.normalization}; people make 4.5%, BPL 3.3%",
        style="bold",
    )


def _export(arguments):
    card = console.trained_card(arguments.name)
    km = console.start()
    learner = zoo.load(card.name)
    with warnings.catch_warnings(record=True) as said:
        path = km.export(learner, arguments.directory / card.name)
    for warning in said:
        if warning.category is not UserWarning:
            continue  # not for this command's user
        print(f"keras-meta: warning: {warning.message}", file=sys.stderr)
    console.console().print(str(path))


def _check(arguments):
    path = pathlib.Path(arguments.model)
    card = None if path.suffix == ".keras" else console.trained_card(arguments.model)
    if card is None and not path.exists():
        raise ValueError(f"expected a file, found none at {path}.")
    km = console.start()
    import keras

    from keras_meta import api, check

    try:
        learner = zoo.load(card.name) if card else keras.models.load_model(path)
    except TypeError as error:
        raise ValueError(
            f"expected a file of layers that Keras has, {path.name} has others: check "
            "a network with layers of your own from Python, by keras_meta.check.check."
        ) from error
    if not isinstance(learner, km.Learner):
        kind = arguments.learner or "MAML"
        kinds = {
            name: each
            for name, each in vars(api).items()
            if isinstance(each, type) and issubclass(each, km.MAML.__base__)
        }
        if kind not in kinds:
            raise ValueError(f"expected one of {', '.join(sorted(kinds))}, got {kind}.")
        learner = kinds[kind](learner, arguments.loss)
    elif arguments.learner:
        raise ValueError(f"expected no --learner: {path.name} holds a learner.")
    with rich.console.Console(stderr=True).status("comparing derivatives"):
        found = check.check(learner, arguments.jit)
    made = console.table("", "part", "finding")
    for finding in found:
        made.add_row(MARKS[finding.state], finding.what, finding.sentence)
    console.console().print(made)
    return int(any(finding.state == "wrong" for finding in found))


def _demo(arguments):
    began = time.time()
    console.start()
    from keras_meta.zoo import demo

    return demo.run(arguments.out, arguments.seed, began)


if __name__ == "__main__":
    sys.exit(main())
