"""Graphs of a learner's `adapt` and `infer`, each traced once for any T, S and Q."""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from keras_meta import checks, keras_private, settings
from keras_meta.typing_names import Predictions, TensorLike, TensorNest


class Traced:
    """The part of a `Learner` that traces `adapt_tasks` and `infer_tasks`.

    A trace is a graph for any T, S and Q. It depends on the settings of the learner and
    the trainable flags of its layers; a change of either causes a new trace.
    """

    if TYPE_CHECKING:  # the attributes and methods of the learner

        def __getattr__(self, name: str) -> Any: ...

    def adapt_traced(
        self, support_x: TensorLike, support_y: TensorLike
    ) -> tuple[TensorNest, tf.Tensor]:
        """Runs `adapt` as one graph for any T and S, inside a `tf.function` too.

        Args:
            support_x: as for `adapt`.
            support_y: as for `adapt`.

        Returns:
            `(state, penalty)`: the state, which is checked to be finite, and the sum of
            the activity regularizers, a scalar.

        Raises:
            ValueError: as `adapt`.
        """
        support_x, support_y = checks.checked_support(self, support_x, support_y)
        state, finite, penalty = self._adapt_function()(support_x, support_y)
        check = checks.finite("the state computed from support_x", finite)
        return checks.required(state, check), penalty

    def infer_traced(
        self, state: TensorNest, query_x: TensorLike
    ) -> tuple[Predictions, tf.Tensor]:
        """Runs `infer` as one graph for any T and Q, inside a `tf.function` too.

        Args:
            state: as for `infer`.
            query_x: as for `infer`.

        Returns:
            `(outputs, penalty)`: the predictions, which are checked to be finite, and
            the sum of the activity regularizers, a scalar.

        Raises:
            ValueError: as `infer`.
        """
        state = self.checked_state(state)
        state, query_x = checks.checked_query(self, state, query_x)
        outputs, finite, penalty = self._infer_function()(state, query_x)
        check = checks.finite("the predictions for query_x", finite)
        return checks.required(outputs, check), penalty

    def checked_state(self, state: TensorNest) -> TensorNest:
        """Returns a state as tensors, after validation of their structure and shapes.

        Args:
            state: as for `infer`.

        Raises:
            ValueError: `adapt` returns no state of this structure.
        """
        spec = self.state_spec()
        try:
            tf.nest.assert_same_structure(state, spec, check_types=False)
            state = tf.nest.map_structure(tf.convert_to_tensor, state)
            pairs = zip(tf.nest.flatten(spec), tf.nest.flatten(state), strict=True)
            fits = all(part.is_compatible_with(value) for part, value in pairs)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise ValueError(
                "expected a state that adapt returned with the present settings and "
                "trainable flags, got one of another structure: call adapt again."
            )
        return state

    def trace_key(self) -> tuple[Any, ...]:
        """Returns what a trace depends on besides its inputs: settings and flags."""
        layers = keras_private.layers_of(self)
        flags = tuple(layer.trainable for layer in layers)
        return settings.current(self), flags

    def _adapt_function(self):
        return self.traced(
            "adapt",
            functools.partial(_stateless, self.adapt_tasks),
            [self.x_spec("support_x"), self.y_spec("support_y")],
        )

    def _infer_function(self):
        return self.traced(
            "infer",
            functools.partial(_stateless, self.predictions),
            [self.state_spec(), self.x_spec("query_x")],
        )

    def traced(
        self, name: str, function: Callable[..., Any], signature: Sequence[Any] | None
    ) -> Callable[..., Any]:
        """Returns the `tf.function` of a name; retraced when settings or flags change.

        Args:
            name: name of the trace.
            function: the function to trace.
            signature: its inputs, a list of nests of TensorSpecs; None for any.
        """
        return self._functions.get(
            self.trace_key(),
            name,
            lambda: tf.function(
                function,
                input_signature=signature,
                autograph=False,
                reduce_retracing=True,
            ),
        )

    def state_spec(self) -> TensorNest:
        """Returns the structure of the state that `adapt` returns, as TensorSpecs."""

        def traced_state():
            trace = self._adapt_function().get_concrete_function()
            return tf.nest.map_structure(
                lambda x: tf.TensorSpec(x.shape, x.dtype), trace.structured_outputs[0]
            )

        return self._functions.get(self.trace_key(), "state_spec", traced_state)

    def x_spec(self, name: str) -> tf.TensorSpec:
        """Returns the TensorSpec of examples `[T, S or Q, ...]`, for any T, S and Q."""
        return tf.TensorSpec(
            [None, None, *self.example_shape], self.variable_dtype, name
        )

    def y_spec(self, name: str) -> tf.TensorSpec:
        """Returns the TensorSpec of labels `[T, S]` or targets `[T, S, d_y]`."""
        if self.classification:
            return tf.TensorSpec([None, None, *self.label_shape], tf.int32, name)
        shape = [None, None, self.output_size]
        return tf.TensorSpec(shape, self.variable_dtype, name)

    def example(self) -> dict[str, tf.Tensor]:
        """Returns an episode of zeros: one task with one example and one query."""
        spec = self.x_spec("support_x")
        x = tf.zeros([1, 1, *(side or 1 for side in self.example_shape)], spec.dtype)
        spec = self.y_spec("support_y")
        y = tf.zeros([1, 1, *spec.shape[2:]], spec.dtype)
        return {"support_x": x, "support_y": y, "query_x": x}


class Functions:
    """The traces of a learner, and what is derived from them, by name.

    Keras neither tracks nor saves them.
    """

    def __init__(self) -> None:
        self.key: Any = None
        self.made: dict[str, Any] = {}
        self.made_with: dict[str, Any] = {}

    def get(self, key: Any, name: str, make: Callable[[], Any]) -> Any:
        """Returns the result of `make` for a name; another key discards all results."""
        if key != self.key:
            self.key, self.made = key, {}
        if name not in self.made:
            self.made[name] = make()
        return self.made[name]

    def is_stale(self, name: str, key: Any) -> bool:
        """Returns whether the last call for this name had another key."""
        before = self.made_with.get(name, key)
        self.made_with[name] = key
        return before != key


def _stateless(function, *args):
    """Returns a function's outputs, whether they are finite, and its layers' losses.

    No variable changes, and the layers store nothing of the trace.
    """
    with keras.StatelessScope(collect_losses=True) as scope:
        outputs = function(*args)
    floatx = keras.config.floatx()
    penalties = [tf.cast(loss, floatx) for loss in scope.losses]
    penalty = tf.add_n(penalties) if penalties else tf.zeros([], floatx)
    return outputs, checks.is_finite(outputs), penalty
