"""Tasks of families of functions: curves, points and the pixels of an image."""

import dataclasses

from keras_meta.zoo.recipes import characters, protocols, sources


def _family(name, **settings):
    """A task family of `keras_meta.tasks` by its name."""

    def make(pool):
        import keras_meta as km

        return getattr(km.tasks, name)(**settings)

    return make


def _completion(pool):
    import numpy as np

    import keras_meta as km

    images = [pool.images_of(class_id) for class_id in np.unique(pool.class_ids)]
    return km.tasks.completion(np.concatenate(images))


SINUSOID = protocols.Functions(
    sources.Source(
        "sinusoid",
        "sinusoids",
        "sinusoids drawn on the fly: amplitude in [0.1, 5], phase in [0, pi], x in "
        "[-5, 5]",
    ),
    _family("sinusoid"),
)
BOOLEAN = protocols.Functions(
    sources.Source(
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
SEMILINEAR = protocols.Functions(
    sources.Source(
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
QUADRATIC = protocols.Functions(
    sources.Source(
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
GP_RBF = protocols.Functions(
    sources.Source(
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
COMPLETION = protocols.Functions(
    dataclasses.replace(
        characters.OMNIGLOT,
        id="omniglot-completion",
        title=characters.CHARACTERS,
        rotations=False,
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
