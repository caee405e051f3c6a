"""Does fine-tuning over-fit one example a class? Accuracy by epoch: table and picture.

    python tools/experiments/finetuning.py --out=runs/finetuning

`km.finetune` starts from the adapted weights, and an epoch of its `fit` over the whole
support set is one more inner step (under the learned prior, for a shrinkage learner): a
test shows it. So accuracy after so many epochs is that of a learner with so many more
evaluation steps, which is computed here for many tasks at once. Test characters.
"""

import csv
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import rich.console
import rich.table
from absl import app, flags

import keras_meta as km
from keras_meta import plots, zoo
from keras_meta.zoo import recipes

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/finetuning", "Folder of the table and the picture.")
flags.DEFINE_list(
    "models",
    ["maml.omniglot_5w1s", "meta_sgd.omniglot_5w1s", "sigma_maml.omniglot_5w1s"],
    "Entries to fine-tune.",
)
flags.DEFINE_integer("tasks", 200, "Test tasks, the same for all entries.")
flags.DEFINE_integer("seed", 0, "Seed of the tasks.")

EPOCHS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
BATCH = 20


def curve(name):
    """Accuracy and half-width of its 95% interval by epoch, in percent, `[2, E]`."""
    learner, card = zoo.load(name), zoo.card(name)
    task = recipes.recipe(name).task
    data = task.test_episodes(
        learner.preprocess,
        card.test_classes,
        card.ways,
        card.shots,
        task.test_queries,
        FLAGS.seed,
    )
    data = data.take(FLAGS.tasks).batch(BATCH).cache()
    adapted, found = learner.evaluation_steps, []
    for epochs in EPOCHS:
        learner.evaluation_steps = adapted + epochs
        scores = learner.evaluate(data, verbose=0, return_dict=True)
        found.append([100 * scores[key] for key in ("accuracy", "accuracy_95")])
        print(f"{name}: {epochs} epochs, {found[-1][0]:.2f}%", flush=True)
    return np.array(found).T


def main(_):
    out = pathlib.Path(FLAGS.out)
    out.mkdir(parents=True, exist_ok=True)
    try:
        found = {name: curve(name) for name in FLAGS.models}
    except ValueError as error:
        sys.exit(f"finetuning: error: {error}")
    table = rich.table.Table(
        title=f"Accuracy (%) after epochs of fine-tuning, {FLAGS.tasks} test tasks, "
        f"seed {FLAGS.seed}, 95% intervals; "
        + ", ".join(f"{name} {zoo.card(name).normalization}" for name in found)
    )
    table.add_column("model")
    for epochs in EPOCHS:
        table.add_column(str(epochs), justify="right")
    for name, (means, widths) in found.items():
        cells = [f"{m:.2f}\n±{w:.2f}" for m, w in zip(means, widths, strict=True)]
        table.add_row(name, *cells)
    rich.console.Console(width=160).print(table)
    figure = plots.curves(
        {name: (EPOCHS, *columns) for name, columns in found.items()},
        "epochs of fine-tuning",
        "accuracy on queries (%)",
        log=True,
    )
    figure.savefig(out / "finetuning.png", dpi=120)
    with (out / "finetuning.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["model", "epochs", "accuracy", "accuracy_95"])
        for name, columns in found.items():
            for row in zip(EPOCHS, *columns, strict=True):
                writer.writerow([name, *row])
    print(f"wrote {out / 'finetuning.csv'} and {out / 'finetuning.png'}")


if __name__ == "__main__":
    km.runtime.configure()
    app.run(main)
