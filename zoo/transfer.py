"""Weights that one learner takes over from another, and encoders that stay fixed."""

import keras

import keras_meta as km


def copy_common(trained, learner):
    """Copies the weights that two learners have in common, by path and shape.

    Args:
        trained: the model to copy from.
        learner: the learner to copy to.

    Returns:
        The paths of the variables of `learner` without a counterpart in `trained`; they
        keep their weights.
    """

    def variables(model):
        return {v.path.removeprefix(f"{model.name}/"): v for v in model.variables}

    sources, new = variables(trained), []
    for path, variable in variables(learner).items():
        if path in sources and sources[path].shape == variable.shape:
            variable.assign(sources[path])
        else:
            new.append(path)
    return new


def has_fixed_encoder(learner):
    """Whether the network has layers before the last one and none of them trains."""
    network = getattr(learner, "network", None)
    encoder = (
        [layer for layer in network.layers[:-1] if layer.weights] if network else []
    )
    return bool(encoder) and not any(layer.trainable for layer in encoder)


def split(learner):
    """Cuts the network of a learner before its last layer.

    Returns:
        The encoder, a Keras model of all layers but the last, and a learner of the
        encoder's outputs with the other weights. After training, `copy_common` copies
        these back.
    """
    *_, last = learner.network.layers
    features = keras.Input(last.input.shape[1:])
    rest = keras.Model(features, type(last).from_config(last.get_config())(features))
    return keras.Model(learner.network.input, last.input), _with_network(learner, rest)


def on_features(learner):
    """Separates the part of a trained learner that is the same for all tasks.

    Scores of many tasks then compute the features of each example once.

    Returns:
        `(encoder, reader)`: a Keras model of the examples, and a learner of its outputs
        that predicts what `learner` predicts. `(None, learner)` if there is no such
        part.
    """
    if type(learner) is km.ProtoNet:
        features = keras.Input(learner.network.output_shape[1:])
        rest = keras.Model(features, keras.layers.Identity()(features))
        return learner.network, _with_network(learner, rest)
    return split(learner) if has_fixed_encoder(learner) else (None, learner)


def _with_network(learner, network):
    """A learner of features with the settings and common weights of another."""
    config = learner.get_config() | {
        "network": keras.saving.serialize_keras_object(network),
        "preprocess": None,
        "layer_flags": None,  # those of the layers of another network
    }
    if "example_shape" in config:  # otherwise it is the network's
        config["example_shape"] = list(network.input_shape[1:])
    reader = type(learner).from_config(config)
    copy_common(learner, reader)
    return reader
