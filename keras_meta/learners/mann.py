"""Memory-augmented neural networks."""

import keras

from keras_meta import memory
from keras_meta.learners import sequence

# What of the cell is this learner's to set, by the names of `LRUACell`.
CELL = (
    "units",
    "rows",
    "width",
    "heads",
    "controller",
    "similarity",
    "decay",
    "feed_reads",
    "output_hidden",
)


@keras.saving.register_keras_serializable("keras_meta")
class MANN(sequence.SequenceLearner):
    """A controller that keeps what it has seen in a memory (Santoro et al., 2016).

        state_t, o_t = LRUA([x_t, y_{t-1}], state_{t-1}),  answer_t = g(o_t)

    `memory.LRUACell` has the equations. A query is answered from a copy of the memory.

    Args:
        network: see `SequenceLearner`, as for all arguments that are not `LRUACell`'s.
        skip: whether g sees f(x_t) beside what the cell gives.
        **kwargs: see `LRUACell` and `SequenceLearner`.

    Example:
        >>> encoder = networks.conv4((28, 28, 1), outputs=64)  # of images to features
        >>> learner = MANN(encoder, outputs=5)
        >>> learner.compile("adam")
        >>> learner.fit(pool.episodes(5, 10, 1).batch(16), steps_per_epoch=1000)

        With `MANN(..., labels="strings")` the episodes are those of
        `pool.episodes(..., labels="strings")`.

    Reference:
        "Meta-Learning with Memory-Augmented Neural Networks", ICML 2016.
    """

    def __init__(self, network=None, *, skip=False, **kwargs):
        cell = {name: kwargs.pop(name) for name in CELL if name in kwargs}
        policy = {"dtype": kwargs["dtype"]} if "dtype" in kwargs else {}
        super().__init__(
            memory.LRUACell(**cell, **policy, name="lrua"),
            network,
            skip=skip,
            **kwargs,
        )

    def get_config(self):
        cell = self.cell.get_config()
        return {**super().get_config(), **{name: cell[name] for name in CELL}}
