"""Writes the zoo as one model repository of TensorFlow Serving.

    python tools/export_zoo.py served [--models=NAME,NAME]

served/<name>/<version>/ for each entry; served/models.config, served/batching.config
and served/docker-compose.yml, which starts a server of them all (`docker compose up`).
A model that is there already gets a new version.
"""

import os
import pathlib
import sys
import warnings

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import rich.progress
from absl import app, flags

import keras_meta as km
from keras_meta import zoo

FLAGS = flags.FLAGS
flags.DEFINE_list("models", None, "Entries to export; all by default.")

MODEL = """  config {{
    name: "{name}"
    base_path: "/models/{name}"
    model_platform: "tensorflow"
  }}
"""
# Tasks of equal sizes are joined along T. Padding would add examples to a support set.
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


def main(arguments):
    if len(arguments) != 2:
        sys.exit("export_zoo: error: expected one folder, such as `served`.")
    folder = pathlib.Path(arguments[1])
    try:
        names = FLAGS.models or [card.name for card in zoo.list_models()]
        for name in names:
            zoo.card(name)  # all are known before any is written
        for name in rich.progress.track(names, "exporting"):
            learner = zoo.load(name)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # said beside the path
                path = km.export(learner, folder / name)
            transductive = learner.normalization == "transductive"
            risk = "transductive: an answer depends on the other queries of its request"
            print(path, *([f"({risk})"] if transductive else []))
    except (ValueError, OSError) as error:
        sys.exit(f"export_zoo: error: {error}")
    served = sorted(path.parent.name for path in folder.glob("*/model.keras"))
    configs = "".join(MODEL.format(name=name) for name in served)
    for name, text in (
        ("models.config", f"model_config_list {{\n{configs}}}\n"),
        ("batching.config", BATCHING),
        ("docker-compose.yml", COMPOSE),
    ):
        draft = folder / f".{name}.draft"
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, folder / name)
    print(
        f"{len(served)} models; start a server with: cd {folder} && docker compose up"
    )


if __name__ == "__main__":
    app.run(main)
