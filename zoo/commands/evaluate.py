"""`keras-meta evaluate`."""

import pathlib

from keras_meta import zoo
from keras_meta.zoo import (
    console,
    facts,
    folders,
    image_notes,
    intervals,
    merging,
    named,
    scores,
)

HELP = "score an entry on unseen tasks"
DESCRIPTION = """\
Scores an entry on reproducible tasks: from its own test classes, from a
folder of yours, or from Lake's one-shot protocol.

  keras-meta evaluate maml.omniglot_5w1s --episodes 1000
  keras-meta evaluate maml.omniglot_5w1s --data letters/ --ways 5 --shots 1
  keras-meta evaluate protonet.lake --protocol lake
  keras-meta evaluate maml.sinusoid --first 500 --count 500 --json > b.json

With --data each sub-folder of DIR is a class of images, and NAME may also be a
learner that you saved, FILE.keras. With --protocol lake a task has twenty
characters of one evaluation alphabet: one drawer drew the support examples,
another the queries. --lake-runs scores the twenty runs that Lake et al.
published. `merge` combines scores of parts of the tasks.
"""
NORMALIZATION = {
    "inductive": "each query is predicted independently",
    "transductive": "the queries of a task share normalization statistics",
}
SIZES = "ways", "shots", "queries"
EPISODES, SEED = 1000, 0
PROTOCOLS = ["zoo", "lake"]


def add(parser):
    console.add_name(parser, "an entry of `keras-meta list`; or FILE.keras with --data")
    parser.add_argument(
        "--episodes",
        "--count",
        metavar="N",
        type=console.integer(2),
        help=f"tasks (default: {EPISODES})",
    )
    for option, least, text in (
        ("first", 0, "index of the first task (default: 0)"),
        ("ways", 2, "classes of a task (default: as trained, or 5)"),
        (
            "shots",
            1,
            "examples of a class, or points (default: as trained, or 1)",
        ),
        (
            "queries",
            1,
            "queries of a class, or points (default: as in its recipe, or 15)",
        ),
        ("seed", 0, f"seed of the tasks (default: {SEED})"),
    ):
        parser.add_argument(
            f"--{option}", metavar="N", type=console.integer(least), help=text
        )
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--data",
        metavar="DIR",
        type=pathlib.Path,
        help="tasks from your own images: a sub-folder for each class; fewer ways and "
        "queries by default if DIR has fewer",
    )
    kinds.add_argument(
        "--protocol",
        metavar="KIND",
        choices=PROTOCOLS,
        default="zoo",
        help="zoo: tasks from the entry's own test classes (default); lake: from "
        "Lake's protocol",
    )
    kinds.add_argument(
        "--lake-runs",
        metavar="DIR",
        type=pathlib.Path,
        help="Lake's official one-shot runs, DIR/run01 ... DIR/run20",
    )
    console.add_output(parser)


def run(arguments, output):
    name = arguments.name
    named.check(name)
    if named.is_file(name) and not arguments.data:
        raise ValueError(
            f"expected --data DIR for {name}: a file has no test classes of its own."
        )
    if named.is_file(name):
        output.keep_apart(name)
    for folder in (arguments.data, arguments.lake_runs):
        if folder and output.file:
            output.keep_apart(*folder.rglob("*"))
    if arguments.lake_runs:
        _refuse(arguments, "--lake-runs", ("episodes", "first", *SIZES, "seed"))
        return _lake_runs(zoo.card(name), arguments.lake_runs, output)
    if arguments.protocol == "lake":
        _refuse(arguments, "--protocol lake", SIZES)
    if arguments.data:
        folders.check_folder(arguments.data)
    episodes = arguments.episodes or EPISODES
    seed = SEED if arguments.seed is None else arguments.seed
    first = arguments.first or 0
    sizes = arguments.ways, arguments.shots, arguments.queries
    console.start()
    from keras_meta.zoo import training

    with output.status("loading data, scoring tasks"):
        if arguments.protocol == "lake":
            from keras_meta.zoo import lake

            score = lake.evaluate(name, episodes, seed, first)
        elif arguments.data:
            learner = named.image_learner(name)
            score = scores.evaluate_folder(
                name, arguments.data, episodes, *sizes, seed, first, learner
            )
        else:
            score = scores.evaluate(name, episodes, *sizes, seed, first=first)
    score["data"] = str(arguments.data or arguments.protocol)
    if arguments.data and score["data"] in PROTOCOLS:
        score["data"] = f"./{arguments.data}"
    score["sha256"] = training.sha256_of(name)
    show(output, name, score)
    if arguments.data:
        from keras_meta import sources

        paths = sources.list_directory(arguments.data)[0]
        for note in image_notes.of_folder(name, learner.preprocess, paths):
            output.print(f"Note: {note}.")


def _refuse(arguments, option, others):
    refused = [f"--{name}" for name in others if getattr(arguments, name) is not None]
    if refused:
        raise ValueError(f"expected no {', '.join(refused)} with {option}.")


def show(output, name, score):
    """Reports the result of an evaluation.

    Args:
        output: a `console.Output`.
        name: of the entry, or of a file.
        score: as `scores.evaluate` returns it, with `data`.
    """
    lists = {key: score.pop(key) for key in merging.LISTS}
    origin = {
        "zoo": "",
        "lake": " within an alphabet of Lake's protocol",
    }.get(score["data"], f" from the classes in {score['data']}")
    start = f", from task {score['first']} on" if score["first"] else ""
    queries = f"{score['queries']} queries{' of each class' if score['ways'] else ''}"
    output.show(
        f"{name}: {scores.sentence(score)}",
        f"95% interval over {score['episodes']} tasks{origin}, seed {score['seed']}"
        f"{start}; "
        f"{facts.task(score['ways'], score['shots'])}, {queries}; "
        f"{score['normalization']}: {NORMALIZATION[score['normalization']]}",
        rows=[score],
        document={**score, **lists},
    )


def _lake_runs(card, directory, output):
    console.start()
    from keras_meta.zoo import lake

    with output.status("scoring runs"):
        errors = lake.official(card.name, directory)
    table = console.table("run", ">errors")
    rows = []
    for number, error in enumerate(errors, start=1):
        rows.append({"run": f"run{number:02d}", "error": error})
        table.add_row(rows[-1]["run"], f"{error:.0%}")
    mean, interval = intervals.summary(errors)
    document = {"model": card.name, "mean": mean, "interval": interval}
    document |= {"normalization": card.normalization, "runs": rows}
    output.show(
        table,
        f"{card.name}: {mean:.1%} ± {interval:.1%} errors in {len(errors)} runs, "
        f"{card.normalization}; people: 4.5%, Bayesian program learning: 3.3%",
        rows=rows,
        document=document,
    )
