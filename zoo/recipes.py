"""Recipes: how each zoo entry is trained. Importing this needs no TensorFlow."""

import dataclasses

from keras_meta.zoo import cards, photos
from keras_meta.zoo.papers import (
    ANIL_PAPER,
    ATTENTION_PAPER,
    CNP_PAPER,
    IMAML_PAPER,
    LSTM_PAPER,
    MAML_PAPER,
    MANN_PAPER,
    META_SGD_PAPER,
    PROTONET_PAPER,
    REPTILE_PAPER,
    SHRINKAGE_PAPER,
)
from keras_meta.zoo.protocols import Classification, Functions, Recipe
from keras_meta.zoo.sources import AUGMENTATION_SEED as AUGMENTATION_SEED
from keras_meta.zoo.sources import EVALUATION, Alphabets, Source
from keras_meta.zoo.sources import PART_SEEDS as PART_SEEDS
from keras_meta.zoo.sources import tfds as _tfds


def _glyphs(preprocess, ids):
    import keras_meta as km

    return km.tasks.glyphs(1300 if ids is None else ids, prepare=preprocess)


CHARACTERS = (
    "Omniglot (TFDS omniglot, train+test): 1100 characters to train, 100 to validate, "
    "423 to test, drawn with seed 0 over all 1623; 28x28"
)
TURNS = "; quarter turns as new classes while training"
OMNIGLOT = Source(
    "omniglot",
    "Omniglot",
    CHARACTERS + TURNS,
    "MIT, Brenden Lake",
    (1100, 100, 423),
    _tfds("omniglot"),
)
GLYPHS = Source(
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
    train, validation = sizes
    return Alphabets(
        f"omniglot-{split}-alphabets",
        "Omniglot",
        f"Omniglot (TFDS omniglot, {split}): {train} alphabets to train, {validation} "
        "to validate, drawn with seed 0; the twenty evaluation alphabets to test"
        + TURNS,
        "MIT, Brenden Lake",
        (*sizes, len(EVALUATION)),
        _tfds("omniglot", split),
    )


BACKGROUND = _lake("train", 27, 3)
SMALL1 = _lake("small1", 4, 1)
SMALL2 = _lake("small2", 4, 1)


def _family(name, **settings):
    def make(pool):
        import keras_meta as km

        return getattr(km.tasks, name)(**settings)

    return make


def _completion(pool):
    import numpy as np

    import keras_meta as km

    images = [pool.images_of(class_id) for class_id in np.unique(pool.class_ids)]
    return km.tasks.completion(np.concatenate(images))


SINUSOID = Functions(
    Source(
        "sinusoid",
        "sinusoids",
        "sinusoids drawn on the fly: amplitude in [0.1, 5], phase in [0, pi], x in "
        "[-5, 5]",
    ),
    _family("sinusoid"),
)


def _drawn(kind, ways=5, normalization="transductive", **settings):
    """Makes learners of 28x28 drawn characters with MAML's network.

    Settings are those of `kind`; by default MAML's in its section 5.2: one inner step
    at rate 0.4 to train, three to test.
    """
    settings = {
        "inner_rate": 0.4,
        "inner_steps": 1,
        "evaluation_steps": 3,
        "normalization": normalization,
        **settings,
    }

    def learner():
        import keras_meta as km

        return getattr(km, kind)(
            km.networks.conv4((28, 28, 1), outputs=ways, momentum=0.0),
            preprocess=km.ImagePreprocess(28, 28, 1, invert=True),
            **settings,
        )

    return learner


def _louder(factor):
    """Makes features so much larger and the head's kernel smaller: equal answers.

    An inner step then moves the answers by `factor**2` of what it did through the
    head, and by as much as it did through all other layers. So weights that were
    learned for a head that adapts at one rate serve for all that adapts at a lower.
    """

    def adjust(learner):
        norm, head = (learner.network.get_layer(name) for name in ("norm4", "head"))
        for variable in (norm.gamma, norm.beta):
            variable.assign(variable * factor)
        head.kernel.assign(head.kernel / factor)

    return adjust


def _sinusoid(kind, **settings):
    def learner():
        import keras_meta as km

        return getattr(km, kind)(
            km.networks.mlp(),
            "mse",
            inner_rate=0.01,
            inner_steps=5,
            evaluation_steps=10,
            **settings,
        )

    return learner


def _encoder(features=64, momentum=0.99, halving="stride"):
    """MAML's network with features for logits, none of its 2x2 places averaged out."""
    import keras_meta as km

    return km.networks.conv4(
        (28, 28, 1), features, momentum=momentum, pooling="none", halving=halving
    )


def _residual_encoder():
    """A residual network narrow enough for drawings of 28x28."""
    import keras_meta as km

    return km.networks.resnet12((28, 28, 1), 128, (32, 64, 96, 128), pooling="none")


def _prototypes(task, steps=15_000, warm_start=None, encoder=_encoder, **settings):
    """The recipe of a prototypical network, whose one task a step is large."""

    def learner():
        import keras_meta as km

        preprocess = km.ImagePreprocess(28, 28, 1, invert=True)
        network = encoder(**settings)
        return km.ProtoNet(network, outputs=60, preprocess=preprocess)

    return Recipe(
        learner,
        task,
        PROTONET_PAPER,
        steps=steps,
        tasks=1,
        warm_start=warm_start,
        intra_op=2,
    )


def _reader(kind, fixed=True, **settings):
    """Makes sequence learners that read the features of an encoder.

    Features are standardized: those of a prototypical network lie far from zero, which
    hides from a recurrent network what differs.

    Args:
        kind: the class of the learner.
        fixed: whether the encoder keeps the weights that it begins with; otherwise it
            is trained with the learner.
        **settings: of the learner.
    """

    def learner():
        import keras

        import keras_meta as km

        encoder = _encoder(64)
        encoder.trainable = not fixed
        standard = keras.layers.BatchNormalization(
            center=False, scale=False, name="standard"
        )
        network = keras.Model(encoder.input, standard(encoder.output))
        preprocess = km.ImagePreprocess(28, 28, 1, invert=True)
        return getattr(km, kind)(network, preprocess=preprocess, **settings)

    return learner


def _class_process(ways):
    def learner():
        import keras_meta as km

        return km.CNP(
            _encoder(128),
            km.networks.mlp((256,), 1, (128, 128)),
            "sparse_categorical_crossentropy",
            outputs=ways,
            preprocess=km.ImagePreprocess(28, 28, 1, invert=True),
        )

    return learner


def _process(d_x, d_y, width=128, preprocess=False, any_units=False, **settings):
    """Makes the CNP of its authors' notebook, of characters if with `preprocess`.

    With `any_units` it takes points in units of their own; places in an image have one.
    """

    def learner():
        import keras_meta as km

        characters = km.ImagePreprocess(28, 28, 1, invert=True)
        return km.CNP(
            km.networks.mlp((d_x + d_y,), width, (width, width, width)),
            km.networks.mlp((width + d_x,), 2 * d_y, (width, width)),
            outputs=d_y,
            preprocess=characters if preprocess else None,
            point_units=km.StandardUnits() if any_units else None,
            **settings,
        )

    return learner


def _functional_lstm(loss, outputs, units, **settings):
    def learner():
        import keras_meta as km

        return km.LSTMLearner(
            example_shape=[2], loss=loss, outputs=outputs, units=units, **settings
        )

    return learner


OMNIGLOT_5W1S = Classification(OMNIGLOT)
OMNIGLOT_20W1S = Classification(OMNIGLOT, ways=20, queries=3)
# Reptile and its sigma form learn from where adapting went: over several mini-batches,
# whose gradients agree after it (the paper's section 5.1), and so more than one shot.
OMNIGLOT_5W5S_5W1S = Classification(OMNIGLOT, training_shots=5)
OMNIGLOT_5W10S_5W1S = Classification(OMNIGLOT, training_shots=10)

# As Snell et al. train: from more ways than are asked for.
OMNIGLOT_60W_5W1S = Classification(OMNIGLOT, training_ways=60)
OMNIGLOT_60W_20W1S = Classification(OMNIGLOT, ways=20, training_ways=60)
GLYPHS_60W_20W1S = Classification(GLYPHS, ways=20, training_ways=60)
# Drawings of other people, and by a slip of the hand.
DRAWN_ANEW = {"affine": {"degrees": 15, "zoom": (0.8, 1.2), "shift": 0.1, "shear": 0.3}}
LAKE_SMALL1, LAKE_SMALL2 = (
    Classification(source, ways=20, training_ways=60, augment=DRAWN_ANEW)
    for source in (SMALL1, SMALL2)
)
# Of thirty alphabets: fewer images a step, and more steps of a larger network.
LAKE = Classification(
    BACKGROUND,
    ways=20,
    queries=1,
    training_ways=60,
    augment={
        "affine": {"degrees": 10, "zoom": (0.85, 1.15), "shift": 0.07, "shear": 0.2}
    },
)
# Sequences of ten presentations of each class.
OMNIGLOT_5W = Classification(
    OMNIGLOT, shots=10, queries=1, test_queries=5, curriculum=((5, 3, 16_000),)
)
# With an encoder that begins at random: binding a label to what came a step before is
# learned from few classes and short sequences, which also take a third of the time.
OMNIGLOT_5W_PIXELS = dataclasses.replace(
    OMNIGLOT_5W, curriculum=((2, 3, 16_000), (3, 3, 16_000), (5, 3, 64_000))
)
OMNIGLOT_15W_STRINGS = Classification(
    OMNIGLOT,
    ways=15,
    shots=10,
    queries=1,
    curriculum=((5, 4, 64_000), (10, 5, 32_000), (15, 4, 64_000), (15, 7, 32_000)),
    test_queries=5,
    labels="strings",
)
BOOLEAN = Functions(
    Source(
        "boolean",
        "Boolean functions of two inputs",
        "Boolean functions of two inputs: all 16, each as likely; inputs uniform",
    ),
    _family("boolean"),
    shots=15,
    queries=1,
    test_queries=4,
    metric="accuracy",
    inputs="points",
)
SEMILINEAR = Functions(
    Source(
        "semilinear",
        "semi-linear functions",
        "semi-linear functions: 0.5 (1 + tanh(w1 x1 + w2 x2 + w3)), w uniform in "
        "[-1, 1], x in [-1, 1]^2",
    ),
    _family("semilinear"),
    shots=35,
    queries=1,
    inputs="points",
)
QUADRATIC = Functions(
    Source(
        "quadratic",
        "quadratic functions",
        "quadratic functions: x in [-1, 1]^2, coefficients uniform in [-1, 1], scaled "
        "to [0.2, 0.8]",
    ),
    _family("quadratic"),
    shots=35,
    queries=1,
    inputs="points",
)
GP_RBF = Functions(
    Source(
        "gp_rbf",
        "Gaussian processes",
        "Gaussian processes: squared-exponential kernel of length 0.4 and scale 1, "
        "noise 0.02, x in [-2, 2]",
    ),
    _family("gaussian_process"),
    shots=9,
    queries=9,
    training_shots=(3, 9),
    block=64,
    metric="nll",
)
COMPLETION = Functions(
    dataclasses.replace(
        OMNIGLOT, id="omniglot-completion", title=CHARACTERS, rotations=False
    ),
    _completion,
    shots=100,
    queries=200,
    training_shots=(1, 200),
    block=16,
    test_queries=500,
    metric="nll",
    inputs="pixels",
)

RECIPES = {
    "maml.omniglot_5w1s": Recipe(
        _drawn("MAML"), OMNIGLOT_5W1S, MAML_PAPER, steps=25_000
    ),
    "maml.omniglot_5w1s-inductive": Recipe(
        _drawn("MAML", normalization="inductive"),
        OMNIGLOT_5W1S,
        MAML_PAPER,
        steps=6_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "maml.omniglot_5w1s-alphabets": Recipe(
        _drawn("MAML"),
        Classification(BACKGROUND),
        MAML_PAPER,
        steps=6_000,
        warm_start="maml.glyphs_5w1s-inductive",
    ),
    "fomaml.omniglot_5w1s": Recipe(
        # Validation after 750 meta-steps: 84.1% with one step of rate 0.4, 82.4% with
        # two of 0.2, 81.5% with three of 0.1. With 16 tasks, 30,000 meta-steps ended at
        # 97.8% ± 0.3% of 500 validation tasks, level over the last 5,000, where
        # second-order MAML has 98.6% ± 0.2%.
        _drawn("FOMAML"),
        OMNIGLOT_5W1S,
        MAML_PAPER,
        steps=40_000,
        tasks=32,
    ),
    "reptile.omniglot_5w1s": Recipe(
        # The authors' settings: ten examples a class, all adapted on; Adam inside.
        _drawn(
            "Reptile",
            inner_optimizer="adam",
            inner_rate=1e-3,
            inner_steps=5,
            inner_batch=10,
            evaluation_steps=50,
            reported_tasks=1,
        ),
        OMNIGLOT_5W5S_5W1S,
        REPTILE_PAPER,
        steps=60_000,
        tasks=5,
        optimizer="sgd",
        rate=1.0,
    ),
    "imaml.omniglot_5w1s": Recipe(
        # Damped, otherwise than by its authors, who solve (1 + d) v + H v / (lambda +
        # 10) = g. From random weights their lambda of 2 without damping, at a rate of
        # 0.4, falls back to chance by meta-step 600; these settings had 68.5, 80.0 and
        # 82.7% of validation tasks after 200, 400 and 600.
        _drawn(
            "IMAML",
            inner_rate=0.1,
            inner_steps=16,
            evaluation_steps=16,
            regularization=0.5,
            damping=5.0,
        ),
        OMNIGLOT_5W1S,
        IMAML_PAPER,
        steps=20_000,
        clip=10.0,
    ),
    "meta_sgd.omniglot_5w1s": Recipe(
        # One step to train and to test, as published: rates are learned for one.
        _drawn("MetaSGD", evaluation_steps=1),
        OMNIGLOT_5W1S,
        META_SGD_PAPER,
        steps=40_000,
    ),
    "anil.omniglot_5w1s": Recipe(
        _drawn("ANIL", inner_steps=5, evaluation_steps=10),
        OMNIGLOT_5W1S,
        ANIL_PAPER,
        steps=25_000,
    ),
    "sigma_maml.omniglot_5w1s": Recipe(
        # At a scale of 1 a module keeps 0.93 of a step on five examples, and the
        # derivative of log sigma carries w (1 - w) = 0.07; at 2, 0.02.
        _drawn("SigmaMAML", initial_scale=1.0),
        OMNIGLOT_5W1S,
        SHRINKAGE_PAPER,
        steps=25_000,
    ),
    "sigma_maml.omniglot_5w1s-inductive": Recipe(
        _drawn("SigmaMAML", normalization="inductive"),
        OMNIGLOT_5W1S,
        SHRINKAGE_PAPER,
        steps=6_000,
        warm_start="sigma_maml.omniglot_5w1s",
    ),
    "sigma_imaml.omniglot_5w1s": Recipe(
        # iMAML's settings; the scale is that of its lambda of 0.5 at five examples, at
        # first. At 14 tasks a second 15,000 meta-steps take five hours.
        _drawn(
            "SigmaIMAML",
            inner_rate=0.1,
            inner_steps=16,
            evaluation_steps=16,
            initial_scale=0.4**0.5,
            damping=5.0,
        ),
        OMNIGLOT_5W1S,
        SHRINKAGE_PAPER,
        steps=15_000,
        clip=10.0,
    ),
    "sigma_reptile.omniglot_5w1s": Recipe(
        # As Reptile's, with plain SGD inside; ten examples a class to adapt on, and
        # five more by which the scales learn. Under SGD log sigma^2 moves by rate x
        # scale_rate^2 x its gradient, which after 40 meta-steps is 0.02 to 0.14 for the
        # head and the later convolutions: by several units in all. The implicit rule
        # takes five Hessian products of 50 examples where a task takes five steps of
        # ten.
        _drawn(
            "SigmaReptile",
            inner_rate=0.1,
            inner_steps=5,
            inner_batch=10,
            evaluation_steps=50,
            initial_scale=0.1,
            scale_rate=0.1,
        ),
        OMNIGLOT_5W10S_5W1S,
        SHRINKAGE_PAPER,
        steps=60_000,
        tasks=5,
        optimizer="sgd",
        rate=1.0,
    ),
    "anil.omniglot_20w1s": Recipe(
        # A gradient of the mean over four times the examples: a rate so much larger.
        _drawn("ANIL", 20, inner_rate=1.0, inner_steps=5, evaluation_steps=10),
        OMNIGLOT_20W1S,
        ANIL_PAPER,
        steps=3_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "maml.omniglot_20w1s": Recipe(
        _drawn("MAML", 20, inner_rate=0.1, inner_steps=5, evaluation_steps=10),
        OMNIGLOT_20W1S,
        MAML_PAPER,
        steps=2_000,
        tasks=8,
        rate=5e-4,
        warm_start="anil.omniglot_20w1s",
        adjust=_louder(10**0.5),  # from its head's rate of 1
    ),
    "sigma_maml.omniglot_20w1s": Recipe(
        _drawn(
            "SigmaMAML",
            20,
            inner_rate=0.1,
            inner_steps=5,
            evaluation_steps=10,
            initial_scale=2.0,
        ),
        OMNIGLOT_20W1S,
        SHRINKAGE_PAPER,
        steps=300,
        tasks=8,
        rate=3e-4,
        warm_start="maml.omniglot_20w1s",
    ),
    "maml.glyphs_5w1s-inductive": Recipe(
        _drawn("MAML", normalization="inductive"),
        Classification(GLYPHS),
        MAML_PAPER,
        steps=6_000,
    ),
    "maml.sinusoid": Recipe(
        _sinusoid("MAML"), SINUSOID, MAML_PAPER, steps=30_000, tasks=25
    ),
    "sigma_maml.sinusoid": Recipe(
        _sinusoid("SigmaMAML"),
        SINUSOID,
        SHRINKAGE_PAPER,
        steps=15_000,
        tasks=25,
        warm_start="maml.sinusoid",
    ),
    "protonet.omniglot_20w1s": _prototypes(OMNIGLOT_60W_20W1S),
    "protonet.omniglot_5w1s": _prototypes(
        OMNIGLOT_60W_5W1S, steps=3_000, warm_start="protonet.omniglot_20w1s"
    ),
    "protonet.glyphs_20w1s": _prototypes(GLYPHS_60W_20W1S, steps=5_000),
    "protonet.lake": _prototypes(LAKE, steps=13_000, halving="max"),
    "protonet.lake-resnet12": _prototypes(LAKE, encoder=_residual_encoder),
    "protonet.lake-small1": _prototypes(
        LAKE_SMALL1, steps=4_000, warm_start="protonet.glyphs_20w1s"
    ),
    "protonet.lake-small2": _prototypes(
        LAKE_SMALL2, steps=4_000, warm_start="protonet.glyphs_20w1s"
    ),
    "cnp.omniglot_20w1s": Recipe(
        _class_process(20),
        OMNIGLOT_20W1S,
        CNP_PAPER,
        steps=10_000,
        tasks=4,
        intra_op=2,
    ),
    "cnp.omniglot_5w1s": Recipe(
        _class_process(5),
        OMNIGLOT_5W1S,
        CNP_PAPER,
        steps=2_000,
        warm_start="cnp.omniglot_20w1s",
        intra_op=2,
    ),
    "cnp.gp_rbf": Recipe(
        _process(1, 1, any_units=True),
        GP_RBF,
        CNP_PAPER,
        steps=200_000,
        tasks=64,
        rate=5e-4,
    ),
    "cnp.gp_rbf-sharp": Recipe(
        _process(1, 1, any_units=True, min_scale=0.01),
        GP_RBF,
        CNP_PAPER,
        steps=200_000,
        tasks=64,
        rate=5e-4,
    ),
    "cnp.gp_rbf-attention": Recipe(
        _process(1, 1, any_units=True, min_scale=0.01, aggregate="attention"),
        GP_RBF,
        ATTENTION_PAPER,
        steps=40_000,
        tasks=64,
        rate=1e-3,
    ),
    "cnp.completion_omniglot": Recipe(
        _process(2, 1, preprocess=True),
        COMPLETION,
        CNP_PAPER,
        steps=50_000,
        rate=5e-4,
        intra_op=2,
    ),
    "lstm.boolean": Recipe(
        _functional_lstm("sparse_categorical_crossentropy", 2, 32),
        BOOLEAN,
        LSTM_PAPER,
        steps=10_000,
        tasks=64,
        rate=3e-3,
    ),
    "lstm.semilinear": Recipe(
        _functional_lstm("mse", 1, 64), SEMILINEAR, LSTM_PAPER, steps=20_000, tasks=64
    ),
    "lstm.quadratic": Recipe(
        # Without, it stays at the mean of the targets it has seen for 10,000 steps.
        _functional_lstm("mse", 1, 128, target_mean=0.5, target_scale=0.043),
        QUADRATIC,
        LSTM_PAPER,
        steps=30_000,
        tasks=64,
    ),
    "lstm.omniglot_5w": Recipe(
        # From pixels, as published; there a picture of 20x20 enters flattened, here
        # through MAML's four convolutions, which learn with the LSTM.
        _reader("LSTMLearner", fixed=False, outputs=5, units=256),
        OMNIGLOT_5W_PIXELS,
        LSTM_PAPER,
        steps=30_000,
        clip=1.0,
        intra_op=2,
    ),
    "lstm.omniglot_5w-on_protonet": Recipe(
        _reader("LSTMLearner", outputs=5, units=256),
        OMNIGLOT_5W,
        LSTM_PAPER,
        steps=20_000,
        rate=3e-3,
        warm_start="protonet.omniglot_20w1s",
    ),
    "lstm.omniglot_15w_strings": Recipe(
        _reader("LSTMLearner", outputs=5, units=256, labels="strings"),
        OMNIGLOT_15W_STRINGS,
        LSTM_PAPER,
        steps=16_000,
        rate=3e-3,
        clip=1.0,
        warm_start="protonet.omniglot_20w1s",
    ),
    "mann.omniglot_5w": Recipe(
        # From pixels, as published: see "lstm.omniglot_5w".
        _reader("MANN", fixed=False, outputs=5),
        OMNIGLOT_5W_PIXELS,
        MANN_PAPER,
        steps=30_000,
        clip=1.0,
        intra_op=2,
    ),
    "mann.omniglot_5w-on_protonet": Recipe(
        _reader("MANN", outputs=5),
        OMNIGLOT_5W,
        MANN_PAPER,
        steps=20_000,
        rate=3e-3,
        clip=1.0,
        warm_start="protonet.omniglot_20w1s",
    ),
    "mann.omniglot_15w_strings": Recipe(
        _reader("MANN", outputs=5, labels="strings"),
        OMNIGLOT_15W_STRINGS,
        MANN_PAPER,
        steps=16_000,
        rate=3e-3,
        clip=1.0,
        warm_start="protonet.omniglot_20w1s",
    ),
    **photos.RECIPES,
}


def recipe(name):
    """The recipe of an entry.

    Raises:
        ValueError: no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(cards.unknown("a recipe", name, RECIPES))
    return RECIPES[name]
