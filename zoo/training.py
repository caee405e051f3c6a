"""Meta-training that stops and resumes exactly, and tells how it goes."""

import contextlib
import csv
import math
import pathlib
import shutil
import signal
import sys
import tempfile
import time
import zipfile

import keras
import tensorflow as tf

from keras_meta import batch_norm, checks
from keras_meta.zoo import cards, cluster, named, recipes, runs

# Training batches that the statistics of averaged weights are computed on.
CALIBRATION_BATCHES = 100
TOGETHER = 10  # meta-steps that are taken in one call, for the small ones' sake
# Fields of a recipe that decide the outcome, beside those that a command may set.
OF_A_RECIPE = (
    "task",
    "optimizer",
    "optimizer_settings",
    "rate",
    "average",
    "clip",
    "adjust",
)
# Errors of a collective operation whose partner has stopped.
PARTNER_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)
STOPPED = "stopped; the same command goes on from the last checkpoint"


class Stopped(SystemExit):
    """The run was interrupted."""


def fit(load, directory, settings, tasks, every, metric):
    """Meta-trains, going on from the last checkpoint in `directory` if there is one.

    Episode i is a function of (seed, i) and a checkpoint holds weights, optimizer and
    step, so a run that was stopped ends with the same bits as one that was not.

    Args:
        load: gives what to train and on what, once `directory` is known to suit:
            `(make, episodes, validation)`. `make` gives the compiled learner to begin
            with, its optimizer keeping a moving average of the weights (`use_ema`);
            `episodes` is `start -> endless dataset` of training episodes; `validation`
            is a finite dataset of batches of episodes.
        directory: a `pathlib.Path`; see `Run` for what is written there.
        settings: what the run is of, a dict with at least "steps", the meta-steps in
            all; a run is not resumed with other settings, nor with other `tasks`
            (`runs.record`).
        tasks: tasks in a meta-step.
        every: meta-steps between checkpoints and validations; the last meta-step has
            both too. Another value may resume a run.
        metric: the validation metric that the best weights are chosen by.

    Raises:
        ValueError: `steps`, `tasks` or `every` is no positive integer, `directory`
            holds a run of other settings or one that is training now, or training
            diverged.
        ConnectionError: another worker stopped.
        Stopped: the run was interrupted.
    """
    steps = settings["steps"]
    for name, value in (("steps", steps), ("tasks", tasks), ("every", every)):
        checks.check_integer(name, value, 1)
    first = is_first()
    # Processes of a cluster share the folder, and the first writes.
    with runs.claimed(directory) if first else contextlib.nullcontext():
        runs.record(directory, {**settings, "tasks": tasks}, write=first)
        make, episodes, validation = load()
        calibration = episodes(start=0).batch(tasks).take(CALIBRATION_BATCHES)
        run = Run(directory, validation, metric, steps, every, calibration)
        learner = run.resume() or make()
        done = int(learner.optimizer.iterations.numpy())
        if done >= steps:
            print(f"{done} of {steps} meta-steps are done")
            return
        # With several workers, TensorFlow cannot run a loop of a learner's in a loop of
        # steps. A checkpoint must not fall inside such a loop.
        alone = tf.distribute.get_strategy().cluster_resolver is None
        together = math.gcd(every, done, steps, TOGETHER) if alone else 1
        learner.steps_per_execution = together
        begins = f"going on from meta-step {done}" if done else "starting"
        print(f"{begins}: to meta-step {steps}, writing to {directory}", flush=True)
        try:
            learner.fit(
                episodes(start=done * tasks).batch(tasks, drop_remainder=True),
                steps_per_epoch=steps - done,
                callbacks=[run],
                verbose=1 if sys.stdout.isatty() else 0,
            )
        except PARTNER_LOST as error:
            if alone:
                raise
            raise ConnectionError(
                "expected every worker to respond, but one of them stopped "
                f"({type(error).__name__}); start all workers again"
            ) from error
    if run.stop_signal:
        raise Stopped(STOPPED)


def check(recipe, workers, numbers):
    """Checks what a command was given, before any data is loaded.

    Args:
        recipe: the `recipes.Recipe` to train.
        workers: processes that share the tasks of a meta-step.
        numbers: `{name: value}` of the command's numbers; None is the recipe's own.

    Raises:
        ValueError: a number that is none, or workers that do not divide the tasks.
    """
    for name, value in numbers.items():
        if value is not None:
            checks.check_integer(name, value, 0 if name == "seed" else 1)
    for stage in recipe.stages:
        if stage.tasks % workers:
            raise ValueError(
                f"expected workers to divide the {stage.tasks} tasks of a meta-step, "
                f"got {workers}."
            )
    if numbers.get("pretraining_steps") is not None and not recipe.pretraining:
        raise ValueError(
            "expected pretraining_steps for a recipe with pretraining alone, this one "
            "has none."
        )


def settings(name, steps, seed, validation_tasks, origin, stage=None):
    """What decides the outcome of a recipe's run, for `fit` to record.

    Args:
        name: of the recipe.
        steps: meta-steps.
        seed: of the weights and the episodes.
        validation_tasks: tasks in a validation, which choose the best weights.
        origin: the zoo entry or the .keras file to start from; None for random weights.
        stage: the one of the recipe's stages that the run is of; None for the last.

    Raises:
        ValueError: no such recipe, or no such origin.
    """
    recipe = stage or recipes.recipe(name)
    return {
        "recipe": name,
        "steps": steps,
        "seed": seed,
        "validation_tasks": validation_tasks,
        "initial_weights": origin or cards.RANDOM,
        "initial_sha256": origin and sha256_of(origin),
        "learner": runs.described(recipe.learner().get_config()),
        **{key: runs.described(getattr(recipe, key)) for key in OF_A_RECIPE},
    }


def sha256_of(origin):
    """The sha256 of the file of a zoo entry, or of a .keras file.

    Raises:
        ValueError: no such entry or file.
    """
    if not named.is_file(origin):
        return cards.card(origin).sha256
    if not pathlib.Path(origin).is_file():
        raise ValueError(f"expected a model to start from, found none at {origin}.")
    return cards.sha256(origin)


def is_first():
    """Whether this process is the one of its cluster that writes."""
    return cluster.is_first(tf.distribute.get_strategy().cluster_resolver)


class Run(keras.callbacks.Callback):
    """Validates the averaged weights, logs, checkpoints and reports the time left.

    It does so at each multiple of `every` meta-steps and at the last one.

    Attributes:
        directory: holds last.keras and previous.keras (checkpoints with the
            optimizer), best.keras (averaged weights, no optimizer), log.csv and
            TensorBoard events.
        calibration: training batches that the moving statistics of the averaged
            weights are computed on (`batch_norm.estimate`).
    """

    def __init__(self, directory, validation, metric, steps, every, calibration=()):
        super().__init__()
        self.calibration = calibration
        self.directory = directory
        self.validation = validation
        self.metric = metric
        self.steps = steps
        self.every = every
        self.stop_signal = False
        self.saved = None  # the meta-step of the last checkpoint
        self.rows = []

    @property
    def step(self):
        with tf.init_scope():  # a signal may come while a graph is traced
            return int(self.model.optimizer.iterations.numpy())

    def resume(self):
        """The learner of the newest readable checkpoint, or None."""
        for name in ("last.keras", "previous.keras"):
            path = self.directory / name
            if not path.exists():
                continue
            try:
                learner = keras.models.load_model(path)
            except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
                reason = str(error).strip().split("\n")[0]
                print(f"checkpoint {path} cannot be read ({reason}); trying another")
                continue
            step = int(learner.optimizer.iterations.numpy())
            log = self.directory / "log.csv"
            if log.exists():
                with log.open() as file:
                    rows = list(csv.DictReader(file))
                self.rows = [row for row in rows if int(row["step"]) <= step]
            self.saved = step
            return learner
        return None

    def on_train_begin(self, logs=None):
        # Several workers do all things together; what the first writes is kept.
        if not is_first():
            self.scratch = tempfile.TemporaryDirectory()
            self.directory = pathlib.Path(self.scratch.name)
        events = str(self.directory / "tensorboard")
        self.writer = tf.summary.create_file_writer(events)
        self.began, self.first_step = time.time(), self.step
        self.spent = float(self.rows[-1]["seconds"]) if self.rows else 0.0
        self.handlers = {
            number: signal.signal(number, self._stop)
            for number in (signal.SIGINT, signal.SIGTERM)
        }

    def on_train_end(self, logs=None):
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _stop(self, number, frame):
        if self.stop_signal or self.saved == self.step:  # nothing to wait for
            raise Stopped(STOPPED)
        self.stop_signal = True
        left = min(-self.step % self.every, self.steps - self.step)
        left = left if self.step else min(self.every, self.steps)
        pace = (time.time() - self.began) / max(self.step - self.first_step, 1)
        when = (
            f"at the next checkpoint, {left} meta-steps ahead (about {left * pace:.0f} "
            "seconds)"
            if left
            else "once this checkpoint is written"
        )
        print(
            f"\nstopping {when}; once more to stop at once, and to lose them",
            flush=True,
        )

    def on_train_batch_end(self, batch, logs=None):
        step = self.step
        if step % self.every == 0 or step == self.steps:
            logs = self.model.get_metrics_result()
            self._checkpoint({key: float(value) for key, value in logs.items()})
            self.model.reset_metrics()  # they hold validation now
            self.saved = step
            if self.stop_signal:
                self.model.stop_training = True

    def _checkpoint(self, logs):
        """Validates and writes all, `logs` being of the meta-steps since the last."""
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"expected a finite loss by meta-step {self.step}, got {logs['loss']}: "
                f"training diverged, {self.directory} holds what was learned before."
            )
        variables = self.model.trainable_variables
        held = [*variables, *self.model.moving_statistics()]
        raw = [v.numpy() for v in held]
        self.model.optimizer.finalize_variable_values(variables)
        # The moving statistics are those of the raw weights.
        batch_norm.estimate(self.model, self.calibration)
        found = self.model.evaluate(self.validation, verbose=0, return_dict=True)
        score = found[self.metric]
        row = {f"val_{self.metric}": score}
        if best_of([*self.rows, row], self.metric) is row:
            save(fresh(self.model), self.directory / "best.keras")
        for variable, value in zip(held, raw, strict=True):
            variable.assign(value)

        passed = time.time() - self.began
        row = {"step": self.step, "seconds": round(self.spent + passed, 1), **logs}
        row |= {f"val_{key}": value for key, value in found.items()}
        self.rows.append(row)
        runs.replace(self.directory / "log.csv", self._write_log)
        with self.writer.as_default(step=self.step):
            for key, value in row.items():
                tf.summary.scalar(key, float(value))
        self.writer.flush()
        last = self.directory / "last.keras"
        if last.exists():
            previous = self.directory / "previous.keras"
            runs.replace(previous, lambda draft: shutil.copy(last, draft))
        save(self.model, last)

        pace = passed / max(self.step - self.first_step, 1)
        left = pace * (self.steps - self.step)
        print(
            f"step {self.step}/{self.steps}  loss {logs['loss']:.4f}  validation "
            f"{self.metric} {score:.4f} ± {found[self.metric + '_95']:.4f}  "
            f"{1000 * pace:.0f} ms a step, {left / 60:.0f} minutes left",
            flush=True,
        )

    def _write_log(self, path):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[-1])
            writer.writeheader()
            writer.writerows(self.rows)


def best_of(rows, metric):
    """The row of a log whose weights were kept: of equals, the last."""
    sign = 1 if metric == "accuracy" else -1
    return max(reversed(rows), key=lambda row: sign * float(row[f"val_{metric}"]))


def transfer(trained, learner):
    """Copies what a trained learner has in common with another, by path and shape.

    Returns:
        The paths of the variables that begin anew.
    """

    def variables(model):
        return {v.path.removeprefix(f"{model.name}/"): v for v in model.variables}

    found, new = variables(trained), []
    for path, variable in variables(learner).items():
        if path in found and found[path].shape == variable.shape:
            variable.assign(found[path])
        else:
            new.append(path)
    return new


def has_fixed_encoder(learner):
    """Whether no weight before the last layer of the network is to be trained."""
    network = getattr(learner, "network", None)
    encoder = (
        [layer for layer in network.layers[:-1] if layer.weights] if network else []
    )
    return bool(encoder) and not any(layer.trainable for layer in encoder)


def split(learner):
    """Cuts the network of a learner before its last layer.

    Returns:
        The encoder, a Keras model of all layers before, and a learner of its outputs
        with the weights of the rest; `transfer` brings back what that one learns.
    """
    *_, last = learner.network.layers
    features = keras.Input(last.input.shape[1:])
    rest = keras.Model(features, type(last).from_config(last.get_config())(features))
    config = learner.get_config()
    config |= {
        "network": keras.saving.serialize_keras_object(rest),
        "example_shape": list(features.shape[1:]),
        "preprocess": None,
    }
    reader = type(learner).from_config(config)
    transfer(learner, reader)
    return keras.Model(learner.network.input, last.input), reader


def save(learner, path):
    """Saves a learner so that `path` is never half written."""
    runs.replace(path, learner.save)


def fresh(learner):
    """A copy of a learner with an optimizer that has not stepped."""
    copy = type(learner).from_config(learner.get_config())
    copy.set_weights(learner.get_weights())
    copy.compile()
    return copy
