"""Tests that the contract's check detects learners that read query labels."""

import numpy as np
import pytest
import tensorflow as tf

import keras_meta as km
from tests import leaks

TASKS, WAYS, SHOTS, QUERIES = 3, 3, 1, 5


def add_queries(episode, query_y):
    """Returns the episode with its queries among the support examples."""
    labels = tf.cast(query_y, episode["support_y"].dtype)
    return {
        "support_x": tf.concat([episode["support_x"], episode["query_x"]], axis=1),
        "support_y": tf.concat([episode["support_y"], labels], axis=1),
        "query_x": episode["query_x"],
    }


class InEvaluate(km.ProtoNet):
    """Adapts on the queries too in evaluation."""

    def test_step(self, data):
        episode, query_y = data
        return super().test_step((add_queries(episode, query_y), query_y))


class InMetaSteps(km.ProtoNet):
    """Adapts on the queries too in meta-training."""

    def meta_gradient(self, episode, query_y, *args, **kwargs):
        return super().meta_gradient(
            add_queries(episode, query_y), query_y, *args, **kwargs
        )


class Remembers(km.ProtoNet):
    """Stores the labels of a batch, which a method of a subclass reads."""

    labels = None

    def test_step(self, data):
        self.labels = data[1]
        return super().test_step(data)

    def train_step(self, data):
        self.labels = data[1]
        return super().train_step(data)

    def hint(self, shape):
        if self.labels is None:
            return tf.zeros(shape)
        return 0.1 * tf.one_hot(self.labels, WAYS)


class InAdapt(Remembers):
    def adapt_tasks(self, support_x, support_y, training=False):
        state = super().adapt_tasks(support_x, support_y, training)
        if self.labels is None:
            return state
        shift = 0.1 * tf.reduce_mean(tf.cast(self.labels, tf.float32), axis=1)
        return tf.nest.map_structure(
            lambda v: (
                v + tf.reshape(shift, [-1] + [1] * (len(v.shape) - 1))
                if v.dtype.is_floating
                else v
            ),
            state,
        )


class InInfer(Remembers):
    def infer_tasks(self, state, query_x, training=False):
        outputs = super().infer_tasks(state, query_x, training)
        return outputs + self.hint(tf.shape(outputs))


class InCall(Remembers):
    def call(self, episode, training=False):
        outputs = super().call(episode, training)
        return outputs + self.hint(tf.shape(outputs))


def run_check(kind, **settings):
    """Runs the check on a learner of this class."""
    network = km.networks.mlp((4,), 6, (8,))
    learner = kind(network, outputs=WAYS)
    learner.compile()
    random = np.random.RandomState(0)
    y = np.tile(np.arange(WAYS, dtype="int32"), [TASKS, SHOTS])
    episode = {
        "support_x": random.normal(size=[TASKS, WAYS * SHOTS, 4]).astype("float32"),
        "support_y": y,
        "query_x": random.normal(size=[TASKS, QUERIES, 4]).astype("float32"),
    }
    query_y = random.randint(0, WAYS, [TASKS, QUERIES], "int32")
    expected = learner.infer(learner.adapt(episode["support_x"], y), episode["query_x"])
    wrong_labels = (query_y + 1) % WAYS
    leaks.check(learner, episode, query_y, wrong_labels, expected.numpy(), **settings)


def test_a_learner_that_reads_no_query_labels_passes():
    run_check(km.ProtoNet)


@pytest.mark.parametrize(
    "kind",
    [InEvaluate, InMetaSteps, InAdapt, InInfer, InCall],
    ids=lambda k: k.__name__,
)
def test_a_learner_that_reads_query_labels_fails(kind):
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        run_check(kind)


def test_the_check_may_skip_meta_steps():
    run_check(InMetaSteps, training=False)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        run_check(InEvaluate, training=False)
