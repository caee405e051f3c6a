"""The default entry of `keras-meta learn`. Importing this needs no TensorFlow."""

import math

from keras_meta import zoo
from keras_meta.zoo import scores


def candidates():
    """The cards of the entries that may be the default for images."""
    # Transductive predictions are accurate only if the queries include all classes.
    return [
        card
        for card in zoo.list_models()
        if card.inputs == "images"
        and card.normalization == "inductive"
        and not card.external  # Keras would download the weights
    ]


def for_images(ways, shots, photographs=False):
    """The default entry for a task of images, and the reason.

    It has the highest accuracy on validation tasks with as many ways (the next larger
    value of its grid) and shots (the nearest value of its grid, by ratio). Test figures
    have no influence.

    Validation tasks of two sources have different classes, and no set of classes is
    both large enough and unseen by the entries of both sources. The comparison
    therefore has two rules:

    Entries of procedural images are the default only if no other entry has as many
    ways. Their validation tasks are easier, and a user's drawings resemble drawings by
    hand more than procedural ones.

    Entries of Lake's protocol are compared by their figures without a correction. Their
    validation tasks draw from one to three alphabets that training has not seen, and
    are harder than the tasks of entries that train on characters of all alphabets. If
    such an entry has the highest accuracy, it is better; if its accuracy is slightly
    lower, it may still be as good.

    Args:
        ways: classes.
        shots: examples of each class, the mean over classes.
        photographs: whether the images are photographs. Entries that were trained on
            photographs are then the candidates. If none was validated with as many
            ways, the prototypical networks among them are, which accept more; only
            without these those that were trained on drawings.

    Returns:
        `(card, reason)`, the reason one short sentence.

    Raises:
        ValueError: no entry was validated with as many ways.
    """
    every = candidates()
    drawings = [card for card in every if not card.photographs]
    photos = [card for card in every if card.photographs] if photographs else []
    larger = [card for card in photos if card.learner == "ProtoNet"]
    most = max([card.ways for card in drawings], default=0)
    cards = (
        [card for card in photos if card.ways >= ways]
        or [card for card in larger if card.ways == max(c.ways for c in larger)]
        or [card for card in drawings if card.ways >= ways]
    )
    if not cards:
        raise ValueError(
            f"expected at most {most} classes, got {ways}: no entry was validated with "
            "more; --model with a prototypical network accepts more."
        )

    def order(card):
        figure = _nearest(card, ways, shots)
        return (
            card.procedural,
            figure is None,
            -figure["mean"] if figure else 0.0,
            # Ties, and entries without a grid: those trained on similar tasks first.
            ratio(card.shots, shots),
            card.ways,
            _loss(card),
        )

    card = min(cards, key=order)
    figure = _nearest(card, ways, shots)
    if figure is None:
        return card, f"{card.name}: no model has a validation figure for {ways} ways"
    mean, interval = 100 * figure["mean"], 100 * figure["interval"]
    task = f"{ways} classes of {shots:.3g} image{'s' * (shots != 1)}"
    return card, (
        f"{card.name}: best on validation tasks of {scores.protocol(figure)} from "
        f"{card.family} ({mean:.1f}% ± {interval:.1f}%), which are the most similar to "
        f"{task}"
    )


def for_curves():
    """The card of the default entry for curves.

    It is the entry with the best validation score, among those for points in any units
    if there are such entries.

    Raises:
        ValueError: the zoo has no model of curves.
    """
    cards = [card for card in zoo.list_models() if card.inputs == "curves"]
    if not cards:
        raise ValueError("expected a trained model of curves, the zoo has none.")
    # All entries for any units report likelihoods, which compare with each other.
    return min(cards, key=lambda card: (not card.any_units, _loss(card)))


def _nearest(card, ways, shots):
    """The figure of a card's grid for the most similar task with enough ways, or None.

    The ways are compared first.
    """
    return min(
        [figure for figure in card.grid if figure["ways"] >= ways],
        key=lambda figure: (figure["ways"], ratio(figure["shots"], shots)),
        default=None,
    )


def ratio(shots, other):
    """The absolute logarithm of the ratio of two numbers of shots."""
    return abs(math.log(shots / other))


def _loss(card):
    """An entry's validation figure with a sign such that less is better."""
    figure = card.validation
    if figure is None:
        return math.inf
    return -figure["mean"] if figure["metric"] == "accuracy" else figure["mean"]
