"""The encoder of drawn characters that several families of learners share."""


def conv4(features=64, momentum=0.99, halving="stride", filters=64):
    """MAML's network as an encoder: `features` outputs, no average over its 2x2 places.

    Args:
        features: the number of outputs.
        momentum: of the moving statistics of its normalization.
        halving: see `keras_meta.networks.conv4`.
        filters: channels of each convolution.
    """
    import keras_meta as km

    return km.networks.conv4(
        (28, 28, 1), features, filters, momentum, pooling="none", halving=halving
    )
