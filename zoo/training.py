"""Meta-training that stops and resumes exactly, and reports its progress."""

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

from keras_meta import batch_norm, checks, keras_private
from keras_meta.zoo import atomic, cards, cluster, named, recipes, runs

# Training batches that the statistics of averaged weights are computed on.
CALIBRATION_BATCHES = 100
TOGETHER = 10  # meta-steps in one call, which saves the overhead of small meta-steps
# Fields of a recipe that decide the result, apart from those with an option of their
# own in `keras-meta train`.
RECORDED_FIELDS = (
    "task",
    "optimizer",
    "optimizer_settings",
    "rate",
    "average",
    "clip",
    "adjust",
    "dtype_policy",
)
# Errors of a collective operation whose partner has stopped.
PARTNER_LOST = (
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.UnavailableError,
)
STOPPED = "stopped; the same command resumes at the last checkpoint"


class Stopped(SystemExit):
    """The run was interrupted."""


def fit(load, directory, settings, tasks, every, metric):
    """Meta-trains from the last checkpoint in `directory`, or from the start.

    Episode i is a function of (seed, i), and a checkpoint contains weights, optimizer
    and step. A run that was stopped and resumed therefore ends with the same bits as an
    uninterrupted one.

    Args:
        load: returns `(make, episodes, validation)`; called after `directory` and
            `settings` are checked, unless all meta-steps are done. `make` returns the
            initial learner, compiled with an optimizer that computes a moving average
            of the weights (`use_ema`); `episodes` is `start -> endless dataset` of
            training episodes; `validation` is a finite dataset of batches of episodes.
        directory: a `pathlib.Path`; see `Run` for the files in it.
        settings: the settings of the run, a dict with at least "steps", the total
            number of meta-steps. A run is not resumed with other settings, nor with
            other `tasks` (`runs.record`).
        tasks: tasks in a meta-step.
        every: meta-steps between checkpoints and validations; the last meta-step has
            both too. A run may be resumed with another value.
        metric: the validation metric that decides which weights are best.

    Raises:
        ValueError: `steps`, `tasks` or `every` is no positive integer, `directory`
            contains a run with other settings or one that is training now, or training
            diverged.
        ConnectionError: another worker stopped.
        Stopped: the run was interrupted.
    """
    steps = settings["steps"]
    for name, value in (("steps", steps), ("tasks", tasks), ("every", every)):
        checks.check_integer(name, value, 1)
    first = is_first()
    # Processes of a cluster share the folder; the first one writes.
    with runs.claimed(directory) if first else contextlib.nullcontext():
        runs.record(directory, {**settings, "tasks": tasks}, write=first)
        run = Run(directory, metric, steps, every)
        learner = run.resume()
        done = run.saved or 0
        if done >= steps:
            print(f"{done} of {steps} meta-steps are done")
            return
        make, episodes, run.validation = load()
        run.calibration = episodes(start=0).batch(tasks).take(CALIBRATION_BATCHES)
        learner = learner or make()
        # With several workers, TensorFlow cannot run a learner's loop inside a loop of
        # meta-steps. Checkpoints lie between two loops of meta-steps.
        alone = tf.distribute.get_strategy().cluster_resolver is None
        together = math.gcd(every, done, steps, TOGETHER) if alone else 1
        learner.steps_per_execution = together
        begins = f"resuming at meta-step {done}" if done else "starting"
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
    """Checks the numbers of a command before any data is loaded.

    Args:
        recipe: the `recipes.schema.Recipe` to train.
        workers: processes that share the tasks of a meta-step.
        numbers: `{name: value}` of the command's numbers; None: the recipe's value.

    Raises:
        ValueError: a value that is no such integer, workers that do not divide the
            tasks, or pretraining_steps for a recipe without pretraining.
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
            "expected pretraining_steps for a recipe with pretraining only, this one "
            "has none."
        )


def settings(name, steps, seed, validation_tasks, origin, stage=None):
    """The settings that decide the result of a recipe's run, which `fit` records.

    Args:
        name: of the recipe.
        steps: meta-steps.
        seed: of the weights and the episodes.
        validation_tasks: tasks in a validation, which decides the best weights.
        origin: the zoo entry or the .keras file to start from; None for random weights.
        stage: the stage of the recipe that the run trains; None for the last.

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
        **{key: runs.described(getattr(recipe, key)) for key in RECORDED_FIELDS},
    }


def sha256_of(origin):
    """The sha256 of the file of a zoo entry, or of a .keras file.

    Raises:
        ValueError: no such entry or file.
    """
    if not named.is_file(origin):
        return cards.card(origin).sha256
    if not pathlib.Path(origin).is_file():
        raise ValueError(f"expected a model to start from, got no file at {origin}.")
    return cards.sha256(origin)


def is_first():
    """Whether this process is the process of its cluster that writes files."""
    return cluster.is_first(tf.distribute.get_strategy().cluster_resolver)


class Run(keras.callbacks.Callback):
    """Validates the averaged weights, logs, checkpoints and reports the time left.

    It does so at each multiple of `every` meta-steps and at the last one.

    Attributes:
        directory: holds last.keras and previous.keras (checkpoints with the
            optimizer), best.keras (averaged weights, no optimizer), log.csv and
            TensorBoard events.
        validation: a finite dataset of batches of episodes.
        calibration: training batches that the moving statistics of the averaged
            weights are computed on (`batch_norm.estimate`).
    """

    def __init__(self, directory, metric, steps, every):
        super().__init__()
        self.validation = self.calibration = None
        self.directory = directory
        self.metric = metric
        self.steps = steps
        self.every = every
        self.stop_signal = False
        self.saved = None  # the meta-step of the last checkpoint
        self.rows = []

    @property
    def step(self):
        with tf.init_scope():  # a signal may arrive while a graph is traced
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
        # All workers run the same code; only the files of the first are kept.
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
        if self.stop_signal or self.saved == self.step:  # no meta-step would be lost
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
            f"\nstopping {when}; a second signal stops at once and loses them",
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
        """Validates and writes all files.

        Args:
            logs: metrics of the meta-steps since the last checkpoint.
        """
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"expected a finite loss by meta-step {self.step}, got {logs['loss']}: "
                f"training diverged, {self.directory} has the checkpoints before it."
            )
        variables = self.model.trainable_variables
        held = [*variables, *self.model.moving_statistics()]
        raw = [v.numpy() for v in held]
        self.model.optimizer.finalize_variable_values(variables)
        # The moving statistics so far belong to the raw weights.
        batch_norm.estimate(self.model, self.calibration)
        scores = self.model.evaluate(self.validation, verbose=0, return_dict=True)
        score = scores[self.metric]
        row = {f"val_{self.metric}": score}
        if best_row([*self.rows, row], self.metric) is row:
            save(fresh(self.model), self.directory / "best.keras")
        for variable, value in zip(held, raw, strict=True):
            variable.assign(value)

        passed = time.time() - self.began
        row = {"step": self.step, "seconds": round(self.spent + passed, 1), **logs}
        row |= {f"val_{key}": value for key, value in scores.items()}
        self.rows.append(row)
        atomic.replace(self.directory / "log.csv", self._write_log)
        with self.writer.as_default(step=self.step):
            for key, value in row.items():
                tf.summary.scalar(key, float(value))
        self.writer.flush()
        last = self.directory / "last.keras"
        if last.exists():
            previous = self.directory / "previous.keras"
            atomic.replace(previous, lambda draft: shutil.copy(last, draft))
        save(self.model, last)

        pace = passed / max(self.step - self.first_step, 1)
        left = pace * (self.steps - self.step)
        print(
            f"step {self.step}/{self.steps}  loss {logs['loss']:.4f}  validation "
            f"{self.metric} {score:.4f} ± {scores[self.metric + '_95']:.4f}  "
            f"{1000 * pace:.0f} ms a step, {left / 60:.0f} minutes left",
            flush=True,
        )

    def _write_log(self, path):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[-1])
            writer.writeheader()
            writer.writerows(self.rows)


def best_row(rows, metric):
    """The row of a log with the best validation score; the last one of equal rows.

    A score that is NaN is the worst.
    """
    sign = 1 if metric == "accuracy" else -1

    def value(row):
        score = sign * float(row[f"val_{metric}"])
        return -math.inf if math.isnan(score) else score

    return max(reversed(rows), key=value)


def save(learner, path):
    """Saves a learner; a file at `path` is replaced completely or not at all."""
    atomic.replace(path, learner.save)


def fresh(learner):
    """A copy of a learner, compiled with a new optimizer."""
    copy = keras_private.copy_of(learner)
    copy.compile()
    return copy
