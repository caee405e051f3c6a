"""Task families against least squares, their stated laws, and another process."""

import hashlib
import inspect
import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_meta import episodes, images, tasks


def drawn(dataset, count):
    """The first episodes of a dataset as one batch `(x, y)` of NumPy arrays."""
    return next(dataset.batch(count).as_numpy_iterator())


def refit(x, y):
    """Amplitude, phase and largest residual of each sine `[T, n, 1]`, by least squares.

    a sin(x - p) = (a cos p) sin x - (a sin p) cos x is linear in its coefficients.
    """
    found = []
    for points, values in zip(np.float64(x), np.float64(y), strict=True):
        basis = np.concatenate([np.sin(points), -np.cos(points)], axis=1)
        (cosine, sine), *_ = np.linalg.lstsq(basis, values[:, 0])
        residual = np.abs(basis @ [cosine, sine] - values[:, 0]).max()
        found.append((np.hypot(cosine, sine), np.arctan2(sine, cosine), residual))
    return np.array(found).T


def uniform_distance(values, low, high):
    """Kolmogorov-Smirnov distance to the uniform law, in units of 1 / sqrt(n)."""
    ranks = np.arange(len(values) + 1) / len(values)
    law = (np.sort(values) - low) / (high - low)
    distance = max(np.abs(law - ranks[1:]).max(), np.abs(law - ranks[:-1]).max())
    return distance * np.sqrt(len(values))


def test_sinusoid_is_one_sine_for_support_and_query():
    x, y = drawn(tasks.sinusoid().episodes(shots=7, queries=13, seed=3), 200)
    assert {k: v.shape for k, v in x.items()} == {
        "support_x": (200, 7, 1),
        "support_y": (200, 7, 1),
        "query_x": (200, 13, 1),
    }
    assert y.shape == (200, 13, 1)
    assert {v.dtype for v in [*x.values(), y]} == {np.dtype("float32")}

    all_x = np.concatenate([x["support_x"], x["query_x"]], axis=1)
    all_y = np.concatenate([x["support_y"], y], axis=1)
    amplitude, phase, residual = refit(all_x, all_y)
    assert 0.1 <= amplitude.min() and amplitude.max() <= 5.0
    # The phase of a float32 sine is known to about 1e-6.
    assert -1e-5 <= phase.min() and phase.max() <= math.pi + 1e-5
    # x - phase of at most 8.2 is rounded by 5e-7 and then stretched by 5.
    assert residual.max() < 5e-6
    assert len(np.unique(all_x[0])) == 20


def test_sinusoid_draws_uniformly():
    episode, y = drawn(tasks.sinusoid().episodes(shots=0, queries=10), 2000)
    amplitude, phase, _ = refit(episode["query_x"], y)
    points = episode["query_x"].ravel()
    # The distance is above 1.95 once in a thousand samples of a uniform law.
    assert uniform_distance(amplitude, 0.1, 5.0) < 1.95
    assert uniform_distance(phase, 0.0, math.pi) < 1.95
    assert uniform_distance(points, -5.0, 5.0) < 1.95
    # Three standard errors of the correlation of independent numbers.
    assert abs(np.corrcoef(amplitude, phase)[0, 1]) < 3 / np.sqrt(2000)
    pairs = episode["query_x"].reshape(-1, 2).T
    assert abs(np.corrcoef(pairs)[0, 1]) < 3 / np.sqrt(10_000)


def test_sinusoid_keeps_to_the_ranges_given():
    family = tasks.sinusoid(amplitude=(2.0, 2.5), phase=(-1.0, -0.5), x=(3, 9))
    episode, y = drawn(family.episodes(shots=0, queries=20), 300)
    amplitude, phase, _ = refit(episode["query_x"], y)
    for values, low, high in (
        (amplitude, 2.0, 2.5),
        (phase, -1.0, -0.5),
        (episode["query_x"], 3, 9),
    ):
        width = high - low
        assert low - 1e-5 < values.min() < low + 0.1 * width
        assert high + 1e-5 > values.max() > high - 0.1 * width


def test_episodes_are_a_function_of_seed_and_index():
    family = tasks.sinusoid()
    x, y = drawn(family.episodes(seed=5), 8)
    for start in (0, 3):
        again_x, again_y = drawn(family.episodes(seed=5, start=start), 5)
        for key in x:
            np.testing.assert_array_equal(again_x[key], x[key][start : start + 5])
        np.testing.assert_array_equal(again_y, y[start : start + 5])
    other_x, _ = drawn(family.episodes(seed=6), 8)
    assert not np.isin(other_x["support_x"], x["support_x"]).all()
    assert len(np.unique(x["support_x"])) == 80  # and no two episodes are alike


def test_sample_continues_an_episode():
    family = tasks.sinusoid()
    x, y = drawn(family.episodes(seed=2, start=4), 1)
    curve_x, curve_y = family.sample(episodes.fold_seed(2, 4), 500)
    np.testing.assert_allclose(
        refit(x["query_x"], y)[:2], refit(curve_x[None], curve_y[None])[:2], atol=1e-5
    )


def test_task_family_splits_any_sample():
    def ramp(seed, n):
        x = tf.reshape(tf.range(2.0 * n), [n, 2])
        return x, tf.reduce_sum(x, axis=1, keepdims=True)

    x, y = drawn(tasks.TaskFamily(ramp).episodes(shots=1, queries=2), 1)
    assert x["support_x"].tolist() == [[[0, 1]]]
    assert x["support_y"].tolist() == [[[1]]]
    assert x["query_x"].tolist() == [[[2, 3], [4, 5]]]
    assert y.tolist() == [[[5], [9]]]


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: tasks.sinusoid(amplitude=(5, 0.1)), r"amplitude .*got \(5, 0.1\)\."),
        (lambda: tasks.sinusoid(phase=(1, 1)), r"phase .*got \(1, 1\)\."),
        (lambda: tasks.sinusoid(x=(0, math.nan)), r"x .*got \(0, nan\)\."),
        (lambda: tasks.sinusoid().episodes(shots=-1), "shots .* >= 0, got -1."),
        (lambda: tasks.sinusoid().episodes(queries=0), "queries .* >= 1, got 0."),
        (lambda: tasks.sinusoid().episodes(shots=2.5), "shots .*integer.* got 2.5."),
        (lambda: tasks.sinusoid().episodes(start=-1), "start .* >= 0, got -1."),
        (lambda: tasks.glyphs(0), "classes .* >= 1 .*got 0."),
        (lambda: tasks.glyphs([]), r"classes .*got \[\]."),
        (lambda: tasks.glyphs([3, -1]), r"classes .*got \[3, -1\]."),
        (lambda: tasks.glyphs([0.5]), r"classes .*got \[0.5\]."),
        (lambda: tasks.glyphs(1, drawings=0), "drawings .* >= 1, got 0."),
        (lambda: tasks.glyphs(1, seed=-2), "seed .* >= 0, got -2."),
    ],
)
def test_bad_arguments_get_a_sentence(make, sentence):
    with pytest.raises(ValueError, match="expected " + sentence):
        make()


def fingerprint():
    """A hash of some glyphs and some sinusoids."""
    bits = hashlib.sha256()
    pool = tasks.glyphs([2, 7], drawings=3, seed=1)
    for class_id in (2, 7):
        bits.update(np.asarray(pool.images_of(class_id)).tobytes())
    dataset = tasks.sinusoid().episodes(seed=1, start=9).batch(3).take(1)
    for value in tf.nest.flatten(next(dataset.as_numpy_iterator())):
        bits.update(value.tobytes())
    return bits.hexdigest()


def test_another_process_draws_the_same():
    code = "\n".join(
        [
            "import hashlib",
            "import numpy as np",
            "import tensorflow as tf",
            "from keras_meta import tasks",
            inspect.getsource(fingerprint),
            "print(fingerprint())",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [fingerprint()]


@pytest.fixture(scope="module")
def alphabet():
    """Sixty glyph classes, ink 1 and paper 0, `[60, 20, 105, 105]`."""
    pool = tasks.glyphs(60)
    assert pool.class_ids.tolist() == list(range(60))
    assert pool.shape == (105, 105, 1)
    return 1 - np.stack([pool.images_of(i) for i in range(60)])[..., 0]


def test_glyph_does_not_depend_on_what_else_is_drawn(alphabet):
    pool = tasks.glyphs([41, 3, 1000, 3], drawings=4)
    assert pool.class_ids.tolist() == [3, 41, 1000]
    for class_id in (3, 41):
        np.testing.assert_array_equal(
            1 - pool.images_of(class_id)[..., 0], alphabet[class_id][:4]
        )


def test_seed_makes_another_alphabet(alphabet):
    other = 1 - np.asarray(tasks.glyphs([3], drawings=1, seed=1).images_of(3))
    shared = (other[0, ..., 0] * alphabet[3][0]).sum()
    assert shared < 0.5 * alphabet[3][0].sum()


def test_glyph_drawings_differ(alphabet):
    for drawings in alphabet:
        assert len({drawing.tobytes() for drawing in drawings}) == 20


def test_glyphs_look_like_omniglot(alphabet):
    # The figures compared with are of Omniglot's background set at the same size.
    assert set(np.unique(alphabet)) == {0.0, 1.0}
    ink = alphabet.mean(axis=(2, 3))
    assert ink.min() > 0.005  # never blank
    assert 0.055 < ink.mean() < 0.085  # 0.078
    edges = np.concatenate([alphabet[..., [0, -1]], alphabet[..., [0, -1], :].mT], 2)
    assert edges.mean() < 0.001  # nor cut off

    steps = np.diff(np.pad(alphabet, [(0, 0)] * 3 + [(1, 1)]), axis=-1)
    thick = np.nonzero(steps == -1)[-1] - np.nonzero(steps == 1)[-1]
    assert np.bincount(thick).argmax() == 5  # 5 pixels

    def extent(axis):
        inked = alphabet.any(axis=axis)
        side = inked.shape[-1]
        return side - inked[..., ::-1].argmax(-1) - inked.argmax(-1)

    for size in (extent(2), extent(3)):
        assert 52 < size.mean() < 68  # 56 and 63
        assert 6 < size.std(axis=1).mean() < 11  # 7.9: one class, another drawing
        assert 11 < size.mean(axis=1).std() < 18  # 14: another class


def test_glyph_classes_are_real_and_drawings_vary(alphabet):
    pixels = alphabet[..., :104, :104].reshape(60, 20, 26, 4, 26, 4).mean(axis=(3, 5))
    for axis in (2, 3):  # a binomial blur
        for _ in range(4):
            pixels = pixels + np.roll(pixels, 1, axis)
    pixels = pixels.reshape(60, 20, -1)
    means, held = pixels[:, :10].mean(axis=1), pixels[:, 10:]
    guesses = ((held[:, :, None] - means) ** 2).sum(-1).argmin(-1)
    accuracy = np.mean(guesses == np.arange(60)[:, None])
    # Chance is 0.017; sixty characters of Omniglot's background set give 0.58, with a
    # standard deviation of 0.02 over the choice of characters.
    assert 0.5 < accuracy < 0.75


def test_glyphs_are_prepared_chunk_by_chunk(monkeypatch):
    class Recorded(images.ImagePreprocess):
        def resize(self, given):
            seen.append(given.shape)
            return super().resize(given)

    seen = []
    monkeypatch.setattr(tasks, "CLASSES_AT_ONCE", 2)
    prepare = Recorded(28, 28, 1, invert=True)
    pool = tasks.glyphs(5, drawings=3, prepare=prepare)
    assert [tuple(shape) for shape in seen] == [
        (6, 105, 105, 1),
        (6, 105, 105, 1),
        (3, 105, 105, 1),
        (15, 28, 28, 1),  # the pool's own, which does nothing
    ]
    assert pool.shape == (28, 28, 1)
    full = tasks.glyphs(5, drawings=3)
    for class_id in range(5):
        expected = prepare(tf.cast(full.images_of(class_id) * 255, tf.uint8))
        np.testing.assert_array_equal(pool.images_of(class_id), expected)
