"""A hundred inner steps on Omniglot alphabets, with and without learned shrinkage.

    python tools/experiments/long_adaptation.py --out=runs/long

A task has 20 characters of one alphabet, not rotated, and five support drawings of each
character. Inner steps use mini-batches. Each method has the same number of candidate
settings: the inner rate and, if the method has a prior, its scale. Short trainings
choose a candidate on validation alphabets. The chosen candidate is trained with three
seeds. It is scored by step on tasks of test alphabets, the same for every method and
seed. A sigma form is better than another method if the interval of paired differences
lies above zero for every seed. Normalization is inductive.

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

# A sigma form, and the method that it is compared with.
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
    flags.DEFINE_string("out", "runs/long", "Folder for the runs.")
    flags.DEFINE_list("methods", None, "Methods to train: names in the table.")
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
    flags.DEFINE_bool("estimate", False, "Print the remaining hours and exit.")


def validation_rows(runs, out):
    """Yields rows of the validation curves of all runs."""
    for run in runs:
        for row in long_runs.log(run, out):
            accuracy = {key: row[f"val_{key}"] for key in ("accuracy", "accuracy_95")}
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
            key = {"method": run.method, "seed": run.seed, "module": str(module)}
            yield {**key, "scale": float(scale), "w": float(w)}


def differences(scored):
    """Yields rows of the paired differences of `PAIRS`, by seed."""
    index = long_runs.SCORED.index(long_runs.STEPS)
    accuracies = {
        (run.method, run.seed): arrays["right"][index] for run, arrays in scored.items()
    }
    seeds = sorted({seed for _, seed in accuracies})
    for method, baseline in PAIRS:
        pairs = [
            intervals.summary(
                intervals.difference(
                    accuracies[method, seed], accuracies[baseline, seed]
                )
            )
            for seed in seeds
            if (method, seed) in accuracies and (baseline, seed) in accuracies
        ]
        verdict = intervals.over_seeds(pairs)
        for seed, (mean, interval) in zip(seeds, pairs, strict=False):
            points = {"points": 100 * mean, "points_95": 100 * interval}
            row = {
                "method": method,
                "against": baseline,
                "seed": seed,
                "steps": long_runs.STEPS,
            }
            yield {**row, **points, "verdict": verdict}


def draw(scored):
    """Draws the mean accuracy of all seeds by step, and w of each module and seed.

    The band is the 95% interval over tasks; it excludes the variation of seeds.
    """
    figure = matplotlib.figure.Figure(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method in dict.fromkeys(run.method for run in scored):
        by_seed = [arrays for run, arrays in scored.items() if run.method == method]
        # All seeds are scored on the same tasks, which are the samples.
        accuracy = np.mean([arrays["right"] for arrays in by_seed], axis=0)
        plain = method.removeprefix("sigma-")
        colour = COLOURS.get(plain, "#8a8a8a")
        style = {"color": colour, "linestyle": ":" if method == plain else "-"}
        plots.band(
            left, long_runs.SCORED, *intervals.summaries(accuracy.T), method, **style
        )
        for arrays in by_seed:
            if len(arrays["w"]):
                positions = range(len(arrays["w"]))
                right.plot(arrays["w"], positions, "o", color=colour, alpha=0.7)
                right.set_yticks(positions, map(str, arrays["modules"]))
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


def report(scored, runs, frozen, out):
    """Writes and prints all results."""
    results.write_csv(out / "validation.csv", list(validation_rows(runs, out)))
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


def choose(candidates, data, out, print_estimate):
    """Trains the candidates; returns `{method: index of the best candidate}`."""
    accuracy = collections.defaultdict(list)
    for number, run in enumerate(candidates, start=1):
        settings = long_runs.settings_of(run)
        print(f"candidate {number} of {len(candidates)}: {run.method}, {settings}")
        accuracy[run.method].append(long_runs.train(run, data, out))
        print_estimate()
    chosen = {method: int(np.argmax(scores)) for method, scores in accuracy.items()}
    for method, index in chosen.items():
        best = accuracy[method][index]
        print(f"{method}: {long_runs.METHODS[method][2][index]}, validation {best:.2%}")
    return chosen


def main(out):
    methods = results.chosen("methods", long_runs.METHODS)
    seeds = list(map(int, FLAGS.seeds))
    data = long_runs.parts()
    clock = long_runs.Clock(methods, data, out)
    candidates, chosen = long_runs.candidate_runs(methods), {}

    def print_estimate():
        runs = [(run, False) for run in candidates]
        runs += [(run, True) for run in long_runs.final_runs(methods, seeds, chosen)]
        hours = sum(clock.seconds(run, final) for run, final in runs) / 3600
        print(f"about {hours:.1f} hours left on an idle machine", flush=True)

    print_estimate()
    if FLAGS.estimate:
        return
    chosen.update(choose(candidates, data, out, print_estimate))
    scored, final_runs = {}, long_runs.final_runs(methods, seeds, chosen)
    for number, run in enumerate(final_runs, start=1):
        print(f"run {number} of {len(final_runs)}: {run.method}, seed {run.seed}")
        long_runs.train(run, data, out)
        scored[run] = long_runs.score(run, data, out)
        print_estimate()
    frozen = []
    for run in final_runs:
        if run.method.startswith("sigma") and run.seed == long_runs.CHOICE_SEED:
            frozen += long_runs.freeze(run, data, out)
    report(scored, [*candidates, *final_runs], frozen, out)


if __name__ == "__main__":
    define_flags()
    results.start(main)
