"""Checks of a learner's inputs: one sentence for each, before anything runs."""

import contextlib
import re
import sys
import warnings

import keras
import numpy as np
import tensorflow as tf

# The inputs of an episode, by name.
INPUTS = ("support_x", "support_y", "query_x")
UNEQUAL_TASKS = "expected query_x and the state to be of the same number of tasks."
# Images with an intensity beyond this are unscaled; intensities are in [0, 1].
UNSCALED = 10
# Remedies for invalid labels, in the errors that refuse them.
NUMBERED = "np.unique(labels, return_inverse=True)[1]"
RENUMBER = f"{NUMBERED} renumbers the labels of a task"
ONE_HOT = "np.argmax(labels, axis=-1) turns one-hot labels into integers"
# A dataset of more batches than this counts as endless: `episodes(...)` is a mapped
# range of 2^63 indices.
ENDLESS = 2**32
FINITE = "episodes.take(n) ends after n."


def required(tensors, *checks):
    """Returns a nest of tensors that a graph computes only after all checks.

    Args:
        tensors: the nest.
        *checks: pairs of a condition and the sentence to raise without it, as a
            ValueError, or in a graph as the run's InvalidArgumentError.
    """
    assertions = []
    for condition, sentence in checks:
        if tf.is_symbolic_tensor(condition):
            # In order, because a later condition may presuppose an earlier one.
            with tf.control_dependencies(assertions):
                assertions = [tf.debugging.Assert(condition, [sentence], name="check")]
        elif not condition:
            raise ValueError(sentence)
    with tf.control_dependencies(assertions):
        return tf.nest.map_structure(tf.identity, tensors) if assertions else tensors


def check_integer(name, value, least):
    """Raises a ValueError unless `value` is an integer and at least `least`."""
    integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not integer or value < least:
        got = value if integer else repr(value)
        raise ValueError(f"expected {name} to be an integer >= {least}, got {got}.")


@contextlib.contextmanager
def in_a_sentence():
    """Converts the error of a graph's check to the ValueError of `required`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        stated = re.search(r"\[(expected .*?\.)\]", error.message, re.DOTALL)
        if not stated:
            raise
        # TensorFlow escapes quotes and backslashes.
        raise ValueError(re.sub(r"\\(.)", r"\1", stated[1])) from None


def is_finite(nest):
    """Returns whether all tensors of a nest are finite."""
    floating = [x for x in tf.nest.flatten(nest) if x.dtype.is_floating]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(x)) for x in floating])


def finite(name, condition):
    """Returns the check of a condition that states whether values are finite."""
    return condition, f"expected finite values in {name}, got NaN or infinity."


def named_shape(spec, *axes):
    """Returns the shape of examples in words, such as `[T, S, 28, 28, 1]`.

    Args:
        spec: their TensorSpec, with two leading axes.
        *axes: names of the leading axes.
    """
    return f"[{', '.join([*axes, *map(str, spec.shape[2:])])}]"


def check_episodes(learner, episodes):
    """Raises a ValueError unless these are batches of episodes; draws none.

    A Python data set, an iterator or a distributed data set states no shapes. Each
    batch is checked then.
    """
    unknown = keras.utils.PyDataset, tf.distribute.DistributedDataset
    if isinstance(episodes, unknown) or hasattr(episodes, "__next__"):
        return
    spec = getattr(episodes, "element_spec", episodes)
    episode = spec[0] if isinstance(spec, tuple) else spec
    if not isinstance(episode, dict) or not set(INPUTS) <= set(episode):
        got = type(episode).__name__
        if isinstance(episode, dict):
            got = f"{{{', '.join(sorted(map(str, episode)))}}}"
        raise ValueError(
            "expected batches of episodes, a tf.data.Dataset of ({support_x, "
            f"support_y, query_x}}, query_y), got {got}; km.finetune makes a model "
            "of one task."
        )
    if spec is episodes:  # arrays
        spec = episode = tf.nest.map_structure(tf.convert_to_tensor, episode)
    for name in ("support_x", "query_x"):
        check_x(learner, name, episode[name])
    check_y(learner, "support_y", episode["support_y"])
    if isinstance(spec, tuple) and len(spec) > 1:
        check_y(learner, "query_y", spec[1])
        check_numbers("query", episode["query_x"], spec[1])


def check_numbers(part, x, y):
    """Raises a ValueError if known numbers of tasks or examples differ.

    Args:
        part: "support" or "query".
        x: `[T, S or Q, ...]`, or its TensorSpec.
        y: likewise.

    Returns:
        The sentence that refuses them if numbers unknown here differ in a graph.
    """
    x, y = (tf.TensorShape(values.shape)[:2] for values in (x, y))
    expected = f"expected {part}_x and {part}_y of equal T and {part[0].upper()}"
    if not x.is_compatible_with(y):
        raise ValueError(f"{expected}, got {x.as_list()} and {y.as_list()}.")
    return f"{expected}, they differ."


def _numbers_check(part, x, y):
    """Returns the check that x and y have equal numbers of tasks and of examples."""
    sentence = check_numbers(part, x, y)
    return tf.reduce_all(tf.equal(tf.shape(x)[:2], tf.shape(y)[:2])), sentence


def check_end(data, steps, argument):
    """Checks the number of batches, which a dataset that never ends requires.

    Args:
        data: x of `fit`, `evaluate` or `predict`.
        steps: number of batches to draw, None for all.
        argument: the name of the argument that sets `steps`.
    """
    if steps is not None:
        check_integer(argument, steps, 1)
    elif is_endless(data):
        raise ValueError(
            f"expected {argument}=, because these episodes never end; {FINITE}"
        )


def is_endless(data):
    """Returns whether a dataset never ends."""
    if not isinstance(data, tf.data.Dataset):
        return False
    count = int(data.cardinality())
    return count == tf.data.INFINITE_CARDINALITY or count > ENDLESS


def check_x(learner, name, x):
    """Raises a ValueError unless an x, or its TensorSpec, is valid."""
    spec = learner.x_spec(name)
    if not spec.shape.is_compatible_with(x.shape):
        missing = spec.shape.rank - len(x.shape)
        hint = "."
        if missing == 1:
            hint = ": dataset.batch(T), or x[None], makes an axis of tasks."
        elif learner.preprocess and not missing:
            hint = "; learner.preprocess resizes images."
        shape = named_shape(spec, "T", name[0].upper())
        raise ValueError(f"expected {name} of shape {shape}, got {list(x.shape)}{hint}")
    if tf.as_dtype(x.dtype) == tf.uint8:
        raise ValueError(
            f"expected {name} to be floating point, got uint8: pass images "
            "through learner.preprocess first."
        )


def check_y(learner, name, y):
    """Raises a ValueError unless a y, or its TensorSpec, is valid."""
    spec = learner.y_spec(name)
    if learner.classification and not tf.as_dtype(y.dtype).is_integer:
        dtype = tf.as_dtype(y.dtype)
        hint = f"{name}.astype('int32') casts them"
        if _is_onehot(spec, y):
            hint = ONE_HOT
        elif dtype == tf.string:
            hint = RENUMBER
        raise ValueError(
            f"expected {name} to be integer labels, got {dtype.name}: {hint}."
        )
    if not spec.shape.is_compatible_with(y.shape):
        shape = named_shape(spec, "T", name[0].upper())
        hint = f": {ONE_HOT}." if _is_onehot(spec, y) else "."
        raise ValueError(f"expected {name} of shape {shape}, got {list(y.shape)}{hint}")


def _is_onehot(spec, y):
    """Returns whether a y, or its TensorSpec, has one axis more than labels."""
    return spec.dtype.is_integer and len(y.shape) == spec.shape.rank + 1


def preprocess(learner, name, value):
    """Checks the setting `preprocess`: images of the shape of one x.

    Image completion, a regression, has a `preprocess` too, but its x are positions.
    """
    if value is None:
        return None
    expected = tf.TensorShape(learner.example_shape)
    if not callable(value) or not hasattr(value, "shape"):
        raise ValueError(f"expected {name} to be an ImagePreprocess, got {value!r}.")
    reads_images = learner.classification or expected.rank == 3
    if reads_images and not expected.is_compatible_with(value.shape):
        raise ValueError(
            f"expected {name} to return images of the shape of one x, {expected}, got "
            f"an ImagePreprocess to {tuple(value.shape)}."
        )
    return value


def checked_x(learner, name, x):
    """Returns x in the learner's precision, after validation."""
    spec = learner.x_spec(name)
    x = tf.convert_to_tensor(x)
    check_x(learner, name, x)
    x = tf.cast(x, spec.dtype)
    x = required(x, finite(name, is_finite(x)))
    if learner.preprocess and spec.shape.rank == 5 and not tf.is_symbolic_tensor(x):
        _warn_if_unscaled(learner.preprocess, name, x)
    return x


def _warn_if_unscaled(preprocess, name, x):
    """Warns if images are far out of the range of `preprocess`."""
    largest = tf.reduce_max(tf.abs(preprocess.tones(tf.cast(x, "float32"))))
    if largest > UNSCALED:
        warnings.warn(
            f"expected {name} as learner.preprocess returns it, of intensities in "
            f"[0, 1], got one of {largest:.3g}: pass uint8 images through "
            "learner.preprocess.pair.",
            stacklevel=_user_level(),
        )


def _user_level():
    """Returns the caller's `stacklevel` for the first line outside keras-meta."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back and frame.f_globals["__name__"].split(".")[0] == "keras_meta":
        level, frame = level + 1, frame.f_back
    return level


def checked_support(learner, support_x, support_y):
    """Returns support_x and support_y in the learner's dtypes, after validation."""
    support_x = checked_x(learner, "support_x", support_x)
    y = tf.convert_to_tensor(support_y)
    check_y(learner, "support_y", y)
    checks = [
        _numbers_check("support", support_x, y),
        (
            tf.reduce_all(tf.shape(y)[:2] >= [1, learner.least_support]),
            "expected at least one task and one support example, got none.",
        ),
        *_support_y_checks(learner, y),
    ]
    # The checks above read y before this cast, which may overflow.
    y = tf.cast(y, learner.y_spec("support_y").dtype)
    return required((support_x, y), *checks)


def checked_query(learner, state, query_x):
    """Returns a state, and query_x in the learner's precision, after validation."""
    query_x = checked_x(learner, "query_x", query_x)
    tasks = tf.shape(tf.nest.flatten(state)[0])[0]
    same = tf.equal(tasks, tf.shape(query_x)[0])
    return required((state, query_x), (same, UNEQUAL_TASKS))


def checked_data(learner, data):
    """Returns the parts of a batch of `fit` or `evaluate`, after validation.

    Returns:
        `(episode, query_y, weights)`: weights `[T]` or `[T, Q]`, or None.
    """
    episode, query_y, weights = keras.utils.unpack_x_y_sample_weight(data)
    if query_y is None:
        raise ValueError(
            "expected query_y beside the episodes, labels or targets of their queries, "
            "got none."
        )
    y = tf.convert_to_tensor(query_y)
    query_x = tf.convert_to_tensor(episode["query_x"])
    checks = [_numbers_check("query", query_x, y), _y_check(learner, "query_y", y)]
    if learner.classification and not learner.label_shape:
        support_y = tf.convert_to_tensor(episode["support_y"])
        checks += _support_y_checks(learner, support_y)
        checks.append(_classes_check(support_y, y))
    if weights is not None:
        weights = tf.cast(weights, learner.variable_dtype)
        rank = weights.shape.rank
        if rank not in (1, 2):
            raise ValueError(
                "expected sample_weight of shape [T] or [T, Q], got "
                f"{list(weights.shape)}."
            )
        sentence = "expected sample_weight of shape [T] or [T, Q]"
        if not y.shape[:rank].is_compatible_with(weights.shape):
            raise ValueError(
                f"{sentence}, here {list(y.shape[:2])}, got {list(weights.shape)}."
            )
        sentence += ", it has another."
        fits = tf.reduce_all(tf.equal(tf.shape(y)[:rank], tf.shape(weights)))
        checks += [(fits, sentence), finite("sample_weight", is_finite(weights))]
    y = tf.cast(y, learner.y_spec("query_y").dtype)
    if weights is None:
        return episode, required(y, *checks), None
    return episode, *required((y, weights), *checks)


def checked_weights(sample_weight, values, axes):
    """Returns the sample weights of a metric in float64, after validation.

    Args:
        sample_weight: the weights as given.
        values: the weighted values, which have the shape that weights must have.
        axes: that shape in words.

    Raises:
        ValueError: weights of another shape, negative or not finite. Inside a graph,
            conditions unknown at tracing raise an InvalidArgumentError.
    """
    weights = tf.cast(sample_weight, "float64")
    expected = f"expected sample_weight of shape {axes}"
    if not weights.shape.is_compatible_with(values.shape):
        raise ValueError(f"{expected}, got {list(weights.shape)}.")
    same = tf.reduce_all(tf.equal(tf.shape(weights), tf.shape(values)))
    valid = tf.reduce_all((weights >= 0) & tf.math.is_finite(weights))
    return required(
        weights,
        (same, f"{expected}, got another."),
        (valid, "expected sample_weight to be finite and >= 0, got one that is not."),
    )


def _y_check(learner, name, y):
    """Returns the check that all of a y are labels of a class, or finite numbers."""
    if not learner.classification:
        return finite(name, is_finite(y))
    y = tf.cast(y, tf.int64)  # the number of classes may overflow int8
    if learner.output_size is None:
        inside = tf.reduce_all(y >= 0)
        return inside, f"expected {name} to hold labels >= 0, got less: {RENUMBER}."
    hint = f"{RENUMBER}; for more classes, use learner.with_classes(n)"
    if learner.label_shape:  # the symbols of strings
        hint = "each symbol of a string is one of these"
    inside = tf.reduce_all((y >= 0) & (y < learner.output_size))
    expected = f"expected {name} to hold labels in [0, {learner.output_size})"
    return inside, f"{expected}, got one outside: {hint}."


def _support_y_checks(learner, y):
    """Returns the checks of the values of support_y."""
    checks = [_y_check(learner, "support_y", y)]
    if learner.classification and learner.gapless:
        # The n labels of a task without a gap are below its number of examples.
        y, examples = tf.cast(y, tf.int64), tf.shape(y)[1]
        inside = tf.reduce_all(y < tf.cast(examples, tf.int64))
        present = tf.reduce_max(tf.one_hot(y, examples), axis=1)
        gapless = inside & tf.reduce_all(present[:, :-1] >= present[:, 1:])
        checks.append(
            (
                gapless,
                "expected the labels of a task to be 0..n-1, got one with a gap: "
                f"{RENUMBER}.",
            )
        )
    return checks


def _classes_check(support_y, query_y):
    """Returns the check that each query has a class of its task's support set."""
    support_y, query_y = (tf.cast(y, tf.int64) for y in (support_y, query_y))
    same = query_y[:, :, None] == support_y[:, None]
    return (
        tf.reduce_all(tf.reduce_any(same, axis=2)),
        "expected each label of query_y to be in the support_y of its task, got one "
        "that is not: the class of a query needs a support example.",
    )
