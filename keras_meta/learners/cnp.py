"""Conditional neural processes."""

from collections.abc import Mapping
from typing import Any, Unpack

import keras
import tensorflow as tf

from keras_meta import learner, losses, options, settings
from keras_meta import network as network_module
from keras_meta.images import ImagePreprocess
from keras_meta.typing_names import Distribution, Predictions, TensorLike, TensorNest

AGGREGATES = ("mean", "attention")
MIN_SCALE = 0.1  # as published


def _min_scale(learner, name, value):
    """Checks the setting `min_scale`: classification predicts no scale."""
    if learner.classification and value != MIN_SCALE:
        raise ValueError(
            f"expected no {name} for classification, which predicts no scale, got "
            f"{value!r}."
        )
    return settings.between(0, 1)(learner, name, value)


@keras.saving.register_keras_serializable("keras_meta")
class CNP(learner.Learner):
    """Conditional neural process (Garnelo et al., 2018).

    Encodes the support examples, averages their representations, and decodes the
    average together with a query. For regression, one representation of the support set
    and a Gaussian prediction:

        r = mean_s h(x_s, y_s)
        mu, raw = g(r, x);  sigma = min_scale + (1 - min_scale) softplus(raw)

    For classification, a representation of each class, and a score for each class by
    the same g, so that class labels are interchangeable:

        r_n = mean of h(x_s) over the support examples of class n
        p(y = n | x) = softmax_n g(r_n, h(x))

    Meta-training predicts the support examples in addition to the queries. With
    `aggregate="attention"` each query has its own representation (Kim et al., 2019):
    multi-head attention with query e(x), keys e(x_s) and values h(x_s, y_s), where e is
    a learned network of two dense layers. One further learned key and value are always
    present, so that attention is defined for an empty support set. Meta-training then
    predicts the queries alone, because attention would copy a support example's own
    label.

    Args:
        encoder: h, a built Keras model: from `[B, d_x + d_y]` (regression) or from `[B,
            ...]` (classification) to `[B, D]`. Its batch normalization works as in
            Keras.
        decoder: g, a built Keras model: from `[B, D + d_x]` to `[B, 2 d_y]`
            (regression), or from `[B, 2 D]` to `[B, 1]` (classification).
        loss: "gaussian" or "sparse_categorical_crossentropy".
        outputs: for regression d_y, 1 by default. For classification the number of
            logits N; None means the number of classes of the task. If N is set, tasks
            may have fewer classes, and the other logits are masked.
        aggregate: "mean", as published, or "attention" (regression only).
        min_scale: the smallest sigma, between 0 and 1; 0.1 as published.
        preprocess: for images, the `ImagePreprocess` that converts raw images to x. The
            learner stores and exports it; `adapt` and `infer` do not apply it.
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
        Regression: `{"representation": [T, 1, D]}`, or with attention `{"keys": [T, S +
        1, D], "values": [T, S + 1, D]}`; S may be zero. Classification:
        `{"representation": [T, N, D], "ways": [T]}`.

    Example:
        >>> encoder = km.networks.mlp((2,), 8, (16,))  # x and y to D = 8
        >>> decoder = km.networks.mlp((9,), 2, (16,))  # r and x to mu and sigma
        >>> learner = km.CNP(encoder, decoder)
        >>> curves = km.tasks.sinusoid().episodes(shots=9, queries=4).batch(2)
        >>> episode, query_y = next(iter(curves))
        >>> state = learner.adapt(episode["support_x"], episode["support_y"])
        >>> mean, scale = learner.infer(state, episode["query_x"])
        >>> mean.shape
        TensorShape([2, 4, 1])

    Raises:
        ValueError: networks whose sizes do not fit together, or an argument out of
            range.

    Reference:
        Garnelo et al., "Conditional Neural Processes", ICML 2018, arXiv 1807.01613,
        equations 1 to 3; Kim et al., "Attentive Neural Processes", ICLR 2019.
    """

    predicts_scale = True
    aggregate = settings.Fixed()
    min_scale = settings.Setting(_min_scale)

    def __init__(
        self,
        encoder: keras.Model,
        decoder: keras.Model,
        loss: keras.losses.Loss | str = "gaussian",
        outputs: int | None = None,
        aggregate: str = "mean",
        min_scale: float = MIN_SCALE,
        preprocess: ImagePreprocess | None = None,
        **kwargs: Unpack[options.LearnerOptions],
    ) -> None:
        bound = network_module.Network(encoder), network_module.Network(decoder)
        kwargs.setdefault("dtype", network_module.policy(encoder))
        width, ahead = encoder.output_shape[-1], decoder.input_shape[-1]
        keras_loss = losses.get(loss, "float32")
        classification = losses.is_classification(keras_loss)
        if classification:
            shape, sizes = encoder.input_shape[1:], (2 * width, 1)
        else:
            outputs = 1 if outputs is None else outputs
            shape, sizes = (ahead - width,), (ahead, 2 * outputs)
            if encoder.input_shape[1:] != (ahead - width + outputs,):
                raise ValueError(
                    "expected an encoder of [B, d_x + d_y] and a decoder of [B, D + "
                    f"d_x], got {list(encoder.input_shape)} and "
                    f"{list(decoder.input_shape)} with D = {width}, d_y = {outputs}."
                )
        if (ahead, decoder.output_shape[-1]) != sizes:
            raise ValueError(
                f"expected a decoder from [B, {sizes[0]}] to [B, {sizes[1]}], got "
                f"one from {list(decoder.input_shape)} to {list(decoder.output_shape)}."
            )
        if aggregate not in AGGREGATES[: 1 if classification else 2]:
            raise ValueError(
                "expected aggregate to be mean, or attention for regression, got "
                f"{aggregate!r}."
            )
        super().__init__(loss, shape, outputs, preprocess, **kwargs)
        self.encoder = encoder
        self.decoder = decoder
        self.bound, self.bound_decoder = bound
        self.aggregate = aggregate
        self.min_scale = min_scale
        self.least_support = 1 if classification else 0
        if aggregate == "attention":
            policy = self.dtype_policy
            self.embedding = keras.Sequential(
                [
                    keras.Input(shape, dtype=self.variable_dtype),
                    keras.layers.Dense(width, "relu", dtype=policy, name="embed1"),
                    keras.layers.Dense(width, dtype=policy, name="embed2"),
                ],
                name="embedding",
            )
            self.attention = keras.layers.MultiHeadAttention(
                num_heads=8,
                key_dim=max(width // 8, 1),
                output_shape=width,
                dtype=policy,
                name="attention",
            )
            self.attention.build([None, None, width], [None, None, width])
            self.nothing = self.add_weight(
                shape=[2, 1, 1, width], name="nothing", autocast=False
            )

    def adapt_tasks(
        self, support_x: tf.Tensor, support_y: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        if self.classification:
            features = self.bound.each(support_x, training)
            means, classes = network_module.class_means(
                features, support_y, self.output_size
            )
            return {"representation": means, "ways": classes}
        pairs = tf.concat([support_x, support_y], axis=-1)
        values = self.bound.each(pairs, training)
        if self.aggregate == "attention":
            tasks = tf.shape(support_x)[0]
            keys = self._embedded(support_x, training)
            # The learned key and value that represent no example.
            key, value = (tf.repeat(v, tasks, axis=0) for v in tf.unstack(self.nothing))
            return {
                "keys": tf.concat([key, keys], axis=1),
                "values": tf.concat([value, values], axis=1),
            }
        count = tf.cast(tf.maximum(tf.shape(support_x)[1], 1), values.dtype)
        return {"representation": tf.reduce_sum(values, axis=1, keepdims=True) / count}

    def infer_tasks(
        self, state: TensorNest, query_x: tf.Tensor, training: bool = False
    ) -> Predictions:
        if self.classification:
            return self._scores(state, query_x, training)
        if self.aggregate == "attention":
            context = self.attention(
                self._embedded(query_x, training),
                value=state["values"],
                key=state["keys"],
            )
            context = tf.cast(context, self.variable_dtype)
        else:
            context = tf.repeat(state["representation"], tf.shape(query_x)[1], axis=1)
        decoded = self.bound_decoder.each(tf.concat([context, query_x], -1), training)
        mean, raw = tf.split(decoded, 2, axis=-1)
        return mean, self.min_scale + (1 - self.min_scale) * tf.nn.softplus(raw)

    def _embedded(self, x, training):
        """Returns the keys of all x, `[T, S, D]`."""
        keys = network_module.each(self.embedding, x, training)
        return tf.cast(keys, self.variable_dtype)

    def _scores(self, state, query_x, training):
        """Returns logits: the decoder on all pairs of a query and a class."""
        features = self.bound.each(query_x, training)
        classes = state["representation"]
        queries, ways = tf.shape(features)[1], tf.shape(classes)[1]
        pairs = tf.concat(
            [
                tf.repeat(classes[:, None], queries, axis=1),
                tf.repeat(features[:, :, None], ways, axis=2),
            ],
            axis=-1,
        )  # [T, Q, N, 2 D]
        flat = tf.reshape(pairs, [-1, pairs.shape[-1]])
        scores = self.bound_decoder.graph(flat, training=training)
        scores = tf.reshape(scores, [-1, queries, ways])
        return self.masked(scores, state["ways"])

    def distribution(self, state: TensorNest, query_x: TensorLike) -> Distribution:
        """Returns the predictions as a distribution of TensorFlow Probability.

        Args:
            state: the state that `adapt` returned for T tasks.
            query_x: `[T, Q, d_x]`.

        Returns:
            A `tfp.distributions.Normal` of batch shape `[T, Q, d_y]`: independent
            Gaussians.

        Raises:
            ValueError: the learner is a classifier, or as `infer`.
        """
        if self.classification:
            raise ValueError(
                "expected a CNP for regression, got one for classification."
            )
        import tensorflow_probability as tfp

        return tfp.distributions.Normal(*self.infer(state, query_x))

    def meta_gradient(
        self,
        episode: Mapping[str, TensorLike],
        query_y: TensorLike,
        weights: TensorLike | None = None,
        loss_scale: float | tf.Tensor = 1.0,
    ) -> tuple[tf.Tensor, list[tf.Tensor | None], list[keras.Variable], tf.Tensor]:
        if self.aggregate == "attention":
            return super().meta_gradient(episode, query_y, weights, loss_scale)
        query_y = tf.convert_to_tensor(query_y)
        support_y = tf.cast(episode["support_y"], query_y.dtype)
        queries = tf.shape(query_y)[1]
        if weights is not None:
            weights = tf.convert_to_tensor(weights)
        if weights is not None and weights.shape.rank == 2:
            ones = tf.ones(tf.shape(support_y)[:2], weights.dtype)
            weights = tf.concat([weights, ones], axis=1)
        loss, gradients, variables, outputs = super().meta_gradient(
            {
                **episode,
                "query_x": tf.concat(
                    [
                        tf.cast(episode[name], self.variable_dtype)
                        for name in ("query_x", "support_x")
                    ],
                    axis=1,
                ),
            },
            tf.concat([query_y, support_y], axis=1),
            weights,
            loss_scale,
        )
        return loss, gradients, variables, outputs[:, :queries]

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            encoder=keras.saving.serialize_keras_object(self.encoder),
            decoder=keras.saving.serialize_keras_object(self.decoder),
            outputs=self.output_size,
            aggregate=self.aggregate,
            min_scale=self.min_scale,
        )
        return config
