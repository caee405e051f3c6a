"""Trains zoo entries from their recipes, and publishes them."""

import csv
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import keras
import tensorflow as tf

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import (
    cards,
    cluster,
    facts,
    named,
    precision,
    recipes,
    runs,
    training,
)

# The part of its 95% interval that a validation score may move by in float16.
KEPT = 0.1


def begin(recipe, seed, origin):
    """The learner of a recipe, untrained or warm-started."""
    keras.utils.set_random_seed(seed)
    learner = recipe.learner()
    if origin:
        new = warm_start(learner, recipe, origin)
        print(f"starting from {origin}" + (f", new: {', '.join(new)}" if new else ""))
    return learner


def warm_start(learner, recipe, origin):
    """Gives a learner the weights of a zoo entry or of a .keras file.

    Returns:
        The paths of the variables that begin anew.
    """
    new = training.transfer(named.model(origin), learner)
    if recipe.adjust and origin == recipe.warm_start:
        recipe.adjust(learner)
    return new


def initial(name):
    """An entry's learner with the weights that its training began from.

    Raises:
        ValueError: no such entry, one that began at random, or initial weights that are
            no longer there.
    """
    card = zoo.card(name)
    if card.began_at_random:
        raise ValueError(
            f"expected an entry that began from another's weights, {name} began from "
            "random ones."
        )
    origin = card.initial_weights
    if training.sha256_of(origin) != card.initial_sha256:
        raise ValueError(
            f"expected the weights that {name} began from, of sha256 "
            f"{card.initial_sha256}: {origin} has other weights now."
        )
    trained = zoo.load(name)
    keras.utils.set_random_seed(card.seed)
    learner = type(trained).from_config(trained.get_config())
    warm_start(learner, recipes.recipe(name), origin)
    return learner


def ready(recipe, learner, steps):
    """The learner, compiled as its recipe says."""
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


def stages(recipe, directory, steps, origin):
    """The runs of a recipe, one for each of its stages.

    The last is in `directory` itself, one before in its folder `pretraining`.

    Args:
        recipe: with `stages`.
        directory: a `pathlib.Path`.
        steps: meta-steps of the last stage and of each before it; None for the
            recipe's own.
        origin: what the first begins from; later ones do from the one before.

    Yields:
        `(stage, folder, steps, origin)` in the order of training.
    """
    folders = [directory]
    for _ in recipe.stages[1:]:
        folders.insert(0, folders[0] / "pretraining")
    last, earlier = steps
    for stage, folder in zip(recipe.stages, folders, strict=True):
        own = last if stage is recipe else earlier
        yield stage, folder, stage.steps if own is None else own, origin
        origin = str(folder / "best.keras")


def train(name, stage, directory, steps, seed, every, validation_tasks, origin):
    """Trains one stage of a recipe; arguments as of `run` and `stages`."""

    def load():
        print(f"{name}: loading data", flush=True)
        learner = stage.learner()
        source = learner.preprocess, seed
        if training.has_fixed_encoder(learner):  # which then runs once over the data
            encoder, learner = training.split(begin(stage, seed, origin))
            episodes = stage.task.episodes(*source, encoder)
        else:
            learner, episodes = None, stage.task.episodes(*source)
        validation = episodes["validation"]().take(validation_tasks)
        return (
            lambda: ready(stage, learner or begin(stage, seed, origin), steps),
            episodes["train"],
            validation.batch(stage.tasks).prefetch(2),
        )

    settings = training.settings(name, steps, seed, validation_tasks, origin, stage)
    if stage.pretraining:  # whose path is another if the folder is moved
        settings["initial_weights"] = "pretraining"
    settings["commit"] = commit()
    metric = stage.task.metric
    training.fit(load, directory, settings, stage.tasks, every, metric)


def commit():
    """The commit of the code that trains; None outside a checkout, or without git."""
    if shutil.which("git") is None:
        return None
    here = pathlib.Path(__file__)

    def git(*words):
        command = ["git", *words]
        return subprocess.run(command, cwd=here.parent, capture_output=True, text=True)

    # An environment inside another repository holds files that this one does not know.
    if git("ls-files", "--error-unmatch", here.name).returncode:
        return None
    return git("rev-parse", "HEAD").stdout.strip() or None


def store(learner, path, recipe, seed, validation_tasks):
    """Saves a learner with float16 kernels, if its validation score stays.

    Raises:
        ValueError: it moves by more than `KEPT` of its interval; nothing is replaced.
    """
    draft = path.with_name("half.keras")
    training.save(learner, draft)
    try:
        precision.halve(draft)
        halved = keras.models.load_model(draft)
        episodes = recipe.task.episodes(learner.preprocess, seed)["validation"]()
        data = episodes.take(validation_tasks).batch(recipe.tasks).cache()
        metric = recipe.task.metric
        whole, half = (
            each.evaluate(data, verbose=0, return_dict=True)
            for each in (learner, halved)
        )
        moved, limit = half[metric] - whole[metric], KEPT * whole[f"{metric}_95"]
        if abs(moved) > limit:
            raise ValueError(
                f"expected float16 weights to keep the validation {metric}, it moves "
                f"by {moved:.2g}, more than {limit:.2g} (a tenth of its interval): "
                "publish without --float16."
            )
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def publish(name, directory, seed, validation_tasks, origin, float16=False):
    """Makes a run's best weights the zoo's, with a card that has no figures yet."""
    recipe = recipes.recipe(name)
    learner = keras.models.load_model(directory / "best.keras")
    if training.has_fixed_encoder(recipe.learner()):
        trained, learner = learner, begin(recipe, seed, origin)
        training.transfer(trained, learner)
    folders = [path for _, path, *_ in stages(recipe, directory, (None, None), origin)]
    logs = []
    for path in folders:
        with (path / "log.csv").open(encoding="utf-8") as file:
            logs.append(list(csv.DictReader(file)))
    hours = sum(float(rows[-1]["seconds"]) for rows in logs) / 3600
    rows = logs[-1]
    steps = int(rows[-1]["step"])
    metric = recipe.task.metric
    best = training.best_of(rows, metric)
    begun = json.loads((folders[0] / "run.json").read_text(encoding="utf-8"))
    folder = cards.MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    if float16:
        kept = training.fresh(learner), folder / "model.keras"
        store(*kept, recipe, seed, validation_tasks)
    else:
        training.save(training.fresh(learner), folder / "model.keras")
    runs.replace(
        folder / "log.csv", lambda draft: shutil.copy(directory / "log.csv", draft)
    )
    cards.Card(
        **described(name, recipe, learner),
        protocol=recipe.protocol,
        seed=seed,
        command=facts.command(name),
        initial_weights=begun.get("initial_weights", origin or cards.RANDOM),
        initial_sha256=begun.get("initial_sha256"),
        steps=steps,
        kept=int(best["step"]),
        hours=round(hours, 2),
        sha256=cards.sha256(folder / "model.keras"),
        external=None,
        validation={
            "metric": metric,
            "mean": float(best[f"val_{metric}"]),
            "interval": float(best[f"val_{metric}_95"]),
            "episodes": validation_tasks,
        },
    ).write()
    print(
        f"{name}: published; run tools/make_results.py for its figures, with --grid "
        "for those by which `keras-meta learn` chooses, and with --initial for the "
        "score of the weights that it began from, if they were another's"
    )


def described(name, recipe, learner):
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
        "licence": source.licence,
        "normalization": learner.normalization,
        "test_classes": source.test_classes(learner.preprocess),
        "inputs": task.inputs,
        "any_units": learner.point_units is not None,
        "ways": task.ways,
        "shots": task.shots,
        "network": network_of(learner),
    }


def network_of(learner):
    """The name of a learner's network; None without one, or where Keras named it."""
    model = getattr(learner, "network", None)
    named = model is not None and not km.network.is_named_by_keras(model)
    return model.name if named else None


def publish_external(name):
    """Writes the card of an entry whose weights Keras downloads on first use.

    Raises:
        ValueError: weights that cannot be had.
    """
    recipe = recipes.recipe(name)
    learner, task = recipe.learner(), recipe.task
    cards.Card(
        **described(name, recipe, learner),
        protocol=f"no training on tasks; {task.ways}-way {task.shots}-shot, "
        f"{task.test_queries} queries in tests",
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
    print(f"{name}: published; its weights are Keras', downloaded on first use")


def workers(count, directory, words):
    """Runs `keras-meta` in `count` processes that train one learner together.

    Args:
        count: of the processes.
        directory: gets what the second process and later ones print.
        words: of the command.

    Returns:
        The exit status: of one that failed, or 0.
    """
    sockets = [socket.create_server(("localhost", 0)) for _ in range(count)]
    addresses = [f"localhost:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    running = []
    for index in range(count):
        task = {"type": "worker", "index": index}
        config = json.dumps({"cluster": {"worker": addresses}, "task": task})
        said = (
            None
            if index == 0
            else (directory / f"worker-{index}.log").open("w", encoding="utf-8")
        )
        running.append(
            subprocess.Popen(
                [sys.executable, "-m", "keras_meta", *words],
                env={**os.environ, "TF_CONFIG": config},
                stdout=said,
                stderr=said,
            )
        )

    def stop(number, frame):
        for each in running:
            each.send_signal(number)

    # From a terminal a Ctrl-C reaches all of them by itself.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The first, which the others report to, is done last.
    while running[0].poll() is None and not any(each.poll() for each in running):
        time.sleep(0.2)
    status = next((each.poll() for each in running if each.poll()), 0)
    for each in running:
        each.terminate()
    for each in running:
        each.wait()
    return status


def run(
    name,
    directory,
    words,
    workers_here=1,
    publishes=False,
    float16=False,
    **options,
):
    """Trains an entry, going on from the last checkpoint in its folder.

    Args:
        name: of the recipe.
        directory: a `pathlib.Path`, which gets all that is written.
        words: of the command, for processes that train with this one.
        workers_here: processes on this machine that share the tasks of a meta-step.
        publishes: whether the best weights become the zoo's.
        float16: whether they are stored so, see `store`.
        options: every and validation_tasks; steps (of the last stage),
            pretraining_steps (of each before it), seed and warm_start, each None for
            the recipe's own (a `warm_start` of "none": random weights).

    Returns:
        The exit code.

    Raises:
        ValueError: no such recipe, or options that do not suit it; as `training.fit`.
        training.Stopped: the run was interrupted.
    """
    recipe = recipes.recipe(name)
    if recipe.external:
        if not publishes:
            raise ValueError(
                f"expected a recipe that trains, {name} has weights that Keras "
                "downloads: zoo.load takes them as they are."
            )
        publish_external(name)
        return 0
    config = os.environ.get("TF_CONFIG")
    count, first = cluster.parse(config) if config else (workers_here, True)
    numbers = {key: value for key, value in options.items() if key != "warm_start"}
    training.check(recipe, count, {**numbers, "workers": workers_here})
    runs.make(directory)
    if workers_here > 1 and not config:
        return workers(workers_here, directory, words)
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
        for stage, folder, count, begins in stages(recipe, directory, steps, origin):
            train(name, stage, folder, count, seed, every, validation_tasks, begins)
    if publishes and first:
        publish(name, directory, seed, validation_tasks, origin, float16)
    return 0
