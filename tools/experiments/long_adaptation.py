"""A hundred inner steps on Omniglot alphabets: does a learned shrinkage over-fit less?

    python tools/experiments/long_adaptation.py --out=runs/long

A task is 20 characters of one alphabet, adapted to from five drawings of each, as
drawn, in mini-batches. Each method has as many candidates for its inner rate and, if it
has a prior, its scale; short trainings choose one on validation alphabets. The chosen
one is trained with three seeds, and scored by step on the same tasks of unseen
alphabets: every method, every seed. A sigma form is better than another method if each
seed says so, with an interval of paired differences above zero. Inductive
normalization.

Each result is kept as soon as it is there, and a training resumes from its checkpoint:
run the same command again to go on.
"""

import collections
import csv
import json
import os
import pathlib
import sys
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.figure
import numpy as np
import tensorflow_datasets as tfds
from absl import app, flags

import keras_meta as km
from keras_meta import plots
from keras_meta.zoo import atomic, intervals, runs, training

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/long", "Folder of the runs.")
flags.DEFINE_list("methods", None, "Methods to train, by their names in the table.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and training tasks.")
flags.DEFINE_integer("meta_steps", 400, "Meta-steps of each run.", lower_bound=1)
flags.DEFINE_integer(
    "candidate_steps", 80, "Meta-steps of each candidate.", lower_bound=1
)
flags.DEFINE_integer("every", 40, "Meta-steps between validations.", lower_bound=1)
flags.DEFINE_integer("tasks", 4, "Tasks in a meta-step.", lower_bound=1)
flags.DEFINE_integer("validation_tasks", 60, "Validation tasks.", lower_bound=2)
flags.DEFINE_integer("test_tasks", 200, "Test tasks, the same for all.", lower_bound=2)
flags.DEFINE_integer("filters", 32, "Of each convolution.", lower_bound=1)
flags.DEFINE_bool("estimate", False, "Print the hours that are left, and stop.")

WAYS, SHOTS, QUERIES, STEPS, BATCH = 20, 5, 5, 100, 20
EXAMPLES = WAYS * SHOTS
SIZES = (10, 5, 10)  # alphabets to train, validate and test, of those with 20 classes
SCORED = (0, 1, 2, 5, 10, 20, 50, 100, 200)
RATE = 3e-3  # of Adam
TOGETHER = 5  # tasks scored at once
CHOICE_SEED = 0  # of the candidates
VALIDATION_SEED, TEST_SEED = 10_000, 20_000  # of tasks
REPEATS = 5  # of a measured time, of which the median counts

# Four candidates for each method: of the inner rate, and of the prior if there is one.
RATES = [{"inner_rate": rate} for rate in (0.02, 0.05, 0.1, 0.2)]
# At 100 examples a scale of 0.3 pulls as hard as iMAML's lambda of 0.1.
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
# What each sigma form is compared with.
PAIRS = [
    ("sigma-MAML", "MAML"),
    ("sigma-MAML", "first-order MAML"),
    ("sigma-iMAML", "iMAML"),
    ("sigma-iMAML", "MAML"),
    ("sigma-Reptile", "Reptile"),
    ("sigma-Reptile", "MAML"),
]
COLOURS = {"Reptile": "#009e73", "MAML": "#0072b2", "iMAML": "#d55e00"}
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
    """`{part: (seed, start) -> episodes}`; all of an alphabet is in one part."""
    pool = km.ClassPool.from_tfds("omniglot", "train+test", PREPARE)
    groups = alphabets()
    count = np.bincount(list(groups.values()))
    order = np.random.RandomState(0).permutation(np.flatnonzero(count >= WAYS))

    def episodes(ids):
        chosen = pool.select(ids)
        return lambda seed, start=0: chosen.episodes(
            WAYS, SHOTS, QUERIES, seed, start, groups
        )

    found = {}
    for part, size in zip(("train", "validation", "test"), SIZES, strict=True):
        alphabets_here, order = order[:size], order[size:]
        found[part] = episodes([i for i, a in groups.items() if a in alphabets_here])
    return found


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


def folder_of(run, out):
    method = run.method.replace(" ", "_")
    return out / f"{method}-{run.candidate}-seed{run.seed}-{run.steps}"


def train(run, data, out):
    """Trains one run, or goes on with it; returns its best validation row."""
    folder = folder_of(run, out)
    record = folder / "validation.json"
    if not record.exists():

        def load():
            validation = data["validation"](VALIDATION_SEED)
            validation = validation.take(FLAGS.validation_tasks).batch(TOGETHER).cache()
            make_run = lambda: make(run)  # noqa: E731
            return make_run, lambda start: data["train"](run.seed, start), validation

        settings = {**run._asdict(), "settings": METHODS[run.method][2][run.candidate]}
        training.fit(load, folder, settings, FLAGS.tasks, FLAGS.every, "accuracy")
        best = training.best_row(log(run, out), "accuracy")
        write_json(record, {"accuracy": float(best["val_accuracy"]), **settings})
    return json.loads(record.read_text(encoding="utf-8"))


def log(run, out):
    """The rows of a run's log."""
    with (folder_of(run, out) / "log.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_json(path, value):
    text = json.dumps(value)
    atomic.write_text(path, text)


def trained(run, out):
    return keras.models.load_model(folder_of(run, out) / "best.keras", compile=False)


def accuracies(learner, data):
    """The accuracy of each test task, `[tasks]`."""
    tests = data["test"](TEST_SEED).take(FLAGS.test_tasks).batch(TOGETHER)
    right = [
        np.mean(learner(x).numpy().argmax(-1) == y, axis=1)
        for x, y in tests.as_numpy_iterator()
    ]
    return np.concatenate(right)


def score(run, data, out):
    """Accuracy of each test task by step, `{"right": [steps, tasks], "w": {...}}`."""
    record = folder_of(run, out) / "curve.npz"
    if not record.exists():
        learner = trained(run, out)
        right = []
        for learner.evaluation_steps in SCORED:
            right.append(accuracies(learner, data))
            print(
                f"{run.method}, seed {run.seed}: {learner.evaluation_steps} steps: "
                f"{right[-1].mean():.2%}",
                flush=True,
            )
        shares = learner.shares(EXAMPLES) if hasattr(learner, "shares") else {}
        scales = learner.scales() if shares else {}
        found = {
            "right": np.array(right),
            "modules": list(shares),
            "w": list(shares.values()),
            "scales": list(scales.values()),
        }

        def draft(path):
            with path.open("wb") as file:
                np.savez(file, **found)

        atomic.replace(record, draft)
    with np.load(record) as found:
        return dict(found)


def freeze(run, data, out):
    """Time to adapt and accuracy by number of modules kept, rows of a table.

    Modules are frozen in the order of w, which at one inner rate is that of sigma.
    """
    record = folder_of(run, out) / "frozen.json"
    rows = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    learner = trained(run, out)
    scales = learner.scales()
    order = sorted(scales, key=scales.get)
    episode, _ = next(iter(data["test"](TEST_SEED).batch(1)))
    for count in range(len(rows), len(order)):
        learner.frozen = []
        if count:
            learner.freeze_below(np.nextafter(scales[order[count - 1]], np.inf))
        right = accuracies(learner, data)
        times = []
        for _ in range(REPEATS + 1):  # the first traces
            began = time.perf_counter()
            learner.adapt(episode["support_x"], episode["support_y"])
            times.append(time.perf_counter() - began)
        mean, interval = intervals.summary(right)
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
        write_json(record, rows)
        print(
            f"{run.method}: {rows[-1]['kept']} modules adapt: {rows[-1]['ms']} ms, "
            f"{mean:.2%} ± {interval:.2%}",
            flush=True,
        )
    return rows


class Clock:
    """What is left to run, by the pace of each method, measured once and kept.

    Paces are processor time by the number of cores: of a machine that is free.
    """

    def __init__(self, methods, data, out):
        self.out = out
        path = out / "pace.json"
        self.paces = (
            json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        )
        for method in methods:
            if method not in self.paces:
                self.paces[method] = self._measure(method, data)
                write_json(path, self.paces)

    def _measure(self, method, data):
        """Seconds of a meta-step, and of adapting to and scoring a task."""
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
        """What a run still takes."""
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
                left += FLAGS.test_tasks * pace["task"] * 5  # frozen ones are quicker
        return left


def candidates_of(methods):
    return [
        Run(method, index, CHOICE_SEED, FLAGS.candidate_steps)
        for method in methods
        for index in range(len(METHODS[method][2]))
    ]


def finals(methods, seeds, chosen):
    """The runs that are scored; seed by seed, so that whole seeds are done first."""
    return [
        Run(method, chosen.get(method, 0), seed, FLAGS.meta_steps)
        for seed in seeds
        for method in methods
    ]


def write_csv(path, rows):
    def draft(path):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    if rows:
        atomic.replace(path, draft)
        print(f"wrote {path}")


def validation_rows(every, out):
    """The validation curves of all runs."""
    for run in every:
        for row in log(run, out):
            accuracy = {k: row[f"val_{k}"] for k in ("accuracy", "accuracy_95")}
            settings = json.dumps(METHODS[run.method][2][run.candidate])
            yield {
                **run._asdict(),
                "settings": settings,
                "step": row["step"],
            } | accuracy


def curve_rows(results):
    for run, found in results.items():
        for steps, right in zip(SCORED, found["right"], strict=True):
            mean, interval = intervals.summary(right)
            figures = {"accuracy": mean, "accuracy_95": interval}
            yield {"method": run.method, "seed": run.seed, "steps": steps, **figures}


def share_rows(results):
    for run, found in results.items():
        columns = found["modules"], found["scales"], found["w"]
        for module, scale, w in zip(*columns, strict=True):
            place = {"method": run.method, "seed": run.seed, "module": str(module)}
            yield {**place, "scale": float(scale), "w": float(w)}


def differences(results):
    """Each sigma form against its plain form and MAML, seed by seed, task by task."""
    right = {
        (run.method, run.seed): found["right"][SCORED.index(STEPS)]
        for run, found in results.items()
    }
    seeds = sorted({seed for _, seed in right})
    for one, two in PAIRS:
        pairs = [
            intervals.summary(intervals.difference(right[one, seed], right[two, seed]))
            for seed in seeds
            if (one, seed) in right and (two, seed) in right
        ]
        verdict = intervals.over_seeds(pairs)
        for seed, (mean, interval) in zip(seeds, pairs, strict=False):
            points = {"points": 100 * mean, "points_95": 100 * interval}
            row = {"method": one, "against": two, "seed": seed, "steps": STEPS}
            yield {**row, **points, "verdict": verdict}


def draw(results, path):
    """Accuracy by step, over all seeds, and w of each module, seed by seed."""
    figure = matplotlib.figure.Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    methods = list(dict.fromkeys(run.method for run in results))
    for method in methods:
        mine = [found for run, found in results.items() if run.method == method]
        mean, width = intervals.summaries(
            np.concatenate([f["right"] for f in mine], 1).T
        )
        plain = method.removeprefix("sigma-")
        style = {"color": COLOURS.get(plain, "#8a8a8a")}
        solid = method.startswith("sigma")
        style["linestyle"] = "-" if solid else ":"
        plots.band(left, SCORED, mean, width, method, **style)
        for place, found in enumerate(mine):
            if len(found["w"]):
                right.plot(
                    found["w"],
                    range(len(found["w"])),
                    "o",
                    color=style["color"],
                    alpha=0.7,
                    label=None if place else method,
                )
                right.set_yticks(range(len(found["w"])), map(str, found["modules"]))
    left.set(xlabel="adaptation steps", ylabel="accuracy", xscale="symlog")
    left.set_xticks(SCORED, SCORED)
    right.set(xlabel=f"shrinkage factor w at {EXAMPLES} examples, a point a seed")
    right.set_xlim(-0.02, 1.02)
    right.invert_yaxis()
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    atomic.replace(path, lambda draft: figure.savefig(draft, dpi=120, format="png"))
    print(f"wrote {path}")


def report(results, every, frozen, out):
    """Writes and prints what there is."""
    write_csv(out / "validation.csv", list(validation_rows(every, out)))
    write_csv(out / "curves.csv", list(curve_rows(results)))
    write_csv(out / "shares.csv", list(share_rows(results)))
    write_csv(out / "frozen.csv", frozen)
    rows = list(differences(results))
    write_csv(out / "differences.csv", rows)
    print(f"after {STEPS} steps, points of accuracy over {FLAGS.test_tasks} tasks:")
    for row in rows:
        print(
            f"{row['method']} minus {row['against']}, seed {row['seed']}: "
            f"{row['points']:+.2f} ± {row['points_95']:.2f} ({row['verdict']})"
        )
    draw(results, out / "curves.png")


def main(_):
    out = pathlib.Path(FLAGS.out)
    methods = FLAGS.methods or list(METHODS)
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        sys.exit(
            f"long_adaptation: error: expected methods of {list(METHODS)}, got "
            f"{unknown}"
        )
    seeds = list(map(int, FLAGS.seeds))
    runs.make(out)
    data = parts()
    clock = Clock(methods, data, out)
    tried, chosen = candidates_of(methods), {}

    def tell():
        every = [(run, False) for run in tried]
        every += [(run, True) for run in finals(methods, seeds, chosen)]
        hours = sum(clock.seconds(run, final) for run, final in every) / 3600
        print(f"about {hours:.1f} hours left, if no other work runs", flush=True)

    tell()
    if FLAGS.estimate:
        return
    best = {}
    for place, run in enumerate(tried, start=1):
        settings = METHODS[run.method][2][run.candidate]
        print(f"candidate {place} of {len(tried)}: {run.method}, {settings}")
        accuracy = train(run, data, out)["accuracy"]
        best.setdefault(run.method, []).append(accuracy)
        tell()
    for method, found in best.items():
        chosen[method] = int(np.argmax(found))
        settings = METHODS[method][2][chosen[method]]
        print(f"{method}: {settings}, validation {max(found):.2%}", flush=True)
    results, queue = {}, finals(methods, seeds, chosen)
    for place, run in enumerate(queue, start=1):
        print(f"run {place} of {len(queue)}: {run.method}, seed {run.seed}")
        train(run, data, out)
        results[run] = score(run, data, out)
        tell()
    frozen = []
    for run in queue:
        if run.method.startswith("sigma") and run.seed == CHOICE_SEED:
            frozen += freeze(run, data, out)
    report(results, [*tried, *queue], frozen, out)


if __name__ == "__main__":
    km.runtime.configure()
    app.run(main)
