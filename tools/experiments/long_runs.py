"""Runs of `long_adaptation.py`: data, methods, training, scores, remaining time."""

import collections
import csv
import time

import keras
import numpy as np
import results
from results import FLAGS

import keras_meta as km
from keras_meta.zoo import intervals, training
from keras_meta.zoo.recipes import characters, sources

TASK = characters.ALPHABETS_20W5S
STEPS, BATCH = 100, 20
EXAMPLES = TASK.ways * TASK.shots
SCORED = (0, 1, 2, 5, 10, 20, 50, 100, 200)
RATE = 3e-3  # Adam's learning rate
TASK_BATCH = 5  # tasks in a batch of validation and scoring
CHOICE_SEED = 0  # seed of the candidates
TASK_SEED = 0  # of validation and test tasks
REPEATS = 5  # measurements of a time, whose median is reported

# Four candidates for each method: the inner rate, and the prior if it has one.
RATES = [{"inner_rate": rate} for rate in (0.02, 0.05, 0.1, 0.2)]
# At 100 examples, a prior of scale 0.3 has the precision of iMAML's lambda 0.1.
STRENGTHS = [
    {"inner_rate": rate, "regularization": strength}
    for rate in (0.05, 0.1)
    for strength in (0.1, 1.0)
]
SCALES = [
    {"inner_rate": rate, "initial_scale": scale}
    for rate in (0.05, 0.1)
    for scale in (0.1, 0.3)
]
RULES = [
    {"inner_rate": rate, "initial_scale": 0.3, "scale_rule": rule}
    for rate in (0.05, 0.1)
    for rule in ("reptile", "implicit")
]
# Log sigma^2 can change by 30 * 3e-3 in an early meta-step, and by 18 in total.
SCALE_SETTINGS = {"scale_rate": 30.0}
METHODS = {
    "Reptile": (km.Reptile, {"joint": False}, RATES),
    "first-order MAML": (km.FOMAML, {}, RATES),
    "MAML": (km.MAML, {}, RATES),
    "iMAML": (km.IMAML, {"damping": 1.0}, STRENGTHS),
    "sigma-Reptile": (km.SigmaReptile, {"damping": 1.0, **SCALE_SETTINGS}, RULES),
    "sigma-MAML": (km.SigmaMAML, SCALE_SETTINGS, SCALES),
    "sigma-iMAML": (km.SigmaIMAML, {"damping": 1.0, **SCALE_SETTINGS}, SCALES),
}
PREPARE = km.ImagePreprocess(28, 28, 1, invert=True)

Run = collections.namedtuple("Run", "method candidate seed steps")


def parts():
    """Returns `{part: (seed, start) -> episodes}`; the parts share no alphabet."""
    pools = TASK.source.pools(PREPARE)

    def episodes(part):
        pool = pools[part]
        groups = TASK.source.groups(pool)
        sizes = TASK.ways, TASK.shots, TASK.queries
        return lambda seed, start=0: pool.episodes(
            *sizes, seed + sources.PART_SEEDS[part], start, groups
        )

    return {part: episodes(part) for part in pools}


def build_learner(run):
    """Builds the compiled learner of a run."""
    keras.utils.set_random_seed(run.seed)
    network = km.networks.conv4(PREPARE.shape, outputs=TASK.ways, filters=FLAGS.filters)
    build, settings, candidates = METHODS[run.method]
    learner = build(
        network,
        inner_steps=STEPS,
        inner_batch=BATCH,
        **settings,
        **candidates[run.candidate],
    )
    rate = keras.optimizers.schedules.CosineDecay(RATE, run.steps)
    learner.compile(keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.95))
    learner.optimizer.build(learner.trainable_variables)
    return learner


def settings_of(run):
    """Returns the candidate settings of a run."""
    return METHODS[run.method][2][run.candidate]


def folder_of(run, out):
    method = run.method.replace(" ", "_")
    return out / f"{method}-{run.candidate}-seed{run.seed}-{run.steps}"


def train(run, data, out):
    """Trains or resumes a run; returns its best validation accuracy."""
    folder = folder_of(run, out)
    flags = ("filters", "tasks", "every", "validation_tasks")
    settings = {**run._asdict(), "settings": settings_of(run)}
    settings |= {name: getattr(FLAGS, name) for name in flags}

    def load():
        validation = data["validation"](TASK_SEED)
        validation = validation.take(FLAGS.validation_tasks).batch(TASK_BATCH).cache()
        build_run = lambda: build_learner(run)  # noqa: E731
        return build_run, lambda start: data["train"](run.seed, start), validation

    def best():
        training.fit(load, folder, settings, FLAGS.tasks, FLAGS.every, "accuracy")
        row = training.best_row(log(run, out), "accuracy")
        return {"accuracy": float(row["val_accuracy"]), **settings}

    stored = results.stored(folder / "validation.json", best)
    for name, value in settings.items():
        if stored.get(name, value) != value:
            raise ValueError(
                f"expected {name} = {stored[name]} of the run in {folder}, got {value}."
            )
    return stored["accuracy"]


def log(run, out):
    """Reads the rows of a run's log."""
    with (folder_of(run, out) / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def load_trained(run, out):
    return keras.models.load_model(folder_of(run, out) / "best.keras", compile=False)


def accuracies(learner, data):
    """Returns the accuracy of each test task, `[tasks]`."""
    batches = data["test"](TASK_SEED).take(FLAGS.test_tasks).batch(TASK_BATCH)
    batch_accuracies = [
        np.mean(learner(x).numpy().argmax(-1) == y, axis=1)
        for x, y in batches.as_numpy_iterator()
    ]
    return np.concatenate(batch_accuracies)


def score(run, data, out):
    """Computes the accuracy of each test task by step, and the learned scales.

    Returns:
        A dict of arrays: right `[steps, tasks]`, the accuracies; modules, w and scales,
        one value for each module and empty without a prior.
    """

    def compute():
        learner = load_trained(run, out)
        accuracy = []
        for learner.evaluation_steps in SCORED:
            accuracy.append(accuracies(learner, data))
            print(
                f"{run.method}, seed {run.seed}: {learner.evaluation_steps} steps: "
                f"{accuracy[-1].mean():.2%}",
                flush=True,
            )
        shares = learner.shares(EXAMPLES) if hasattr(learner, "shares") else {}
        scales = learner.scales() if shares else {}
        return {
            "right": np.array(accuracy),
            "modules": list(shares),
            "w": list(shares.values()),
            "scales": list(scales.values()),
        }

    path = folder_of(run, out) / "curve.npz"
    arrays = results.stored_arrays(path, compute)
    tasks = arrays["right"].shape[1]
    if tasks != FLAGS.test_tasks:
        raise ValueError(
            f"expected test_tasks = {tasks} of the scores in {path}, got "
            f"{FLAGS.test_tasks}."
        )
    return arrays


def freeze(run, data, out):
    """Returns rows of adaptation time and accuracy by number of modules that adapt.

    Modules are frozen in the order of w, which equals the order of sigma at one inner
    rate.
    """
    path = folder_of(run, out) / "frozen.json"
    rows = results.read_json(path, [])
    learner = load_trained(run, out)
    scales = learner.scales()
    order = sorted(scales, key=scales.get)
    episode, _ = next(iter(data["test"](TASK_SEED).batch(1)))
    for count in range(len(rows), len(order)):
        learner.frozen = []
        if count:
            learner.freeze_below(np.nextafter(scales[order[count - 1]], np.inf))
        mean, interval = intervals.summary(accuracies(learner, data))
        times = []
        for _ in range(REPEATS + 1):  # the first call traces
            start = time.perf_counter()
            learner.adapt(episode["support_x"], episode["support_y"])
            times.append(time.perf_counter() - start)
        rows.append(
            {
                "method": run.method,
                "seed": run.seed,
                "tasks": FLAGS.test_tasks,
                "kept": len(order) - count,
                "frozen": " ".join(order[:count]),
                "ms": round(1000 * float(np.median(times[1:])), 1),
                "accuracy": mean,
                "accuracy_95": interval,
            }
        )
        results.write_json(path, rows)
        print(
            f"{run.method}: {rows[-1]['kept']} modules adapt: {rows[-1]['ms']} ms, "
            f"{mean:.2%} ± {interval:.2%}",
            flush=True,
        )
    return rows


class Clock:
    """Estimates the remaining time from the pace of each method, measured once.

    A pace is processor time divided by the number of cores: time on an idle machine.
    """

    def __init__(self, methods, data, out):
        self.out = out
        path = out / "pace.json"
        self.paces = results.read_json(path, {})
        for method in methods:
            if method not in self.paces:
                self.paces[method] = self._measure(method, data)
                results.write_json(path, self.paces)

    def _measure(self, method, data):
        """Measures seconds of a meta-step, and of adaptation and scoring of a task."""
        learner = build_learner(Run(method, 0, 0, 1))
        batches, tests = data["train"](0).batch(FLAGS.tasks), data["test"](TASK_SEED)
        seconds = []
        for call in (
            lambda: learner.fit(batches.take(2), verbose=0),
            lambda: learner.evaluate(tests.take(10).batch(TASK_BATCH), verbose=0),
        ):
            call()  # for tracing
            start = time.process_time()
            call()
            duration = time.process_time() - start
            seconds.append(duration / km.runtime.usable_cores())
        pace = {"step": seconds[0] / 2, "task": seconds[1] / 10}
        print(
            f"{method}: {1000 * pace['step']:.0f} ms a meta-step, "
            f"{1000 * pace['task']:.0f} ms a task",
            flush=True,
        )
        return pace

    def seconds(self, run, final):
        """Returns the remaining seconds of a run."""
        folder, pace = folder_of(run, self.out), self.paces[run.method]
        remaining = 0.0
        if not (folder / "validation.json").exists():
            trained_steps = 0
            if (folder / "log.csv").exists():
                trained_steps = int(log(run, self.out)[-1]["step"])
            steps = run.steps - trained_steps
            validations = -(-steps // FLAGS.every)
            remaining += steps * pace["step"]
            remaining += validations * FLAGS.validation_tasks * pace["task"]
        if final and not (folder / "curve.npz").exists():
            remaining += FLAGS.test_tasks * pace["task"] * sum(SCORED) / STEPS
        if final and run.method.startswith("sigma") and run.seed == CHOICE_SEED:
            if not (folder / "frozen.json").exists():
                # Nine rows; adaptation is faster with frozen modules.
                remaining += FLAGS.test_tasks * pace["task"] * 5
        return remaining


def candidate_runs(methods):
    return [
        Run(method, index, CHOICE_SEED, FLAGS.candidate_steps)
        for method in methods
        for index in range(len(METHODS[method][2]))
    ]


def final_runs(methods, seeds, chosen):
    """Returns the runs that are scored, seed by seed."""
    return [
        Run(method, chosen.get(method, 0), seed, FLAGS.meta_steps)
        for seed in seeds
        for method in methods
    ]
