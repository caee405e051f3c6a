"""Network: runs a Keras model with given values of its variables."""

import itertools
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import keras
import tensorflow as tf

from keras_meta import batch_norm, keras_private
from keras_meta.typing_names import TensorLike

# Layers that `tf.vectorized_map` turns into one batched operation over tasks. It turns
# convolutions whose filters differ by task into a loop.
VECTORIZED_LAYERS = (
    keras.layers.InputLayer,
    keras.layers.Dense,
    keras.layers.Activation,
    keras.layers.ReLU,
    keras.layers.BatchNormalization,
    keras.layers.Flatten,
    keras.Sequential,
    keras.Model,
)

# Pairs of a variable and the value that replaces its own.
Assignments: TypeAlias = Iterable[tuple[keras.Variable, TensorLike]]


class Outputs(NamedTuple):
    """The result of a run of a network.

    Attributes:
        values: the network's outputs, `[B, ...]`.
        penalty: the sum of its activity regularizers and of losses that layers add, a
            scalar.
        updated: `variables -> values` after the run, a list of tensors.
    """

    values: tf.Tensor
    penalty: tf.Tensor | float
    updated: Callable[[Iterable[keras.Variable]], list[tf.Tensor]]


class Network:
    """A built Keras model, its variables by role, and runs with other values.

    Roles follow the current `trainable` flags of the layers. All roles are lists of
    Keras variables:

    - `adaptable`: all variables that layers created as trainable, frozen or not;
    - `trainable`: those of them whose layers are not frozen;
    - `statistics`: moving mean and variance of each batch normalization that computes
      batch statistics in training (a frozen one uses its own stored statistics);
    - `frozen`: the rest of `adaptable`;
    - `buffers`: all other non-trainable variables of the network, including seeds;
    - `seeds`: the states of random seed generators.

    Args:
        model: a built `keras.Model`, from `[B, ...]` to `[B, D]`. It stays unchanged.

    Raises:
        ValueError: not a built model of one input and one output `[B, D]`, or a model
            whose normalization cannot be made exact (see `batch_norm.exact`).
    """

    def __init__(self, model: keras.Model) -> None:
        require_built(model)
        self.model = model
        self.graph = batch_norm.exact(model)
        # The dtype of a Keras model is the global dtype at its creation.
        dtypes = [variable.dtype for variable in self.adaptable]
        self.dtype = dtypes[0] if dtypes else keras.config.floatx()

    @property
    def adaptable(self) -> list[keras.Variable]:
        adaptable = {
            id(variable)
            for layer in [self.model, *keras_private.layers_of(self.model)]
            for variable in keras_private.made_to_train(layer)
        }
        return [v for v in self.model.variables if id(v) in adaptable]

    @property
    def trainable(self) -> list[keras.Variable]:
        return self.model.trainable_variables

    @property
    def frozen(self) -> list[keras.Variable]:
        trained = {id(v) for v in self.trainable}
        return [v for v in self.adaptable if id(v) not in trained]

    @property
    def norms(self) -> list[keras.layers.Layer]:
        """The batch normalization layers that compute batch statistics in training."""
        return [n for n in batch_norm.batch_norms(self.model) if n.trainable]

    @property
    def statistics(self) -> list[keras.Variable]:
        return [
            v for norm in self.norms for v in (norm.moving_mean, norm.moving_variance)
        ]

    @property
    def seeds(self) -> list[keras.Variable]:
        layers = [self.model, *keras_private.layers_of(self.model)]
        states = [g.state for v in layers for g in keras_private.seed_generators(v)]
        return list({id(state): state for state in states}.values())

    @property
    def buffers(self) -> list[keras.Variable]:
        others = {id(v) for v in (*self.adaptable, *self.statistics)}
        return [v for v in self.model.variables if id(v) not in others]

    def paths(self) -> list[str]:
        """A path of each of `adaptable` below the network: "encoder/conv1/kernel".

        Keras numbers the layers of a process, so that `sequential_27` is another in the
        next: names of containers that Keras gave are left out, and layers of equal
        names are numbered in the order of the network (`conv1`, `conv1_1`).
        """
        layers = [self.model, *keras_private.layers_of(self.model)]
        left_out = {self.model.name} | {
            layer.name
            for layer in layers
            if not keras_private.is_leaf(layer) and is_named_by_keras(layer)
        }
        owners = {
            id(variable): layer
            for layer in layers
            for variable in keras_private.made_to_train(layer)
        }
        places: dict[tuple[int, str], str] = {}
        paths = []
        for variable in self.adaptable:
            *above, name = variable.path.split("/")
            owner = owners[id(variable)]
            last = above.pop() if above else owner.name
            unnumbered = "/".join([*(x for x in above if x not in left_out), last])
            key = id(owner), unnumbered
            if key not in places:
                place, numbers = unnumbered, itertools.count(1)
                while place in places.values():
                    place = f"{unnumbered}_{next(numbers)}"
                places[key] = place
            paths.append(f"{places[key]}/{name}")
        return paths

    def flags(self) -> tuple[bool, ...]:
        """All that a trace of the network depends on besides its inputs, hashable."""
        layers = keras_private.layers_of(self.model)
        return tuple(layer.trainable for layer in [self.model, *layers])

    def apply(
        self,
        assignments: Assignments,
        x: tf.Tensor,
        training: bool,
        graph: keras.Model | None = None,
    ) -> Outputs:
        """Runs the network with given values of some variables.

        The other variables keep their stored values. No variable changes.

        Args:
            assignments: pairs of a variable and the tensor that replaces its value.
            x: `[B, ...]`.
            training: whether to run the layers in training mode.
            graph: a part of the network (see `split`); by default all of it.

        Returns:
            `Outputs`.
        """
        graph = self.graph if graph is None else graph
        assignments = list(assignments)
        with (
            keras_private.without_autocast(),
            keras.StatelessScope(assignments, collect_losses=True) as scope,
        ):
            values = graph(x, training=training)

        def updated(variables):
            current = ((v, scope.get_current_value(v)) for v in variables)
            return [v.value if value is None else value for v, value in current]

        return Outputs(values, _sum(scope.losses), updated)

    def measure(self, assignments: Assignments, x: tf.Tensor) -> list[tf.Tensor]:
        """Computes the statistics of a batch x, in the order of `statistics`.

        All layers but batch normalization run in inference mode: dropout is inactive.

        Args:
            assignments: as for `apply`.
            x: `[B, ...]`.
        """
        variables = self.statistics
        if not variables:
            return []
        with batch_norm.measuring() as measurements:
            self.apply(assignments, x, training=False)
        # The last run of a layer that the network has in several places.
        latest = {id(variable): value for variable, value in measurements}
        return [latest[id(variable)] for variable in variables]

    def split(
        self, variables: Iterable[keras.Variable]
    ) -> tuple[keras.Model | None, keras.Model]:
        """Splits the network before the first layer with one of the given variables.

        Args:
            variables: some of `trainable`.

        Returns:
            `(ahead, rest)`, two graphs for `apply`, in order. The first depends on none
            of the variables and is deterministic. It is None if the network has no such
            part, or no single place to split it.
        """
        stop = {id(v) for v in (*variables, *self.seeds)}
        fixed = list(
            itertools.takewhile(
                lambda layer: not stop & {id(v) for v in layer.variables},
                self.model.layers,
            )
        )
        for layer in reversed(self.model.layers[1 : len(fixed) + 1]):
            try:
                ahead = keras.Model(self.model.inputs[0], layer.input)
                rest = keras.Model(layer.input, self.model.outputs[0])
            except (AttributeError, ValueError):
                continue  # no single tensor separates the two parts
            if ahead.weights:
                return batch_norm.exact(ahead), batch_norm.exact(rest)
        return None, self.graph

    def each(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Features of every example in the variables' precision, [T, S, D].

        Args:
            x: `[T, S, ...]`.
            training: run the layers in training mode.
        """
        outputs = each(self.graph, x, training)
        return tf.cast(outputs, self.dtype)

    def penalty(self, assignments: Assignments) -> tf.Tensor | float:
        """The sum of the weight regularizers of trainable variables, a scalar or 0."""
        return _sum(
            variable.regularizer(value)
            for variable, value in assignments
            if variable.regularizer is not None
        )

    def vectorizes(self) -> bool:
        """Whether running the tasks as one batch is faster than side by side."""
        layers = [self.model, *keras_private.layers_of(self.model)]
        return all(isinstance(layer, VECTORIZED_LAYERS) for layer in layers)


def is_named_by_keras(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer has a default name of Keras: its class and a number."""
    name = re.sub(r"_\d+$", "", layer.name)
    return name.replace("_", "") == type(layer).__name__.lower()


def _sum(losses):
    losses = list(losses)
    return tf.add_n([tf.cast(x, losses[0].dtype) for x in losses]) if losses else 0.0


def require_built(network: keras.Model) -> None:
    """Raises a ValueError unless `network` is a built model with `[B, D]` outputs."""
    if not isinstance(network, keras.Model) or not network.built:
        raise ValueError(
            "expected network to be a built keras.Model (start it with a "
            f"keras.Input), got {type(network).__name__}."
        )
    if not hasattr(network, "input_shape"):
        raise ValueError(
            "expected a functional or Sequential network, got the subclassed model "
            f"{type(network).__name__}: keras.Model(x, network(x)) makes one of it "
            "with x = keras.Input(shape), if it has no normalization."
        )
    for name in ("input", "output"):
        shape = getattr(network, f"{name}_shape")
        if shape and not isinstance(shape[0], int | None):
            raise ValueError(
                f"expected a network with one {name}, got {len(shape)}: join them into "
                "one tensor inside the network."
            )
    if len(network.output_shape) != 2:
        raise ValueError(
            "expected a network with outputs of shape [B, N], got "
            f"{network.output_shape}."
        )
    for layer in keras_private.layers_of(network):
        if getattr(layer, "lora_enabled", False):
            raise ValueError(
                f"expected a network without LoRA, {layer.name} has it: a saved model "
                "does not contain the adapters, and a loaded one would adapt others."
            )


def values(variables: Iterable[keras.Variable]) -> list[tf.Tensor]:
    """The current values of Keras variables, as a list of tensors.

    Tensors and not the variables: a tape can then watch them, and nothing assigns to a
    variable inside a tape, which would lose the second order. In the variables' own
    dtype, whatever layer of a mixed policy is being called.
    """
    return [tf.convert_to_tensor(keras_private.uncast(v)) for v in variables]


def assign(variables: Iterable[keras.Variable], values: Iterable[TensorLike]) -> None:
    """Assigns a value to each of the given variables, in their order."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def dense(gradients: Iterable[TensorLike]) -> list[tf.Tensor]:
    """Gradients as dense tensors; those of an embedding are `tf.IndexedSlices`."""
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


def with_outputs(network: keras.Model, outputs: int) -> keras.Model:
    """An untrained copy of a network with another number of outputs.

    Raises:
        ValueError: the last layer is not a Dense one.
    """
    last = network.layers[-1]
    ends = isinstance(network, keras.Sequential) or last.output is network.outputs[0]
    if not isinstance(last, keras.layers.Dense) or not ends:
        raise ValueError(
            "expected a network that ends in a Dense layer, whose number of units can "
            f"change; {network.name} ends in {type(last).__name__}."
        )
    config = network.get_config()
    config["layers"][-1]["config"]["units"] = outputs
    return type(network).from_config(config)


def policy(network: keras.Model) -> keras.DTypePolicy | str:
    """Returns the dtype policy of a network's layers with trainable weights.

    If their policies differ, or without such layers, it is the dtype of the first
    weight, or float32 without weights. The policy of the Keras model itself is not
    used: it is the global policy at the time of its creation.
    """
    policies = {
        layer.dtype_policy.name: layer.dtype_policy
        for layer in keras_private.layers_of(network)
        if keras_private.made_to_train(layer)
    }
    if len(policies) == 1:
        return next(iter(policies.values()))
    dtypes = [variable.dtype for variable in network.weights]
    return dtypes[0] if dtypes else "float32"


def each(graph: keras.Model, x: tf.Tensor, training: bool = False) -> tf.Tensor:
    """Runs a Keras model on every example: `[T, S, ...]` to `[T, S, D]`."""
    shape = tf.shape(x)
    sides = [side or shape[2 + i] for i, side in enumerate(x.shape[2:])]
    outputs = graph(tf.reshape(x, [-1, *sides]), training=training)
    return tf.reshape(outputs, [shape[0], shape[1], *outputs.shape[1:]])


def class_means(
    features: tf.Tensor, labels: tf.Tensor, classes: int | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Means of features `[T, S, D]` over the examples of each class.

    Args:
        features: `[T, S, D]`.
        labels: integers `[T, S]`.
        classes: how many; None for one more than the highest label of all tasks.

    Returns:
        `(means [T, classes, D], present [T])`: zeros for a class without examples, and
        one more than the highest label.
    """
    if classes is None:
        classes = tf.reduce_max(labels) + 1
    members = tf.one_hot(labels, classes, axis=1, dtype=features.dtype)  # [T, N, S]
    count = tf.reduce_sum(members, axis=2, keepdims=True)
    means = tf.matmul(members, features) / tf.maximum(count, 1)
    return means, tf.reduce_max(labels, axis=1) + 1
