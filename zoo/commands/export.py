"""`keras-meta export`."""

import pathlib
import sys
import warnings

from keras_meta import zoo
from keras_meta.zoo import atomic, cards, console, facts, named

HELP = "write an entry, or all, as SavedModels that adapt"
DESCRIPTION = """\
Writes an entry, or a learner that you saved, as a SavedModel for TensorFlow
Serving in DIR/NAME/<version>/, if its predictions for one random task are
those of the learner:

  keras-meta export maml.omniglot_5w1s-inductive served
  keras-meta export mine.keras served

Writes all entries with stored weights into one folder for a server, with
models.config, batching.config and a docker-compose.yml that starts a server
for all of them (`docker compose up` in DIR):

  keras-meta export --all served

A model that exists gets a new version.
"""

MODEL = """  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
"""
# The server joins tasks of equal sizes along T. Padding would add support examples.
BATCHING = """max_batch_size { value: 16 }
batch_timeout_micros { value: 1000 }
num_batch_threads { value: 2 }
pad_variable_length_inputs: false
"""
COMPOSE = """services:
  models:
    image: tensorflow/serving
    ports: ["8500:8500", "8501:8501"]
    volumes: [".:/models"]
    command:
      - --model_config_file=/models/models.config
      - --enable_batching=true
      - --batching_parameters_file=/models/batching.config
"""
# Float32 sums in another order differ by about 1e-6; inner steps enlarge that.
TOLERANCE = 1e-3


def add(parser):
    console.add_name(
        parser, "an entry of `keras-meta list`; or FILE.keras, a learner", nargs="?"
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="all entries with stored weights, without NAME",
    )
    parser.add_argument(
        "directory", metavar="DIR", type=pathlib.Path, help="receives NAME/<version>/"
    )


def run(arguments, output):
    if arguments.all == (arguments.name is not None):
        raise ValueError("expected the NAME of an entry or --all, and not both.")
    folder = arguments.directory
    if arguments.all:
        names = [card.name for card in cards.stored()]
        for sentence in facts.skipped():
            print(f"keras-meta: {sentence}", file=sys.stderr)
    else:
        named.check(arguments.name)
        names = [arguments.name]
    console.start()
    one = None if arguments.all else named.learner(arguments.name)
    failed = []
    for name in names:
        try:
            with output.status(f"exporting {name}"):
                learner = one or zoo.load(name)
                path = _export(learner, name, folder / named.short(name))
        except OSError:  # a full disk, on which all exports fail
            raise
        except Exception as error:
            failed.append(name)
            sentence = " ".join(str(error).split()) or type(error).__name__
            print(f"keras-meta: error: {name}: {sentence}", file=sys.stderr)
        else:
            output.print(str(path))
    if arguments.all:
        _repository(folder, output)
    if failed and arguments.all:
        print(f"keras-meta: failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def _export(learner, name, base):
    """Exports a learner if the SavedModel gives the learner's predictions.

    Returns:
        The path of the new version.

    Raises:
        ValueError: the SavedModel gives other predictions; no version is written.
    """
    from keras_meta import saved_model

    def check(path):
        difference = _difference(learner, path)
        if not difference <= TOLERANCE:
            raise ValueError(
                f"expected the export to give the predictions of {name}, got others: "
                f"the largest difference is {difference:.1e}; {base} is left unchanged."
            )

    with warnings.catch_warnings(record=True) as recorded:
        warnings.simplefilter("always", UserWarning)
        path = saved_model.checked_export(learner, base, None, None, check)
    for warning in recorded:
        if warning.category is UserWarning:  # others are for developers
            console.warn(f"{name}: {warning.message}")
    return path


def _difference(learner, path):
    """The largest difference of predictions for a random task.

    It is relative for predictions of a magnitude above one.
    """
    import numpy as np
    import tensorflow as tf

    from keras_meta import probes

    episode, _ = probes.random_episode(learner)
    served = tf.saved_model.load(str(path)).signatures["serving_default"]
    outputs = served(**episode)
    state = learner.adapt(episode["support_x"], episode["support_y"])
    expected = learner.infer(state, episode["query_x"])
    if learner.classification:
        predicted, expected = outputs["probabilities"], tf.nn.softmax(expected)
    else:
        predicted = outputs["mean"]
        expected = expected[0] if isinstance(expected, tuple) else expected
    expected = np.asarray(expected, "float64")
    return np.max(np.abs(predicted - expected) / np.maximum(np.abs(expected), 1))


def _repository(folder, output):
    """Writes the configuration of a server for all models in a folder."""
    served = sorted(path.parent.name for path in folder.glob("*/model.keras"))
    configs = "".join(MODEL.format(name=name) for name in served)
    for name, text in (
        ("models.config", f"model_config_list {{\n{configs}}}\n"),
        ("batching.config", BATCHING),
        ("docker-compose.yml", COMPOSE),
    ):
        atomic.write_text(folder / name, text)
    output.print(
        f"{len(served)} models; start a server with: cd {folder} && docker compose up"
    )
