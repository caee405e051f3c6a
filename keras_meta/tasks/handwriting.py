"""A pen that follows the plan of a character with an unsteady hand."""

import typing

import numpy as np

# Omniglot's canvas and, measured on its background set, its pen (lines 5 pixels thick)
# and how far its characters are from the centre (x, y).
GLYPH_SIDE = 105
PEN_RADIUS = 2.5
GLYPH_SHIFT = (-1.0, -1.5)
# Pixels further than this from the pen stay dry; no pen comes nearer to the edge.
PEN_REACH = 3
# Points closer than this leave no notches in a line of that pen.
SPACING = 1.5


class Stroke(typing.NamedTuple):
    """One stroke of P pieces: angles in radians, lengths in pixels, y downwards."""

    turns: np.ndarray  # [P], change of direction before each piece; from east at first
    lengths: np.ndarray  # [P]
    sweeps: np.ndarray  # [P], change of direction along each piece
    tightness: np.ndarray  # [P] in [-1, 1], how its bend grows along it: spirals
    anchor: int  # the earlier stroke it stands on
    place: float  # in [0, 1], where along the anchor
    joint: float  # in [0, 1], the point of this stroke that lies there
    offset: np.ndarray  # [2], (x, y) of the joint from there


def at(trace, place):
    """The point of a trace `[n, 2]` at a place in [0, 1]."""
    return trace[int(round(place * (len(trace) - 1)))]


def traced(strokes, planned=None, random=None):
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
            target = target + at(traces[stroke.anchor], place)
        traces.append(trace - at(trace, stroke.joint) + target)
    return traces


def drawing(strokes, planned, random):
    """One drawing of the plan, uint8 `[105, 105]`."""
    points = np.concatenate(traced(strokes, planned, random))
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
