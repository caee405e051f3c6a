"""Publishes entries: weights and a card, of a run or of weights from Keras."""

import csv
import dataclasses
import json
import shutil

import keras

import keras_meta as km
from keras_meta.zoo import (
    atomic,
    cards,
    facts,
    initial,
    precision,
    recipes,
    runs,
    scores,
    training,
    transfer,
)
from keras_meta.zoo.recipes import schema

# The largest change of the validation score in float16, relative to the half-width of
# its 95% interval.
KEPT = 0.1


def _options(recipe, seed, steps, origin, options):
    """The options of a training command that differ from recipe and defaults."""
    values = {
        "--seed": (seed, recipe.seed),
        "--steps": (steps, recipe.steps),
        "--pretraining-steps": (options["pretraining_steps"], None),
        "--every": (options["every"], schema.EVERY),
        "--validation-tasks": (options["validation_tasks"], schema.VALIDATION_TASKS),
        "--warm-start": (origin or "none", recipe.stages[0].warm_start or "none"),
    }
    return "".join(
        f" {option} {value}" for option, (value, own) in values.items() if value != own
    )


def publish(name, directory, seed, origin, options, float16=False):
    """Stores a run's best weights in the zoo, with a card that has no figures yet.

    Args:
        name: of the recipe.
        directory: a `pathlib.Path`; the folder of the run.
        seed, origin: of the run.
        options: see `entries.run`.
        float16: whether to store float16 weights, see `store`.
    """
    recipe, validation_tasks = recipes.recipe(name), options["validation_tasks"]
    learner = keras.models.load_model(directory / "best.keras", compile=False)
    if transfer.has_fixed_encoder(recipe.learner()):
        trained, learner = learner, initial.begin(recipe, seed, origin)
        transfer.copy_common(trained, learner)
    if recipe.dtype_policy != "float32":
        trained, learner = learner, recipe.learner()
        learner.set_weights(trained.get_weights())
    calibrate(learner, recipe)
    stages = runs.stages(recipe, directory, (None, None), origin)
    folders = [path for _, path, *_ in stages]
    logs = []
    for path in folders:
        with (path / "log.csv").open(encoding="utf-8") as file:
            logs.append(list(csv.DictReader(file)))
    hours = sum(float(rows[-1]["seconds"]) for rows in logs) / 3600
    rows = logs[-1]
    steps = int(rows[-1]["step"])
    metric = recipe.task.metric
    best = training.best_row(rows, metric)
    begun = json.loads((folders[0] / "run.json").read_text(encoding="utf-8"))
    folder = cards.MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "model.keras"
    if float16:
        store(training.fresh(learner), weights, recipe, seed, validation_tasks)
    else:
        training.save(training.fresh(learner), weights)
    for path in folders:
        log = folder / cards.LOGS["training" if path == directory else path.name]
        atomic.replace(
            log, lambda draft, path=path: shutil.copy(path / "log.csv", draft)
        )
    cards.Card(
        **recipe_fields(name, recipe, learner),
        protocol=recipe.protocol,
        seed=seed,
        command=facts.command(name) + _options(recipe, seed, steps, origin, options),
        initial_weights=begun.get("initial_weights", origin or cards.RANDOM),
        initial_sha256=begun.get("initial_sha256"),
        steps=steps,
        kept=int(best["step"]),
        hours=round(hours, 2),
        sha256=cards.sha256(weights),
        external=None,
        validation={
            "metric": metric,
            "mean": float(best[f"val_{metric}"]),
            "interval": float(best[f"val_{metric}_95"]),
            "episodes": validation_tasks,
        },
    ).write()
    print(
        f"{name}: published; tools/make_results.py computes its figures, with --grid "
        "the figures by which `keras-meta learn` chooses, and with --initial the score "
        "of its initial weights if they are those of another entry"
    )


def calibrate(learner, recipe):
    """Sets the temperature that validation tasks prefer, see `scores.has_temperature`.

    Args:
        learner: of the recipe, trained.
        recipe: of an entry.
    """
    if scores.has_temperature(learner):
        learner.temperature *= scores.temperature(learner, recipe)


def store(learner, path, recipe, seed, validation_tasks):
    """Saves a learner with float16 kernels, unless its validation score changes.

    Args:
        learner: a `keras_meta.Learner`.
        path: a `pathlib.Path`; an existing file is replaced.
        recipe: of the learner.
        seed, validation_tasks: of the validation.

    Raises:
        ValueError: the score changes by more than `KEPT` of its interval; the file is
            not replaced.
    """

    def write(draft):
        training.save(learner, draft)
        precision.halve(draft)
        halved = keras.models.load_model(draft)
        episodes = recipe.task.episodes(learner.preprocess, seed)["validation"]()
        data = episodes.take(validation_tasks).batch(recipe.tasks).cache()
        metric = recipe.task.metric
        single, half = (
            model.evaluate(data, verbose=0, return_dict=True)
            for model in (learner, halved)
        )
        change, limit = half[metric] - single[metric], KEPT * single[f"{metric}_95"]
        if not abs(change) <= limit:
            raise ValueError(
                f"expected float16 weights to keep the validation {metric}, it changes "
                f"by {change:.2g}, more than {limit:.2g} (a tenth of its interval): "
                "publish without --float16."
            )

    atomic.replace(path, write)


def publish_external(name):
    """Writes the card of an entry whose weights Keras downloads on first use.

    Raises:
        ValueError: weights that are not available.
    """
    recipe = recipes.recipe(name)
    learner, task = recipe.learner(), recipe.task
    cards.Card(
        **recipe_fields(name, recipe, learner),
        protocol=f"no training on tasks; tests on {task.ways}-way {task.shots}-shot "
        f"tasks with {task.test_queries} queries a class",
        seed=recipe.seed,
        command=f"{facts.command(name)} --publish",
        initial_weights=cards.EXTERNAL,
        steps=0,
        kept=0,
        hours=0.0,
        sha256="",
        external={
            **dataclasses.asdict(recipe.external),
            "bytes": 4 * learner.count_params(),
        },
    ).write()
    print(f"{name}: published; Keras downloads its weights on first use")


def recipe_fields(name, recipe, learner):
    """The fields of a card that a recipe and its learner decide, a dict."""
    source, task = recipe.task.source, recipe.task
    return {
        "name": name,
        "learner": type(learner).__name__,
        "paper": recipe.paper,
        "source": source.id,
        "family": source.family,
        "data": source.title,
        "procedural": source.procedural,
        "photographs": source.photographs,
        "licence": source.licence,
        "normalization": learner.normalization,
        "test_classes": source.test_classes(learner.preprocess),
        "inputs": task.inputs,
        "any_units": learner.point_units is not None,
        "ways": task.ways,
        "shots": task.shots,
        "network": network_name(learner),
    }


def network_name(learner):
    """The name of a learner's network; None without one, or if Keras generated it."""
    model = getattr(learner, "network", None)
    if model is None or km.network.is_named_by_keras(model):
        return None
    return model.name
