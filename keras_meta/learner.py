"""Learner: a Keras model whose input is a dataset."""

import functools

import keras
import tensorflow as tf

from keras_meta import batch_norm, checks, keras_private, losses, settings, trainer

# Added to the logit of a class that is absent from the support set: its probability is
# then exactly zero in float32, and nothing turns into NaN as infinity would.
ABSENT = -1e9

# Arguments that users of other libraries pass, and what there is in their place.
ELSEWHERE = {
    "first_order": "km.FOMAML",
    "lr": "inner_rate",
    "learning_rate": "inner_rate",
    "inner_lr": "inner_rate",
    "adaptation_steps": "inner_steps",
    "num_steps": "inner_steps",
    "steps": "inner_steps",
    "model": "network",
}


def stacked(outputs):
    """Mean and scale as one tensor, which is what Keras' losses and metrics take."""
    return tf.stack(outputs, axis=-1) if isinstance(outputs, tuple) else outputs


class Learner(settings.Spelled, trainer.Trainer):
    """Learns a task from its support set, and predicts its queries.

    `adapt` turns support sets into a state and `infer` predicts queries from it; both
    are pure functions that keep nothing on `self`, and calling the learner is one after
    the other. So one model serves `fit` (meta-training), `evaluate`, `predict`, saving,
    fine-tuning and serving. Axes: T tasks, S support and Q query examples of each, N
    classes.

    A subclass gives `adapt_tasks` and `infer_tasks`, and may give `meta_gradient`.

    Trainable flags: a layer with `trainable=False` neither adapts nor meta-trains; set
    it before `compile`, as in Keras. `learner.trainable = False` leaves the flags of
    the layers as they are: tasks are learned as before, and nothing meta-trains.

    Regularizers: those of weights act once on the meta-learned weights, in the outer
    loss; those of activities wherever a layer is run on a support or query set.

    Args:
        loss: "sparse_categorical_crossentropy" (targets are labels), "mse", or a
            `keras.losses.Loss`; of the support examples where a learner has an inner
            loss, and of the queries unless `compile` names another.
        example_shape: shape of one example x.
        outputs: number of classes N, or of target dimensions d_y; None where the
            support set decides how many classes there are.
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
    # Whether `compile(jit_compile=True)` is right: second derivatives are not, XLA's of
    # max pooling are wrong.
    allows_jit = True
    # Whether an answer may depend on the other queries: "transductive" if so.
    normalization = "inductive"

    support_loss = settings.Fixed()
    output_size = settings.Fixed()

    def __init__(self, loss, example_shape, outputs, preprocess=None, **kwargs):
        for name in ELSEWHERE.keys() & kwargs.keys():
            raise ValueError(
                f"expected the arguments of {type(self).__name__}, got {name}: use "
                f"{ELSEWHERE[name]}."
            )
        # Layers cast by themselves: to float16 they would cast targets and losses too.
        super().__init__(autocast=False, **kwargs)
        self.supports_jit = False  # until `compile(jit_compile=True)`
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

    def meta_gradient(self, episode, query_y, weights=None, loss_scale=1.0):
        """The loss of a batch of tasks and its gradient.

        Args:
            episode: as for the call.
            query_y: labels `[T, Q]` or targets `[T, Q, d_y]`.
            weights: Keras' `sample_weight`, of tasks `[T]` or of queries `[T, Q]`; None
                for equal ones.
            loss_scale: the factor of the gradients, which keeps those of float16 layers
                from vanishing; a Python number or a scalar tensor.

        Returns:
            `(loss, gradients, variables, outputs)`: the loss, not scaled; its scaled
            gradients and the variables they belong to; the answers to the queries of
            all tasks or the first few.
        """
        variables, query_y = self.trainable_variables, tf.convert_to_tensor(query_y)
        with tf.GradientTape() as tape:
            outputs = self(episode, training=True)
            loss = losses.of(self.query_loss, query_y, outputs, weights)
            loss += self.penalty()
            scaled = loss * tf.cast(loss_scale, loss.dtype)
        return loss, tape.gradient(scaled, variables), variables, outputs

    def penalty(self):
        """The sum of all regularizers of the last call, a scalar."""
        terms = [tf.cast(loss, self.variable_dtype) for loss in self.losses]
        return tf.add_n(terms) if terms else tf.zeros([], self.variable_dtype)

    def moving_statistics(self):
        """The moving averages of batch normalization that predictions depend on.

        See `batch_norm.estimate`.
        """
        norms = batch_norm.batch_norms(self)
        return [
            variable
            for norm in norms
            if norm.trainable and not norm.renorm
            for variable in (norm.moving_mean, norm.moving_variance)
        ]

    def task_model(self, x, y, optimizer=None):
        """A Keras model of the one task with support set x `[S, ...]`, y `[S, ...]`.

        Here, one that trains the state which `adapt` gives and nothing else.

        Returns:
            `(model, optimizer)`: what `finetune` compiles; the optimizer is the one
            given, or this learner's own.
        """
        from keras_meta import task_model

        x, y = tf.convert_to_tensor(x), tf.convert_to_tensor(y)
        copy = type(self).from_config(self.get_config())
        copy(self.example())  # so that it has its variables
        copy.set_weights(self.get_weights())
        state = tf.nest.map_structure(lambda v: v[0], self.adapt(x[None], y[None]))
        optimizer = optimizer or keras.optimizers.Adam(1e-3)
        return task_model.TaskModel(copy, state), optimizer

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
            traced: if True, reuses the shape-polymorphic trace inside a `tf.function`
                too.

        Returns:
            The state: a nest of tensors, each with a leading T.

        Raises:
            ValueError: wrong rank or shape, no support example, labels out of range
                or with a gap, values that are not finite, or so large that learning
                from them diverges (which a surrounding graph is not told, see
                `traced`).
        """
        return self._adapted(support_x, support_y, training, traced)[0]

    def _adapted(self, support_x, support_y, training, traced=False):
        """What `adapt` gives, and the activity regularizers of a trace or None."""
        support_x, support_y = checks.checked_support(self, support_x, support_y)
        if training or not (traced or tf.executing_eagerly()):
            return self.adapt_tasks(support_x, support_y, training), None
        state, finite, penalty = self._traced_adapt()(support_x, support_y)
        sentence = checks.finite("what was learned of support_x", finite)
        return checks.required(state, sentence), penalty

    def infer(self, state, query_x, training=False, traced=False):
        """Predicts Q queries of each task.

        Args:
            state: what `adapt` gave for T tasks.
            query_x: `[T, Q, ...]`.
            training: as for `adapt`.
            traced: as for `adapt`.

        Returns:
            Logits `[T, Q, N]`, or predictions `[T, Q, d_y]`, or a pair of mean and
            scale, each `[T, Q, d_y]`.

        Raises:
            ValueError: wrong rank or shape, another T than the state's, a state of
                other settings, values that are not finite.
        """
        return self._inferred(state, query_x, training, traced)[0]

    def _inferred(self, state, query_x, training, traced=False):
        """What `infer` gives, and the activity regularizers of a trace or None."""
        query_x = checks.checked_x(self, "query_x", query_x)
        tasks = tf.shape(tf.nest.flatten(state)[0])[0]
        same = tf.equal(tasks, tf.shape(query_x)[0])
        sentence = "expected query_x and the state to be of the same number of tasks."
        state, query_x = checks.required((state, query_x), (same, sentence))
        if training or not (traced or tf.executing_eagerly()):
            return self.infer_tasks(state, query_x, training), None
        try:
            tf.nest.assert_same_structure(state, self.state_spec(), check_types=False)
        except (TypeError, ValueError):
            raise ValueError(
                "expected the state that adapt gives with the settings and trainable "
                "flags of now, got one of another structure: adapt again."
            ) from None
        outputs, finite, penalty = self._traced_infer()(state, query_x)
        sentence = checks.finite("the answers to query_x", finite)
        return checks.required(outputs, sentence), penalty

    def with_classes(self, classes):
        """A copy of this learner with another number of classes, its weights reused.

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
        state, support_penalty = self._adapted(
            episode["support_x"], episode["support_y"], training
        )
        outputs, query_penalty = self._inferred(state, episode["query_x"], training)
        for penalty in (support_penalty, query_penalty):
            if penalty is not None:  # else the layers have added their own
                self.add_loss(penalty)
        return stacked(outputs)

    def export(self, *args, **kwargs):
        """Refuses Keras' export, whose signature has no support set: see `km.export`.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "expected km.export(learner, base), whose signatures adapt inside the "
            "request, got learner.export."
        )

    # Traces, for any T, S and Q, with whether what comes out is finite.

    def trace_key(self):
        """All that a trace depends on besides its inputs: settings and flags."""
        layers = keras_private.layers_of(self)
        flags = tuple(layer.trainable for layer in layers)
        return settings.current(self), flags

    def _traced_adapt(self):
        return self.traced(
            "adapt",
            functools.partial(_traceable, self.adapt_tasks),
            [self.x_spec("support_x"), self.y_spec("support_y")],
        )

    def _traced_infer(self):
        return self.traced(
            "infer",
            functools.partial(_traceable, self.infer_tasks),
            [self.state_spec(), self.x_spec("query_x")],
        )

    def traced(self, name, function, signature):
        """The `tf.function` of a name, traced anew when settings or flags change.

        Args:
            name: of the trace.
            function: what to trace.
            signature: its inputs, a list of nests of TensorSpecs; None for any.
        """
        return self._functions.get(self.trace_key(), name, function, signature)

    def state_spec(self):
        """What `adapt` gives, TensorSpecs in place of tensors."""
        return tf.nest.map_structure(
            lambda x: tf.TensorSpec(x.shape, x.dtype),
            self._traced_adapt().get_concrete_function().structured_outputs[0],
        )

    def x_spec(self, name):
        """TensorSpec of examples `[T, S or Q, ...]`, T, S and Q free."""
        return tf.TensorSpec(
            [None, None, *self.example_shape], self.variable_dtype, name
        )

    def y_spec(self, name):
        """TensorSpec of labels `[T, S]` or targets `[T, S, d_y]`."""
        if self.classification:
            return tf.TensorSpec([None, None, *self.label_shape], tf.int32, name)
        shape = [None, None, self.output_size]
        return tf.TensorSpec(shape, self.variable_dtype, name)

    def example(self):
        """An episode of zeros, one example and one query of one task."""
        spec = self.x_spec("support_x")
        x = tf.zeros([1, 1, *self.example_shape], spec.dtype)
        spec = self.y_spec("support_y")
        y = tf.zeros([1, 1, *spec.shape[2:]], spec.dtype)
        return {"support_x": x, "support_y": y, "query_x": x}

    def masked(self, outputs, classes):
        """Logits `[(T,) Q, N]`, those from `classes [(T)]` on put out of reach."""
        outputs = tf.cast(outputs, self.variable_dtype)  # float16 ends at 65504
        if not self.classification:
            return outputs
        classes = tf.reshape(classes, [-1] + [1] * (outputs.shape.rank - 1))
        absent = tf.range(tf.shape(outputs)[-1]) >= classes
        return outputs + tf.where(absent, tf.cast(ABSENT, outputs.dtype), 0)

    def get_config(self):
        config = super().get_config()
        config["loss"] = self._loss_config
        config["preprocess"] = keras.saving.serialize_keras_object(self.preprocess)
        flags = [layer.trainable for layer in keras_private.layers_of(self)]
        config["layer_flags"] = None if all(flags) else flags
        return config

    @classmethod
    def from_config(cls, config):
        config = {
            key: keras.saving.deserialize_keras_object(value)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
        }
        flags = config.pop("layer_flags", None)
        learner = cls(**config)
        # Parents come before the layers inside, which have the last word.
        for layer, flag in zip(
            keras_private.layers_of(learner), flags or [], strict=False
        ):
            layer.trainable = flag
        return learner


def _traceable(function, *args):
    """What a function gives, whether all of it is finite, and what its layers add.

    No variable changes, and the layers keep nothing of the trace.
    """
    with keras.StatelessScope(collect_losses=True) as scope:
        outputs = function(*args)
    penalties = [tf.cast(loss, keras.config.floatx()) for loss in scope.losses]
    penalty = tf.add_n(penalties) if penalties else tf.zeros([])
    return outputs, checks.is_finite(outputs), penalty
