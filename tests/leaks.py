"""Whether a learner's answers depend on the labels of the queries."""

import keras
import numpy as np
import tensorflow as tf


class Kept(keras.metrics.Metric):
    """The answers of the last batch, as Keras hands them to a metric.

    Args:
        shape: of them.
    """

    def __init__(self, shape):
        super().__init__(name="kept")
        self.found = self.add_weight(shape=shape, initializer="zeros", name="found")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.found.assign(keras.ops.cast(y_pred, self.found.dtype))

    def result(self):
        return keras.ops.sum(self.found)


def check(learner, episode, query_y, wrong, expected, training=True):
    """Raises AssertionError unless answers are the same whatever the query labels.

    They are those that `evaluate` scores, and a meta-step: Keras drops y before a model
    in `predict`, but in neither of these.

    Args:
        learner: a trained learner, which stays as it is.
        episode, query_y: a batch of tasks.
        wrong: other labels, none of them right.
        expected: the answers of `adapt` and `infer`, which are given no query labels.
        training: whether to check a meta-step too, whose answers may be others.
    """
    assert (np.asarray(wrong) != np.asarray(query_y)).all()
    copy = type(learner).from_config(learner.get_config())
    copy(copy.example())  # so that it has its variables
    copy.set_weights(learner.get_weights())
    kept = Kept(expected.shape)
    copy.compile(keras.optimizers.SGD(0.0), learner.query_loss, metrics=[kept])

    def answers(run, labels):
        run(tf.data.Dataset.from_tensors((episode, labels)), verbose=0)
        return kept.found.numpy()

    for labels in (query_y, wrong):
        found = answers(copy.evaluate, labels)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    if training:
        one, two = (answers(copy.fit, labels) for labels in (query_y, wrong))
        assert np.abs(one).max() > 0
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)
