"""A hundred inner steps on Omniglot alphabets, with and without learned shrinkage.

    python tools/experiments/long_adaptation.py --out=runs/long

A task is 20 characters of one alphabet, with five drawings of each to adapt to, in
mini-batches, not rotated. Each method has the same number of candidate settings: the
inner rate and, if it has a prior, its scale. Short trainings choose one on validation
alphabets. The chosen one is trained with three seeds and scored by step on the same
tasks of test alphabets, for every method and seed. A sigma form is better than another
method if the interval of paired differences lies above zero for every seed.
Normalization is inductive.

Each result is stored as soon as it is computed, and a training resumes from its
checkpoint: the same command resumes an interrupted run.
"""

import collections
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import long_runs
import matplotlib.figure
import numpy as np
import results
from absl import flags
from results import FLAGS

from keras_meta import plots
from keras_meta.zoo import intervals

# Each sigma form, and a method that it is compared with.
PAIRS = [
    ("sigma-MAML", "MAML"),
    ("sigma-MAML", "first-order MAML"),
    ("sigma-iMAML", "iMAML"),
    ("sigma-iMAML", "MAML"),
    ("sigma-Reptile", "Reptile"),
    ("sigma-Reptile", "MAML"),
]
COLOURS = {"Reptile": "#009e73", "MAML": "#0072b2", "iMAML": "#d55e00"}


def define_flags():
    flags.DEFINE_string("out", "runs/long", "Folder of the runs.")
    flags.DEFINE_list("methods", None, "Methods to train, by their names in the table.")
    flags.DEFINE_list("seeds", ["0", "1", "2"], "Seeds of weights and training tasks.")
    for name, value, least, text in (
        ("meta_steps", 400, 1, "Meta-steps of each run."),
        ("candidate_steps", 80, 1, "Meta-steps of each candidate."),
        ("every", 40, 1, "Meta-steps between validations."),
        ("tasks", 4, 1, "Tasks in a meta-step."),
        ("validation_tasks", 60, 2, "Validation tasks."),
        ("test_tasks", 200, 2, "Test tasks, the same for all methods."),
        ("filters", 32, 1, "Filters of each convolution."),
    ):
        flags.DEFINE_integer(name, value, text, lower_bound=least)
    flags.DEFINE_bool("estimate", False, "Print the remaining hours, and stop.")


def validation_rows(every, out):
    """The validation curves of all runs."""
    for run in every:
        for row in long_runs.log(run, out):
            accuracy = {k: row[f"val_{k}"] for k in ("accuracy", "accuracy_95")}
            settings = {
                "settings": json.dumps(long_runs.settings_of(run)),
                "step": row["step"],
            }
            yield {**run._asdict(), **settings, **accuracy}


def curve_rows(scored):
    for run, arrays in scored.items():
        for steps, right in zip(long_runs.SCORED, arrays["right"], strict=True):
            mean, interval = intervals.summary(right)
            figures = {"accuracy": mean, "accuracy_95": interval}
            yield {"method": run.method, "seed": run.seed, "steps": steps, **figures}


def share_rows(scored):
    for run, arrays in scored.items():
        columns = arrays["modules"], arrays["scales"], arrays["w"]
        for module, scale, w in zip(*columns, strict=True):
            place = {"method": run.method, "seed": run.seed, "module": str(module)}
            yield {**place, "scale": float(scale), "w": float(w)}


def differences(scored):
    """Paired differences of each sigma form to its plain form and MAML, by seed."""
    right = {
        (run.method, run.seed): arrays["right"][long_runs.SCORED.index(long_runs.STEPS)]
        for run, arrays in scored.items()
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
            row = {
                "method": one,
                "against": two,
                "seed": seed,
                "steps": long_runs.STEPS,
            }
            yield {**row, **points, "verdict": verdict}


def draw(scored):
    """Accuracy by step over all seeds, and w of each module, a point for each seed."""
    figure = matplotlib.figure.Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method in dict.fromkeys(run.method for run in scored):
        mine = [arrays for run, arrays in scored.items() if run.method == method]
        accuracy = np.concatenate([arrays["right"] for arrays in mine], 1)
        plain = method.removeprefix("sigma-")
        colour = COLOURS.get(plain, "#8a8a8a")
        style = {"color": colour, "linestyle": ":" if method == plain else "-"}
        plots.band(
            left, long_runs.SCORED, *intervals.summaries(accuracy.T), method, **style
        )
        for arrays in mine:
            if len(arrays["w"]):
                places = range(len(arrays["w"]))
                right.plot(arrays["w"], places, "o", color=colour, alpha=0.7)
                right.set_yticks(places, map(str, arrays["modules"]))
    left.set(xlabel="adaptation steps", ylabel="accuracy", xscale="symlog")
    left.set_xticks(long_runs.SCORED, long_runs.SCORED)
    right.set(
        xlabel=f"shrinkage factor w at {long_runs.EXAMPLES} examples, a point a seed"
    )
    right.set_xlim(-0.02, 1.02)
    right.invert_yaxis()
    for axes in (left, right):
        results.plain(axes)
    figure.legend(
        *left.get_legend_handles_labels(), loc="outside lower center", ncols=4
    )
    return figure


def report(scored, every, frozen, out):
    """Writes and prints all results."""
    results.write_csv(out / "validation.csv", list(validation_rows(every, out)))
    results.write_csv(out / "curves.csv", list(curve_rows(scored)))
    results.write_csv(out / "shares.csv", list(share_rows(scored)))
    results.write_csv(out / "frozen.csv", frozen)
    rows = list(differences(scored))
    results.write_csv(out / "differences.csv", rows)
    results.show(
        f"Differences of accuracy after {long_runs.STEPS} steps in points, "
        f"{FLAGS.test_tasks} test tasks, 95% intervals",
        ["method", "minus", "seed", "points", "over seeds"],
        [
            [
                *(row["method"], row["against"], row["seed"]),
                results.cell(row["points"], row["points_95"]),
                row["verdict"],
            ]
            for row in rows
        ],
    )
    results.write_picture(out / "curves.png", draw(scored))


def choose(tried, data, out, estimate):
    """Trains the candidates; returns `{method: place of the best candidate}`."""
    accuracy = collections.defaultdict(list)
    for place, run in enumerate(tried, start=1):
        settings = long_runs.settings_of(run)
        print(f"candidate {place} of {len(tried)}: {run.method}, {settings}")
        accuracy[run.method].append(long_runs.train(run, data, out))
        estimate()
    chosen = {method: int(np.argmax(values)) for method, values in accuracy.items()}
    for method, place in chosen.items():
        best = accuracy[method][place]
        print(f"{method}: {long_runs.METHODS[method][2][place]}, validation {best:.2%}")
    return chosen


def main(out):
    methods = results.chosen("methods", long_runs.METHODS)
    seeds = list(map(int, FLAGS.seeds))
    data = long_runs.parts()
    clock = long_runs.Clock(methods, data, out)
    tried, chosen = long_runs.candidates_of(methods), {}

    def estimate():
        every = [(run, False) for run in tried]
        every += [(run, True) for run in long_runs.finals(methods, seeds, chosen)]
        hours = sum(clock.seconds(run, final) for run, final in every) / 3600
        print(f"about {hours:.1f} hours left on an idle machine", flush=True)

    estimate()
    if FLAGS.estimate:
        return
    chosen.update(choose(tried, data, out, estimate))
    scored, queue = {}, long_runs.finals(methods, seeds, chosen)
    for place, run in enumerate(queue, start=1):
        print(f"run {place} of {len(queue)}: {run.method}, seed {run.seed}")
        long_runs.train(run, data, out)
        scored[run] = long_runs.score(run, data, out)
        estimate()
    frozen = []
    for run in queue:
        if run.method.startswith("sigma") and run.seed == long_runs.CHOICE_SEED:
            frozen += long_runs.freeze(run, data, out)
    report(scored, [*tried, *queue], frozen, out)


if __name__ == "__main__":
    define_flags()
    results.start(main)
