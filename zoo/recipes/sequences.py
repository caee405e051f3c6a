"""Recipes of the sequence learners: LSTM and MANN."""

from keras_meta.zoo.recipes import characters, encoders, functions, papers, schema


def _reader(kind, fixed=True, **settings):
    """Returns a function that makes a sequence learner of the features of an encoder.

    The features are standardized. Those of a prototypical network have a mean far from
    zero, next to which their differences are small inputs of a recurrent network.

    Args:
        kind: the name of the learner's class.
        fixed: whether the encoder keeps its initial weights, and has 64 filters;
            otherwise it is trained with the learner, and has 32.
        **settings: of the learner.
    """

    def learner():
        import keras

        import keras_meta as km

        encoder = encoders.conv4(filters=64 if fixed else 32)
        encoder.trainable = not fixed
        standard = keras.layers.BatchNormalization(
            center=False, scale=False, name="standard"
        )
        network = keras.Model(encoder.input, standard(encoder.output))
        preprocess = km.ImagePreprocess(28, 28, 1, invert=True)
        return getattr(km, kind)(network, preprocess=preprocess, **settings)

    return learner


def _functional_lstm(loss, outputs, units, **settings):
    """Returns a function that makes an LSTM learner of functions of two inputs."""

    def learner():
        import keras_meta as km

        return km.LSTMLearner(
            example_shape=[2], loss=loss, outputs=outputs, units=units, **settings
        )

    return learner


RECIPES = {
    "lstm.boolean": schema.Recipe(
        _functional_lstm("sparse_categorical_crossentropy", 2, 32),
        functions.BOOLEAN,
        papers.LSTM_PAPER,
        steps=10_000,
        tasks=64,
        rate=3e-3,
    ),
    "lstm.semilinear": schema.Recipe(
        _functional_lstm("mse", 1, 64),
        functions.SEMILINEAR,
        papers.LSTM_PAPER,
        steps=20_000,
        tasks=64,
    ),
    "lstm.quadratic": schema.Recipe(
        # Without standardized targets, the predictions remain at the mean of the
        # targets of the sequence for 10,000 meta-steps.
        _functional_lstm("mse", 1, 128, target_mean=0.5, target_scale=0.043),
        functions.QUADRATIC,
        papers.LSTM_PAPER,
        steps=30_000,
        tasks=64,
    ),
    "lstm.omniglot_5w": schema.Recipe(
        # From pixels, as published. The published network reads a flattened 20x20
        # image; this one has four convolutions, trained with the LSTM. With 32 filters
        # a meta-step takes 0.6 of its time with 64.
        _reader("LSTMLearner", fixed=False, outputs=5, units=256),
        characters.OMNIGLOT_5W_PIXELS,
        papers.LSTM_PAPER,
        steps=20_000,
        clip=1.0,
        intra_op=2,
    ),
    "lstm.omniglot_5w-on_protonet": schema.Recipe(
        _reader("LSTMLearner", outputs=5, units=256),
        characters.OMNIGLOT_5W,
        papers.LSTM_PAPER,
        steps=20_000,
        rate=3e-3,
        warm_start="protonet.omniglot_20w1s",
    ),
    "lstm.omniglot_15w_strings": schema.Recipe(
        _reader("LSTMLearner", outputs=5, units=256, labels="strings"),
        characters.OMNIGLOT_15W_STRINGS,
        papers.LSTM_PAPER,
        steps=16_000,
        rate=3e-3,
        clip=1.0,
        warm_start="protonet.omniglot_20w1s",
    ),
    "mann.omniglot_5w": schema.Recipe(
        # From pixels, as published: see "lstm.omniglot_5w".
        _reader("MANN", fixed=False, outputs=5),
        characters.OMNIGLOT_5W_PIXELS,
        papers.MANN_PAPER,
        steps=20_000,
        clip=1.0,
        intra_op=2,
    ),
    "mann.omniglot_5w-on_protonet": schema.Recipe(
        _reader("MANN", outputs=5),
        characters.OMNIGLOT_5W,
        papers.MANN_PAPER,
        steps=20_000,
        rate=3e-3,
        clip=1.0,
        warm_start="protonet.omniglot_20w1s",
    ),
    "mann.omniglot_15w_strings": schema.Recipe(
        _reader("MANN", outputs=5, labels="strings"),
        characters.OMNIGLOT_15W_STRINGS,
        papers.MANN_PAPER,
        steps=16_000,
        rate=3e-3,
        clip=1.0,
        warm_start="protonet.omniglot_20w1s",
    ),
}
