"""Learning to learn by gradient descent: an LSTM."""

import keras

from keras_meta.learners import sequence


@keras.saving.register_keras_serializable("keras_meta")
class LSTMLearner(sequence.SequenceLearner):
    """An LSTM that is a learning algorithm (Hochreiter, Younger and Conwell, 2001).

        h_t, c_t = LSTM([x_t, y_{t-1}], h_{t-1}, c_{t-1}),  answer_t = g([x_t, h_t])

    Gradient descent shapes the weights, which stay as they are when a task is learned:
    that happens in the state.

    Args:
        network: see `SequenceLearner`, as for all other arguments.
        units: of each LSTM layer, an integer or one for each layer.
        **kwargs: see `SequenceLearner`.

    Example:
        >>> learner = LSTMLearner(example_shape=[2], outputs=2, units=32)
        >>> learner.compile("adam")
        >>> learner.fit(tasks.boolean().episodes(15, 1).batch(64), steps_per_epoch=1000)

    Reference:
        "Learning to Learn Using Gradient Descent", ICANN 2001.
    """

    def __init__(self, network=None, *, units=128, **kwargs):
        self.units = [units] if isinstance(units, int) else list(units)
        policy = kwargs.get("dtype")
        cells = [
            keras.layers.LSTMCell(size, dtype=policy, name=f"lstm{index + 1}")
            for index, size in enumerate(self.units)
        ]
        cell = (
            cells[0]
            if len(cells) == 1
            else keras.layers.StackedRNNCells(cells, dtype=policy, name="cells")
        )
        super().__init__(cell, network, **kwargs)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
