"""Recipes of conditional neural processes."""

from keras_meta.zoo.recipes import characters, encoders, functions, papers, schema


def _class_process(ways):
    """Returns a function that makes a CNP of drawn characters."""

    def learner():
        import keras_meta as km

        return km.CNP(
            encoders.conv4(128),
            km.networks.mlp((256,), 1, (128, 128)),
            "sparse_categorical_crossentropy",
            outputs=ways,
            preprocess=km.ImagePreprocess(28, 28, 1, invert=True),
        )

    return learner


def _process(d_x, d_y, width=128, preprocess=False, any_units=False, **settings):
    """Returns a function that makes the CNP of the notebook of its authors.

    Args:
        d_x, d_y: sizes of an input and of a target.
        width: units of a hidden layer.
        preprocess: whether the targets are the pixels of drawn characters.
        any_units: whether points may be in any units. Places in an image may not: they
            have one unit.
        **settings: of the learner.
    """

    def learner():
        import keras_meta as km

        images = km.ImagePreprocess(28, 28, 1, invert=True)
        return km.CNP(
            km.networks.mlp((d_x + d_y,), width, (width, width, width)),
            km.networks.mlp((width + d_x,), 2 * d_y, (width, width)),
            outputs=d_y,
            preprocess=images if preprocess else None,
            point_units=km.StandardUnits() if any_units else None,
            **settings,
        )

    return learner


RECIPES = {
    "cnp.omniglot_20w1s": schema.Recipe(
        _class_process(20),
        characters.OMNIGLOT_20W1S,
        papers.CNP_PAPER,
        steps=10_000,
        tasks=4,
        intra_op=2,
    ),
    "cnp.omniglot_5w1s": schema.Recipe(
        _class_process(5),
        characters.OMNIGLOT_5W1S,
        papers.CNP_PAPER,
        steps=2_000,
        warm_start="cnp.omniglot_20w1s",
        intra_op=2,
    ),
    "cnp.gp_rbf": schema.Recipe(
        _process(1, 1, any_units=True),
        functions.GP_RBF,
        papers.CNP_PAPER,
        steps=200_000,
        tasks=64,
        rate=5e-4,
    ),
    "cnp.gp_rbf-sharp": schema.Recipe(
        _process(1, 1, any_units=True, min_scale=0.01),
        functions.GP_RBF,
        papers.CNP_PAPER,
        steps=200_000,
        tasks=64,
        rate=5e-4,
    ),
    "cnp.gp_rbf-attention": schema.Recipe(
        _process(1, 1, any_units=True, min_scale=0.01, aggregate="attention"),
        functions.GP_RBF,
        papers.ATTENTION_PAPER,
        steps=40_000,
        tasks=64,
        rate=1e-3,
    ),
    "cnp.completion_omniglot": schema.Recipe(
        _process(2, 1, preprocess=True),
        functions.COMPLETION,
        papers.CNP_PAPER,
        steps=50_000,
        rate=5e-4,
        intra_op=2,
    ),
}
