"""Trains a zoo entry from its recipe; stops and resumes exactly.

    python tools/train.py --recipe=maml.omniglot_5w1s --out=runs/maml

Run the same command again to go on from the last checkpoint. With --publish the best
weights so far become the zoo's, without training if the run has ended.
"""

import csv
import os
import pathlib
import shutil
import signal
import sys
import time
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import keras
import tensorflow as tf
from absl import app, flags

import keras_meta as km
import zoo
from zoo import cards, recipes

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
flags.DEFINE_bool("publish", False, "Make the best weights the zoo's when done.")


class Run(keras.callbacks.Callback):
    """After each epoch: validate the averaged weights, log, checkpoint, tell the time.

    Attributes:
        directory: holds last.keras and previous.keras (checkpoints with the
            optimizer), best.keras (averaged weights, no optimizer), log.csv and
            TensorBoard events.
    """

    def __init__(self, directory, validation, validation_steps, metric, steps):
        super().__init__()
        self.directory = directory
        self.validation = validation
        self.validation_steps = validation_steps
        self.metric = metric
        self.steps = steps
        self.stop_signal = False
        self.rows = []
        self.writer = tf.summary.create_file_writer(str(directory / "tensorboard"))

    @property
    def step(self):
        return int(self.model.optimizer.iterations)

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
            step = int(learner.optimizer.iterations)
            log = self.directory / "log.csv"
            if log.exists():
                with log.open() as file:
                    rows = list(csv.DictReader(file))
                self.rows = [row for row in rows if int(row["step"]) <= step]
            return learner
        return None

    def on_train_begin(self, logs=None):
        self.began, self.first_step = time.time(), self.step
        self.spent = float(self.rows[-1]["seconds"]) if self.rows else 0.0
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number, frame):
        if self.stop_signal:
            raise KeyboardInterrupt
        self.stop_signal = True
        print("\nstopping at the next checkpoint; once more to stop at once")

    def on_epoch_end(self, epoch, logs=None):
        variables = self.model.trainable_variables
        raw = [v.numpy() for v in variables]
        self.model.optimizer.finalize_variable_values(variables)
        found = self.model.evaluate(
            self.validation,
            steps=self.validation_steps,
            verbose=0,
            return_dict=True,
        )
        scores = [float(row[f"val_{self.metric}"]) for row in self.rows]
        better = min if self.metric == "mse" else max
        score = found[self.metric]
        if score == better([*scores, score]):
            save(fresh(self.model), self.directory / "best.keras")
        for variable, value in zip(variables, raw, strict=True):
            variable.assign(value)

        passed = time.time() - self.began
        row = {"step": self.step, "seconds": round(self.spent + passed, 1), **logs}
        row |= {f"val_{key}": value for key, value in found.items()}
        self.rows.append(row)
        self._write_log()
        with self.writer.as_default(step=self.step):
            for key, value in row.items():
                tf.summary.scalar(key, float(value))
        self.writer.flush()
        last = self.directory / "last.keras"
        if last.exists():
            shutil.copy(last, self.directory / "previous.tmp")
            os.replace(
                self.directory / "previous.tmp", self.directory / "previous.keras"
            )
        save(self.model, last)

        pace = passed / max(self.step - self.first_step, 1)
        left = pace * (self.steps - self.step)
        print(
            f"step {self.step}/{self.steps}  loss {logs['loss']:.4f}  validation "
            f"{self.metric} {score:.4f} ± {found[self.metric + '_95']:.4f}  "
            f"{1000 * pace:.0f} ms a step, {left / 60:.0f} minutes left",
            flush=True,
        )
        if self.stop_signal:
            self.model.stop_training = True

    def _write_log(self):
        draft = self.directory / "log.tmp"
        with draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[-1])
            writer.writeheader()
            writer.writerows(self.rows)
        os.replace(draft, self.directory / "log.csv")


def save(learner, path):
    """Saves a learner so that `path` is never half written."""
    draft = path.with_name(f"draft-{path.name}")
    learner.save(draft)
    os.replace(draft, path)


def fresh(learner):
    """A copy of a learner with an optimizer that has not stepped."""
    copy = type(learner).from_config(learner.get_config())
    copy.set_weights(learner.get_weights())
    copy.compile()
    return copy


def start(recipe, steps, seed):
    """The untrained (or warm-started), compiled learner of a recipe."""
    keras.utils.set_random_seed(seed)
    learner = recipe.learner()
    origin = FLAGS.warm_start or recipe.warm_start
    if origin and origin != "none":
        trained = (
            keras.models.load_model(origin)
            if origin.endswith(".keras")
            else zoo.load(origin)
        )
        learner.set_weights(trained.get_weights())
        print(f"starting from {origin}")
    learner.compile(
        keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(recipe.rate, steps),
            use_ema=True,
            ema_momentum=recipe.average,
        )
    )
    learner.optimizer.build(learner.trainable_variables)
    return learner


def train(name, directory, steps, seed):
    recipe = recipes.recipe(name)
    learner = recipe.learner()
    print(f"{name}: loading data")
    episodes = recipe.task.episodes(learner.preprocess, seed)
    batch = recipe.tasks
    run = Run(
        directory,
        episodes["validation"]().batch(batch).prefetch(2),
        -(-FLAGS.validation_tasks // batch),
        recipe.task.metric,
        steps,
    )
    learner = run.resume() or start(recipe, steps, seed)
    done = int(learner.optimizer.iterations)
    if done >= steps:
        print(f"{name}: {done} of {steps} meta-steps are done")
        return
    print(f"{name}: meta-steps {done} to {steps}, writing to {directory}")
    learner.fit(
        episodes["train"](start=done * batch).batch(batch, drop_remainder=True),
        initial_epoch=done // FLAGS.every,
        epochs=-(-steps // FLAGS.every),
        steps_per_epoch=FLAGS.every,
        callbacks=[run],
        shuffle=False,
        verbose=1 if sys.stdout.isatty() else 0,
    )


def publish(name, directory, seed):
    """Makes a run's best weights the zoo's, with a card that has no figures yet."""
    recipe = recipes.recipe(name)
    learner = keras.models.load_model(directory / "best.keras")
    with (directory / "log.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    steps, hours = int(last["step"]), float(last["seconds"]) / 3600
    paper, command = recipe.paper, f"python tools/train.py --recipe={name}"
    if recipe.warm_start and FLAGS.warm_start != "none":
        command += f" (warm-started from {recipe.warm_start})"
    folder = cards.MODELS / name
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(directory / "best.keras", folder / "model.keras")
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
        hours=round(hours, 2),
        sha256=cards.sha256(folder / "model.keras"),
        test_classes=recipe.task.test_classes(learner.preprocess),
        ways=recipe.task.ways,
        shots=recipe.task.shots,
    ).write()
    print(f"{name}: published; run tools/make_results.py for its figures")


def main(_):
    name = FLAGS.recipe
    recipe = recipes.recipe(name)
    directory = pathlib.Path(FLAGS.out or f"runs/{name}")
    directory.mkdir(parents=True, exist_ok=True)
    seed = recipe.seed if FLAGS.seed is None else FLAGS.seed
    train(name, directory, FLAGS.steps or recipe.steps, seed)
    if FLAGS.publish:
        publish(name, directory, seed)


if __name__ == "__main__":
    km.runtime.configure()
    app.run(main)
