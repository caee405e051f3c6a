"""The support loss of one task, and the outer loss of a batch of tasks."""

import tensorflow as tf

from keras_meta import losses
from keras_meta import network as network_module


class SupportLoss:
    """The mean support loss of one task, as a function of all its inputs.

    It captures no tensor, because `tf.custom_gradient` drops the gradients of captured
    tensors. All inputs of the inner loop are therefore arguments.

    Args:
        network: a `network.Network`.
        adapted: its variables that adapt.
        shared: its trainable variables that do not adapt.
        held: values of the variables that are not trained, `{"buffers": [...],
            "frozen": [...]}`, in the order of the network's roles; seeds may differ by
            task.
        x: support examples `[S, ...]`.
        y: their labels `[S]` or targets `[S, d_y]`.
        loss: `(y, outputs) -> scalar`.
        batch: support examples per step, None for all.
        order: indices of the examples in the order in which batches take them, `[S]`;
            None for the order given.
    """

    def __init__(
        self, network, adapted, shared, held, x, y, loss, batch=None, order=None
    ):
        self.network, self.adapted, self.shared = network, adapted, shared
        self.y, self.loss, self.batch, self.order = y, loss, batch, order
        self.held = held
        self.ahead, self.graph = None, network.graph
        if batch is None:  # layers before the first that adapts run once per task
            self.ahead, self.graph = network.split(adapted)
        self.x = x

    def inputs(self, shared):
        """Returns all inputs but the adapted weights: features of x, shared weights."""
        if self.ahead is None:
            return {"x": self.x, "weights": shared}
        pairs = self._pairs([], shared, self.held["buffers"])
        outputs = self.network.apply(pairs, self.x, training=True, graph=self.ahead)
        return {"x": outputs.values, "weights": shared}

    def gradient(self, weights, inputs, buffers=None, index=None):
        """Computes the gradient, and the values of the buffers after it.

        Args:
            weights: values of the variables `adapted`.
            inputs: the result of `inputs`.
            buffers: values of the network's buffers; by default the initial ones.
            index: index of the inner step, which selects its batch; None for all of x.

        Returns:
            `(gradients, buffers)`, lists of tensors.
        """
        x, y = inputs["x"], self.y
        if self.batch is not None and index is not None:
            examples = tf.shape(x)[0]
            size = tf.minimum(self.batch, examples)
            indices = (index * size + tf.range(size)) % examples
            if self.order is not None:
                indices = tf.gather(self.order, indices)
            x, y = tf.gather(x, indices), tf.gather(y, indices)
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
    """The outer loss of one task in a batch, weighted and normalized as in Keras.

    Args:
        loss: the query loss, a `keras.losses.Loss`.
        query_y: labels or targets of all tasks, `[T, Q, ...]`.
        weights: weights of tasks `[T]` or of queries `[T, Q]`, or None.
        scale: a factor of the gradients.
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
        """Returns the task's loss; the mean over tasks is Keras' loss of the batch."""
        weights = task.get("weights")
        if weights is not None:
            queries = tf.shape(task["query_y"])[:1]
            weights = tf.broadcast_to(weights, queries)
        return losses.of_task(
            self.query_loss, task["query_y"], outputs, weights, self.divisor
        )

    def factor(self, task, dtype):
        """Returns scale times task weight, for updates that are no gradients."""
        weight = tf.cast(task.get("weights", 1.0), dtype)
        return tf.cast(self.scale, dtype) * weight
