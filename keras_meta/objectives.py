"""The support loss of one task, and its part in the outer loss of a batch of tasks."""

import tensorflow as tf

from keras_meta import losses
from keras_meta import network as network_module


class SupportLoss:
    """The mean support loss of one task, as a function of all that it depends on.

    Nothing is captured: a custom gradient drops the gradients of captured tensors, so
    what the inner loop uses is an argument.

    Args:
        network: a `network.Network`.
        adapted: its variables that adapt.
        shared: its trainable variables that do not.
        held: values of what does not learn, `{"buffers": [...], "frozen": [...]}`, in
            the order of the network's roles; seeds are the task's own.
        x: support examples `[S, ...]`.
        y: their labels `[S]` or targets `[S, d_y]`.
        loss: `(y, outputs) -> scalar`.
        batch: support examples of one step, None for all.
        order: the places of the examples in the order in which batches take them,
            `[S]`; None to take them as they come.
    """

    def __init__(
        self, network, adapted, shared, held, x, y, loss, batch=None, order=None
    ):
        self.network, self.adapted, self.shared = network, adapted, shared
        self.y, self.loss, self.batch, self.order = y, loss, batch, order
        self.held = held
        self.ahead, self.graph = None, network.graph
        if batch is None:  # what comes before the first layer that adapts is run once
            self.ahead, self.graph = network.split(adapted)
        self.x = x

    def inputs(self, shared):
        """The tensors besides the adapted weights: features of x, shared weights."""
        if self.ahead is None:
            return {"x": self.x, "weights": shared}
        pairs = self._pairs([], shared, self.held["buffers"])
        outputs = self.network.apply(pairs, self.x, training=True, graph=self.ahead)
        return {"x": outputs.values, "weights": shared}

    def gradient(self, weights, inputs, buffers=None, index=None):
        """Its gradient, and the buffers after the run.

        Args:
            weights: of `adapted`.
            inputs: as `inputs` gives them.
            buffers: of the network, those of the start by default.
            index: of the inner step, which has a batch of its own; None for all of x.
        """
        x, y = inputs["x"], self.y
        if self.batch is not None and index is not None:
            examples = tf.shape(x)[0]
            size = tf.minimum(self.batch, examples)
            chosen = (index * size + tf.range(size)) % examples
            if self.order is not None:
                chosen = tf.gather(self.order, chosen)
            x, y = tf.gather(x, chosen), tf.gather(y, chosen)
        buffers = self.held["buffers"] if buffers is None else buffers
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            outputs, penalty, updated = self.network.apply(
                self._pairs(weights, inputs["weights"], buffers),
                x,
                training=True,
                graph=self.graph,
            )
            loss = self.loss(y, outputs)
            loss += tf.cast(penalty, loss.dtype)
        gradients = tape.gradient(
            loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return network_module.dense(gradients), updated(self.network.buffers)

    def _pairs(self, weights, shared, buffers):
        yield from zip(self.adapted, weights, strict=False)
        yield from zip(self.shared, shared, strict=True)
        yield from zip(self.network.buffers, buffers, strict=True)
        yield from zip(self.network.frozen, self.held["frozen"], strict=True)


class OuterLoss:
    """The outer loss of one task in a batch, weighed and normalized as Keras does.

    Args:
        loss: a `keras.losses.Loss` of the queries.
        query_y: of all tasks, `[T, Q, ...]`.
        weights: `[T]` or `[T, Q]`, or None.
        scale: the factor of gradients.
    """

    def __init__(self, loss, query_y, weights, scale):
        shape = tf.shape(query_y)[:2]
        if weights is not None:
            columns = tf.reshape(weights, [shape[0], -1])
            weights = tf.broadcast_to(columns, shape)
        self.query_loss = loss
        self.divisor = losses.divisor(loss, shape[0], weights)
        self.scale = tf.cast(scale, loss.dtype)

    def loss(self, task, outputs):
        """The task's part: the mean of these over tasks is Keras' loss of the batch."""
        weights = task.get("weights")
        if weights is not None:
            queries = tf.shape(task["query_y"])[:1]
            weights = tf.broadcast_to(weights, queries)
        return losses.of_task(
            self.query_loss, task["query_y"], outputs, weights, self.divisor
        )

    def factor(self, task):
        """The factor of a rule that is no gradient of this loss."""
        return self.scale * tf.cast(task.get("weights", 1.0), self.scale.dtype)
