"""A hundred inner steps on Omniglot alphabets: does a learned shrinkage over-fit less?

    python tools/experiments/long_adaptation.py --out=runs/long

A task is 20 characters of one alphabet, adapted to from a few drawings of each in
mini-batches, with or without random affine augmentation; others are asked. Each method
meta-trains on the same replayed tasks, and is scored by step on the same tasks of
unseen alphabets. Run it again to go on. Inductive normalization.
"""

import csv
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import matplotlib.figure
import numpy as np
import rich.console
import rich.table
import tensorflow as tf
import tensorflow_datasets as tfds
from absl import app, flags

import keras_meta as km
from keras_meta import images, plots
from keras_meta.zoo import scores, training

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/long", "Folder of the runs.")
flags.DEFINE_list("methods", None, "Methods to train, by their names in the table.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and training tasks.")
flags.DEFINE_list("settings", ["plain", "augmented"], "Of plain and augmented.")
flags.DEFINE_integer("meta_steps", 200, "Meta-steps of each run.")
flags.DEFINE_integer("tasks", 5, "Tasks in a meta-step.")
flags.DEFINE_integer("test_tasks", 100, "Test tasks, the same for every run.")
flags.DEFINE_integer("filters", 32, "Of each convolution.")

WAYS, SHOTS, QUERIES, STEPS, BATCH = 20, 5, 5, 100, 20
COPIES = 5  # of each support example, when augmented
SIZES = (10, 5, 10)  # alphabets to train, validate and test, of those with 20 classes
SCORED = (0, 1, 2, 5, 10, 20, 50, 100, 200)

# A scale of 0.3 over 100 examples pulls as hard as iMAML's lambda of 0.1.
SHRINKAGE = {"initial_scale": 0.3, "scale_rate": 30.0}
METHODS = {
    "Reptile": (km.Reptile, {"joint": False}),
    "first-order MAML": (km.FOMAML, {}),
    "MAML": (km.MAML, {}),
    "iMAML": (km.IMAML, {"regularization": 0.1}),
    "sigma-Reptile": (km.SigmaReptile, SHRINKAGE),
    "sigma-MAML": (km.SigmaMAML, SHRINKAGE),
    "sigma-iMAML": (km.SigmaIMAML, SHRINKAGE),
}
PREPARE = km.ImagePreprocess(28, 28, 1, invert=True)


def alphabets():
    """`{character's label id: alphabet}`."""
    builder = tfds.builder("omniglot")
    builder.download_and_prepare()
    pairs = builder.as_dataset(
        split="train+test", decoders={"image": tfds.decode.SkipDecoding()}
    ).map(lambda example: (example["label"], example["alphabet"]))
    return {int(label): int(alphabet) for label, alphabet in pairs.as_numpy_iterator()}


def parts():
    """`{part: (ClassPool, groups)}`: alphabets, and all of an alphabet in one part."""
    pool = km.ClassPool.from_tfds("omniglot", "train+test", PREPARE)
    groups = alphabets()
    count = np.bincount(list(groups.values()))
    order = np.random.RandomState(0).permutation(np.flatnonzero(count >= WAYS))
    found = {}
    for part, size in zip(("train", "validation", "test"), SIZES, strict=True):
        chosen, order = order[:size], order[size:]
        ids = [label for label, alphabet in groups.items() if alphabet in chosen]
        found[part] = pool.select(ids), groups
    return found


def augmented(seed, episode, query_y):
    """Copies of the support examples, each turned, moved and scaled at random."""
    seeds = tf.unstack(tf.random.split(seed, 2))
    count = COPIES * WAYS * SHOTS
    which = tf.argsort(tf.random.stateless_uniform([count], seeds[0])) % (WAYS * SHOTS)
    x = images.random_affine(tf.gather(episode["support_x"], which), seeds[1])
    y = tf.gather(episode["support_y"], which)
    return {**episode, "support_x": x, "support_y": y}, query_y


def episodes(pool, groups, setting, seed, start=0):
    """Episodes of one part, augmented if that is the setting."""
    plain = pool.episodes(WAYS, SHOTS, QUERIES, seed, start, groups)
    if setting == "plain":
        return plain
    return km.episodes.seeded_map(plain, augmented, seed + 1_000_000, start)


def make(method, seed):
    """The compiled learner of a method."""
    keras.utils.set_random_seed(seed)
    network = km.networks.conv4(PREPARE.shape, outputs=WAYS, filters=FLAGS.filters)
    build, arguments = METHODS[method]
    learner = build(
        network, inner_rate=0.1, inner_steps=STEPS, inner_batch=BATCH, **arguments
    )
    rate = keras.optimizers.schedules.CosineDecay(3e-3, FLAGS.meta_steps)
    learner.compile(keras.optimizers.Adam(rate, use_ema=True, ema_momentum=0.95))
    learner.optimizer.build(learner.trainable_variables)
    return learner


def curve(learner, tests):
    """`[(steps, accuracy of each task)]`."""
    rows = []
    for steps in SCORED:
        learner.evaluation_steps = steps
        right = [
            np.mean(learner(x).numpy().argmax(-1) == y, axis=1)
            for x, y in tests.as_numpy_iterator()
        ]
        rows.append((steps, np.concatenate(right)))
    return rows


def run(setting, method, seed, data, out):
    """Trains one learner; its curve and scales."""
    folder = out / setting / f"{method.replace(' ', '_')}-{seed}"
    record = folder / "curve.npz"

    def load():
        validation = episodes(*data["validation"], setting, 10_000).take(20)
        return (
            lambda: make(method, seed),
            lambda start: episodes(*data["train"], setting, seed, start),
            validation.batch(5).cache(),
        )

    if not record.exists():
        training.fit(
            load,
            folder,
            {"steps": FLAGS.meta_steps, "seed": seed, "method": method},
            FLAGS.tasks,
            max(FLAGS.meta_steps // 4, 1),
            "accuracy",
        )
        learner = keras.models.load_model(folder / "best.keras", compile=False)
        tests = episodes(*data["test"], setting, 20_000).take(FLAGS.test_tasks)
        rows = curve(learner, tests.batch(5))
        scales = learner.scales() if hasattr(learner, "scales") else {}
        np.savez(
            folder / "curve.tmp.npz",
            steps=[steps for steps, _ in rows],
            right=[right for _, right in rows],
            modules=list(scales),
            scales=list(scales.values()),
        )
        os.replace(folder / "curve.tmp.npz", record)
        if scales:
            plots.scales(learner).savefig(folder / "scales.png")
    return np.load(record)


def summary(runs):
    """Mean accuracy by step and its half-width, over the tasks and seeds of runs."""
    right = np.concatenate([found["right"] for found in runs], axis=1)
    return scores.summaries(right.T)


def draw(results, path):
    """Accuracy by step in each setting, and the scales that each method learned."""
    settings = list(dict.fromkeys(setting for setting, _ in results))
    figure = matplotlib.figure.Figure(
        figsize=(6 * len(settings), 8), layout="constrained"
    )
    axes = figure.subplots(2, len(settings), squeeze=False)
    for column, setting in enumerate(settings):
        above, below = axes[:, column]
        for (of, method), runs in results.items():
            if of != setting:
                continue
            mean, width = summary(runs)
            steps = runs[0]["steps"]
            style = "-" if method.startswith("sigma") else "--"
            line = plots.band(above, steps, mean, width, method, linestyle=style)
            if len(runs[0]["scales"]):
                scales = np.array([found["scales"] for found in runs])
                below.errorbar(
                    range(scales.shape[1]),
                    scales.mean(0),
                    yerr=[
                        scales.mean(0) - scales.min(0),
                        scales.max(0) - scales.mean(0),
                    ],
                    fmt="o-",
                    capsize=3,
                    label=method,
                    color=line.get_color(),
                )
                below.set_xticks(range(scales.shape[1]), runs[0]["modules"])
        above.set(title=setting, xlabel="adaptation steps", ylabel="accuracy")
        above.legend(fontsize=8)
        below.set(yscale="log", ylabel="learned scale σ, mean and range of seeds")
        below.tick_params(axis="x", rotation=45)
        below.legend(fontsize=8)
        for each in (above, below):
            each.grid(alpha=0.25)
            each.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main(_):
    out = pathlib.Path(FLAGS.out)
    methods = FLAGS.methods or list(METHODS)
    unknown = sorted(set(methods) - set(METHODS))
    if unknown:
        sys.exit(
            f"long_adaptation: error: expected methods of {list(METHODS)}, got "
            f"{unknown}"
        )
    data = parts()
    results = {}
    for setting in FLAGS.settings:
        for method in methods:
            for seed in map(int, FLAGS.seeds):
                print(f"{setting}, {method}, seed {seed}:", flush=True)
                found = run(setting, method, seed, data, out)
                results.setdefault((setting, method), []).append(found)

    table = rich.table.Table(
        title=f"{WAYS} characters of an unseen alphabet, {SHOTS} drawings each, "
        f"batches of {BATCH}; accuracy over {FLAGS.test_tasks} tasks (seed 20000) of "
        f"each of {len(FLAGS.seeds)} training seeds, 95% intervals, inductive"
    )
    for title in (
        "setting",
        "method",
        "best here (at step)",
        f"at {STEPS}",
        "at 200",
    ):
        table.add_column(title)
    for (setting, method), runs in results.items():
        mean, width = summary(runs)
        steps = runs[0]["steps"].tolist()
        best, last, beyond = int(mean.argmax()), steps.index(STEPS), len(steps) - 1
        cells = [f"{mean[i]:.2%} ± {width[i]:.2%}" for i in (best, last, beyond)]
        cells[0] += f" ({steps[best]})"
        table.add_row(setting, method, *cells)
    rich.console.Console(width=140).print(table)
    with (out / "curves.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["setting", "method", "steps", "accuracy", "accuracy_95"])
        for key, runs in results.items():
            rows = zip(runs[0]["steps"], *summary(runs), strict=True)
            writer.writerows([*key, *row] for row in rows)
    draw(results, out / "curves.png")
    print(f"wrote {out / 'curves.csv'} and {out / 'curves.png'}")


if __name__ == "__main__":
    km.runtime.configure()
    app.run(main)
