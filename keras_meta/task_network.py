"""The network of one task: what fine-tuning a gradient learner trains."""

import keras
import tensorflow as tf

from keras_meta import keras_private, priors, task_model
from keras_meta.network import assign


def build(learner, x, y, optimizer=None):
    """A Keras model that starts at the adapted weights of a gradient learner.

    Args:
        learner: a `GradientLearner`.
        x: support examples `[S, ...]`.
        y: their labels `[S]` or targets `[S, d_y]`.
        optimizer: in place of the learner's inner step.

    Returns:
        `(model, optimizer)`: a plain copy of the learner's network; where the learner
        has a prior, a `TaskNetwork` around it.
    """
    x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
    state = learner.adapt(x[None], y[None])
    network = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(learner.network)
    )
    sources = {}
    for copy, source in zip(network.variables, learner.network.variables, strict=True):
        copy.assign(source.value)
        sources[id(source)] = copy
    weights = [value[0] for value in state["weights"]]
    adapted = learner.adapted()
    assign([sources[id(source)] for source in adapted], weights)
    pairs = list(zip(adapted, weights, strict=True))
    statistics = learner.bound.statistics
    x = tf.cast(x, learner.variable_dtype)
    copies = [sources[id(source)] for source in statistics]
    assign(copies, learner.bound.measure(pairs, x))
    kept = set(map(id, learner.task_layers()))
    layers = zip(
        keras_private.layers_of(network),
        keras_private.layers_of(learner.network),
        strict=True,
    )
    for copy, source in layers:
        if keras_private.is_leaf(source) and id(source) not in kept:
            copy.trainable = False
    trained = {id(v) for v in network.trainable_variables}
    variables = [
        (copy, source)
        for copy, source in zip(
            network.variables, learner.network.variables, strict=True
        )
        if id(copy) in trained
    ]
    classes = int(state["ways"][0])
    if learner.classification and classes < learner.output_size:
        network = keras.Model(network.inputs, network.outputs[0][:, :classes])
    if optimizer is None:
        y = tf.cast(y, learner.y_spec("y").dtype)
        optimizer = learner.task_optimizer(variables, x, y)
    prior = learner.task_prior([source for _, source in variables], len(y))
    if variables and prior is not None:
        network = TaskNetwork(network, dtype=learner.dtype_policy)
        network.set_prior(*prior)
    return network, optimizer


@keras.saving.register_keras_serializable("keras_meta")
class TaskNetwork(task_model.OneTask):
    """A network whose weights have a Gaussian prior around their meta-learned start.

        loss = mean loss of the data - log p(theta | phi, P) / S + constant

    The prior is part of the model: it is saved with it, and holds whatever optimizer
    the model is compiled with. A `priors.ProximalSGD` applies it in its step; for any
    other it is a term of the loss.

    Args:
        network: a built Keras model.
        **kwargs: for `keras.Model`.

    Call arguments:
        x: `[B, ...]`.
    """

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        self.network = network
        self.example_shape = tuple(network.input_shape[1:])
        self.centres = []
        self.log_precisions = []
        for position, variable in enumerate(network.trainable_variables):
            settings = {"trainable": False, "dtype": variable.dtype}
            self.centres.append(
                self.add_weight(
                    shape=variable.shape, name=f"centre_{position}", **settings
                )
            )
            self.log_precisions.append(
                self.add_weight(shape=(), name=f"log_precision_{position}", **settings)
            )
        self.built = True

    def set_prior(self, centres, log_precisions):
        """Gives each trainable variable of the network its phi and log P."""
        assign(self.centres, centres)
        assign(self.log_precisions, log_precisions)

    def call(self, x, training=False):
        return self.network(x, training=training)

    def compile(self, optimizer="adam", **kwargs):
        super().compile(optimizer=optimizer, **kwargs)
        if isinstance(self.optimizer, priors.ProximalSGD):
            self.optimizer.set_prior(
                self.trainable_variables, self.centres, self.log_precisions
            )

    def compile_from_config(self, config):
        # Keras skips this for a class with its own `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        if isinstance(self.optimizer, priors.ProximalSGD):
            return loss
        return loss + tf.cast(self.prior_penalty(), loss.dtype)

    def prior_penalty(self):
        """`-log p(theta | phi, P) / S`, zero at phi, a scalar."""
        return tf.add_n(
            [
                priors.negative_log_ratio(variable, centre, log_precision)
                for variable, centre, log_precision in zip(
                    self.trainable_variables,
                    self.centres,
                    self.log_precisions,
                    strict=True,
                )
            ]
        )

    def get_config(self):
        network = keras.saving.serialize_keras_object(self.network)
        return {**super().get_config(), "network": network}

    @classmethod
    def from_config(cls, config):
        network = keras.saving.deserialize_keras_object(config["network"])
        return cls(**{**config, "network": network})
