"""Task families that need no download, with exact references for most."""

import math
import typing

import numpy as np
import tensorflow as tf

from keras_meta import checks, episodes


class TaskFamily:
    """A distribution over tasks, from which episodes are drawn.

    Args:
        sample: function `(seed [2], n) -> (x [n, d_x], y)` that draws one task and n
            points of it with stateless random ops; y is float32 `[n, d_y]`, or int32
            labels `[n]` if tasks are classifications. The task must depend on the seed
            alone and not on n, so that `sample(episodes.fold_seed(seed, i), n)` gives
            any number of points of the task of episode i, to draw its curve.
        points: how many points a task has, if not endlessly many.

    Example:
        >>> family = tasks.sinusoid()
        >>> learner.fit(family.episodes(shots=10).batch(25), steps_per_epoch=1000)
    """

    def __init__(self, sample, points=None):
        self._sample = sample
        self._points = points

    def sample(self, seed, n):
        """n points of the task of a seed `[2]`, `(x [n, d_x], y [n, d_y] or [n])`.

        Raises:
            ValueError: more points than a task has.
        """
        self._check_points(n)
        return self._sample(seed, n)

    def _check_points(self, n):
        if self._points is not None and n > self._points:
            raise ValueError(
                f"expected at most {self._points} points, which is all that a task "
                f"has, got {n}."
            )

    def episodes(self, shots=10, queries=10, seed=0, start=0, block=1):
        """An endless dataset of episodes; episode i depends on (seed, i).

        Args:
            shots: support points, S; or `(low, high)`, S is then uniform in low..high.
            queries: query points, Q.
            seed: of the stream.
            start: index of the first episode.
            block: this many episodes in a row share an S drawn from `(low, high)`: S
                depends on (seed, i // block). Then `.batch(block)` has one S a batch.

        Returns:
            A `tf.data.Dataset` of pairs: `({"support_x": [S, d_x], "support_y":
            [S, d_y], "query_x": [Q, d_x]}, query_y [Q, d_y])`, all float32; if tasks
            are classifications, y is int32 labels, `[S]` and `[Q]`.

        Raises:
            ValueError: shots or start below 0, queries or block below 1, or no
                integers; low above high; more points than a task has; with `(low,
                high)`, a start that is no multiple of block.
        """
        drawn = isinstance(shots, tuple | list)
        if drawn:
            if len(shots) != 2 or shots[0] > shots[1]:
                raise ValueError(
                    "expected shots to be an integer or (low, high) with low <= high, "
                    f"got {shots}."
                )
            for value in shots:
                checks.check_integer("each of shots", value, 0)
        else:
            checks.check_integer("shots", shots, 0)
        low, high = shots if drawn else (shots, shots)
        checks.check_integer("queries", queries, 1)
        checks.check_integer("start", start, 0)
        checks.check_integer("block", block, 1)
        if drawn and start % block:
            raise ValueError(
                f"expected start to be a multiple of block, {block}, got {start}."
            )
        self._check_points(high + queries)

        def split(x, y, shots):
            episode = {"support_x": x[:shots], "support_y": y[:shots]}
            return {**episode, "query_x": x[high:]}, y[high:]

        def draw(seed):
            x, y = self.sample(seed, high + queries)
            return (x, y) if drawn else split(x, y, shots)

        def cut(index, points):
            # No episode has an index below 0, so S owes nothing to any task.
            fold = episodes.fold_seed(seed, -1 - index // block)
            return split(
                *points,
                tf.random.stateless_uniform([], fold, low, high + 1, tf.int32),
            )

        stream = episodes.stream(draw, seed, start)
        return stream.enumerate(start).map(cut) if drawn else stream


def _check_range(name, low, high):
    if not low < high:
        raise ValueError(
            f"expected {name} to be (low, high) with low < high, got ({low}, {high})."
        )


def _check_pairs(support_x, support_y, target_axes):
    x, y = np.shape(support_x), np.shape(support_y)
    if not x or len(y) != len(x) - 1 + target_axes or y[: len(x) - 1] != x[:-1]:
        raise ValueError(
            f"expected support_x [T, S, d_x] and support_y [T, S{', d_y' * target_axes}"
            f"], got shapes {list(x)} and {list(y)}."
        )


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
    for name, values in (("amplitude", amplitude), ("phase", phase), ("x", x)):
        _check_range(name, *values)

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 3))
        scale = tf.random.stateless_uniform([], seeds[0], *amplitude)
        shift = tf.random.stateless_uniform([], seeds[1], *phase)
        points = tf.random.stateless_uniform([n, 1], seeds[2], *x)
        return points, scale * tf.sin(points - shift)

    return TaskFamily(sample)


def boolean(functions=16):
    """Boolean functions of two inputs; a task is one of them, each as likely.

    The paper does not say how inputs are coded: here x is uniform over {-1, 1}^2, -1
    for false and 1 for true, and so a point may come more than once. y is its label.

    Args:
        functions: 16, or 14: without XOR and its complement, which no line separates.

    Returns:
        A `TaskFamily` with d_x = 2 and int32 labels in {0, 1}.

    Raises:
        ValueError: another number of functions.

    Reference:
        Hochreiter, Younger and Conwell, Learning to Learn Using Gradient Descent,
        ICANN 2001.
    """
    table = tf.constant(_truth_table(functions))

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 2))
        row = tf.random.stateless_uniform([], seeds[0], 0, len(table), tf.int32)
        bits = tf.random.stateless_uniform([n, 2], seeds[1], 0, 2, tf.int32)
        labels = tf.gather(table[row], 2 * bits[:, 0] + bits[:, 1])
        return tf.cast(2 * bits - 1, tf.float32), labels

    return TaskFamily(sample)


def _truth_table(functions):
    """Labels `[functions, 4]` of the inputs 00, 01, 10, 11, int32."""
    if functions not in (14, 16):
        raise ValueError(f"expected functions to be 14 or 16, got {functions}.")
    table = np.arange(16)[:, None] >> np.arange(4)[::-1] & 1
    if functions == 14:
        table = np.delete(table, [0b0110, 0b1001], axis=0)  # XOR, its complement
    return table.astype(np.int32)


def boolean_bayes(functions, support_x, support_y, query_x):
    """What can be known of a Boolean function from examples: the Bayes predictor.

    All functions of the family that agree with the examples are as likely, and the
    chance of label 1 is the share of those that have it.

    Args:
        functions: 14 or 16, as for `boolean`.
        support_x: `[T, S, 2]`, or `[S, 2]` for one task; false is below 0.
        support_y: labels `[T, S]`.
        query_x: `[T, Q, 2]`.

    Returns:
        Chances of label 1, `[T, Q]`, float64.

    Raises:
        ValueError: another number of functions, examples that none agrees with, or
            not as many labels as examples.
    """
    _check_pairs(support_x, support_y, 0)
    table = _truth_table(functions)
    cell, query = ((np.asarray(x) > 0) @ np.array([2, 1]) for x in (support_x, query_x))
    agrees = (table[:, cell] == np.asarray(support_y)).all(-1)  # [functions, T]
    count = agrees.sum(0)
    if not count.all():
        raise ValueError(
            f"expected support_y to be of one of the {functions} functions, got "
            "examples that none agrees with."
        )
    return (agrees[..., None] & (table[:, query] == 1)).sum(0) / count[..., None]


def semilinear():
    """Squashed planes, `y = (1 + tanh(w1 x1 + w2 x2 + w3)) / 2`, without noise.

    The weights w are uniform in [-1, 1] and x in [-1, 1]^2.

    Returns:
        A `TaskFamily` with d_x = 2 and d_y = 1.

    Reference:
        Hochreiter, Younger and Conwell, Learning to Learn Using Gradient Descent,
        ICANN 2001.
    """
    return _weighted(semilinear_features, 3, lambda z: (1 + tf.tanh(z)) / 2)


def quadratic():
    """Quadratic functions of two inputs, scaled to [0.2, 0.8], without noise.

        y = 0.5 + 0.05 (a x1^2 + b x2^2 + c x1 x2 + d x1 + e x2 + f)

    The coefficients a to f are uniform in [-1, 1] and x in [-1, 1]^2.

    Returns:
        A `TaskFamily` with d_x = 2 and d_y = 1.

    Reference:
        Hochreiter, Younger and Conwell, Learning to Learn Using Gradient Descent,
        ICANN 2001.
    """
    return _weighted(quadratic_features, 6, lambda z: 0.5 + 0.05 * z)


def _weighted(features, count, output):
    """The family `y = output(features(x) . w)` with `count` weights w."""

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 2))
        weights = tf.random.stateless_uniform([count, 1], seeds[0], -1, 1)
        x = tf.random.stateless_uniform([n, 2], seeds[1], -1, 1)
        return x, output(features(x) @ weights)

    return TaskFamily(sample)


def semilinear_features(x):
    """x1, x2 and 1: `[..., 2] -> [..., 3]`."""
    x1, x2 = tf.unstack(x, axis=-1)
    return tf.stack([x1, x2, tf.ones_like(x1)], axis=-1)


def quadratic_features(x):
    """x1^2, x2^2, x1 x2, x1, x2 and 1: `[..., 2] -> [..., 6]`."""
    x1, x2 = tf.unstack(x, axis=-1)
    return tf.stack([x1**2, x2**2, x1 * x2, x1, x2, tf.ones_like(x1)], axis=-1)


# Float32 targets say nothing about directions that vary less than this among the
# features, relative to the one that varies most.
LEAST_VARIATION = 1e-6


def least_squares(features, support_x, support_y, query_x, squashed=False):
    """What least squares on the right features make of examples, in float64.

    Fits `y = 0.5 + features(x) . w` (quadratic tasks), or if squashed `y = (1 +
    tanh(features(x) . w)) / 2` through arctanh (semi-linear tasks). Among equally good
    w it takes the shortest, so that no example gives 0.5, the mean of both families.
    As many examples as features, in general position, give the task itself.

    Args:
        features: `semilinear_features`, `quadratic_features` or another function
            `x [..., d_x] -> [..., features]`.
        support_x: `[T, S, d_x]`, or `[S, d_x]` for one task.
        support_y: `[T, S, d_y]`.
        query_x: `[T, Q, d_x]`.
        squashed: whether y is squashed by tanh.

    Returns:
        Predictions `[T, Q, d_y]`.

    Raises:
        ValueError: squashed, with a target outside (0, 1); or not as many targets as
            examples.
    """
    _check_pairs(support_x, support_y, 1)
    basis, wanted = (
        np.asarray(features(tf.cast(x, tf.float64))) for x in (support_x, query_x)
    )
    targets = 2 * np.float64(support_y) - 1
    if squashed:
        if not (np.abs(targets) < 1).all():
            raise ValueError("expected squashed targets in (0, 1), got some outside.")
        targets = np.arctanh(targets)
    outputs = wanted @ (np.linalg.pinv(basis, rcond=LEAST_VARIATION) @ targets)
    return (1 + (np.tanh(outputs) if squashed else outputs)) / 2


KERNELS = {
    "rbf": "ExponentiatedQuadratic",
    "matern32": "MaternThreeHalves",
    "periodic": "ExpSinSquared",
}
# Variance of a further noise, relative to the process's own: rounding would otherwise
# make the covariance of hundreds of points indefinite where observations have none.
JITTER = 1e-8


def gaussian_process(kernel="rbf", length=0.4, scale=1.0, noise=0.02, x=(-2.0, 2.0)):
    """Functions drawn from a Gaussian process, observed with noise.

        y = f(x) + noise e,  f ~ GP(0, scale^2 k(d / length)),  e ~ Normal(0, 1)

    d is the distance of two points and k(d / l) is
    - "rbf": `exp(-d^2 / (2 l^2))`;
    - "matern32": `(1 + sqrt(3) d / l) exp(-sqrt(3) d / l)`;
    - "periodic": `exp(-2 sin^2(pi d) / l^2)`, of period 1.

    Fewer points of a task are the first of more, up to rounding.

    Args:
        kernel: "rbf", "matern32" or "periodic".
        length: of the kernel, in units of x; or `(low, high)`, a task's length is then
            uniform between them.
        scale: standard deviation of f; or `(low, high)`, likewise.
        noise: standard deviation of an observation.
        x: `(low, high)`; a point's x is uniform between them.

    Returns:
        A `GaussianProcess`, a `TaskFamily` with d_x = d_y = 1.

    Raises:
        ValueError: another kernel, a length or scale that is not above 0, a noise
            below 0, or low not below high.

    Reference:
        Garnelo et al., Conditional Neural Processes, ICML 2018, section 4.1; the
        defaults are those of its authors' notebook.
    """
    if kernel not in KERNELS:
        raise ValueError(
            f"expected kernel to be one of {', '.join(KERNELS)}, got {kernel!r}."
        )
    for name, value in (("length", length), ("scale", scale)):
        if isinstance(value, tuple | list):
            _check_range(name, *value)
        if not np.min(value) > 0:
            raise ValueError(f"expected {name} to be above 0, got {value}.")
    if not noise >= 0:
        raise ValueError(f"expected noise to be at least 0, got {noise}.")
    _check_range("x", *x)
    return GaussianProcess(kernel, length, scale, noise, x)


class GaussianProcess(TaskFamily):
    """A family of Gaussian process draws that knows its posterior.

    Made by `gaussian_process`, which checks and documents the arguments.
    """

    def __init__(self, kernel, length, scale, noise, x):
        import tensorflow_probability as tfp

        super().__init__(self._draw)
        self._kernel = getattr(tfp.math.psd_kernels, KERNELS[kernel])
        self._process = tfp.distributions.GaussianProcessRegressionModel
        self._length = length
        self._scale = scale
        self._noise = noise
        self._x = x

    def parameters(self, seed):
        """Length and scale of the task of a seed `[2]`, float64 scalars."""
        seeds = tf.unstack(tf.random.split(seed, 5)[3:])
        return tuple(
            tf.random.stateless_uniform([], seed, *value, dtype=tf.float64)
            if isinstance(value, tuple | list)
            else tf.constant(value, tf.float64)
            for value, seed in zip((self._length, self._scale), seeds, strict=True)
        )

    def _draw(self, seed, n):
        seeds = tf.unstack(tf.random.split(seed, 5)[:2])
        length, scale = self.parameters(seed)
        x = tf.random.stateless_uniform([n, 1], seeds[0], *self._x)
        white = tf.random.stateless_normal([n, 1], seeds[1], dtype=tf.float64)
        wide = tf.cast(x, tf.float64)
        covariance = self._kernel(scale, length).matrix(wide, wide)
        noise = self._noise_variance(scale) * tf.eye(n, dtype=tf.float64)
        # A leading block of a Cholesky factor is the factor of the leading block, so
        # that further points leave the first ones alone.
        y = tf.linalg.cholesky(covariance + noise) @ white
        return x, tf.cast(y, tf.float32)

    def _noise_variance(self, scale):
        return self._noise**2 + JITTER * scale**2

    def posterior(self, support_x, support_y, query_x, length=None, scale=None):
        """The exact posterior of each query's y, its noise included, in float64.

        Args:
            support_x: `[T, S, 1]`, or `[S, 1]` for one task; S = 0 gives the prior.
            support_y: `[T, S, 1]`.
            query_x: `[T, Q, 1]`.
            length: of the tasks, a number or `[T]`; by default the family's.
            scale: likewise.

        Returns:
            Mean and standard deviation, tensors `[T, Q, 1]`.

        Raises:
            ValueError: no length or scale, and the family draws it for each task; or
                not as many targets as examples.
        """
        _check_pairs(support_x, support_y, 1)
        length = self._known("length", length, self._length)
        scale = self._known("scale", scale, self._scale)
        support_x, support_y, query_x = (
            tf.cast(v, tf.float64) for v in (support_x, support_y, query_x)
        )
        process = self._process(
            self._kernel(scale, length),
            index_points=query_x,
            observation_index_points=support_x,
            observations=support_y[..., 0],
            observation_noise_variance=self._noise_variance(scale),
            predictive_noise_variance=self._noise_variance(scale),
            jitter=0.0,
        )
        return process.mean()[..., None], process.stddev()[..., None]

    def _known(self, name, value, own):
        if value is None and isinstance(own, tuple | list):
            raise ValueError(
                f"expected {name}=, as this family draws another for each task: "
                "parameters(seed) gives it."
            )
        return tf.cast(own if value is None else value, tf.float64)


def completion(images):
    """Image completion: a task is an image, and its pixels are the points.

    x is a pixel's (row, column), each scaled to [0, 1], and y its intensities. Pixels
    come in uniformly random order and none comes twice, so that all of them are the
    image; fewer pixels of a task are the first of more.

    Args:
        images: `[n, H, W, C]`, uint8 or floats in [0, 1], each image as likely; held
            once, as they came.

    Returns:
        A `TaskFamily` with d_x = 2 and d_y = C, y in [0, 1].

    Raises:
        ValueError: images of another rank, none, or floats outside [0, 1].

    Reference:
        Garnelo et al., Conditional Neural Processes, ICML 2018, section 4.2.
    """
    images = tf.convert_to_tensor(images)
    if images.shape.rank != 4 or 0 in images.shape:
        raise ValueError(
            f"expected images [n, H, W, C], at least one, got {list(images.shape)}."
        )
    if images.dtype != tf.uint8:
        images = tf.cast(images, tf.float32)
        if not (np.min(images) >= 0 and np.max(images) <= 1):
            raise ValueError(
                "expected images of uint8, or of floats in [0, 1], got values from "
                f"{np.min(images):g} to {np.max(images):g}."
            )
    count, height, width, channels = images.shape
    images = tf.reshape(images, [count, height * width, channels])
    rows, columns = np.indices([height, width]).reshape(2, -1)
    places = tf.constant(
        np.stack([rows / max(height - 1, 1), columns / max(width - 1, 1)], 1),
        tf.float32,
    )

    def sample(seed, n):
        seeds = tf.unstack(tf.random.split(seed, 2))
        image = tf.random.stateless_uniform([], seeds[0], 0, count, tf.int32)
        chance = tf.random.stateless_uniform([len(places)], seeds[1], dtype=tf.float64)
        _, pixels = tf.math.top_k(chance, n)
        y = tf.gather(images[image], pixels)
        if y.dtype == tf.uint8:
            y = tf.cast(y, tf.float32) / 255.0
        return tf.gather(places, pixels), y

    return TaskFamily(sample, points=len(places))


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
    checks.check_integer("drawings", drawings, 1)
    checks.check_integer("seed", seed, 0)
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
