"""Accuracy by epoch of fine-tuning on one example a class.

    python tools/experiments/finetuning.py --out=runs/finetuning

`km.finetune` starts from the adapted weights. An epoch of its `fit` over the whole
support set equals one more inner step (under the learned prior, for a shrinkage
learner); a test verifies this. A learner with E more evaluation steps therefore has the
accuracy after E epochs, computed for many test tasks at once. The results are a table,
a picture and a CSV file.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import results
from results import FLAGS

from keras_meta import plots, zoo
from keras_meta.zoo import recipes

MODELS = ["maml.omniglot_5w1s", "meta_sgd.omniglot_5w1s", "sigma_maml.omniglot_5w1s"]
EPOCHS = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500)
BATCH = 20


def curve(name):
    """Returns accuracy and half-width of its 95% interval in percent, `[2, E]`."""
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
    adaptation_steps, accuracies = learner.evaluation_steps, []
    for epochs in EPOCHS:
        learner.evaluation_steps = adaptation_steps + epochs
        scores = learner.evaluate(data, verbose=0, return_dict=True)
        accuracies.append([100 * scores[key] for key in ("accuracy", "accuracy_95")])
        print(f"{name}: {epochs} epochs, {accuracies[-1][0]:.2f}%", flush=True)
    return np.array(accuracies).T


def main(out):
    try:
        curves = {name: curve(name) for name in FLAGS.models}
    except ValueError as error:
        results.stop(error)
    normalizations = ", ".join(
        f"{name} {zoo.card(name).normalization}" for name in curves
    )
    results.show(
        f"Accuracy (%) after epochs of fine-tuning, {FLAGS.tasks} test tasks, seed "
        f"{FLAGS.seed}, 95% intervals; {normalizations}",
        ["model", *EPOCHS],
        [
            [name, *(f"{mean:.2f}\n±{width:.2f}" for mean, width in columns.T)]
            for name, columns in curves.items()
        ],
    )
    figure = plots.curves(
        {name: (EPOCHS, *columns) for name, columns in curves.items()},
        "epochs of fine-tuning",
        "accuracy on queries (%)",
        log=True,
    )
    results.write_picture(out / "finetuning.png", figure)
    rows = [
        {"model": name, "epochs": epochs, "accuracy": mean, "accuracy_95": width}
        for name, columns in curves.items()
        for epochs, mean, width in zip(EPOCHS, *columns, strict=True)
    ]
    results.write_csv(out / "finetuning.csv", rows)


if __name__ == "__main__":
    results.define_flags("finetuning", 200, models=MODELS)
    results.start(main)
