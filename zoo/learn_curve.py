"""`keras-meta learn` with points: learns a curve and predicts other points."""

import numpy as np

from keras_meta import zoo
from keras_meta.zoo import choice, console, curves, named, points, predictions

DRAWN_POINTS = 300


def run(arguments, output):
    """Runs the command.

    Args:
        arguments: parsed: queries, model and out.
        output: a `console.Output`.

    Raises:
        ValueError: a mistake of the user's, in one sentence.
    """
    known, queries = points.read(arguments.queries)
    name = arguments.model or choice.for_curves().name
    named.check(name)
    console.start()
    from keras_meta import plots

    learner = named.curve_learner(name)
    data = "its training data" if named.is_file(name) else zoo.card(name).data
    low = min(known[:, 0].min(), queries.min())
    high = max(known[:, 0].max(), queries.max())
    margin = 0.5 * (low == high)
    grid = np.linspace(low - margin, high + margin, DRAWN_POINTS)
    try:
        mean, scale = curves.predict(learner, known, np.concatenate([queries, grid]))
    except ValueError as error:  # all points are finite, the adapted weights are not
        raise ValueError(
            f"expected points like those of {data}: learning these diverged."
        ) from error

    count = f"{len(known)} point{'s' * (len(known) > 1)}"
    output.print(f"{name} learned a curve from {count}", style="bold")
    predictions.show_points(output, name, queries, mean, scale)
    if scale is not None:
        output.print("± and the band are two standard deviations of a new point.")
    trained = "" if named.is_file(name) else f"It was trained on {data}; "
    note = f"{trained}{curves.units_note(learner.point_units)}."
    output.print(f"{note[0].upper()}{note[1:]}")
    outside = (queries < known[:, 0].min()) | (queries > known[:, 0].max())
    if outside.any():
        output.print(
            f"Note: {outside.sum()} of {len(queries)} x lie outside the known points; "
            f"predictions there are extrapolations{_repeats(learner, known)}."
        )
    query = queries, mean[: len(queries)]
    band = None if scale is None else scale[len(queries) :]
    figure = plots.fit(*known.T, grid, mean[len(queries) :], band, query=query)
    console.save(figure, arguments.out)
    output.print(f"Picture: {arguments.out}")


def _repeats(learner, known):
    """Half a sentence on where the predictions of scaled points become constant."""
    units = learner.point_units
    if units is None:
        return ""
    fitted = units.fit(known[None, :, :1], known[None, :, 1:])
    centre, unit = (fitted[key].numpy().item() for key in ("centre", "unit"))
    low, high = centre - unit * units.end, centre + unit * units.end
    return f", constant below x = {low:.10g} and above {high:.10g}"
