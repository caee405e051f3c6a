"""Predictions of a curve in the units of its points."""

UNSCALED = (
    "points were not scaled, and predictions of curves unlike its training data are "
    "unreliable"
)


def predict(learner, known, x):
    """Predicts y at x, in the units of the known points if the learner scales points.

    Args:
        learner: a learner of curves `y(x)`; its `point_units` scale the points.
        known: points `[S, 2]`.
        x: `[Q]`.

    Returns:
        `(mean [Q], scale [Q] or None)`.

    Raises:
        ValueError: as `adapt` and `infer`.
    """
    support_x, support_y, x = known[None, :, :1], known[None, :, 1:], x[None, :, None]
    units = learner.point_units
    if units is None:
        outputs = learner.infer(learner.adapt(support_x, support_y), x)
    else:
        state = units.adapt(learner, support_x, support_y)
        outputs = units.infer(learner, state, x)
    if isinstance(outputs, tuple):
        return [output.numpy()[0, :, 0] for output in outputs]
    return outputs.numpy()[0, :, 0], None


def units_note(units):
    """Half a sentence on how a learner's `point_units` scaled the points of a curve."""
    if units is None:
        return UNSCALED
    return (
        f"the known x were scaled to [-{units.known:g}, {units.known:g}], and y to "
        "mean 0 and standard deviation 1"
    )
