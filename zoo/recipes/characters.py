"""Sources and tasks of drawn characters: Omniglot and procedural glyphs."""

import dataclasses

from keras_meta.zoo.recipes import protocols, sources


def _glyphs(preprocess, ids):
    import keras_meta as km

    return km.tasks.glyphs(1300 if ids is None else ids, prepare=preprocess)


CHARACTERS = (
    "Omniglot (TFDS omniglot, train+test): 1100 characters to train, 100 to validate, "
    "423 to test, drawn with seed 0 over all 1623; 28x28"
)
TURNS = "; quarter turns as new classes while training"
OMNIGLOT = sources.Source(
    "omniglot",
    "Omniglot",
    CHARACTERS + TURNS,
    "MIT, Brenden Lake",
    (1100, 100, 423),
    sources.tfds("omniglot"),
)
GLYPHS = sources.Source(
    "glyphs",
    "procedural glyphs",
    "procedural glyphs (keras_meta.tasks.glyphs, seed 0): 1000 characters to train, "
    "100 to validate, 200 to test; 28x28" + TURNS,
    "Apache-2.0, drawn by this project's own code",
    (1000, 100, 200),
    _glyphs,
    procedural=True,
)


def _lake(split, *sizes):
    """A source that trains on the alphabets of one of Omniglot's background splits."""
    train, validation = sizes
    return sources.Alphabets(
        f"omniglot-{split}-alphabets",
        "Omniglot",
        f"Omniglot (TFDS omniglot, {split}): {train} alphabets to train, {validation} "
        "to validate, drawn with seed 0; the twenty evaluation alphabets to test"
        + TURNS,
        "MIT, Brenden Lake",
        (*sizes, len(sources.EVALUATION)),
        sources.tfds("omniglot", split),
    )


BACKGROUND = _lake("train", 27, 3)
SMALL1 = _lake("small1", 4, 1)
SMALL2 = _lake("small2", 4, 1)

LARGE_ALPHABETS = sources.LargeAlphabets(
    "omniglot-large-alphabets",
    "Omniglot",
    "Omniglot (TFDS omniglot, train+test): alphabets of 20 or more characters, 10 to "
    "train, 5 to validate, 10 to test, drawn with seed 0; a task has characters of one "
    "alphabet; 28x28",
    "MIT, Brenden Lake",
    (10, 5, 10),
    sources.tfds("omniglot"),
)

OMNIGLOT_5W1S = protocols.Classification(OMNIGLOT)
OMNIGLOT_20W1S = protocols.Classification(OMNIGLOT, ways=20, queries=3)
# Reptile and its sigma form learn from the direction of adaptation. Over several
# mini-batches it aligns their gradients (section 5.1 of the paper), which takes more
# than one shot.
OMNIGLOT_5W5S_5W1S = protocols.Classification(OMNIGLOT, training_shots=5)
OMNIGLOT_5W10S_5W1S = protocols.Classification(OMNIGLOT, training_shots=10)
ALPHABETS_5W1S = protocols.Classification(BACKGROUND)
GLYPHS_5W1S = protocols.Classification(GLYPHS)

# As Snell et al. train: with more ways than the tests have.
OMNIGLOT_60W_5W1S = protocols.Classification(OMNIGLOT, training_ways=60)
OMNIGLOT_60W_20W1S = protocols.Classification(OMNIGLOT, ways=20, training_ways=60)
GLYPHS_60W_20W1S = protocols.Classification(GLYPHS, ways=20, training_ways=60)

# The variation between drawers, and within the drawings of one.
DRAWN_ANEW = {"affine": {"degrees": 15, "zoom": (0.8, 1.2), "shift": 0.1, "shear": 0.3}}
LAKE_SMALL1, LAKE_SMALL2 = (
    protocols.Classification(source, ways=20, training_ways=60, augment=DRAWN_ANEW)
    for source in (SMALL1, SMALL2)
)
# 27 training alphabets train a larger network: fewer images a step, and more steps.
LAKE = protocols.Classification(
    BACKGROUND,
    ways=20,
    queries=1,
    training_ways=60,
    augment={
        "affine": {"degrees": 10, "zoom": (0.85, 1.15), "shift": 0.07, "shear": 0.2}
    },
)

# Long adaptation: many steps on few images.
ALPHABETS_20W5S = protocols.Classification(
    LARGE_ALPHABETS,
    ways=20,
    shots=5,
    test_queries=5,
    grouped=("train", "validation", "test"),
)

# Sequences with ten presentations of each class.
OMNIGLOT_5W = protocols.Classification(
    OMNIGLOT, shots=10, queries=1, test_queries=5, curriculum=((5, 3, 16_000),)
)
# An encoder with random weights first trains on few classes and short sequences: there
# the learner learns to bind a label to the image of the step before, and a step takes a
# third of the time.
OMNIGLOT_5W_PIXELS = dataclasses.replace(
    OMNIGLOT_5W, curriculum=((2, 3, 16_000), (3, 3, 16_000), (5, 3, 64_000))
)
OMNIGLOT_15W_STRINGS = protocols.Classification(
    OMNIGLOT,
    ways=15,
    shots=10,
    queries=1,
    curriculum=((5, 4, 64_000), (10, 5, 32_000), (15, 4, 64_000), (15, 7, 32_000)),
    test_queries=5,
    labels="strings",
)
