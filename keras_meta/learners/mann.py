"""Memory-augmented neural networks."""

import keras

from keras_meta import memory
from keras_meta.learners import sequence

# Arguments of the cell that are this learner's too.
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

    def __init__(
        self,
        network=None,
        *,
        units=200,
        rows=128,
        width=40,
        heads=4,
        controller="lstm",
        similarity="dot",
        decay=0.95,
        feed_reads=True,
        output_hidden=False,
        skip=False,
        **kwargs,
    ):
        cell = memory.LRUACell(
            units,
            rows,
            width,
            heads,
            controller,
            similarity,
            decay,
            feed_reads,
            output_hidden,
            dtype=kwargs.get("dtype"),
            name="lrua",
        )
        super().__init__(cell, network, skip=skip, **kwargs)

    def get_config(self):
        cell = self.cell.get_config()
        return {**super().get_config(), **{name: cell[name] for name in CELL}}
