"""Random plans of characters: which strokes, and how they join."""

import numpy as np

from keras_meta.tasks.handwriting import PEN_RADIUS, SPACING, Stroke, at, traced


def character(random):
    """A random plan of strokes, of a random size, without crowded strokes."""
    # Some scripts are all straight lines and corners (runes), some all curves.
    curved = random.beta(0.7, 0.9)
    count = random.choice([1, 2, 3, 4], p=[0.15, 0.3, 0.3, 0.25])
    while True:
        strokes = []
        for _ in range(count):
            strokes.append(_stroke(random, strokes, curved, alone=count == 1))
        size = np.ptp(np.concatenate(traced(strokes)), axis=0).max()
        factor = random.triangular(42, 68, 82) / max(size, 15.0)
        strokes = [
            stroke._replace(
                lengths=stroke.lengths * factor, offset=stroke.offset * factor
            )
            for stroke in strokes
        ]
        if not _crowded(traced(strokes)):
            return strokes


def _crowded(traces):
    """Whether over a third of the ink touches ink of elsewhere in the character."""
    points = np.concatenate(traces)[::3]
    stroke = np.repeat(np.arange(len(traces)), [len(trace) for trace in traces])[::3]
    order = np.arange(len(points))
    near = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) < 2.2 * PEN_RADIUS
    # Neighbouring points of one stroke do not count.
    just_now = np.abs(order[:, None] - order) * 3 * SPACING < 6 * PEN_RADIUS
    elsewhere = (stroke[:, None] != stroke) | ~just_now
    return np.mean((near & elsewhere).any(axis=1)) > 1 / 3


def _stroke(random, strokes, curved, alone):
    """A new stroke, a copy of one, or a bridge between two points of them."""
    kind = random.uniform()
    if strokes and kind < 0.2:
        return _bridge(random, strokes, curved)
    if strokes and kind < 0.4:
        stroke = _copy(random, strokes[random.randint(len(strokes))])
    else:
        pieces = random.choice([2, 3, 4, 5] if alone else [1, 2, 2, 3])
        stroke = _shape(random, curved, pieces)
    return _placed(random, stroke, len(strokes)) if strokes else stroke


def _shape(random, curved, pieces):
    """A stroke of random pieces, not placed yet."""
    turns, lengths, sweeps, tightness = np.zeros([4, pieces])
    for piece in range(pieces):
        if piece and random.uniform() < 0.35:  # once more, or zigzag: m, w, 3
            for values in (lengths, sweeps, tightness):
                values[piece] = values[piece - 1]
            turns[piece] = turns[piece - 1] if piece > 1 else _corner(random, curved)
            if random.uniform() < 0.5:
                turns[piece], sweeps[piece] = -turns[piece], -sweeps[piece]
            continue
        side = random.choice([-1, 1])
        kind = random.uniform()
        if kind < 0.07:  # a loop
            sweep, radius = random.uniform(5.0, 6.8), random.uniform(8, 22)
        elif kind < 0.14:  # a hook
            sweep, radius = random.uniform(1.0, 3.2), random.uniform(4, 8)
        elif random.uniform() < curved:  # an arc
            sweep = random.choice([0.25, 0.5, 0.5, 1.0, 1.0, 1.5]) * np.pi
            sweep *= random.uniform(0.8, 1.2)
            radius = random.choice([12, 24]) * random.uniform(0.8, 1.2)
        else:  # a line
            sweep, radius = 0.0, random.choice([24, 48]) * random.uniform(0.8, 1.2)
        lengths[piece] = radius * max(sweep, 1.0)
        sweeps[piece] = side * sweep
        tightness[piece] = random.uniform(-0.6, 0.6)
        turns[piece] = _corner(random, curved) if piece else _direction(random)
    return Stroke(turns, lengths, sweeps, tightness, 0, 0.0, 0.0, np.zeros(2))


def _direction(random):
    """Mostly rightwards or downwards, some diagonals, seldom another way."""
    eighths = random.choice(8, p=[0.3, 0.12, 0.3, 0.12, 0.04, 0.02, 0.04, 0.06])
    return eighths * np.pi / 4 + random.normal() * 0.1


def _corner(random, curved):
    """The turn between two pieces: more often none where strokes are curved."""
    if random.uniform() < 0.1 + 0.5 * curved:
        return 0.0
    eighths = random.choice([1, 2, 3, 3.5], p=[0.15, 0.6, 0.17, 0.08])
    return random.choice([-1, 1]) * eighths * np.pi / 4


def _copy(random, stroke):
    """The same stroke again, or its mirror image."""
    kind = random.choice(["same", "left to right", "top to bottom"])
    if kind == "same":
        return stroke
    turns = -stroke.turns
    if kind == "left to right":
        turns[0] += np.pi
    return stroke._replace(turns=turns, sweeps=-stroke.sweeps)


def _placed(random, stroke, number):
    """The stroke joined to one of the `number` strokes before it, or beside it."""
    joint = random.choice([0.0, 1.0, random.uniform(0.2, 0.8)], p=[0.55, 0.15, 0.3])
    place = random.choice([0.0, 0.5, 1.0, random.uniform()], p=[0.25, 0.2, 0.3, 0.25])
    offset = np.zeros(2)
    if random.uniform() < 0.25:
        angle = random.uniform(0, 2 * np.pi)
        offset = random.uniform(15, 35) * np.array([np.cos(angle), np.sin(angle)])
        if random.uniform() < 0.35:  # a dot, or a short dash
            stroke = Stroke(*(values[:1] for values in stroke[:4]), *stroke[4:])
            stroke = stroke._replace(lengths=random.uniform(1, 10, 1))
    return stroke._replace(
        anchor=random.randint(number), place=place, joint=joint, offset=offset
    )


def _bridge(random, strokes, curved):
    """A stroke of one piece from a point of an earlier stroke to another point."""
    traces = traced(strokes)
    anchor = random.randint(len(traces))
    place = random.choice([0.0, 0.5, 1.0, random.uniform()])
    start = at(traces[anchor], place)
    ends = np.concatenate([trace[[0, len(trace) // 2, -1]] for trace in traces])
    chord = ends[random.randint(len(ends))] - start
    if np.hypot(*chord) < 12:  # no bridge: the point is itself, or next to it
        chord = random.uniform(24, 48) * np.array([[1, 0], [0, 1]])[random.randint(2)]
    sweep = 0.0
    if random.uniform() < curved:
        sweep = random.choice([-1, 1]) * random.uniform(1.0, 3.6)
    # An arc of that sweep leaves its chord by half of it, and is that much longer.
    length = np.hypot(*chord) / np.sinc(sweep / 2 / np.pi)
    turn = np.arctan2(chord[1], chord[0]) - sweep / 2
    return Stroke(
        *np.array([[turn], [length], [sweep], [0.0]]), anchor, place, 0.0, np.zeros(2)
    )
