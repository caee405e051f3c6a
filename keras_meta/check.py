"""Checks whether a network and a learner can be meta-trained: derivatives, cost."""

import keras
import numpy as np
import tensorflow as tf

from keras_meta import cost_check, findings, keras_private, layer_check, probes
from keras_meta import learner as learner_module
from keras_meta.learners import gradient, imaml

# Largest relative error of a meta-gradient in float32.
SINGLE_TOLERANCE = 0.02


def check(
    learner: learner_module.Learner, jit: bool | None = None, cost: bool = True
) -> list[findings.Finding]:
    """Compares a learner's derivatives with finite differences, layer by layer.

    Each layer runs on its own input in float64. Its derivative along a direction is
    compared with a finite difference: the first derivative, or the second for a learner
    that differentiates an inner loop. With `jit`, the layer compiled by XLA is compared
    with the layer that is not. Then the learner's meta-gradient is compared: eager, in
    a graph, in float32, and with finite differences of its loss where it is the
    gradient of that loss (first-order, implicit and Reptile's are not).

    Args:
        learner: a `Learner`; the check generates a task of random numbers for it.
        jit: whether to compare with XLA; by default if the learner is compiled with
            `jit_compile=True`.
        cost: whether to measure time and memory of a meta-step by number of inner
            steps, each in its own process; for learners with inner steps.

    Returns:
        A list of `findings.Finding`, in the order of the layers.

    Raises:
        ValueError: not a learner.
    """
    if not isinstance(learner, learner_module.Learner):
        raise ValueError(f"expected a Learner, got {type(learner).__name__}.")
    jit = bool(getattr(learner, "jit_compile", False)) if jit is None else jit
    precise = probes.in_dtype(learner, "float64")
    episode, query_y = probes.random_episode(precise)
    results = []
    order = _order(learner)
    for network, single in zip(_networks(precise), _networks(learner), strict=True):
        results += layer_check.check_layers(network, single if jit else None, order)
    try:
        results += _check_meta_gradient(learner, precise, episode, query_y)
    except LookupError as error:  # no gradient is registered for an operation
        reason = str(error).strip().split("\n")[0]
        return [*results, findings.Finding("meta-gradient", "wrong", reason)]
    if cost and isinstance(learner, gradient.GradientLearner):
        results.append(cost_check.measure(learner))
    return results


def _networks(learner):
    """Returns the Keras models that a learner consists of."""
    return [
        layer
        for layer in keras_private.layers_of(learner, recursive=False)
        if isinstance(layer, keras.Model) and layer.layers
    ]


def _order(learner):
    """Returns the order of the derivatives of the network that a learner uses."""
    implicit = isinstance(learner, imaml.Implicit) or (
        getattr(learner, "scale_rule", None) == "implicit"
    )
    return 2 if implicit or getattr(learner, "unrolled", False) else 1


def _check_meta_gradient(learner, precise, episode, query_y):
    """Returns the findings on the meta-gradient.

    Args:
        learner: a `Learner`.
        precise: its copy in float64.
        episode: a batch of episodes in float64.
        query_y: its query labels or targets.
    """
    results = []
    if precise.normalization == "transductive":
        sentence = "transductive: a prediction depends on the other queries of its task"
        results.append(findings.Finding("normalization", "note", sentence))

    def meta_gradient(model, *data):
        loss, gradients, variables, _ = model.meta_gradient(*data)
        gradients = [
            tf.zeros_like(v.value) if g is None else g
            for g, v in zip(gradients, variables, strict=True)
        ]
        return loss, gradients

    in_graph = tf.function(
        lambda: meta_gradient(precise, episode, query_y), autograph=False
    )
    _, expected = in_graph()
    variables = precise.meta_gradient(episode, query_y)[2]
    _, eager = meta_gradient(precise, episode, query_y)
    error = findings.relative_error(eager, expected)
    state = "right" if error < findings.TOLERANCE else "wrong"
    sentence = f"eager and graph execution differ by {error:.0e}"
    results.append(findings.Finding("meta-gradient", state, sentence))

    bound = getattr(precise, "bound", None)
    if bound is not None and bound.seeds:
        sentence = "random layers differ in float32: not compared"
        results.append(findings.Finding("meta-gradient", "note", sentence))
    else:
        copy = probes.in_dtype(learner, "float32")
        data = tf.nest.map_structure(
            lambda v: tf.cast(v, "float32") if v.dtype.is_floating else v,
            (episode, query_y),
        )
        _, single = meta_gradient(copy, *data)
        error = findings.relative_error(single, expected)
        state = "right" if error < SINGLE_TOLERANCE else "wrong"
        sentence = f"float32 differs from float64 by {error:.0e}"
        results.append(findings.Finding("meta-gradient", state, sentence))
    return [*results, _check_differences(precise, in_graph, expected, variables)]


def _check_differences(learner, loss_and_gradient, expected, variables):
    """Returns the finding on a meta-gradient against differences of its loss."""
    if not getattr(learner, "unrolled", True):
        sentence = (
            f"the meta-gradient of {type(learner).__name__} is by design not the "
            "gradient of its loss: not compared with differences"
        )
        return findings.Finding("meta-gradient", "note", sentence)
    start = [v.numpy() for v in variables]
    random = np.random.RandomState(3)
    errors = []
    for _ in range(findings.DIRECTIONS):
        direction = [random.normal(size=v.shape) for v in start]
        # A unit vector: a longer one crosses more kinks of ReLUs, where the loss after
        # an inner step jumps.
        length = np.sqrt(sum(np.sum(d**2) for d in direction))
        direction = [d / length for d in direction]
        sides = []
        for sign in (1, -1):
            for v, value, d in zip(variables, start, direction, strict=True):
                v.assign(value + sign * findings.WIDTH * d)
            sides.append(float(loss_and_gradient()[0]))
        for v, value in zip(variables, start, strict=True):
            v.assign(value)
        slope = (sides[0] - sides[1]) / (2 * findings.WIDTH)
        along = sum(
            float(np.sum(np.asarray(s) * d))
            for s, d in zip(expected, direction, strict=True)
        )
        errors.append(abs(slope - along) / max(abs(slope), abs(along), 1e-8))
    error = min(errors)
    state = "right" if error < findings.TOLERANCE else "wrong"
    sentence = f"differs from differences of the loss by {error:.0e}"
    return findings.Finding("meta-gradient", state, sentence)
