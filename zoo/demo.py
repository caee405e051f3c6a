"""`keras-meta demo`: learns, fine-tunes and exports, on a new task."""

import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import tensorflow as tf

import keras_meta as km
from keras_meta import plots, zoo
from keras_meta.zoo import console, downloads, grids, predictions, recipes

GLYPHS = "maml.glyphs_5w1s-inductive"
OMNIGLOT = "maml.omniglot_5w1s-inductive"
QUERIES = 15  # of each class, as for the zoo's figures
# Support examples of each class for fine-tuning; adaptation uses the first of them.
DRAWINGS = 5
EPOCHS = 10

# Float32 sums in another order, on other threads, differ by about 1e-6.
TOLERANCE = 1e-4

# The work of a server, with TensorFlow alone.
RELOAD = """
import sys
import numpy as np
import tensorflow as tf
path, task, result = sys.argv[1:]
serve = tf.saved_model.load(path).signatures["serving_default"]
outputs = serve(**{name: tf.constant(value) for name, value in np.load(task).items()})
assert "keras_meta" not in sys.modules
np.save(result, outputs["probabilities"])
"""


def run(out, seed=0, began=None):
    """Learns a task of unseen classes, fine-tunes, exports, and checks the export.

    Args:
        out: folder that receives demo.png and served/<name>/<version>/.
        seed: of the task.
        began: the time at which the command began; by default now.

    Returns:
        0, or 1 if the predictions of the exported model differ from the learner's.

    Raises:
        ValueError: no such model.
        OSError: `out` cannot be written.
    """
    began = began or time.time()
    screen = console.console()
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
    screen.print(f"{card.name}, pretrained on {card.data.split(':')[0]}", style="bold")
    screen.print(
        f"A new task (seed {seed}): {card.ways} unseen characters, {card.shots} "
        f"drawing of each as support example, {QUERIES} as queries."
    )

    state = learner.adapt(support_x[None], support_y[None])
    logits = learner.infer(state, query_x[None])
    probabilities = tf.nn.softmax(logits).numpy()[0]
    names = [chr(ord("A") + label) for label in range(card.ways)]
    guesses = probabilities.argmax(axis=1)
    screen.print(
        console.confusion(predictions.confused(query_y, guesses, card.ways), names)
    )
    screen.print(f"Accuracy: {np.mean(guesses == query_y):.1%}", style="bold")

    figure = plots.predictions(
        1 - support_x, support_y, 1 - query_x, probabilities, names, query_y
    )
    console.save(figure, out / "demo.png")
    screen.print(f"Picture: {out / 'demo.png'}")

    model = km.finetune(learner, support_x, support_y)
    before = model.evaluate(query_x, query_y, verbose=0, return_dict=True)
    model.fit(all_x, all_y, epochs=EPOCHS, verbose=0)
    after = model.evaluate(query_x, query_y, verbose=0, return_dict=True)
    screen.print(
        f"Fine-tuned with Keras fit on {DRAWINGS} drawings of each, {EPOCHS} epochs: "
        f"on the {len(query_y)} queries, loss {before['loss']:.3f} -> "
        f"{after['loss']:.3f}, accuracy {before['accuracy']:.1%} -> "
        f"{after['accuracy']:.1%}"
    )

    path = km.export(learner, out / "served" / card.name)
    screen.print(f"Exported: {path}")
    request = {"support_x": support_x, "support_y": support_y, "query_x": query_x}
    difference = np.abs(_served(path, request) - probabilities).max()
    same = difference <= TOLERANCE
    screen.print(
        "Reloaded in a fresh process, without keras-meta: "
        f"{'the same' if same else 'OTHER'} predictions (largest difference "
        f"{difference:.1e})"
    )
    screen.print(f"Done in {time.time() - began:.0f} seconds.", style="dim")
    return 0 if same else 1


def _classes(seed):
    """A learner, its card, and a pool of unseen classes."""
    trained = [card.name for card in zoo.list_models()]
    if OMNIGLOT in trained and _omniglot_is_prepared():
        card = zoo.card(OMNIGLOT)
        ids = card.test_classes
    else:
        card = zoo.card(GLYPHS)
        # Drawing takes time: only the classes of the task.
        ids = np.random.RandomState(seed).choice(
            card.test_classes, card.ways, replace=False
        )
    learner = zoo.load(card.name)
    source = recipes.recipe(card.name).task.source
    return learner, card, source.load(learner.preprocess, ids)


def _omniglot_is_prepared():
    # TFDS queries the network for data that it lacks, so look for the files first.
    if not downloads.is_prepared("omniglot"):
        return False
    import tensorflow_datasets as tfds

    return tfds.builder("omniglot").is_prepared()


def _served(path, request):
    """The predictions `[Q, N]` of an exported model, computed in a new process."""
    with tempfile.TemporaryDirectory() as folder:
        task, result = f"{folder}/task.npz", f"{folder}/result.npy"
        np.savez(task, **{name: value[None] for name, value in request.items()})
        command = [sys.executable, "-c", RELOAD, str(path.resolve()), task, result]
        process = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        if process.returncode:
            raise RuntimeError(
                f"the exported model cannot be served:\n{process.stderr}"
            )
        return np.load(result)[0]
