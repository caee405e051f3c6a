"""`keras-meta demo`: from a pretrained model to one that serves, on a new task."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

import keras_meta as km
from keras_meta import plots, zoo
from keras_meta.zoo import console, grids, predictions, recipes

GLYPHS = "maml.glyphs_5w1s-inductive"
OMNIGLOT = "maml.omniglot_5w1s-inductive"
QUERIES = 15  # of each class, as the zoo's figures have it
# Of each class, to fine-tune on: adapting has used the first of them.
DRAWINGS = 5
EPOCHS = 10

# Float32 sums in another order, on other threads, agree to about 1e-6.
TOLERANCE = 1e-4

# What a server does: TensorFlow alone, no keras_meta.
RELOAD = """
import sys
import numpy as np
import tensorflow as tf
path, task, answer = sys.argv[1:]
serve = tf.saved_model.load(path).signatures["serving_default"]
outputs = serve(**{name: tf.constant(value) for name, value in np.load(task).items()})
assert "keras_meta" not in sys.modules
np.save(answer, outputs["probabilities"])
"""


def run(out, seed=0, began=None):
    """Learns a task of unseen classes, fine-tunes, exports, and checks the export.

    Args:
        out: folder that gets demo.png and served/<name>/<version>/.
        seed: of the task.
        began: when the command did; now by default.

    Returns:
        0, or 1 if the exported model answers otherwise than the one it was made from.

    Raises:
        ValueError: the model is not there.
        OSError: `out` cannot be written.
    """
    began = began or time.time()
    say = console.console()
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)

    learner, card, pool = _classes(seed)
    task = pool.episodes(card.ways, DRAWINGS, QUERIES, seed)
    episode, query_y = (
        tf.nest.map_structure(np.asarray, part) for part in next(iter(task))
    )
    all_x, all_y = episode["support_x"], episode["support_y"]
    query_x = episode["query_x"]
    first = grids.first(episode, card.ways, card.shots)
    support_x, support_y = first["support_x"].numpy(), first["support_y"].numpy()
    say.print(f"{card.name}, pretrained on {card.data.split(':')[0]}", style="bold")
    say.print(
        f"A new task (seed {seed}): {card.ways} characters it has never seen, "
        f"{card.shots} drawing of each to learn from, {QUERIES} to classify."
    )

    state = learner.adapt(support_x[None], support_y[None])
    logits = learner.infer(state, query_x[None])
    probabilities = tf.nn.softmax(logits).numpy()[0]
    names = [chr(ord("A") + label) for label in range(card.ways)]
    guesses = probabilities.argmax(axis=1)
    say.print(
        console.confusion(predictions.confused(query_y, guesses, card.ways), names)
    )
    say.print(f"Accuracy: {np.mean(guesses == query_y):.1%}", style="bold")

    figure = plots.predictions(
        1 - support_x, support_y, 1 - query_x, probabilities, names, query_y
    )
    console.save(figure, out / "demo.png")
    say.print(f"Picture: {out / 'demo.png'}")

    model = km.finetune(learner, support_x, support_y)
    before = model.evaluate(query_x, query_y, verbose=0, return_dict=True)
    model.fit(all_x, all_y, epochs=EPOCHS, verbose=0)
    after = model.evaluate(query_x, query_y, verbose=0, return_dict=True)
    say.print(
        f"Fine-tuned with Keras fit on {DRAWINGS} drawings of each, {EPOCHS} epochs: "
        f"on the {len(query_y)} to classify, loss {before['loss']:.3f} -> "
        f"{after['loss']:.3f}, accuracy {before['accuracy']:.1%} -> "
        f"{after['accuracy']:.1%}"
    )

    path = km.export(learner, out / "served" / card.name)
    say.print(f"Exported: {path}")
    request = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    difference = np.abs(_served(path, request) - probabilities).max()
    same = difference <= TOLERANCE
    say.print(
        "Reloaded in a fresh process, without keras-meta: "
        f"{'the same' if same else 'OTHER'} answers (largest difference "
        f"{difference:.1e})"
    )
    say.print(f"Done in {time.time() - began:.0f} seconds.", style="dim")
    return 0 if same else 1


def _classes(seed):
    """A learner, its card, and a pool of classes that it has never seen."""
    trained = [card.name for card in zoo.list_models()]
    if OMNIGLOT in trained and _omniglot_is_prepared():
        card = zoo.card(OMNIGLOT)
        ids = card.test_classes
    else:
        card = zoo.card(GLYPHS)
        # Drawing takes time: no more than the task needs.
        ids = np.random.RandomState(seed).choice(
            card.test_classes, card.ways, replace=False
        )
    learner = zoo.load(card.name)
    source = recipes.recipe(card.name).task.source
    return learner, card, source.load(learner.preprocess, ids)


def _omniglot_is_prepared():
    # TFDS asks the network about data that it does not find, so look for it first.
    home = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    if not list(pathlib.Path(home).expanduser().glob("omniglot/*/dataset_info.json")):
        return False
    import tensorflow_datasets as tfds

    return tfds.builder("omniglot").is_prepared()


def _served(path, request):
    """The answers `[Q, N]` of an exported model, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        task, answer = f"{folder}/task.npz", f"{folder}/answer.npy"
        np.savez(task, **{name: value[None] for name, value in request.items()})
        command = [sys.executable, "-c", RELOAD, str(path.resolve()), task, answer]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the exported model cannot be served:\n{done.stderr}")
        return np.load(answer)[0]
