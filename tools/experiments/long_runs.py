"""The runs of `long_adaptation.py`: data, methods, training, scores, time left."""

import collections
import csv
import time

import keras
import numpy as np
import results
import tensorflow_datasets as tfds
from results import FLAGS

import keras_meta as km
from keras_meta.zoo import intervals, training

WAYS, SHOTS, QUERIES, STEPS, BATCH = 20, 5, 5, 100, 20
EXAMPLES = WAYS * SHOTS
SIZES = (10, 5, 10)  # training, validation and test alphabets of 20 classes or more
SCORED = (0, 1, 2, 5, 10, 20, 50, 100, 200)
RATE = 3e-3  # of Adam
TOGETHER = 5  # tasks scored at once
CHOICE_SEED = 0  # of the candidates
VALIDATION_SEED, TEST_SEED = 10_000, 20_000  # of tasks
REPEATS = 5  # of a measured time; the median counts

# Four candidates for each method: the inner rate, and the prior if it has one.
RATES = [{"inner_rate": rate} for rate in (0.02, 0.05, 0.1, 0.2)]
# At 100 examples a scale of 0.3 has the precision of iMAML's lambda of 0.1.
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
# Log sigma^2 may move by 30 * 3e-3 a meta-step at first, and by 18 in all.
TRAVEL = {"scale_rate": 30.0}
METHODS = {
    "Reptile": (km.Reptile, {"joint": False}, RATES),
    "first-order MAML": (km.FOMAML, {}, RATES),
    "MAML": (km.MAML, {}, RATES),
    "iMAML": (km.IMAML, {"damping": 1.0}, STRENGTHS),
    "sigma-Reptile": (km.SigmaReptile, {"damping": 1.0, **TRAVEL}, RULES),
    "sigma-MAML": (km.SigmaMAML, TRAVEL, SCALES),
    "sigma-iMAML": (km.SigmaIMAML, {"damping": 1.0, **TRAVEL}, SCALES),
}
PREPARE = km.ImagePreprocess(28, 28, 1, invert=True)

Run = collections.namedtuple("Run", "method candidate seed steps")


def alphabets():
    """`{character's label id: alphabet}`."""
    builder = tfds.builder("omniglot")
    builder.download_and_prepare()
    pairs = builder.as_dataset(
        split="train+test", decoders={"image": tfds.decode.SkipDecoding()}
    ).map(lambda example: (example["label"], example["alphabet"]))
    return {int(label): int(alphabet) for label, alphabet in pairs.as_numpy_iterator()}


def parts():
    """`{part: (seed, start) -> episodes}`; the parts share no alphabet."""
    pool = km.ClassPool.from_tfds("omniglot", "train+test", PREPARE)
    groups = alphabets()
    count = np.bincount(list(groups.values()))
    order = np.random.RandomState(0).permutation(np.flatnonzero(count >= WAYS))

    def episodes(ids):
        chosen = pool.select(ids)
        return lambda seed, start=0: chosen.episodes(
            WAYS, SHOTS, QUERIES, seed, start, groups
        )

    streams = {}
    for part, size in zip(("train", "validation", "test"), SIZES, strict=True):
        members, order = order[:size], order[size:]
        streams[part] = episodes([i for i, a in groups.items() if a in members])
    return streams


def make(run):
    """The compiled learner of a run."""
    keras.utils.set_random_seed(run.seed)
    network = km.networks.conv4(PREPARE.shape, outputs=WAYS, filters=FLAGS.filters)
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
    """The candidate settings of a run."""
    return METHODS[run.method][2][run.candidate]


def folder_of(run, out):
    method = run.method.replace(" ", "_")
    return out / f"{method}-{run.candidate}-seed{run.seed}-{run.steps}"


def train(run, data, out):
    """Trains or resumes a run; returns its best validation accuracy."""
    folder = folder_of(run, out)
    settings = {**run._asdict(), "settings": settings_of(run)}

    def load():
        validation = data["validation"](VALIDATION_SEED)
        validation = validation.take(FLAGS.validation_tasks).batch(TOGETHER).cache()
        make_run = lambda: make(run)  # noqa: E731
        return make_run, lambda start: data["train"](run.seed, start), validation

    def best():
        training.fit(load, folder, settings, FLAGS.tasks, FLAGS.every, "accuracy")
        row = training.best_row(log(run, out), "accuracy")
        return {"accuracy": float(row["val_accuracy"]), **settings}

    return results.stored(folder / "validation.json", best)["accuracy"]


def log(run, out):
    """The rows of a run's log."""
    with (folder_of(run, out) / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def trained(run, out):
    return keras.models.load_model(folder_of(run, out) / "best.keras", compile=False)


def accuracies(learner, data):
    """The accuracy of each test task, `[tasks]`."""
    tests = data["test"](TEST_SEED).take(FLAGS.test_tasks).batch(TOGETHER)
    shares = [
        np.mean(learner(x).numpy().argmax(-1) == y, axis=1)
        for x, y in tests.as_numpy_iterator()
    ]
    return np.concatenate(shares)


def score(run, data, out):
    """Accuracy of each test task by step, and the learned scales.

    Returns:
        A dict of arrays: right `[steps, tasks]`; modules, w and scales, one value for
        each module and empty without a prior.
    """

    def compute():
        learner = trained(run, out)
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

    return results.stored_arrays(folder_of(run, out) / "curve.npz", compute)


def freeze(run, data, out):
    """Time to adapt and accuracy by number of modules that adapt, rows of a table.

    Modules are frozen in the order of w, which at one inner rate is that of sigma.
    """
    record = folder_of(run, out) / "frozen.json"
    rows = results.read_json(record, [])
    learner = trained(run, out)
    scales = learner.scales()
    order = sorted(scales, key=scales.get)
    episode, _ = next(iter(data["test"](TEST_SEED).batch(1)))
    for count in range(len(rows), len(order)):
        learner.frozen = []
        if count:
            learner.freeze_below(np.nextafter(scales[order[count - 1]], np.inf))
        mean, interval = intervals.summary(accuracies(learner, data))
        times = []
        for _ in range(REPEATS + 1):  # the first traces
            began = time.perf_counter()
            learner.adapt(episode["support_x"], episode["support_y"])
            times.append(time.perf_counter() - began)
        rows.append(
            {
                "method": run.method,
                "seed": run.seed,
                "kept": len(order) - count,
                "frozen": " ".join(order[:count]),
                "ms": round(1000 * float(np.median(times[1:])), 1),
                "accuracy": mean,
                "accuracy_95": interval,
            }
        )
        results.write_json(record, rows)
        print(
            f"{run.method}: {rows[-1]['kept']} modules adapt: {rows[-1]['ms']} ms, "
            f"{mean:.2%} ± {interval:.2%}",
            flush=True,
        )
    return rows


class Clock:
    """Estimates the remaining time from the pace of each method, measured once.

    Paces are processor time divided by the number of cores, as on an idle machine.
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
        """Seconds of a meta-step, and of adaptation and scoring of a task."""
        learner = make(Run(method, 0, 0, 1))
        batches, tests = data["train"](0).batch(FLAGS.tasks), data["test"](TEST_SEED)
        seconds = []
        for go in (
            lambda: learner.fit(batches.take(2), verbose=0),
            lambda: learner.evaluate(tests.take(10).batch(TOGETHER), verbose=0),
        ):
            go()  # traces
            began = time.process_time()
            go()
            spent = time.process_time() - began
            seconds.append(spent / km.runtime.usable_cores())
        pace = {"step": seconds[0] / 2, "task": seconds[1] / 10}
        print(
            f"{method}: {1000 * pace['step']:.0f} ms a meta-step, "
            f"{1000 * pace['task']:.0f} ms a task",
            flush=True,
        )
        return pace

    def seconds(self, run, final):
        """Remaining seconds of a run."""
        folder, pace = folder_of(run, self.out), self.paces[run.method]
        left = 0.0
        if not (folder / "validation.json").exists():
            done = 0
            if (folder / "log.csv").exists():
                done = int(log(run, self.out)[-1]["step"])
            steps = run.steps - done
            validations = -(-steps // FLAGS.every)
            left += steps * pace["step"]
            left += validations * FLAGS.validation_tasks * pace["task"]
        if final and not (folder / "curve.npz").exists():
            left += FLAGS.test_tasks * pace["task"] * sum(SCORED) / STEPS
        if final and run.method.startswith("sigma") and run.seed == CHOICE_SEED:
            if not (folder / "frozen.json").exists():
                # Nine rows; adaptation is faster with frozen modules.
                left += FLAGS.test_tasks * pace["task"] * 5
        return left


def candidates_of(methods):
    return [
        Run(method, index, CHOICE_SEED, FLAGS.candidate_steps)
        for method in methods
        for index in range(len(METHODS[method][2]))
    ]


def finals(methods, seeds, chosen):
    """The runs that are scored, seed by seed."""
    return [
        Run(method, chosen.get(method, 0), seed, FLAGS.meta_steps)
        for seed in seeds
        for method in methods
    ]
