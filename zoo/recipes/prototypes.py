"""Recipes of prototypical networks on drawn characters."""

from keras_meta.zoo.recipes import characters, encoders, papers, schema


def _residual_encoder():
    """A residual network narrow enough for 28x28 drawings."""
    import keras_meta as km

    return km.networks.resnet12((28, 28, 1), 128, (32, 64, 96, 128), pooling="none")


def _prototypes(task, steps=15_000, warm_start=None, encoder=encoders.conv4, **options):
    """The recipe of a prototypical network, which has one large task in a meta-step.

    Args:
        task: a `protocols.Classification`.
        steps, warm_start: see `schema.Recipe`.
        encoder: a function that returns the network.
        **options: of `encoder`.
    """

    def learner():
        import keras_meta as km

        preprocess = km.ImagePreprocess(28, 28, 1, invert=True)
        network = encoder(**options)
        return km.ProtoNet(network, outputs=60, preprocess=preprocess)

    return schema.Recipe(
        learner,
        task,
        papers.PROTONET_PAPER,
        steps=steps,
        tasks=1,
        warm_start=warm_start,
        intra_op=2,
    )


RECIPES = {
    "protonet.omniglot_20w1s": _prototypes(characters.OMNIGLOT_60W_20W1S),
    "protonet.omniglot_5w1s": _prototypes(
        characters.OMNIGLOT_60W_5W1S, steps=3_000, warm_start="protonet.omniglot_20w1s"
    ),
    "protonet.glyphs_20w1s": _prototypes(characters.GLYPHS_60W_20W1S, steps=5_000),
    "protonet.lake": _prototypes(characters.LAKE, steps=13_000, halving="max"),
    "protonet.lake-resnet12": _prototypes(characters.LAKE, encoder=_residual_encoder),
    "protonet.lake-small1": _prototypes(
        characters.LAKE_SMALL1, steps=4_000, warm_start="protonet.glyphs_20w1s"
    ),
    "protonet.lake-small2": _prototypes(
        characters.LAKE_SMALL2, steps=4_000, warm_start="protonet.glyphs_20w1s"
    ),
}
