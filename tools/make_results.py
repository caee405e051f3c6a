"""Scores every zoo entry; writes its card's figures, its page, and the zoo's tables.

python tools/make_results.py [--episodes=1000] [--models=NAME,NAME]
python tools/make_results.py --grid [--episodes=200] [--models=NAME,NAME]
python tools/make_results.py --unknown [--episodes=200] [--models=NAME,NAME]
python tools/make_results.py --initial [--episodes=1000] [--models=NAME,NAME]

An entry is scored in the setting of its training, with the other normalization if it
has one, and with five shots if it was trained with one. The score of each task is
stored beside the card, so that two entries can be compared task by task. The tables are
zoo/results.csv and zoo/README.md.

--grid computes validation accuracy by ways and shots instead. `keras-meta learn` uses
it to choose its default model. --grid skips entries whose card has a grid, so that an
interrupted run resumes; --models computes the named entries again.

--unknown computes the thresholds of `keras-meta learn --unknown` on validation tasks.
It skips entries whose card has thresholds, as --grid does.

--initial scores the initial weights of an entry in the entry's learner, on its test
tasks. By default it scores each entry that started from another entry's weights and
whose card has no such score. `--models=` only writes the tables again from the cards.
"""

import csv
import dataclasses
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import rich.progress
from absl import app, flags

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import (
    atomic,
    cards,
    choice,
    facts,
    grids,
    initial,
    lake,
    pages,
    recipes,
    rejection,
    scores,
    tables,
)
from keras_meta.zoo.recipes import sources

FLAGS = flags.FLAGS
flags.DEFINE_integer(
    "episodes",
    None,
    "Tasks for each figure: 1000 by default, 200 with --grid and --unknown.",
    lower_bound=2,
)
flags.DEFINE_integer("seed", 0, "Seed of the tasks: the same for all entries.")
flags.DEFINE_list("models", None, "Entries to score; all by default, '' for none.")
flags.DEFINE_bool("initial", False, "Score the initial weights.")
flags.DEFINE_bool("grid", False, "Compute validation accuracy by ways and shots.")
flags.DEFINE_bool("unknown", False, "Compute thresholds of `learn --unknown`.")
flags.mark_bool_flags_as_mutual_exclusive(["initial", "grid", "unknown"])


def settings(learner, card, task):
    """Yields the settings of an entry's figures: `(normalization, shots)`."""
    yield learner.normalization, card.shots
    if "normalization" in learner.get_config() and learner.bound.statistics:
        (alternative,) = {"inductive", "transductive"} - {learner.normalization}
        yield alternative, card.shots
    if card.ways and card.shots == 1:
        yield learner.normalization, 5


def score(name):
    """Scores an entry in all its settings; writes card.json and tasks.npz."""
    card, learner = zoo.card(name), zoo.load(name)
    recipe = recipes.recipe(name)
    task, episodes = recipe.task, FLAGS.episodes or 1000
    temperature = None
    if scores.has_temperature(learner):
        temperature = scores.temperature(learner, recipe)

    def figures_of_entry():
        for normalization, shots in settings(learner, card, task):
            yield scores.evaluate(
                name,
                episodes,
                shots=shots,
                seed=FLAGS.seed,
                normalization=normalization,
                temperature=temperature,
            )
        if isinstance(task.source, sources.Alphabets) and task.ways == lake.WAYS:
            figure = lake.evaluate(name, episodes, FLAGS.seed)
            yield {**figure, "protocol": "lake"}

    figures, tasks = [], {}
    for figure in figures_of_entry():
        setting = f"{figure['normalization']}, {scores.protocol(figure)}"
        print(f"{name}: {setting}: {scores.sentence(figure)}", flush=True)
        tasks[scores.key(figure)] = figure.pop("tasks").astype("float32")
        figures.append(
            {
                key: round_figure(value)
                for key, value in figure.items()
                if key not in ("model", "seconds", "first", "bins")
            }
        )
    atomic.replace(card.directory / "tasks.npz", lambda path: save(path, tasks))
    dataclasses.replace(card, figures=figures).write()


def score_and_write(name):
    score(name)
    pages.write(name)


def round_figure(value):
    return float(f"{value:.6g}") if isinstance(value, float) else value


def score_grid(name):
    """Scores an entry on validation tasks of the grid; writes card.json."""
    learner, pool = grids.load(name)
    tasks = FLAGS.episodes or grids.TASKS
    columns = "ways", "shots", "queries", "mean", "interval", "episodes", "seed"
    grid = []
    cells = grids.cells(zoo.card(name).ways, pool)
    for ways, shots in rich.progress.track(cells, name):
        score = grids.score(learner, name, pool, ways, shots, tasks, FLAGS.seed)
        grid.append(
            {key: round_figure(score[key]) for key in (*columns, "normalization")}
        )
    dataclasses.replace(zoo.card(name), grid=grid).write()


def candidates_without(field):
    """Names of the candidates of `keras-meta learn` whose card lacks a field."""
    return [card.name for card in choice.candidates() if not getattr(card, field)]


def calibrate_rejection(name):
    """Computes thresholds for queries of no support class; writes card.json."""
    learner, pool = grids.load(name)
    tasks = FLAGS.episodes or rejection.TASKS
    thresholds = []
    cells = rejection.cells(zoo.card(name).ways, pool)
    for ways, shots in rich.progress.track(cells, name):
        figures = rejection.calibrate(learner, pool, ways, shots, tasks, FLAGS.seed)
        thresholds.append({key: round_figure(value) for key, value in figures.items()})
    dataclasses.replace(zoo.card(name), rejection=thresholds).write()


def score_initial(name):
    """Scores the initial weights of an entry; writes card.json."""
    card = zoo.card(name)
    score = scores.evaluate(
        name,
        FLAGS.episodes or 1000,
        seed=FLAGS.seed,
        learner=initial.recreate(name),
    )
    print(f"{name}: from {card.initial_weights}: {scores.sentence(score)}", flush=True)
    columns = "metric", "mean", "interval", *scores.SHARED
    figure = {key: round_figure(score[key]) for key in columns}
    dataclasses.replace(card, initial_figure=figure).write()


def without_initial_score():
    """Names of entries whose initial weights are another entry's and have no score."""
    return [
        card.name
        for card in cards.stored()
        if not card.began_at_random and card.initial_figure is None
    ]


def save(path, tasks):
    with path.open("wb") as file:
        np.savez_compressed(file, **tasks)


def score_all(function, names):
    """Calls the function on each entry; exits with a message at the first error."""
    for name in names:
        try:
            function(name)
        except (ValueError, OSError) as error:
            sys.exit(f"make_results: error: {name}: {error}")


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"expected flags alone, got {' '.join(argv[1:])}.")
    names = FLAGS.models and list(filter(None, FLAGS.models))
    if FLAGS.grid:
        score_all(score_grid, candidates_without("grid") if names is None else names)
        return
    if FLAGS.unknown:
        names = candidates_without("rejection") if names is None else names
        score_all(calibrate_rejection, names)
        return
    if FLAGS.initial:
        score_all(score_initial, without_initial_score() if names is None else names)
        names = []
    for sentence in facts.skipped() if names is None else ():
        print(sentence, file=sys.stderr)
    stored = [card.name for card in cards.stored()]
    score_all(score_and_write, stored if names is None else names)

    entries = zoo.list_models()
    scored = [card for card in entries if card.figures]
    folder = cards.MODELS.parent
    with (folder / "results.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [{"model": card.name, **row} for card in scored for row in card.figures]
        columns = dict.fromkeys(name for row in rows for name in row)
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    text = tables.readme(entries)
    (folder / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    km.runtime.configure()
    app.run(main)
