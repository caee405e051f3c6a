"""The order in which learners read a support set."""

from collections.abc import Sequence
from typing import Any, Self, Unpack

import keras
import tensorflow as tf

from keras_meta import learner, options, settings, units
from keras_meta.images import ImagePreprocess

ORDERS = ("shuffled", "given")
# Seed of the permutations of "shuffled". Another seed would change the predictions of
# saved learners.
SEED = (0, 0)


def permutation(examples: int | tf.Tensor) -> tf.Tensor:
    """Returns the order in which "shuffled" reads S support examples.

    It depends on S alone. It is therefore the same for all tasks of a batch, in every
    process, and in exported graphs, where S is a tensor.

    Args:
        examples: S, an integer or a scalar tensor.

    Returns:
        Indices of the examples in reading order, int32 `[S]`.

    Example:
        >>> from keras_meta import ordered
        >>> sorted(ordered.permutation(4).numpy().tolist())
        [0, 1, 2, 3]
    """
    keys = tf.random.stateless_uniform(
        [examples], SEED, minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    return tf.argsort(keys, stable=True)


class OrderedLearner(learner.Learner):
    """Base class of learners whose result depends on the order of the support examples.

    Args:
        loss: as for `Learner`: a name or a `keras.losses.Loss`.
        example_shape: shape of one example x, without batch axes.
        outputs: number of classes N, or of target dimensions d_y.
        preprocess: the `ImagePreprocess` that produces x, if x are images.
        point_units: for regression, a `StandardUnits` that scales points of any units.
        temperature: for classification, `infer` divides the logits by it, which
            calibrates the probabilities (Guo et al., 2017). Meta-training and
            fine-tuning use the logits themselves.
        support_order: order in which `adapt` reads the support examples outside
            meta-training. "shuffled": the order of `permutation(S)`, so that a support
            set sorted by class is read mixed, as in meta-training; "given": the order
            of the input, for time series. Meta-training reads them as given.
        trainable: if False, `fit` changes no weight.
        **kwargs: `name` and `dtype` of `keras.Model`.

    Raises:
        ValueError: `support_order` is neither "shuffled" nor "given".
    """

    support_order = settings.Setting(settings.choice(*ORDERS))

    def __init__(
        self,
        loss: keras.losses.Loss | str,
        example_shape: Sequence[int | None] | keras.Model,
        outputs: int | None,
        preprocess: ImagePreprocess | None = None,
        point_units: units.StandardUnits | None = None,
        *,
        support_order: str = "shuffled",
        **kwargs: Unpack[options.PredictionOptions],
    ) -> None:
        super().__init__(
            loss, example_shape, outputs, preprocess, point_units, **kwargs
        )
        self.support_order = support_order

    def reading_order(
        self, examples: int | tf.Tensor, training: bool
    ) -> tf.Tensor | None:
        """Returns `permutation(examples)`, or None to read examples as given."""
        if training or self.support_order == "given":
            return None
        return permutation(examples)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "support_order": self.support_order}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        learner = super().from_config(config)
        if "support_order" not in config:  # a file older than the setting
            learner.support_order = "given"
        return learner
