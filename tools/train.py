"""Trains a zoo entry from its recipe; stops and resumes exactly.

    python tools/train.py --recipe=maml.omniglot_5w1s --out=runs/maml

Run the same command again to go on from the last checkpoint. With --publish the best
weights so far become the zoo's, without training if the run has ended. With --workers=N
(or with TF_CONFIG set on each of many machines) N processes train together on the same
episodes.
"""

import csv
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from absl import app, flags

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cards, cluster, recipes, runs, training

FLAGS = flags.FLAGS
flags.DEFINE_string("recipe", None, "Name of the recipe.", required=True)
flags.DEFINE_string("out", None, "Folder of the run; runs/<recipe> by default.")
flags.DEFINE_integer("steps", None, "Meta-steps, in place of the recipe's.")
flags.DEFINE_integer("seed", None, "Seed, in place of the recipe's.")
flags.DEFINE_integer("every", 500, "Meta-steps between checkpoints and validations.")
flags.DEFINE_integer("validation_tasks", 200, "Tasks in a validation.")
flags.DEFINE_string(
    "warm_start", None, "Zoo entry or .keras file to start from, or 'none'."
)
flags.DEFINE_integer(
    "workers", 1, "Processes on this machine that share the tasks of a meta-step."
)
flags.DEFINE_bool("publish", False, "Make the best weights the zoo's when done.")


def origin_of(recipe):
    """Where the weights come from to begin with, or None."""
    origin = FLAGS.warm_start or recipe.warm_start
    return None if origin == "none" else origin


def begin(recipe, seed):
    """The learner of a recipe, untrained or warm-started."""
    keras.utils.set_random_seed(seed)
    learner = recipe.learner()
    origin = origin_of(recipe)
    if origin:
        trained = (
            keras.models.load_model(origin)
            if origin.endswith(".keras")
            else zoo.load(origin)
        )
        new = training.transfer(trained, learner)
        if recipe.adjust and origin == recipe.warm_start:
            recipe.adjust(learner)
        print(f"starting from {origin}" + (f", new: {', '.join(new)}" if new else ""))
    return learner


def ready(recipe, learner, steps):
    """The learner, compiled as its recipe says."""
    settings = {
        "name": recipe.optimizer,
        "learning_rate": keras.optimizers.schedules.CosineDecay(recipe.rate, steps),
        "use_ema": True,
        "ema_momentum": recipe.average,
        "global_clipnorm": recipe.clip,
    }
    kind = type(keras.optimizers.get(recipe.optimizer))
    learner.compile(kind.from_config(settings))
    learner.optimizer.build(learner.trainable_variables)
    return learner


def train(name, directory, steps, seed):
    recipe = recipes.recipe(name)

    def load():
        print(f"{name}: loading data", flush=True)
        learner = recipe.learner()
        source = learner.preprocess, seed
        if training.has_fixed_encoder(learner):  # which then runs once over the data
            encoder, learner = training.split(begin(recipe, seed))
            episodes = recipe.task.episodes(*source, encoder)
        else:
            learner, episodes = None, recipe.task.episodes(*source)
        validation = episodes["validation"]().take(FLAGS.validation_tasks)
        return (
            lambda: ready(recipe, learner or begin(recipe, seed), steps),
            episodes["train"],
            validation.batch(recipe.tasks).prefetch(2),
        )

    settings = training.settings(
        name, steps, seed, FLAGS.validation_tasks, origin_of(recipe)
    )
    settings["commit"] = commit()
    metric = recipe.task.metric
    training.fit(load, directory, settings, recipe.tasks, FLAGS.every, metric)


def commit():
    """The commit of the code that trains; None outside a checkout, or without git."""
    if shutil.which("git") is None:
        return None
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"],
        cwd=pathlib.Path(__file__).parent,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() or None


def publish(name, directory, seed):
    """Makes a run's best weights the zoo's, with a card that has no figures yet."""
    recipe = recipes.recipe(name)
    learner = keras.models.load_model(directory / "best.keras")
    if training.has_fixed_encoder(recipe.learner()):
        trained, learner = learner, begin(recipe, seed)
        training.transfer(trained, learner)
    with (directory / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps, hours = int(rows[-1]["step"]), float(rows[-1]["seconds"]) / 3600
    kept = int(training.best_of(rows, recipe.task.metric)["step"])
    paper, command = recipe.paper, f"python tools/train.py --recipe={name}"
    if origin_of(recipe):
        command += f" (warm-started from {origin_of(recipe)})"
    folder = cards.MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    training.save(training.fresh(learner), folder / "model.keras")
    cards.Card(
        name=name,
        paper=paper,
        data=recipe.task.source.title,
        licence=recipe.task.source.licence,
        protocol=str(recipe.task),
        normalization=learner.normalization,
        seed=seed,
        command=command,
        steps=steps,
        kept=kept,
        hours=round(hours, 2),
        sha256=cards.sha256(folder / "model.keras"),
        test_classes=recipe.task.source.test_classes(learner.preprocess),
        inputs=recipe.task.inputs,
        ways=recipe.task.ways,
        shots=recipe.task.shots,
    ).write()
    print(f"{name}: published; run tools/make_results.py for its figures")


def workers(count, directory):
    """Runs this command in `count` processes that train one learner together.

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
        said = None if index == 0 else (directory / f"worker-{index}.log").open("w")
        running.append(
            subprocess.Popen(
                [sys.executable, *sys.argv],
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


def main(_):
    name = FLAGS.recipe
    try:
        recipe = recipes.recipe(name)
        directory = pathlib.Path(FLAGS.out or f"runs/{name}")
        config = os.environ.get("TF_CONFIG")
        count, first = cluster.parse(config) if config else (FLAGS.workers, True)
        numbers = "steps", "seed", "every", "validation_tasks", "workers"
        training.check(recipe, count, {each: FLAGS[each].value for each in numbers})
        runs.make(directory)
        if FLAGS.workers > 1 and not config:
            sys.exit(workers(FLAGS.workers, directory))
        cores = max(km.runtime.usable_cores() // FLAGS.workers, 1)
        km.runtime.configure(recipe.intra_op, cores)
        strategy = tf.distribute.get_strategy()
        if config:
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
        seed = recipe.seed if FLAGS.seed is None else FLAGS.seed
        steps = recipe.steps if FLAGS.steps is None else FLAGS.steps
        with strategy.scope():
            train(name, directory, steps, seed)
        if FLAGS.publish and first:
            publish(name, directory, seed)
    except ValueError as error:
        sys.exit(f"train: error: {error}")
    except OSError as error:
        sys.exit(
            f"train: error: {error.strerror or error}: nothing is lost, the same "
            "command goes on from the last checkpoint"
        )
    except KeyboardInterrupt:
        sys.exit(training.STOPPED)


if __name__ == "__main__":
    app.run(main)
