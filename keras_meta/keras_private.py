"""Every private name of Keras that has no public replacement, in one place.

`tests/test_keras_private.py` has a test of each, which says when Keras has changed.
"""

import contextlib

from keras_meta import backend

backend.check()

import keras
import tensorflow as tf
from keras.src.backend.common import global_state


def layers_of(model, recursive=True):
    """The layers inside a Keras layer or model, itself left out.

    `Model.layers` lists direct layers of models alone, not those of wrappers and cells.

    Args:
        model: a Keras layer.
        recursive: also the layers inside those.
    """
    return list(model._flatten_layers(include_self=False, recursive=recursive))


def in_order(model):
    """The layers of `layers_of(model)` in the order in which they were connected.

    `layers_of` lists the layers inside a nested model from the last to the first.
    """
    layers, waiting = {}, [model]
    while waiting:
        layer = waiting.pop()
        if id(layer) not in layers:
            layers[id(layer)] = layer
            waiting += reversed(list(layer._layers))
    return list(layers.values())[1:]


def finalize(model):
    """Recomputes what layers derive from weights that were assigned.

    `keras.layers.Normalization` computes with constants that Keras derives from its
    weights when a file is loaded.
    """
    for layer in layers_of(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()


def copy_of(model, **changes):
    """A copy with the same weights; `changes` replace entries of its config."""
    copy = type(model).from_config({**model.get_config(), **changes})
    copy.set_weights(model.get_weights())
    finalize(copy)
    return copy


def set_flags(model, flags):
    """Sets `trainable` of `layers_of(model)`, in this order.

    A flag also sets those of the layers inside, which follow in the order.

    Raises:
        ValueError: another number of flags than layers.
    """
    layers = layers_of(model)
    if len(layers) != len(flags):
        raise ValueError(
            f"expected layer_flags of {len(layers)} layers, got {len(flags)}: another "
            "network needs layer_flags=None."
        )
    for layer, flag in zip(layers, flags, strict=True):
        layer.trainable = flag


def is_leaf(layer):
    """Whether a layer has no layers inside."""
    return not list(layer._layers)


def made_to_train(layer):
    """The variables that a layer itself made as trainable, whatever its flag now."""
    return list(layer._trainable_variables)


def seed_generators(layer):
    """The `keras.random.SeedGenerator`s of a layer itself, wherever it keeps them."""
    return list(layer._seed_generators)


def uncast(variable):
    """The value of a Keras variable in its own dtype.

    Inside the call of a layer of a mixed policy, even of one with `autocast=False`,
    `variable.value` is cast to the compute dtype.
    """
    return variable._value


@contextlib.contextmanager
def without_autocast():
    """A context in which Keras variables have their own dtype, see `uncast`."""
    scope = global_state.get_global_attribute("autocast_scope")
    global_state.set_global_attribute("autocast_scope", None)
    try:
        yield
    finally:
        global_state.set_global_attribute("autocast_scope", scope)


def steps_of(optimizer):
    """The variable that counts the batches which a Keras optimizer was given.

    `optimizer.iterations` does not count batches whose gradients are accumulated.
    """
    return getattr(optimizer, "inner_optimizer", optimizer)._iterations


def drop_masks(cell):
    """Removes the dropout masks that a recurrent cell, or a stack of cells, keeps."""
    for each in (cell, *getattr(cell, "cells", ())):
        if hasattr(each, "reset_dropout_mask"):
            each.reset_dropout_mask()
            each.reset_recurrent_dropout_mask()


def track_loss(model, loss, tasks):
    """Adds a batch's loss to the mean that `fit` reports.

    Args:
        model: a compiled `keras.Model`.
        loss: a scalar.
        tasks: the number of examples that it is a mean over.
    """
    model._loss_tracker.update_state(loss, sample_weight=tasks)


def place_of(optimizer, variable):
    """The index of a variable among those that a Keras optimizer was built with.

    `update_step` is given the backend's variable, not the Keras one.
    """
    return optimizer._get_variable_index(variable)


def adam_velocities(optimizer):
    """The running squares of gradients of a built `keras.optimizers.Adam`."""
    return list(optimizer._velocities)


def set_direction(metric, direction):
    """Tells callbacks of Keras which way a metric gets better.

    It is what `EarlyStopping` and others take where they are given no `mode`.

    Args:
        metric: a `keras.metrics.Metric`.
        direction: "up", "down", or None for a metric of which it is not known.

    Raises:
        ValueError: another direction.
    """
    if direction not in ("up", "down", None):
        raise ValueError(
            f"expected direction to be 'up', 'down' or None, got {direction!r}."
        )
    if direction is not None:
        metric._direction = direction


class WorkersModel(keras.Model):
    """A model of episodes that trains under several workers.

    Under `tf.distribute.MultiWorkerMirroredStrategy` Keras 3.15 asks the workers for
    means that they cannot give: of a first batch, to learn its shapes, and over the
    first axis of scalars. A batch of zeros and metrics with an axis can be had.

    A subclass gives `example()`, an episode of zeros.
    """

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        episode = self.example()
        super()._maybe_symbolic_build(data_batch=(episode, episode["support_y"]))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        results = super().compute_metrics(x, y, y_pred, sample_weight)
        workers = tf.distribute.MultiWorkerMirroredStrategy
        if isinstance(tf.distribute.get_strategy(), workers):
            return {name: tf.reshape(value, [1]) for name, value in results.items()}
        return results


class WrappedDataset(tf.data.Dataset):
    """A `tf.data.Dataset` with the elements of another, for subclasses.

    Args:
        dataset: a `tf.data.Dataset`.
    """

    def __init__(self, dataset):
        self._wrapped = dataset
        super().__init__(tf.data.experimental.to_variant(dataset))

    def _inputs(self):
        return [self._wrapped]

    @property
    def element_spec(self):
        return self._wrapped.element_spec
