"""The order in which learners read a support set."""

import tensorflow as tf

from keras_meta import learner, settings

ORDERS = ("shuffled", "given")
# Of the permutations of "shuffled". Any other would do, but would change the answers of
# saved learners.
SEED = (0, 0)


def permutation(examples):
    """The order in which "shuffled" reads S support examples.

    It depends on S alone: the same for all tasks of a batch, in every process, and in
    exported graphs, where S is a tensor.

    Args:
        examples: S, an integer or a scalar tensor.

    Returns:
        Places of the examples, int32 `[S]`, in the order in which they are read.
    """
    keys = tf.random.stateless_uniform(
        [examples], SEED, minval=None, maxval=None, dtype=tf.int32, alg="philox"
    )
    return tf.argsort(keys, stable=True)


class OrderedLearner(learner.Learner):
    """A learner whose result depends on the order of the support examples.

    Args:
        *args: see `Learner`.
        support_order: the order in which `adapt` reads the support examples outside of
            meta-training. "shuffled": in the order of `permutation(S)`, so that a
            support set that comes class by class is read mixed, as meta-training reads
            it; "given": as they come, for streams. Meta-training reads them as given.
        **kwargs: see `Learner`.

    Raises:
        ValueError: `support_order` is neither.
    """

    support_order = settings.Setting(settings.choice(*ORDERS))

    def __init__(
        self,
        loss,
        example_shape,
        outputs,
        preprocess=None,
        point_units=None,
        *,
        support_order="shuffled",
        **kwargs,
    ):
        super().__init__(
            loss, example_shape, outputs, preprocess, point_units, **kwargs
        )
        self.support_order = support_order

    def reading_order(self, examples, training):
        """`permutation(examples)`, or None where they are read as given."""
        if training or self.support_order == "given":
            return None
        return permutation(examples)

    def get_config(self):
        return {**super().get_config(), "support_order": self.support_order}

    @classmethod
    def from_config(cls, config):
        made = super().from_config(config)
        if "support_order" not in config:  # a file older than the setting
            made.support_order = "given"
        return made
