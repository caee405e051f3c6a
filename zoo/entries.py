"""Trains zoo entries from their recipes."""

import os

import keras
import tensorflow as tf

import keras_meta as km
from keras_meta.zoo import (
    cluster,
    initial,
    publishing,
    recipes,
    runs,
    training,
    transfer,
    workers,
)
from keras_meta.zoo.recipes import schema

# Options that have no effect if Keras downloads the weights.
OF_A_TRAINING = (
    "steps",
    "pretraining_steps",
    "seed",
    "warm_start",
    "every",
    "validation_tasks",
)


def run(
    name,
    directory,
    words,
    workers_here=1,
    publishes=False,
    float16=False,
    **options,
):
    """Trains an entry from the last checkpoint in its folder, if one exists.

    Args:
        name: of the recipe.
        directory: a `pathlib.Path`; receives all files of the run.
        words: the arguments of the command, for processes that train with this one.
        workers_here: processes on this machine that share the tasks of a meta-step.
        publishes: whether to publish the best weights in the zoo.
        float16: whether to publish float16 weights, see `publishing.store`.
        options: every and validation_tasks, each None for the value of `schema`; steps
            (of the last stage), pretraining_steps (of each stage before it), seed and
            warm_start, each None for the value of the recipe (a `warm_start` of "none":
            random weights).

    Returns:
        The exit code.

    Raises:
        ValueError: no such recipe, or options that the recipe does not accept; as
            `training.fit`.
        training.Stopped: the run was interrupted.
    """
    recipe = recipes.recipe(name)
    if recipe.external:
        if not publishes:
            raise ValueError(
                f"expected a recipe that trains, got {name}, whose weights Keras "
                "downloads: zoo.load returns them unchanged."
            )
        given = {key: options[key] is not None for key in OF_A_TRAINING}
        given |= {"float16": float16, "workers": workers_here > 1}
        for key in filter(given.get, given):
            raise ValueError(
                f"expected no --{key.replace('_', '-')} for {name}, whose weights "
                "Keras downloads."
            )
        publishing.publish_external(name)
        return 0
    defaults = {"every": schema.EVERY, "validation_tasks": schema.VALIDATION_TASKS}
    options |= {key: options[key] or value for key, value in defaults.items()}
    config = os.environ.get("TF_CONFIG")
    count, first = cluster.parse(config) if config else (workers_here, True)
    numbers = {key: value for key, value in options.items() if key != "warm_start"}
    training.check(recipe, count, {**numbers, "workers": workers_here})
    runs.make(directory)
    if workers_here > 1 and not config:
        return workers.run(workers_here, directory, words)
    cores = max(km.runtime.usable_cores() // workers_here, 1)
    km.runtime.configure(recipe.intra_op, cores)
    strategy = tf.distribute.get_strategy()
    if config:
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
    seed = recipe.seed if options["seed"] is None else options["seed"]
    steps = options["steps"], options["pretraining_steps"]
    origin = options["warm_start"] or recipe.stages[0].warm_start
    origin = None if origin == "none" else origin
    every, validation_tasks = options["every"], options["validation_tasks"]
    with strategy.scope():
        stages = runs.stages(recipe, directory, steps, origin)
        for stage, folder, stage_steps, begins in stages:
            train(
                name, stage, folder, stage_steps, seed, every, validation_tasks, begins
            )
    if publishes and first:
        publishing.publish(name, directory, seed, origin, options, float16)
    return 0


def train(name, stage, directory, steps, seed, every, validation_tasks, origin):
    """Trains one stage of a recipe; see `run` and `runs.stages` for the arguments."""

    def load():
        print(f"{name}: loading data", flush=True)
        learner = stage.learner()
        arguments = learner.preprocess, seed
        if transfer.has_fixed_encoder(learner):  # it then runs once over the data
            encoder, learner = transfer.split(initial.begin(stage, seed, origin))
            episodes = stage.task.episodes(*arguments, encoder)
        else:
            learner, episodes = None, stage.task.episodes(*arguments)
        validation = episodes["validation"]().take(validation_tasks)
        return (
            lambda: compiled(
                stage, learner or initial.begin(stage, seed, origin), steps
            ),
            episodes["train"],
            validation.batch(stage.tasks).prefetch(2),
        )

    settings = training.settings(name, steps, seed, validation_tasks, origin, stage)
    if stage.pretraining:  # the path of `origin` changes if the folder is moved
        settings["initial_weights"] = "pretraining"
    settings["commit"] = runs.commit()
    metric = stage.task.metric
    training.fit(load, directory, settings, stage.tasks, every, metric)


def compiled(recipe, learner, steps):
    """The learner, compiled with the optimizer of its recipe."""
    settings = {
        "name": recipe.optimizer,
        "learning_rate": keras.optimizers.schedules.CosineDecay(recipe.rate, steps),
        "use_ema": True,
        "ema_momentum": recipe.average,
        "global_clipnorm": recipe.clip,
        **(recipe.optimizer_settings or {}),
    }
    kind = type(keras.optimizers.get(recipe.optimizer))
    learner.compile(kind.from_config(settings))
    learner.optimizer.build(learner.trainable_variables)
    return learner
