"""Which entry `keras-meta learn` takes if the user names none. Needs no TensorFlow."""

import math

from keras_meta import zoo


def candidates():
    """The cards of the entries that may be taken for images."""
    # A transductive model answers well only if queries of all classes come together.
    return [
        card
        for card in zoo.list_models()
        if card.inputs == "images"
        and card.normalization == "inductive"
        and not card.external  # which would be downloaded on first use
    ]


def for_images(ways, shots):
    """The entry for a task of images, and why it is taken.

    It is the most accurate on validation tasks of as many ways (the next of its grid)
    and shots (the nearest of its grid, by ratio). Test figures have no say.

    Tasks of two sources are of different classes, and no classes are unseen by entries
    of both in number enough. So they are compared as follows.

    Entries of procedural images are taken only if no other knows as many ways: their
    validation tasks are easier, and drawings by hand are liker to drawings by hand.

    Entries of Lake's protocol are compared by the figures as they are. Tasks of all
    sources draw their classes from all validation classes, but theirs are of one to
    three alphabets, so that classes look more alike, and no drawing of these alphabets
    was trained on. Their tasks are thus harder than those of the entries that trained
    on characters of all alphabets: one of them that wins is better, one that loses
    narrowly may not be worse.

    Args:
        ways: classes.
        shots: examples of each class, the mean over classes.

    Returns:
        `(card, reason)`, the reason one short sentence.

    Raises:
        ValueError: no entry was trained for as many ways.
    """
    able = candidates()
    most = max([card.ways for card in able], default=0)
    if ways > most:
        raise ValueError(
            f"expected at most {most} classes, got {ways}: no entry was validated on "
            "more; name one to take it all the same."
        )

    def unlike(card):
        figure = _nearest(card, ways, shots)
        return (
            card.procedural,
            figure is None,
            -figure["mean"] if figure else 0.0,
            # Of those that err as little, or that have no grid: made for the like.
            _ratio(card.shots, shots),
            card.ways,
            _loss(card),
        )

    card = min([card for card in able if card.ways >= ways], key=unlike)
    figure = _nearest(card, ways, shots)
    if figure is None:
        return card, f"{card.name}: no model has a validation figure for {ways} ways"
    mean, interval = 100 * figure["mean"], 100 * figure["interval"]
    got = f"{ways} classes of {shots:.3g} image{'s' * (shots != 1)}"
    shots = figure["shots"]
    return card, (
        f"{card.name}: best on validation tasks of {figure['ways']} ways, {shots} "
        f"shot{'s' * (shots != 1)} ({mean:.1f}% ± {interval:.1f}%), the nearest to "
        f"{got}"
    )


def for_curves():
    """The card of the model for curves: for any units if there is one, the best.

    Raises:
        ValueError: the zoo has none.
    """
    fitting = [card for card in zoo.list_models() if card.inputs == "curves"]
    if not fitting:
        raise ValueError("expected a trained model of curves, the zoo has none.")
    # All models for any units have a likelihood; squared errors do not compare with it.
    return min(fitting, key=lambda card: (not card.any_units, _loss(card)))


def _nearest(card, ways, shots):
    """The figure of a card's grid for the likest tasks of enough ways, or None."""
    return min(
        [figure for figure in card.grid if figure["ways"] >= ways],
        key=lambda figure: (figure["ways"], _ratio(figure["shots"], shots)),
        default=None,
    )


def _ratio(shots, other):
    """How far apart two numbers of shots are: the first example says the most."""
    return abs(math.log(shots / other))


def _loss(card):
    """An entry's validation figure, so that less is better."""
    figure = card.validation
    if figure is None:
        return math.inf
    return -figure["mean"] if figure["metric"] == "accuracy" else figure["mean"]
