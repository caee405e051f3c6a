"""SequenceLearner: a recurrent network that reads the support set step by step."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import keras
import tensorflow as tf

from keras_meta import (
    checks,
    keras_private,
    logits,
    losses,
    lstm_scan,
    options,
    ordered,
    runtime,
    settings,
)
from keras_meta import network as network_module
from keras_meta.images import ImagePreprocess
from keras_meta.typing_names import TensorLike, TensorNest

# A string label has five symbols, each one of five (Santoro et al., 2016).
SYMBOLS = 5


def _of_regression(check, default):
    """Returns a check of a setting that has only its default for classification."""

    def checked(learner, name, value):
        if learner.classification and value != default:
            raise ValueError(
                f"expected {name} {default} for classification, got {value!r}."
            )
        return check(learner, name, value)

    return checked


class SequenceLearner(ordered.OrderedLearner):
    """Base class of learners that read the support set as a sequence.

    At each step the recurrent network gets an example together with the label of the
    previous example. It therefore has to memorise an example until its label arrives:

        state_t, h_t = cell([f(x_t), y_{t-1}], state_{t-1}),  y_0 = 0
        prediction_t = g([f(x_t), h_t])

    Meta-training averages the loss over time steps; the queries count as one step.
    A query enters together with y_n, the last support label, and reads a copy of the
    state after the support set, so that predictions do not depend on other queries.

    The state depends on the order of the support set, which is random in episodes.
    `adapt` shuffles the support set (`support_order`), because a set sorted by class is
    unlike any meta-training episode. `sequence` always reads the order given.

    Args:
        cell: a Keras RNN cell.
        network: f, a built Keras model from `[B, ...]` to features `[B, D]`; None
            flattens x. Its batch normalization works as in Keras.
        example_shape: shape of one x without the batch axis; by default the input shape
            of `network`.
        loss: "sparse_categorical_crossentropy", "mse" or a `keras.losses.Loss`.
        outputs: the number of classes N, or of target dimensions d_y.
        labels: "onehot"; or "strings": each label is five symbols from an alphabet of
            five, integers `[T, S, 5]` in [0, 5). Then `outputs` is 5 and the logits are
            `[T, Q, 5, 5]`.
        skip: if True, g gets f(x_t) in addition to the cell's output.
        unroll: if True, unrolls the time steps in graphs of a known S, such as those of
            `fit`, which are then faster and take longer to trace. Graphs for any S,
            such as those of `adapt` and of exports, are loops.
        target_mean: mean of the targets, for regression.
        target_scale: scale of the targets, above 0. Targets enter as `(y - mean) /
            scale`, predictions leave as `mean + scale g`, and meta-training uses the
            scaled loss.
        preprocess: for images, the `ImagePreprocess` that converts raw images to x. The
            learner stores and exports it; `adapt` and `infer` do not apply it.
        support_order: order in which `adapt` reads the support examples outside
            meta-training: "shuffled", a fixed order that depends on S alone
            (`ordered.permutation`), or "given", for time series. Meta-training and
            `sequence` read them as given.
        point_units: for regression, a `StandardUnits`, which scales x of a task to a
            fixed range, standardizes y, and scales predictions back. `keras-meta learn`
            and the signatures `*_points` of an export apply it; `adapt` and `infer` do
            not.
        temperature: for classification, `infer` divides the logits by it, which
            calibrates the probabilities (Guo et al., 2017). Meta-training and
            fine-tuning use the logits themselves.
        trainable: if False, `fit` changes no weight.
        **kwargs: `name` and `dtype` of `keras.Model`.

    State:
        `{"cell": [...], "label": [T, L], "present": [T, N]}`: the cell's state; y_n as
        the cell reads it; and, for classification with integer labels, 1 for the
        classes of the support set and 0 for the others, whose logits are masked.

    Raises:
        ValueError: an argument out of range.

    Reference:
        Hochreiter, Younger and Conwell, "Learning to Learn Using Gradient Descent",
        ICANN 2001, section 2.
    """

    gapless = False

    labels = settings.Fixed()
    skip = settings.Fixed()
    unroll = settings.Fixed()
    target_mean = settings.Setting(_of_regression(settings.number(-math.inf), 0))
    target_scale = settings.Setting(_of_regression(settings.positive, 1))

    def __init__(
        self,
        cell: keras.layers.Layer,
        network: keras.Model | None = None,
        example_shape: Sequence[int | None] | None = None,
        loss: keras.losses.Loss | str = "sparse_categorical_crossentropy",
        outputs: int = 5,
        labels: str = "onehot",
        skip: bool = True,
        unroll: bool = False,
        target_mean: float = 0.0,
        target_scale: float = 1.0,
        preprocess: ImagePreprocess | None = None,
        support_order: str = "shuffled",
        **kwargs: Unpack[options.LearnerOptions],
    ) -> None:
        if network is None and example_shape is None:
            raise ValueError("expected a network or an example_shape, got neither.")
        if network is not None:
            self.bound = network_module.Network(network)
            shape = tf.TensorShape(network.input_shape[1:])
            if not shape.is_compatible_with(example_shape):
                raise ValueError(
                    f"expected example_shape {shape} of network, got {example_shape}."
                )
            example_shape = shape.as_list()
        if labels not in ("onehot", "strings"):
            raise ValueError(
                f"expected labels to be onehot or strings, got {labels!r}."
            )
        if labels == "strings":
            if outputs != SYMBOLS:
                raise ValueError(
                    f"expected {SYMBOLS} outputs for string labels, got {outputs}."
                )
            self.label_shape = (SYMBOLS,)
        super().__init__(
            loss,
            example_shape,
            outputs,
            preprocess,
            support_order=support_order,
            **kwargs,
        )
        if labels == "strings" and not self.classification:
            raise ValueError(
                f"expected string labels with a loss of classes, got {loss!r}."
            )
        self.target_mean = float(target_mean)
        self.target_scale = target_scale
        self.network = network
        self.labels = labels
        self.skip = skip
        self.unroll = unroll
        self.cell = cell
        self.answer_size = outputs * (SYMBOLS if labels == "strings" else 1)
        if network is None:
            self.feature_size = math.prod(self.example_shape)
        else:
            self.feature_size = network.output_shape[-1]
        self.rnn = keras.layers.RNN(
            cell,
            return_sequences=True,
            return_state=True,
            dtype=cell.compute_dtype,  # RNN casts the cell's outputs to it
            name="rnn",
        )
        self.head = keras.layers.Dense(
            self.answer_size, dtype=self.dtype_policy, name="answer"
        )
        self.rnn.build([None, None, self.feature_size + self.answer_size])
        self.head.build([None, cell.output_size + self.feature_size * bool(skip)])

    # One step of the equations, over any number of leading axes.

    def _features(self, x, training):
        """Returns f(x), `[T, S, D]`."""
        if self.network is not None:
            return self.bound.each(x, training)
        shape = tf.shape(x)
        return tf.reshape(x, [shape[0], shape[1], self.feature_size])

    def _standard(self, y):
        """Scales targets or predictions to the units of meta-training."""
        if self.classification:
            return y
        return (y - self.target_mean) / self.target_scale

    def _entered(self, y):
        """Returns labels as the cell reads them, `[T, S, L]`."""
        if not self.classification:
            return self._standard(y)
        onehot = tf.one_hot(y, self.output_size, dtype=self.variable_dtype)
        shape = tf.shape(y)
        return tf.reshape(onehot, [shape[0], shape[1], self.answer_size])

    def _answers(self, features, outputs):
        """Returns g of the cell's outputs, `[T, S, N]` or `[T, S, 5, 5]`."""
        inputs = tf.cast(outputs, features.dtype)
        if self.skip:
            inputs = tf.concat([features, inputs], axis=-1)
        answers = tf.cast(self.head(inputs), self.variable_dtype)
        if not self.classification:
            return self.target_mean + self.target_scale * answers
        if not self.label_shape:
            return answers
        shape = tf.shape(answers)
        return tf.reshape(answers, [shape[0], shape[1], SYMBOLS, SYMBOLS])

    def _read(self, support_x, support_y, training):
        """Returns the state after a support set, and the prediction at each step."""
        features = self._features(support_x, training)
        labels = self._entered(support_y)
        late = tf.concat([tf.zeros_like(labels[:, :1]), labels[:, :-1]], axis=1)
        inputs = tf.concat([features, late], axis=-1)
        # Threads read parts of a batch in parallel.
        count = runtime.simultaneous_ops() if training else 1
        size = inputs.shape[0] or tf.shape(inputs)[0]
        count = min(count, inputs.shape[0] or count)
        bounds = [size * i // count for i in range(count + 1)]
        parts = [
            self._run(inputs[first:last], training)
            for first, last in itertools.pairwise(bounds)
        ]
        outputs, state = tf.nest.map_structure(lambda *v: tf.concat(v, 0), *parts)
        state = {"cell": state, "label": labels[:, -1]}
        if self.classification and not self.label_shape:
            state["present"] = tf.reduce_max(labels, axis=1)
        return state, self._answers(features, outputs)

    def _run(self, inputs, training):
        """Returns the cell's output at each step, and its last state."""
        start = self.cell.get_initial_state(batch_size=tf.shape(inputs)[0])
        unroll = self.unroll and inputs.shape[1] is not None
        if lstm_scan.supports(self.cell):
            return lstm_scan.run(self.cell, inputs, start, unroll)
        self.rnn.unroll = unroll
        outputs, *state = self.rnn(inputs, initial_state=start, training=training)
        return outputs, state

    # The contract.

    def adapt_tasks(
        self, support_x: tf.Tensor, support_y: tf.Tensor, training: bool = False
    ) -> dict[str, Any]:
        order = self.reading_order(tf.shape(support_x)[1], training)
        if order is not None:
            support_x = tf.gather(support_x, order, axis=1)
            support_y = tf.gather(support_y, order, axis=1)
        return self._read(support_x, support_y, training)[0]

    def infer_tasks(
        self, state: TensorNest, query_x: tf.Tensor, training: bool = False
    ) -> tf.Tensor:
        features = self._features(query_x, training)
        shape = tf.shape(query_x)
        queries = shape[1]

        def copies(value):
            return tf.repeat(value, queries, axis=0)

        flat = tf.reshape(features, [-1, features.shape[-1]])
        inputs = tf.concat([flat, copies(state["label"])], axis=-1)
        outputs, _ = self.cell(
            inputs, tf.nest.map_structure(copies, state["cell"]), training=training
        )
        keras_private.drop_masks(self.cell)  # they have the shape of the queries
        outputs = tf.reshape(outputs, [shape[0], queries, outputs.shape[-1]])
        answers = self._answers(features, outputs)
        if "present" in state:
            answers = logits.without(answers, state["present"][:, None] == 0)
        return answers

    def sequence(self, support_x: TensorLike, support_y: TensorLike) -> tf.Tensor:
        """Predicts each support example from those before it, in the order given.

        Args:
            support_x: `[T, S, ...]`, as for `adapt`.
            support_y: `[T, S]`, `[T, S, 5]` or `[T, S, d_y]`, as for `adapt`; label t
                is visible from step t + 1 on.

        Returns:
            Logits `[T, S, N]` (`[T, S, 5, 5]` for strings), or predictions `[T, S,
            d_y]`.

        Raises:
            ValueError: as `adapt`.
        """
        support_x, support_y = checks.checked_support(self, support_x, support_y)
        run = self.traced(
            "sequence",
            lambda x, y: self.tempered(self._read(x, y, False)[1]),
            [self.x_spec("support_x"), self.y_spec("support_y")],
        )
        return run(support_x, support_y)

    def call(
        self,
        episode: Mapping[str, TensorLike],
        training: bool = False,
        reading: bool = False,
    ) -> Any:
        """Runs `adapt` and `infer`; with `reading`, `sequence` too.

        With `reading`, it returns `(outputs, answers of sequence)`, both for the order
        given, as in meta-training.
        """
        if not reading:
            return super().call(episode, training)
        support_x, support_y = checks.checked_support(
            self, episode["support_x"], episode["support_y"]
        )
        query_x = checks.checked_x(self, "query_x", episode["query_x"])
        state, answers = self._read(support_x, support_y, training)
        return self.infer_tasks(state, query_x, training), answers

    def meta_gradient(
        self,
        episode: Mapping[str, TensorLike],
        query_y: TensorLike,
        weights: TensorLike | None = None,
        loss_scale: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], list[keras.Variable], tf.Tensor]:
        query_y = tf.convert_to_tensor(query_y)
        support_y = tf.cast(episode["support_y"], query_y.dtype)
        examples = tf.cast(tf.shape(support_y)[1], self.query_loss.dtype)
        if weights is not None:
            weights = tf.convert_to_tensor(weights)
        # Weights of queries do not apply to the terms of the support examples.
        read_weights = weights
        if weights is not None and weights.shape.rank == 2:
            read_weights = None
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            outputs, answers = self(episode, training=True, reading=True)
            read, queried = (
                losses.of_batch(
                    self.query_loss, self._standard(y), self._standard(z), w
                )
                for y, z, w in (
                    (support_y, answers, read_weights),
                    (query_y, outputs, weights),
                )
            )
            loss = (examples * read + queried) / (examples + 1)
            loss += tf.cast(self.penalty(), loss.dtype)
            scaled = loss * tf.cast(loss_scale, loss.dtype)
        return loss, tape.gradient(scaled, variables), variables, outputs

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        if settings.accepts(type(self), "cell"):
            config["cell"] = keras.saving.serialize_keras_object(self.cell)
        config.update(
            network=self.network and keras.saving.serialize_keras_object(self.network),
            example_shape=list(self.example_shape),
            outputs=self.output_size,
            labels=self.labels,
            skip=self.skip,
            unroll=self.unroll,
            target_mean=self.target_mean,
            target_scale=self.target_scale,
        )
        return config
