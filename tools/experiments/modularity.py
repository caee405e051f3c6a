"""Tests whether a shrinkage entry is modular, by `keras_meta.zoo.modularity`.

    python tools/experiments/modularity.py --model=sigma_maml.omniglot_5w1s

Short trainings of the entry's recipe with three seeds determine the order of modules by
the shrinkage factor w. Then the entry itself is scored on the same validation tasks
three times: with no frozen module, with the half of the modules that have the smallest
w frozen, and with the module that has the largest w frozen. The result is a row of
zoo/modularity.csv, which the entry's page reads. The same command resumes an
interrupted run.
"""

import dataclasses
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import results
from absl import flags
from results import FLAGS

from keras_meta import zoo
from keras_meta.zoo import (
    entries,
    intervals,
    modularity,
    pages,
    recipes,
    runs,
    scores,
)


def define_flags():
    flags.DEFINE_string("model", None, "Entry to test.", required=True)
    flags.DEFINE_string("out", "runs/modularity", "Folder for the short trainings.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of the short trainings.")
    flags.DEFINE_integer(
        "steps", 1000, "Meta-steps of each short training.", lower_bound=1
    )
    flags.DEFINE_integer("every", 100, "Meta-steps between checkpoints.", lower_bound=1)
    flags.DEFINE_integer("tasks", 1000, "Validation tasks.", lower_bound=2)
    flags.DEFINE_bool("publish", True, "Write zoo/modularity.csv and the entry's page.")


def train(name, seed, out):
    """Runs a short training; returns `{module: w}`."""
    recipe = recipes.recipe(name)
    folder = out / name / f"seed-{seed}"
    runs.make(folder)
    steps, origin = (FLAGS.steps, None), recipe.stages[0].warm_start
    for stage, stage_folder, count, start in runs.stages(recipe, folder, steps, origin):
        entries.train(name, stage, stage_folder, count, seed, FLAGS.every, 100, start)
    learner = keras.models.load_model(folder / "best.keras", compile=False)
    return learner.shares(support_size(name))


def support_size(name):
    """Returns the number of support examples in an entry's tasks."""
    card = zoo.card(name)
    return card.ways * card.shots


def frozen_scores(learner, name, frozen):
    """Returns the accuracy of each validation task with these modules frozen."""
    recipe = recipes.recipe(name)
    validation = recipe.task.episodes(learner.preprocess, recipe.seed)["validation"]
    learner.frozen = frozen
    print(f"{name}: freezing {', '.join(frozen) or 'nothing'}", flush=True)
    score = scores.measure(learner, name, validation(), FLAGS.tasks, "accuracy")
    print(f"{name}: {scores.sentence(score)}", flush=True)
    return score["tasks"]


def measure(name, shares_of_seeds):
    """Scores an entry; returns a `modularity.Measured`."""
    learner, card = zoo.load(name), zoo.card(name)
    shares = learner.shares(support_size(name))
    order = sorted(shares, key=shares.get)
    half, largest = order[: len(order) // 2], order[-1]
    unfrozen, half_frozen, largest_frozen = (
        frozen_scores(learner, name, frozen) for frozen in ([], half, [largest])
    )
    differences = {
        "half_cost": intervals.difference(unfrozen, half_frozen),
        "largest_cost": intervals.difference(unfrozen, largest_frozen),
        "more": intervals.difference(half_frozen, largest_frozen),
    }
    figures = {}
    for title, task_differences in differences.items():
        mean, interval = intervals.summary(task_differences)
        figures[title] = round(mean, 6)
        figures[title.removesuffix("_cost") + "_95"] = round(interval, 6)
    return modularity.Measured(
        model=name,
        sha256=card.sha256,
        steps=FLAGS.steps,
        seeds=" ".join(FLAGS.seeds),
        agrees=modularity.agree(shares_of_seeds),
        half=" ".join(half),
        largest=largest,
        tasks=FLAGS.tasks,
        **figures,
    )


def write(rows, path):
    """Writes a list of `modularity.Measured` to a CSV file."""
    results.write_csv(path, list(map(dataclasses.asdict, rows)))


def main(out):
    name = FLAGS.model
    try:
        learner, card = zoo.load(name), zoo.card(name)
        if not hasattr(learner, "scales") or card.ways is None:
            raise ValueError(
                f"expected a classification entry with learned scales, got {name}."
            )
        shares = []
        for number, seed in enumerate(map(int, FLAGS.seeds), start=1):
            print(f"training {number} of {len(FLAGS.seeds)}, seed {seed}", flush=True)
            shares.append(train(name, seed, out))
            factors = ", ".join(f"{m} {w:.3f}" for m, w in shares[-1].items())
            print(f"seed {seed}: w: {factors}", flush=True)
        row = measure(name, shares)
    except ValueError as error:
        results.stop(error)
    write([row], out / name / "modularity.csv")
    print(f"order agrees over seeds: {row.agrees}; modular: {row.modular}")
    if FLAGS.publish:
        rows = {**modularity.read(), name: row}
        write(rows.values(), modularity.path())
        pages.write(name)


if __name__ == "__main__":
    define_flags()
    results.start(main)
