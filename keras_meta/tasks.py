"""Task families that need no download: sinusoids and drawn glyphs."""

import math
import typing

import numpy as np
import tensorflow as tf

from keras_meta import episodes


class TaskFamily:
    """A distribution over regression tasks, from which episodes are drawn.

    Args:
        sample: function `(seed [2], n) -> (x [n, d_x], y [n, d_y])`, float32, that
            draws one task and n independent points of it with stateless random ops.
            The task must depend on the seed alone and not on n, so that
            `sample(episodes.fold_seed(seed, i), n)` gives any number of points of
            the task of episode i, to draw its curve.

    Example:
        >>> family = tasks.sinusoid()
        >>> learner.fit(family.episodes(shots=10).batch(25), steps_per_epoch=1000)
    """

    def __init__(self, sample):
        self.sample = sample

    def episodes(self, shots=10, queries=10, seed=0, start=0):
        """An endless dataset of episodes; episode i depends on (seed, i).

        Args:
            shots: support points, S.
            queries: query points, Q.
            seed: of the stream.
            start: index of the first episode.

        Returns:
            A `tf.data.Dataset` of `({"support_x": [S, d_x], "support_y": [S, d_y],
            "query_x": [Q, d_x]}, query_y [Q, d_y])`, all float32.

        Raises:
            ValueError: shots or start below 0, queries below 1, or no integers.
        """
        _check_integer("shots", shots, 0)
        _check_integer("queries", queries, 1)

        def draw(seed):
            x, y = self.sample(seed, shots + queries)
            episode = {"support_x": x[:shots], "support_y": y[:shots]}
            return {**episode, "query_x": x[shots:]}, y[shots:]

        return episodes.stream(draw, seed, start)


def _check_integer(name, value, least):
    if not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"expected {name} to be an integer >= {least}, got {value}.")


def sinusoid(amplitude=(0.1, 5.0), phase=(0.0, math.pi), x=(-5.0, 5.0)):
    """Sine waves, `y = amplitude * sin(x - phase)`, without noise.

    Args:
        amplitude: `(low, high)`; a task's amplitude is uniform between them.
        phase: `(low, high)` in radians, likewise.
        x: `(low, high)`; a point's x is uniform between them.

    Returns:
        A `TaskFamily` with d_x = d_y = 1.

    Raises:
        ValueError: low is not below high.

    Reference:
        Finn, Abbeel and Levine, Model-Agnostic Meta-Learning for Fast Adaptation of
        Deep Networks, 2017, section 5.1.
    """
    for name, (low, high) in (("amplitude", amplitude), ("phase", phase), ("x", x)):
        if not low < high:
            raise ValueError(
                f"expected {name} to be (low, high) with low < high, got "
                f"({low}, {high})."
            )

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 3))
        scale = tf.random.stateless_uniform([], seeds[0], *amplitude)
        shift = tf.random.stateless_uniform([], seeds[1], *phase)
        points = tf.random.stateless_uniform([n, 1], seeds[2], *x)
        return points, scale * tf.sin(points - shift)

    return TaskFamily(sample)


# Omniglot's canvas and, measured on its background set, its pen (lines 5 pixels thick)
# and how far its characters are from the centre (x, y).
GLYPH_SIDE = 105
PEN_RADIUS = 2.5
GLYPH_SHIFT = (-1.0, -1.5)
# Pixels further than this from the pen stay dry; no pen comes nearer to the edge.
PEN_REACH = 3
# Points closer than this leave no notches in a line of that pen.
SPACING = 1.5
CLASSES_AT_ONCE = 50


def glyphs(classes=1200, drawings=20, seed=0, prepare=None):
    """Characters of an invented alphabet, drawn by an unsteady hand.

    A class is a plan of one to four pen strokes, each of straight pieces, arcs, loops
    and hooks, that start from, cross or stand beside one another. A drawing follows
    the plan with the lengths, turns and joints a little off, under a mild affine map.
    The look and the spread are Omniglot's: 105x105, black ink (0) on white (255). A
    class depends on (seed, id) and a drawing on (seed, id, its number) alone.

    Args:
        classes: number of classes, with ids 0, 1, ..., or a sequence of ids >= 0.
        drawings: drawings of each class.
        seed: of the alphabet.
        prepare: an `ImagePreprocess`; images are resized as they are drawn, so that a
            large pool is never held at full size.

    Returns:
        A `ClassPool` of uint8 images: 105x105x1, or of the size `prepare` gives.

    Raises:
        ValueError: no class, no drawing, or a number that is no integer >= 0.
    """
    ids = np.arange(classes) if np.ndim(classes) == 0 else np.unique(classes)
    if not len(ids) or not np.issubdtype(ids.dtype, np.integer) or ids[0] < 0:
        raise ValueError(
            "expected classes to be an integer >= 1 or a sequence of integer ids >= 0, "
            f"got {classes}."
        )
    _check_integer("drawings", drawings, 1)
    _check_integer("seed", seed, 0)
    images = []
    for first in range(0, len(ids), CLASSES_AT_ONCE):
        chunk = []
        for class_id in ids[first : first + CLASSES_AT_ONCE]:
            strokes = _character(_random(seed, class_id, 0))
            planned = _traced(strokes)
            for drawing in range(1, drawings + 1):
                random = _random(seed, class_id, drawing)
                chunk.append(_drawing(strokes, planned, random))
        chunk = np.stack(chunk)[..., None]
        images.append(prepare.resize(chunk) if prepare else chunk)
    return episodes.ClassPool.from_arrays(
        np.concatenate(images), np.repeat(ids, drawings), prepare
    )


def _random(seed, class_id, stream):
    # A counter-based generator has a stream for each key and high counter word, and
    # RandomState's distributions are frozen for all NumPy versions.
    key = np.array([seed, class_id], np.uint64)
    counter = np.array([0, 0, 0, stream], np.uint64)
    return np.random.RandomState(np.random.Philox(key=key, counter=counter))


class _Stroke(typing.NamedTuple):
    """One stroke of P pieces: angles in radians, lengths in pixels, y downwards."""

    turns: np.ndarray  # [P], change of direction before each piece; from east at first
    lengths: np.ndarray  # [P]
    sweeps: np.ndarray  # [P], change of direction along each piece
    tightness: np.ndarray  # [P] in [-1, 1], how its bend grows along it: spirals
    anchor: int  # the earlier stroke it stands on
    place: float  # in [0, 1], where along the anchor
    joint: float  # in [0, 1], the point of this stroke that lies there
    offset: np.ndarray  # [2], (x, y) of the joint from there


def _character(random):
    """A random plan of strokes, of a random size, that can be read."""
    # Some scripts are all straight lines and corners (runes), some all curves.
    curved = random.beta(0.7, 0.9)
    count = random.choice([1, 2, 3, 4], p=[0.15, 0.3, 0.3, 0.25])
    while True:
        strokes = []
        for _ in range(count):
            strokes.append(_stroke(random, strokes, curved, alone=count == 1))
        size = np.ptp(np.concatenate(_traced(strokes)), axis=0).max()
        factor = random.triangular(42, 68, 82) / max(size, 15.0)
        strokes = [
            stroke._replace(
                lengths=stroke.lengths * factor, offset=stroke.offset * factor
            )
            for stroke in strokes
        ]
        if not _crowded(_traced(strokes)):
            return strokes


def _crowded(traces):
    """Whether over a third of the ink touches ink of elsewhere in the character."""
    points = np.concatenate(traces)[::3]
    stroke = np.repeat(np.arange(len(traces)), [len(trace) for trace in traces])[::3]
    order = np.arange(len(points))
    near = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) < 2.2 * PEN_RADIUS
    # A stroke is near itself for as far as the pen just went.
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
    return _Stroke(turns, lengths, sweeps, tightness, 0, 0.0, 0.0, np.zeros(2))


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
            stroke = _Stroke(*(values[:1] for values in stroke[:4]), *stroke[4:])
            stroke = stroke._replace(lengths=random.uniform(1, 10, 1))
    return stroke._replace(
        anchor=random.randint(number), place=place, joint=joint, offset=offset
    )


def _bridge(random, strokes, curved):
    """A stroke of one piece from a point of an earlier stroke to another point."""
    traces = _traced(strokes)
    anchor = random.randint(len(traces))
    place = random.choice([0.0, 0.5, 1.0, random.uniform()])
    start = _at(traces[anchor], place)
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
    return _Stroke(
        *np.array([[turn], [length], [sweep], [0.0]]), anchor, place, 0.0, np.zeros(2)
    )


def _at(trace, place):
    """The point of a trace `[n, 2]` at a place in [0, 1]."""
    return trace[int(round(place * (len(trace) - 1)))]


def _traced(strokes, planned=None, random=None):
    """The points `[n, 2]` of each stroke, as planned or as an unsteady hand has it."""

    def unsteady(scale, *size):
        return scale * random.normal(size=size) if random else np.zeros(size)

    traces = []
    for number, stroke in enumerate(strokes):
        pieces = len(stroke.lengths)
        lengths = stroke.lengths * np.exp(unsteady(0.15, pieces))
        turns = stroke.turns + unsteady(0.12, pieces)
        sweeps = stroke.sweeps * (1 + unsteady(0.1, pieces)) + unsteady(0.1, pieces)
        tightness = stroke.tightness + unsteady(0.25, pieces)
        counts = np.ceil(stroke.lengths / SPACING).astype(int) + 1
        # Where each point is along its piece, in (0, 1).
        along = np.concatenate([(np.arange(n) + 0.5) / n for n in counts])
        before = np.cumsum(turns) + np.cumsum(sweeps) - sweeps
        bend = along + np.repeat(tightness, counts) * along * (along - 1)
        heading = np.repeat(before, counts) + np.repeat(sweeps, counts) * bend
        # A mouse goes straight for some pixels, then corrects itself.
        heading += np.repeat(unsteady(0.15, len(along) // 5 + 1), 5)[: len(along)]
        steps = np.repeat(lengths / counts, counts)[:, None] * np.stack(
            [np.cos(heading), np.sin(heading)], axis=1
        )
        trace = np.cumsum(steps, axis=0)
        if random:
            # The eye leads the hand to where the stroke should end.
            astray = (trace[-1] - trace[0]) - (planned[number][-1] - planned[number][0])
            trace -= 0.6 * astray * (np.arange(len(trace)) / len(trace))[:, None]
        target = stroke.offset * (1 + unsteady(0.12, 2)) + unsteady(1.2, 2)
        if traces:
            place = np.clip(stroke.place + unsteady(0.03), 0, 1)
            target = target + _at(traces[stroke.anchor], place)
        traces.append(trace - _at(trace, stroke.joint) + target)
    return traces


def _drawing(strokes, planned, random):
    """One drawing of the plan, uint8 `[105, 105]`."""
    points = np.concatenate(_traced(strokes, planned, random))
    angle, shear = random.normal(size=2) * [0.07, 0.1]
    scale = np.exp(random.normal() * 0.1 + random.normal(size=2) * 0.07)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = points @ (turn @ np.array([[1, shear], [0, 1]]) * scale).T
    low, high = points.min(axis=0), points.max(axis=0)
    half = (high - low) / 2
    centre = (GLYPH_SIDE - 1) / 2
    most = centre - PEN_REACH
    fit = min(1.0, most / max(half.max(), 1.0))
    free = most - half * fit
    shift = np.clip(GLYPH_SHIFT + random.normal(size=2) * 4.5, -free, free)
    points = (points - (low + high) / 2) * fit + centre + shift
    return _inked(points, random.normal(PEN_RADIUS, 0.2))


def _inked(points, radius):
    """The image of a round pen of a radius that went over `[n, 2]` points (x, y)."""
    near = np.arange(-PEN_REACH, PEN_REACH + 1)
    pixels = np.rint(points).astype(int)[..., None] + near  # [n, 2, 7]
    squares = (pixels - points[..., None]) ** 2
    wet = squares[:, 0, None, :] + squares[:, 1, :, None] <= radius**2
    point, y, x = np.nonzero(wet)
    image = np.full([GLYPH_SIDE, GLYPH_SIDE], 255, np.uint8)
    image[pixels[point, 1, y], pixels[point, 0, x]] = 0
    return image
