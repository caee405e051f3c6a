"""Scores a zoo entry on replayable episodes of classes it has never seen.

    python tools/evaluate.py --model=maml.omniglot_5w1s --episodes=1000
    python tools/evaluate.py --model=protonet.lake --protocol=lake

With --protocol=lake: twenty characters of one alphabet, of one drawer to learn from and
of another to ask about, from the evaluation alphabets.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags

import keras_meta as km
from keras_meta.zoo import lake, scores

FLAGS = flags.FLAGS
flags.DEFINE_string("model", None, "Name of the entry.", required=True)
flags.DEFINE_integer("episodes", 1000, "How many tasks.")
flags.DEFINE_integer("ways", None, "Classes in a task; as trained by default.")
flags.DEFINE_integer("shots", None, "Support examples a class; as trained by default.")
flags.DEFINE_integer("queries", None, "Queries a class (points): 15 (100) by default.")
flags.DEFINE_enum("protocol", "zoo", ["zoo", "lake"], "How tasks are made.")
flags.DEFINE_integer("seed", 0, "Seed of the tasks.")


def main(_):
    try:
        if FLAGS.protocol == "lake":
            if FLAGS.ways or FLAGS.shots or FLAGS.queries:
                raise ValueError("expected no ways, shots, queries with the protocol.")
            score = lake.evaluate(FLAGS.model, FLAGS.episodes, FLAGS.seed)
        else:
            score = scores.evaluate(
                FLAGS.model,
                FLAGS.episodes,
                FLAGS.ways,
                FLAGS.shots,
                FLAGS.queries,
                FLAGS.seed,
            )
    except ValueError as error:
        sys.exit(f"evaluate: error: {error}")
    print(
        f"{score['model']}: {scores.sentence(score)} (95% interval over "
        f"{score['episodes']} tasks, seed {score['seed']}; ways {score['ways']}, shots "
        f"{score['shots']}, queries {score['queries']}, {score['normalization']}; "
        f"{1000 * score['seconds']:.1f} ms a task)"
    )


if __name__ == "__main__":
    km.runtime.configure()
    app.run(main)
