"""Learner: a Keras model whose input is a dataset."""

import contextlib
import functools
import re

import keras
import tensorflow as tf

from keras_meta import losses, metrics

# Of an episode, by name.
INPUTS = ("support_x", "support_y", "query_x")
# Added to the logit of a class that is absent from the support set: its probability is
# then exactly zero in float32, and nothing turns into NaN as infinity would.
ABSENT = -1e9
UNEQUAL_QUERIES = "expected query_x and query_y of equal T and Q, they differ."


def required(tensors, *checks):
    """A nest of tensors, of which a graph has nothing until all checks have passed.

    Args:
        tensors: the nest.
        *checks: pairs of a condition and the sentence to raise without it, as a
            ValueError, or in a graph as the run's InvalidArgumentError.
    """
    assertions = []
    for condition, sentence in checks:
        if tf.is_symbolic_tensor(condition):
            # Sentence by sentence: a later condition may not even make sense.
            with tf.control_dependencies(assertions):
                assertions = [tf.debugging.Assert(condition, [sentence], name="check")]
        elif not condition:
            raise ValueError(sentence)
    with tf.control_dependencies(assertions):
        return tf.nest.map_structure(tf.identity, tensors) if assertions else tensors


@contextlib.contextmanager
def _in_a_sentence():
    """Raises what a graph's check found as `required` does outside of graphs."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(r"\[(expected .*?\.)\]", error.message, re.DOTALL)
        if not found:
            raise
        raise ValueError(found[1]) from None


def _is_finite(nest):
    """Whether no tensor of a nest has a NaN or an infinity."""
    floating = [x for x in tf.nest.flatten(nest) if x.dtype.is_floating]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in floating])


def _finite(name, finite):
    """The check that what is called so is finite."""
    return finite, f"expected finite values in {name}, got NaN or infinity."


def _with_finite(function, *args):
    """What a function gives, and whether all of it is finite."""
    outputs = function(*args)
    return outputs, _is_finite(outputs)


def stacked(outputs):
    """Mean and scale as one tensor, which is what Keras' losses and metrics take."""
    return tf.stack(outputs, axis=-1) if isinstance(outputs, tuple) else outputs


def named_shape(spec, *axes):
    """The shape of examples in words: `[T, S, 28, 28, 1]`, if `axes` are T and S.

    Args:
        spec: their TensorSpec, with two leading axes.
        *axes: what to call those that are there.
    """
    return f"[{', '.join([*axes, *map(str, spec.shape[2:])])}]"


class Learner(keras.Model):
    """Learns a task from its support set, and answers its queries.

    `adapt` turns support sets into a state and `infer` answers queries from it; both
    are pure functions that keep nothing on `self`, and calling the learner is one after
    the other. So one model serves `fit` (meta-training), `evaluate`, `predict`, saving,
    fine-tuning and serving. Axes: T tasks, S support and Q query examples of each, N
    classes.

    A subclass gives `adapt_tasks` and `infer_tasks`, and may give `meta_gradient`.

    Args:
        loss: "sparse_categorical_crossentropy" (targets are labels), "mse", or a
            `keras.losses.Loss`; of the support examples where a learner has an inner
            loss, and of the queries unless `compile` names another.
        example_shape: shape of one example x.
        outputs: number of classes N, or of target dimensions d_y.
        preprocess: an `ImagePreprocess` that the data came through, if any.
        **kwargs: for `keras.Model`.

    Call arguments:
        episode: `{"support_x": [T, S, ...], "support_y": [T, S] or [T, S, d_y],
            "query_x": [T, Q, ...]}`.

    Returns:
        Logits `[T, Q, N]`, or predictions `[T, Q, d_y]`; mean and scale are stacked,
        `[T, Q, d_y, 2]`.
    """

    # Of one label of a classification task: () for an integer, (5,) for a string.
    label_shape = ()
    # Whether the labels of a task must be 0..n-1, none left out.
    gapless = True
    # Support examples that a task needs.
    least_support = 1
    # Whether an answer may depend on the other queries: "transductive" if so.
    normalization = "inductive"

    def __init__(self, loss, example_shape, outputs, preprocess=None, **kwargs):
        super().__init__(**kwargs)
        self.supports_jit = False  # second-order gradients under XLA: DESIGN.md
        self.support_loss = losses.get(loss, self.variable_dtype)
        self.classification = losses.is_classification(self.support_loss)
        self.example_shape = tuple(example_shape)
        self.output_size = outputs
        self.preprocess = preprocess
        self.query_loss = self.support_loss
        self._loss_config = losses.config(loss)

    # What a subclass gives.

    def adapt_tasks(self, support_x, support_y, training=False):
        """`adapt` without its checks, traceable."""
        raise NotImplementedError

    def infer_tasks(self, state, query_x, training=False):
        """`infer` without its checks, traceable."""
        raise NotImplementedError

    def meta_gradient(self, episode, query_y):
        """The loss of a batch of tasks and its gradient.

        Returns:
            `(loss, gradients, variables, outputs)`: the mean loss over tasks and
            queries, gradients and the variables they belong to, and the answers to
            the queries.
        """
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            outputs = self(episode, training=True)
            loss = losses.of(self.query_loss, query_y, outputs)
        return loss, tape.gradient(loss, variables), variables, outputs

    def task_model(self, x, y, optimizer=None):
        """A Keras model of the one task with support set x `[S, ...]`, y `[S, ...]`.

        Here, one that trains the state which `adapt` gives and nothing else.

        Returns:
            `(model, optimizer)`: what `finetune` compiles; the optimizer is the one
            given, or this learner's own.
        """
        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        copy = type(self).from_config(self.get_config())
        copy(self.example())  # so that it has its variables
        copy.set_weights(self.get_weights())
        state = tf.nest.map_structure(lambda v: v[0], self.adapt(x[None], y[None]))
        return TaskModel(copy, state), optimizer or keras.optimizers.Adam(1e-3)

    def config_with(self, classes):
        """The config of this learner for another number of classes."""
        return {**self.get_config(), "outputs": classes}

    def carried(self, weight, shape):
        """A weight's value `shape`d for another number of classes, None if it can't."""
        return weight if weight.shape == shape else None

    # What users call.

    def adapt(self, support_x, support_y, training=False, traced=False):
        """Learns T tasks, each from its own S support examples.

        Args:
            support_x: `[T, S, ...]`, what `preprocess` gives.
            support_y: integer labels `[T, S]`, those present being 0..n-1 with n <= N;
                or targets `[T, S, d_y]`.
            training: take the settings of meta-training, not of evaluation.
            traced: inside a graph too, call the one trace for any T and S, as eager
                calls do, where the graph would have its own.

        Returns:
            The state: a nest of tensors, each with a leading T.

        Raises:
            ValueError: wrong rank or shape, no support example, labels out of range
                or with a gap, values that are not finite, or so large that learning
                from them diverges (which a surrounding graph is not told, see
                `traced`).
        """
        support_x, support_y = self._checked_support(support_x, support_y)
        if training or not (traced or tf.executing_eagerly()):
            return self.adapt_tasks(support_x, support_y, training)
        state, finite = self._traced_adapt(support_x, support_y)
        return required(state, _finite("what was learned of support_x", finite))

    def infer(self, state, query_x, training=False, traced=False):
        """Answers Q queries of each task.

        Args:
            state: what `adapt` gave for T tasks.
            query_x: `[T, Q, ...]`.
            training: as for `adapt`.
            traced: as for `adapt`.

        Returns:
            Logits `[T, Q, N]`, or predictions `[T, Q, d_y]`, or a pair of mean and
            scale, each `[T, Q, d_y]`.

        Raises:
            ValueError: wrong rank or shape, another T than the state's, values that
                are not finite.
        """
        query_x = self._checked_x("query_x", query_x)
        tasks = tf.shape(tf.nest.flatten(state)[0])[0]
        same = tf.equal(tasks, tf.shape(query_x)[0])
        sentence = "expected query_x and the state to be of the same number of tasks."
        state, query_x = required((state, query_x), (same, sentence))
        if training or not (traced or tf.executing_eagerly()):
            return self.infer_tasks(state, query_x, training)
        outputs, finite = self._traced_infer(state, query_x)
        return required(outputs, _finite("the answers to query_x", finite))

    def with_classes(self, classes):
        """A learner of other many classes with what this one has learned.

        ProtoNet and CNP have no weight that knows N and are as good as before. Gradient
        learners get a last layer of as many units. Labels are given at random, so that
        no unit means more than another: what is new is drawn from the normal
        distribution of the old, or, where nothing but the last layer adapts (ANIL), all
        are their mean. The LSTM and the MANN read labels through weights made for N,
        and can't.

        Args:
            classes: N of the new learner.

        Returns:
            A learner, compiled with the defaults if this one is compiled.

        Raises:
            ValueError: fewer than two classes, a learner for regression, or weights
                made for N.
        """
        if not self.classification:
            raise ValueError("expected a learner for classification, got regression.")
        if classes != int(classes) or classes < 2:
            raise ValueError(f"expected an integer >= 2 of classes, got {classes}.")
        copy = type(self).from_config(self.config_with(int(classes)))
        for old, new in zip(self.weights, copy.weights, strict=True):
            value = self.carried(old.numpy(), tuple(new.shape))
            if value is None:
                raise ValueError(
                    f"{type(self).__name__} reads labels through weights made for "
                    f"{self.output_size} classes: expected to be trained anew for "
                    f"{classes}."
                )
            new.assign(value)
        if self.compiled:
            copy.compile()
        return copy

    def call(self, episode, training=False):
        state = self.adapt(episode["support_x"], episode["support_y"], training)
        return stacked(self.infer(state, episode["query_x"], training))

    # Both traced once, for any T, S and Q, with whether what comes out is finite.

    @functools.cached_property
    def _traced_adapt(self):
        return tf.function(
            functools.partial(_with_finite, self.adapt_tasks),
            input_signature=[self.x_spec("support_x"), self.y_spec("support_y")],
            autograph=False,
        )

    @functools.cached_property
    def _traced_infer(self):
        return tf.function(
            functools.partial(_with_finite, self.infer_tasks),
            input_signature=[self.state_spec(), self.x_spec("query_x")],
            autograph=False,
        )

    def state_spec(self):
        """What `adapt` gives, TensorSpecs in place of tensors."""
        return tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype),
            self._traced_adapt.get_concrete_function().structured_outputs[0],
        )

    def forget_traces(self):
        """Traces anew at the next call, because what was traced has changed."""
        self.__dict__.pop("_traced_adapt", None)
        self.__dict__.pop("_traced_infer", None)
        # Keras' own, of `fit`, `evaluate` and `predict`.
        self.train_function = self.test_function = self.predict_function = None

    def x_spec(self, name):
        """TensorSpec of examples `[T, S or Q, ...]`, T, S and Q free."""
        return tf.TensorSpec(
            [None, None, *self.example_shape], self.compute_dtype, name
        )

    def y_spec(self, name):
        """TensorSpec of labels `[T, S]` or targets `[T, S, d_y]`."""
        if self.classification:
            return tf.TensorSpec([None, None, *self.label_shape], tf.int32, name)
        return tf.TensorSpec([None, None, self.output_size], self.compute_dtype, name)

    def example(self):
        """An episode of zeros, one example and one query of one task."""
        x = tf.zeros([1, 1, *self.example_shape], self.compute_dtype)
        spec = self.y_spec("support_y")
        y = tf.zeros([1, 1, *spec.shape[2:]], spec.dtype)
        return {"support_x": x, "support_y": y, "query_x": x}

    # Checks, once and at the door.

    def _check_episodes(self, episodes):
        """Raises unless these are batches of episodes, before any is drawn."""
        if isinstance(episodes, keras.utils.PyDataset) or hasattr(episodes, "__next__"):
            return  # of which nothing is known before
        found = getattr(episodes, "element_spec", episodes)
        episode = found[0] if isinstance(found, tuple) else found
        if not isinstance(episode, dict) or not set(INPUTS) <= set(episode):
            got = type(episode).__name__
            if isinstance(episode, dict):
                got = f"{{{', '.join(sorted(map(str, episode)))}}}"
            raise ValueError(
                "expected batches of episodes, a tf.data.Dataset of ({support_x, "
                f"support_y, query_x}}, query_y), got {got}; km.finetune makes a model "
                "of one task."
            )
        if found is episodes:  # arrays
            found = episode = tf.nest.map_structure(tf.convert_to_tensor, episode)
        for name in ("support_x", "query_x"):
            self._check_x(name, episode[name])
        self._check_y("support_y", episode["support_y"])
        if isinstance(found, tuple) and len(found) > 1:
            self._check_y("query_y", found[1])
            asked, answered = (v.shape[:2] for v in (episode["query_x"], found[1]))
            if not asked.is_compatible_with(answered):
                raise ValueError(UNEQUAL_QUERIES)

    def _check_x(self, name, x):
        """Raises unless an x, or its TensorSpec, has the right shape and kind."""
        spec = self.x_spec(name)
        if not spec.shape.is_compatible_with(x.shape):
            missing = spec.shape.rank - len(x.shape)
            hint = "."
            if missing == 1:
                hint = ": dataset.batch(T), or x[None], makes an axis of tasks."
            elif self.preprocess and not missing:
                hint = "; learner.preprocess resizes images."
            shape = named_shape(spec, "T", name[0].upper())
            raise ValueError(
                f"expected {name} of shape {shape}, got {list(x.shape)}{hint}"
            )
        if tf.as_dtype(x.dtype) == tf.uint8:
            raise ValueError(
                f"expected {name} to be floating point, got uint8: pass images "
                "through learner.preprocess first."
            )

    def _check_y(self, name, y):
        """Raises unless a y, or its TensorSpec, has the right shape and kind."""
        spec = self.y_spec(name)
        if self.classification and not tf.as_dtype(y.dtype).is_integer:
            raise ValueError(
                f"expected {name} to be integer labels, got "
                f"{tf.as_dtype(y.dtype).name}."
            )
        if not spec.shape.is_compatible_with(y.shape):
            shape = named_shape(spec, "T", name[0].upper())
            raise ValueError(f"expected {name} of shape {shape}, got {list(y.shape)}.")

    def _checked_x(self, name, x):
        spec = self.x_spec(name)
        x = tf.convert_to_tensor(x)
        self._check_x(name, x)
        x = tf.cast(x, spec.dtype)
        return required(x, _finite(name, _is_finite(x)))

    def _checked_support(self, support_x, support_y):
        """Both, once all is known to be right."""
        support_x = self._checked_x("support_x", support_x)
        y = tf.convert_to_tensor(support_y)
        self._check_y("support_y", y)
        y = tf.cast(y, self.y_spec("support_y").dtype)
        shape = tf.shape(support_x)[:2]
        checks = [
            (
                tf.reduce_all(tf.equal(shape, tf.shape(y)[:2])),
                "expected support_x and support_y of equal T and S, they differ.",
            ),
            (
                tf.reduce_all(shape >= [1, self.least_support]),
                "expected at least one task and one support example, got none.",
            ),
            self._is_answer("support_y", y),
        ]
        if self.classification and self.gapless:
            present = tf.reduce_max(tf.one_hot(y, self.output_size), axis=1)
            gapless = tf.reduce_all(present[:, :-1] >= present[:, 1:])
            checks.append(
                (
                    gapless,
                    "expected the labels of a task to be 0..n-1, got one with a gap.",
                )
            )
        return required((support_x, y), *checks)

    def _checked_data(self, data):
        """A batch as Keras gives it, once its query_y is known to be right."""
        episode, query_y, _ = keras.utils.unpack_x_y_sample_weight(data)
        y = tf.convert_to_tensor(query_y)
        asked = tf.shape(episode["query_x"])[:2]
        equal = tf.reduce_all(tf.equal(asked, tf.shape(y)[:2]))
        checks = (equal, UNEQUAL_QUERIES), self._is_answer("query_y", y)
        return episode, required(y, *checks)

    def _is_answer(self, name, y):
        """The check that all of a y are labels of a class, or finite numbers."""
        if not self.classification:
            return _finite(name, _is_finite(y))
        inside = tf.reduce_all((y >= 0) & (y < tf.cast(self.output_size, y.dtype)))
        labels = f"labels in [0, {self.output_size})"
        return inside, f"expected {name} to hold {labels}, got one outside."

    def masked(self, outputs, classes):
        """Logits `[(T,) Q, N]`, those from `classes [(T)]` on put out of reach."""
        if not self.classification:
            return outputs
        classes = tf.reshape(classes, [-1] + [1] * (outputs.shape.rank - 1))
        absent = tf.range(self.output_size) >= classes
        return outputs + tf.where(absent, tf.cast(ABSENT, outputs.dtype), 0)

    # Keras.

    def fit(self, x=None, *args, **kwargs):
        """Meta-trains: Keras' `fit` on batches of episodes."""
        self._check_episodes(x)
        if kwargs.get("validation_data") is not None:
            self._check_episodes(kwargs["validation_data"])
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # or Keras warns that it can't
        with _in_a_sentence():
            return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        """Keras' `evaluate` on batches of episodes."""
        self._check_episodes(x)
        with _in_a_sentence():
            return super().evaluate(x, *args, **kwargs)

    def predict(self, x=None, *args, **kwargs):
        """Keras' `predict` on batches of episodes: the answers to their queries."""
        self._check_episodes(x)
        with _in_a_sentence():
            return super().predict(x, *args, **kwargs)

    def compile(self, optimizer="adam", loss=None, metrics=None, **kwargs):
        """Keras' `compile`, with this learner's loss and metrics as the defaults.

        Args:
            optimizer: of the meta-parameters.
            loss: of the queries; as for the constructor.
            metrics: by default the accuracy (or squared error) of an episode and the
                half-width of its 95% interval over tasks.
            **kwargs: for `keras.Model.compile`.
        """
        if loss is not None:
            self.query_loss = losses.get(loss, self.variable_dtype)
        if metrics is None:
            metrics = self.default_metrics()
        super().compile(
            optimizer=optimizer, loss=self.query_loss, metrics=metrics, **kwargs
        )

    def compile_from_config(self, config):
        # Keras skips this for a class with its own `compile`.
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_variables)

    def default_metrics(self):
        if self.classification:
            return [
                metrics.EpisodeAccuracy(),
                metrics.EpisodeAccuracy(interval=True, name="accuracy_95"),
            ]
        found = [
            metrics.EpisodeSquaredError(),
            metrics.EpisodeSquaredError(interval=True, name="mse_95"),
        ]
        if isinstance(self.query_loss, losses.GaussianNLL):
            found += [
                metrics.EpisodeNLL(),
                metrics.EpisodeNLL(interval=True, name="nll_95"),
            ]
        return found

    def train_step(self, data):
        episode, query_y = self._checked_data(data)
        loss, gradients, variables, outputs = self.meta_gradient(episode, query_y)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        if replicas > 1:  # the optimizer sums them
            gradients = [gradient / replicas for gradient in gradients]
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self._loss_tracker.update_state(loss, sample_weight=tf.shape(query_y)[0])
        return self.compute_metrics(episode, query_y, outputs)

    def test_step(self, data):
        return super().test_step(self._checked_data(data))

    # Under `tf.distribute.MultiWorkerMirroredStrategy` Keras 3.15 asks the workers for
    # means that they cannot give: of a first batch, to learn its shapes, and over the
    # first axis of scalars. A batch of zeros and metrics with an axis can be had.

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        episode = self.example()
        super()._maybe_symbolic_build(data_batch=(episode, episode["support_y"]))

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        found = super().compute_metrics(x, y, y_pred, sample_weight)
        workers = tf.distribute.MultiWorkerMirroredStrategy
        if isinstance(tf.distribute.get_strategy(), workers):
            return {name: tf.reshape(value, [1]) for name, value in found.items()}
        return found

    def get_config(self):
        config = super().get_config()
        config["loss"] = self._loss_config
        config["preprocess"] = keras.saving.serialize_keras_object(self.preprocess)
        return config

    @classmethod
    def from_config(cls, config):
        config = {
            key: keras.saving.deserialize_keras_object(value)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
        }
        return cls(**config)


@keras.saving.register_keras_serializable("keras_meta")
class TaskModel(keras.Model):
    """One task's model: a learner held fixed, and the task's state, which trains.

    Args:
        learner: a `Learner`.
        state: what its `adapt` gave for the task, without T. The tensors of it that
            answers have a gradient to are trained.

    Call arguments:
        x: `[B, ...]`.
    """

    def __init__(self, learner, state, **kwargs):
        super().__init__(**kwargs)
        self.learner = learner
        self.example_shape = learner.example_shape
        # Keras takes what is there already for done, layers below left as they are.
        self.learner.trainable = True
        self.learner.trainable = False
        self.supports_jit = False
        leaves = tf.nest.flatten(state)
        first = tf.nest.map_structure(lambda leaf: leaf[None], state)
        with tf.GradientTape() as tape:
            tape.watch(first)
            answer = learner.infer_tasks(first, learner.example()["query_x"])
        gradients = tf.nest.flatten(tape.gradient(answer, first))
        self.state = [
            self.add_weight(
                shape=leaf.shape,
                dtype=leaf.dtype.name,
                initializer="zeros",
                trainable=gradient is not None,
                name=f"state_{position}",
            )
            for position, (leaf, gradient) in enumerate(
                zip(leaves, gradients, strict=True)
            )
        ]
        for variable, leaf in zip(self.state, leaves, strict=True):
            variable.assign(leaf)
        self._structure = tf.nest.map_structure(lambda _: None, state)
        self.built = True

    def call(self, x):
        leaves = [tf.convert_to_tensor(variable)[None] for variable in self.state]
        state = tf.nest.pack_sequence_as(self._structure, leaves)
        return stacked(self.learner.infer_tasks(state, x[None]))[0]

    def get_config(self):
        leaves = [f"{v.dtype} {' '.join(map(str, v.shape))}" for v in self.state]
        return {
            **super().get_config(),
            "learner": keras.saving.serialize_keras_object(self.learner),
            "state": tf.nest.pack_sequence_as(self._structure, leaves),
        }

    @classmethod
    def from_config(cls, config):
        def zeros(leaf):
            dtype, *shape = leaf.split()
            return tf.zeros(list(map(int, shape)), dtype)

        learner = keras.saving.deserialize_keras_object(config["learner"])
        learner(learner.example())
        state = tf.nest.map_structure(zeros, config["state"])
        return cls(**{**config, "learner": learner, "state": state})
