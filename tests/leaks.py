"""Checks whether predictions of a learner depend on the labels of the queries."""

import keras
import numpy as np
import tensorflow as tf


class LastPredictions(keras.metrics.Metric):
    """Stores the predictions of the last batch, as Keras passes them to a metric.

    Args:
        shape: shape of the predictions.
    """

    def __init__(self, shape):
        super().__init__(name="last_predictions")
        self.values = self.add_weight(shape=shape, initializer="zeros", name="values")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.values.assign(keras.ops.cast(y_pred, self.values.dtype))

    def result(self):
        return keras.ops.sum(self.values)


def check(learner, episode, query_y, wrong, expected, training=True):
    """Raises AssertionError if predictions depend on the labels of the queries.

    Compares the predictions of `evaluate` and of a meta-step under two sets of labels.
    Keras passes y to the model in both, but not in `predict`.

    Args:
        learner: a trained learner; it stays unchanged.
        episode, query_y: a batch of tasks.
        wrong: other labels, all of them wrong.
        expected: the predictions of `adapt` and `infer`, which receive no query labels.
        training: whether to check a meta-step too; its predictions may differ from
            `expected`.
    """
    assert (np.asarray(wrong) != np.asarray(query_y)).all()
    copy = type(learner).from_config(learner.get_config())
    copy(copy.example())  # creates the variables
    copy.set_weights(learner.get_weights())
    metric = LastPredictions(expected.shape)
    copy.compile(keras.optimizers.SGD(0.0), learner.query_loss, metrics=[metric])

    def predictions(run, labels):
        run(tf.data.Dataset.from_tensors((episode, labels)), verbose=0)
        return metric.values.numpy()

    for labels in (query_y, wrong):
        outputs = predictions(copy.evaluate, labels)
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)
    if training:
        first, second = (predictions(copy.fit, labels) for labels in (query_y, wrong))
        assert np.abs(first).max() > 0
        np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-5)
