"""Episodes against their stated laws: what is in them, how often, and replayed."""

import hashlib
import inspect
import itertools
import math
import pathlib
import subprocess
import sys

import hypothesis
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import strategies

import keras_meta as km
from keras_meta import files, images, sources

ClassPool = km.ClassPool


def drawn(dataset, count):
    """The first episodes of a dataset as one batch `(x, y)` of NumPy arrays."""
    return next(dataset.batch(count).as_numpy_iterator())


def numbered(counts, ids=None):
    """A pool whose float example i is `[i]`, and the labels `[n]` in mixed order."""
    ids = np.arange(len(counts)) if ids is None else np.asarray(ids)
    labels = np.random.RandomState(0).permutation(np.repeat(ids, counts))
    return ClassPool.from_arrays(np.arange(len(labels))[:, None] + 0.0, labels), labels


def pictures(count, side=5, channels=3):
    """Different random uint8 images `[count, side, side, channels]`."""
    shape = [count, side, side, channels]
    return np.random.RandomState(1).randint(0, 256, shape).astype("uint8")


def levels(images):
    """The bytes of images in [0, 1] at the uint8 levels they were made of."""
    return [np.round(255 * image).astype("uint8").tobytes() for image in images]


def sentence(call, *args, **kwargs):
    """The one line of the ValueError that a call raises."""
    with pytest.raises(ValueError) as info:
        call(*args, **kwargs)
    assert "\n" not in str(info.value)
    return str(info.value)


# What an episode holds.


@pytest.mark.thorough
@hypothesis.settings(
    max_examples=12, deadline=None, derandomize=True, database=None
)  # an example traces a graph
@hypothesis.given(
    counts=strategies.lists(strategies.integers(0, 4), min_size=1, max_size=6),
    ways=strategies.integers(1, 6),
    shots=strategies.integers(1, 3),
    queries=strategies.integers(1, 4),
    seed=strategies.integers(0, 2**40),
)
def test_an_episode_is_n_ways_of_k_shots_without_a_repeat(
    counts, ways, shots, queries, seed
):
    ways = min(ways, len(counts))
    # Ids in no order, and classes that have just enough images or some more.
    ids = np.random.RandomState(2).permutation(3 * len(counts))[: len(counts)] - 4
    pool, classes = numbered(np.array(counts) + shots + queries, ids)
    x, query_y = drawn(pool.episodes(ways, shots, queries, seed), 20)
    assert x["support_x"].shape == (20, ways * shots, 1)
    assert x["query_x"].shape == (20, ways * queries, 1)
    assert x["support_x"].dtype == x["query_x"].dtype == np.float32
    assert x["support_y"].dtype == query_y.dtype == np.int32
    everything = np.concatenate([x["support_x"], x["query_x"]], 1)[..., 0].astype(int)
    labels = np.concatenate([x["support_y"], query_y], 1)
    for numbers, support_y, queried, both in zip(
        everything, x["support_y"], query_y, labels, strict=True
    ):
        assert len(set(numbers)) == ways * (shots + queries)
        assert np.bincount(support_y).tolist() == [shots] * ways
        assert np.bincount(queried).tolist() == [queries] * ways
        # Each label stands for one class, and each class has one label.
        assert len(set(zip(both, classes[numbers], strict=True))) == ways
        assert len(set(classes[numbers])) == ways


@pytest.mark.parametrize("mixed", [True, False])
def test_a_class_has_its_own_images_in_the_order_given(mixed):
    _, labels = numbered([3, 1, 4, 2], ids=[7, -5, 0, 300])
    labels = labels if mixed else np.sort(labels)
    pool = ClassPool.from_arrays(np.arange(10)[:, None], labels.astype("int16"))
    assert pool.class_ids.tolist() == [-5, 0, 7, 300] and len(pool) == 4
    for class_id in (300, -5, 0, 7):
        (expected,) = np.nonzero(labels == class_id)
        assert pool.images_of(class_id).numpy()[:, 0].tolist() == expected.tolist()


def test_episodes_hold_the_images_of_their_classes():
    stored = pictures(12)
    labels = np.random.RandomState(0).permutation(np.repeat([2, 5, 9], 4))
    pool = ClassPool.from_arrays(stored, labels)
    assert pool.shape == (5, 5, 3)
    class_of = {
        image.tobytes(): label for image, label in zip(stored, labels, strict=True)
    }
    x, y = drawn(pool.episodes(3, 1, 3), 30)
    for support, support_y, queries, query_y in zip(
        x["support_x"], x["support_y"], x["query_x"], y, strict=True
    ):
        meant = {
            label: class_of[image]
            for image, label in zip(levels(support), support_y, strict=True)
        }
        assert [meant[label] for label in query_y] == [
            class_of[image] for image in levels(queries)
        ]


# Storage.


def test_uint8_is_stored_and_scaled_when_drawn():
    stored = pictures(6, side=4, channels=1)
    labels = np.repeat([0, 1], 3)
    for prepare, expected in (
        (None, stored / 255),
        (images.ImagePreprocess(4, 4, 1, invert=False), stored / 255),
        (images.ImagePreprocess(4, 4, 1, invert=True), 1 - stored / 255),
    ):
        pool = ClassPool.from_arrays(stored, labels, prepare)
        assert pool._images.dtype == tf.uint8
        found = np.concatenate([pool.images_of(0), pool.images_of(1)])
        assert found.dtype == np.float32
        # One rounding of a quotient in [0, 1] to float32.
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7)
        x, y = drawn(pool.episodes(2, 1, 2), 1)
        shown = np.concatenate([x["support_x"], x["query_x"]], 1)[0]
        assert set(levels(shown)) == set(levels(found))
        assert shown.min() == found.min() and shown.max() == found.max()


def test_images_are_resized_on_the_way_in():
    prepare = images.ImagePreprocess(3, 4, 1)
    stored = pictures(6, side=9)
    pool = ClassPool.from_arrays(stored, np.repeat([0, 1], 3), prepare)
    assert pool.shape == (3, 4, 1)
    np.testing.assert_array_equal(pool.images_of(1), prepare(stored[3:]))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "bool"])
def test_other_numbers_are_kept_as_float32(dtype):
    values = np.array([[-2.5, 7], [0, 1000], [1, 3], [5, -1]]).astype(dtype)
    pool = ClassPool.from_arrays(values, [1, 0, 1, 0])
    assert pool.images_of(1).dtype == tf.float32
    assert pool.images_of(1).numpy().tolist() == values[[0, 2]].tolist()


def test_pools_made_from_a_pool_share_its_images():
    pool = ClassPool.from_arrays(pictures(12), np.repeat(np.arange(4), 3))
    one, other = pool.split_classes(2, 2)
    for made in (one, other, pool.select([3]), pool.with_rotations()):
        assert made._images is pool._images


def test_an_encoded_pool_gives_what_the_function_makes_of_the_same_episodes():
    images, labels = pictures(14), np.repeat([3, 5, 9], [4, 5, 5])
    pool = ClassPool.from_arrays(images, labels).with_rotations()
    pool = pool.select([9, 5])
    kernel = tf.random.stateless_normal([75, 2], [0, 1])

    def encode(x):
        return tf.reshape(x, [-1, 75]) @ kernel

    encoded = pool.encoded(encode)
    assert encoded.shape == (2,)
    np.testing.assert_array_equal(encoded.class_ids, pool.class_ids)
    settings = {"ways": 3, "shots": 2, "queries": 2, "seed": 1}
    x, y = drawn(pool.episodes(**settings), 8)
    features, same = drawn(encoded.episodes(**settings), 8)
    np.testing.assert_array_equal(same, y)
    for key in ("support_x", "query_x"):
        expected = encode(x[key].reshape([-1, 5, 5, 3]))
        np.testing.assert_allclose(features[key].reshape([-1, 2]), expected, atol=1e-5)


def test_names_go_with_the_pool():
    names = {4: "alpha", 6: "beta"}
    pool = ClassPool.from_arrays(pictures(4), [4, 4, 6, 6], names=names)
    for made in (pool, pool.select([6]), *pool.split_classes(1, 1)):
        assert made.names == names
    assert pool.with_rotations().names == names
    assert numbered([1, 1])[0].names == {}


# Splits.


def test_a_split_is_disjoint_seeded_and_of_the_sizes_asked_for():
    ids = np.arange(30) * 7 - 20
    pool, _ = numbered([2] * 30, ids)
    parts = pool.split_classes(11, 5, 8, seed=4)
    assert [len(part) for part in parts] == [11, 5, 8]
    found = np.concatenate([part.class_ids for part in parts])
    assert len(set(found)) == 24 and set(found) <= set(ids)
    again = pool.split_classes(11, 5, 8, seed=4)
    other = pool.split_classes(11, 5, 8, seed=5)
    for part, same, different in zip(parts, again, other, strict=True):
        assert part.class_ids.tolist() == same.class_ids.tolist()
        assert part.class_ids.tolist() != different.class_ids.tolist()
    whole = pool.split_classes(30)[0]
    assert whole.class_ids.tolist() == ids.tolist()


def test_a_split_is_the_same_on_every_machine():
    # NumPy has frozen RandomState: its permutations are these for ever.
    parts = numbered([1] * 10)[0].split_classes(3, 2)
    assert [part.class_ids.tolist() for part in parts] == [[2, 4, 8], [1, 9]]


@pytest.mark.parametrize("turned", [False, True])
def test_no_image_is_on_both_sides_of_a_split(turned):
    stored = pictures(18, side=3, channels=1)
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(6), 3))
    pool = ClassPool.from_arrays(stored, labels)
    if turned:
        pool = pool.with_rotations()
    turns = 4 if turned else 1
    number = {
        np.rot90(image, k).tobytes(): i
        for i, image in enumerate(stored)
        for k in range(turns)
    }
    sides = []
    for part in pool.split_classes(4, 2, seed=1):
        ids, count = np.unique(part.class_ids, return_counts=True)
        assert count.tolist() == [turns] * len(ids)
        x, _ = drawn(part.episodes(2, 1, 2), 200)
        shown = np.concatenate([x["support_x"], x["query_x"]], 1).reshape(-1, 9)
        sides.append({number[image] for image in levels(shown)})
        (expected,) = np.nonzero(np.isin(labels, ids))
        assert sides[-1] == set(expected)
    assert sides[0] | sides[1] == set(range(18)) and not sides[0] & sides[1]


def test_select_takes_ids_in_any_order():
    pool, labels = numbered([2, 3, 4, 5], ids=[3, 1, 9, 7])
    chosen = pool.select([9, 1, 9])
    assert chosen.class_ids.tolist() == [1, 9]
    assert pool.select(np.int32(7)).class_ids.tolist() == [7]
    (expected,) = np.nonzero(labels == 9)
    assert chosen.images_of(9).numpy()[:, 0].tolist() == expected.tolist()


# Chance. An episode of these has independent draws in each of the senses counted, so
# that counts follow a multinomial law and Pearson's statistic a chi-square one.

CLASSES, WAYS, SHOTS, QUERIES, EPISODES = 5, 3, 2, 2, 6000
IMAGES = 6


def p_value(statistic, freedom):
    """The chance of a chi-square statistic at least as large."""
    return tf.math.igammac(np.float64(freedom) / 2, statistic / 2).numpy()


def uniform(outcomes, number):
    """Whether outcomes look uniform over so many possible values.

    The seeds are fixed, so what passes once passes for ever, and a law wrong by some
    per cent is far below one in a thousand. (Half a million episodes of seeds 0 and 1
    pass as well, and 60 seeds of 6000 have evenly spread p-values.)
    """
    values, counts = np.unique(np.asarray(outcomes), axis=0, return_counts=True)
    assert len(values) <= number
    mean = len(outcomes) / number
    assert mean >= 5  # for the chi-square law to be a good one
    unseen = (number - len(values)) * mean
    statistic = np.sum((counts - mean) ** 2) / mean + unseen
    return p_value(statistic, number - 1) > 1e-3


@pytest.fixture(scope="module")
def long_run():
    """Many episodes: labels, classes and image numbers, of support and of queries.

    Of support and of queries `{"y": [E, S], "class": [E, S], "image": [E, S]}`, where
    image is the number of an image within its class.
    """
    pool, labels = numbered([IMAGES] * CLASSES)
    within = np.zeros(len(labels), int)
    for class_id in range(CLASSES):
        within[labels == class_id] = np.arange(IMAGES)
    x, query_y = drawn(pool.episodes(WAYS, SHOTS, QUERIES, seed=1), EPISODES)
    run = {}
    for part, y in (("support", x["support_y"]), ("query", query_y)):
        numbers = x[f"{part}_x"][..., 0].astype(int)
        run[part] = {"y": y, "class": labels[numbers], "image": within[numbers]}
    return run


def by_label(part, key):
    """Values `[E, N, k]` of a part's examples, grouped by label, in their order."""
    order = np.argsort(part["y"], axis=1, kind="stable")
    values = np.take_along_axis(part[key], order, axis=1)
    return values.reshape(len(values), WAYS, -1)


def test_classes_and_their_labels_are_uniform(long_run):
    labelled = by_label(long_run["support"], "class")[:, :, 0]
    assert uniform(labelled, math.perm(CLASSES, WAYS))


def test_images_are_uniform(long_run):
    # Of each class in each episode, which images support it and which are queries,
    # jointly: a bias of single images, of pairs or of the parts would all show.
    chosen = [
        np.sort(by_label(long_run[part], "image"), axis=2).reshape(-1, 2)
        for part in ("support", "query")
    ]
    number = math.comb(IMAGES, SHOTS) * math.comb(IMAGES - SHOTS, QUERIES)
    assert uniform(np.concatenate(chosen, axis=1), number)
    # And in which order they come.
    for part in ("support", "query"):
        in_order = by_label(long_run[part], "image").reshape(-1, 2)
        assert uniform(in_order, IMAGES * (IMAGES - 1))


def test_images_of_one_class_tell_nothing_of_anothers(long_run):
    images_of = by_label(long_run["support"], "image")[:, :, 0]
    assert uniform(images_of, IMAGES**WAYS)


def test_images_are_uniform_in_a_class_of_any_size():
    counts = [3, 9, 5]
    pool, labels = numbered(counts)
    x, _ = drawn(pool.episodes(3, 1, 1, seed=3), 3000)
    for class_id, count in enumerate(counts):
        for part in ("support_x", "query_x"):
            numbers = x[part][..., 0].astype(int)
            assert uniform(numbers[labels[numbers] == class_id], count)


@pytest.mark.parametrize("part", ["support", "query"])
def test_the_order_of_labels_is_uniform(long_run, part):
    # All arrangements of 0 0 1 1 2 2.
    number = math.factorial(6) // 2**3
    assert uniform(long_run[part]["y"], number)


def test_a_position_tells_no_class(long_run):
    for part in ("support", "query"):
        for position in (0, 1, -1):
            assert uniform(long_run[part]["class"][:, position], CLASSES)


def test_the_orders_of_support_and_queries_are_independent(long_run):
    # First and last label, which are equal less often than not: not uniform, so
    # counts are held against the product of their margins.
    support, query = (long_run[part]["y"] @ [3, 0, 0, 0, 0, 1] for part in long_run)
    law = np.outer(np.bincount(support), np.bincount(query)) / EPISODES
    counts = np.bincount(9 * support + query, minlength=81).reshape(9, 9)
    assert p_value(np.sum((counts - law) ** 2 / law), 8 * 8) > 1e-3


def test_an_episode_tells_nothing_of_the_next(long_run):
    labelled = by_label(long_run["support"], "class")[:, :, 0]
    pairs = np.concatenate([labelled[:-1:2, :2], labelled[1::2, :2]], axis=1)
    assert uniform(pairs, math.perm(CLASSES, 2) ** 2)
    order = long_run["support"]["y"][:, :1]
    assert uniform(np.concatenate([order[:-1:2], order[1::2]], axis=1), WAYS**2)


# Replay.


def equal(one, other):
    for a, b in zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_start_is_skip():
    pool = numbered([6] * 8)[0]
    whole = pool.episodes(4, 2, 3, seed=5)
    for start in (1, 7, 1000):
        equal(
            drawn(pool.episodes(4, 2, 3, seed=5, start=start), 9),
            drawn(whole.skip(start), 9),
        )
    # Far beyond what anybody could skip, and exactly one after the other.
    far = 10**15
    here = drawn(pool.episodes(4, 2, 3, seed=5, start=far), 4)
    equal(
        drawn(pool.episodes(4, 2, 3, seed=5, start=far + 1), 3),
        tf.nest.map_structure(lambda v: v[1:], here),
    )


def test_an_episode_depends_on_the_table_and_not_on_how_it_came():
    pool = numbered([6] * 8)[0]
    expected = drawn(pool.episodes(4, 2, 3, seed=5), 20)
    equal(drawn(pool.episodes(4, 2, 3, seed=5), 20), expected)
    same = pool.select(pool.class_ids[::-1])
    equal(drawn(same.episodes(4, 2, 3, seed=5), 20), expected)
    one, other = pool.split_classes(5, 3), pool.split_classes(5, 3)
    chosen = pool.select(one[0].class_ids)
    for part in (other[0], chosen):
        equal(
            drawn(part.episodes(4, 2, 3, seed=5), 20),
            drawn(one[0].episodes(4, 2, 3, seed=5), 20),
        )


def test_no_two_seeds_or_indices_share_an_episode():
    pool = numbered([6] * 8)[0]
    seen = set()
    for seed in (0, 1, 2, 2**32, 2**62):
        x, y = drawn(pool.episodes(4, 2, 3, seed), 100)
        parts = [x["support_x"][..., 0], x["support_y"], x["query_x"][..., 0], y]
        seen |= {row.tobytes() for row in np.concatenate(parts, axis=1)}
    assert len(seen) == 500


def fingerprint():
    """A hash of episodes of turned and inverted images of some split."""
    random = np.random.RandomState(0)
    pool = km.ClassPool.from_arrays(
        random.randint(0, 256, [40, 12, 12, 3]).astype("uint8"),
        random.permutation(np.repeat(np.arange(10), 4)),
        images.ImagePreprocess(6, 6, 1),
    )
    part = pool.split_classes(6, 4, seed=3)[0].with_rotations()
    dataset = part.episodes(5, 1, 3, seed=9, start=17)
    bits = hashlib.sha256()
    for value in tf.nest.flatten(next(dataset.batch(25).as_numpy_iterator())):
        bits.update(value.tobytes())
    return bits.hexdigest()


@pytest.mark.thorough
def test_another_process_draws_the_same():
    code = "\n".join(
        [
            "import hashlib",
            "import numpy as np",
            "import tensorflow as tf",
            "import keras_meta as km",
            "from keras_meta import images",
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


# Rotations.


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_turned_classes_are_the_stored_images_turned(dtype):
    stored = pictures(6)
    pool = ClassPool.from_arrays(
        stored if dtype == "uint8" else stored / np.float32(255), [4, 4, 8, 8, 6, 6]
    ).with_rotations()
    assert len(pool) == 12
    assert sorted(pool.class_ids) == sorted([4, 6, 8] * 4)
    turn = {
        np.rot90(image, k).tobytes(): (number // 2, k)
        for number, image in enumerate(stored)
        for k in range(4)
    }
    x, y = drawn(pool.episodes(ways=12, shots=1, queries=1), 5)
    for support, support_y, queries, query_y in zip(
        x["support_x"], x["support_y"], x["query_x"], y, strict=True
    ):
        supports = [turn[image] for image in levels(support)]
        # All turns of all classes are there, and a label has one class and one turn.
        assert sorted(supports) == list(itertools.product(range(3), range(4)))
        meant = dict(zip(support_y, supports, strict=True))
        assert [turn[image] for image in levels(queries)] == [
            meant[label] for label in query_y
        ]
    for class_id, first in ((4, 0), (8, 2), (6, 4)):
        pair = [image.tobytes() for image in stored[first : first + 2]]
        assert levels(pool.images_of(class_id)) == pair


# A folder of images.


def saved(path, image, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **kwargs)
    return path


def test_image_files_are_read_as_they_are_seen(tmp_path):
    colour = pictures(1, side=6)[0, :, :4]  # taller than wide, so that a turn shows
    grey = colour[..., :1]
    picture = PIL.Image.fromarray(colour)
    read = files.load_image

    for suffix in ("png", "PNG", "bmp", "tif"):
        path = saved(tmp_path / f"colour.{suffix}", picture)
        np.testing.assert_array_equal(read(path), colour)
    path = saved(tmp_path / "exact.webp", picture, lossless=True)
    np.testing.assert_array_equal(read(path), colour)
    path = saved(tmp_path / "grey.png", picture.getchannel(0))
    np.testing.assert_array_equal(read(path), grey)
    path = saved(tmp_path / "ink.png", PIL.Image.fromarray(grey[..., 0] > 127))
    np.testing.assert_array_equal(read(path), np.where(grey > 127, 255, 0))

    # A palette of as many colours as there are pixels loses none; of a moving picture,
    # the first.
    indexed = PIL.Image.fromarray(np.arange(24, dtype="uint8").reshape(6, 4), "P")
    indexed.putpalette(colour.tobytes())
    for suffix in ("png", "gif"):
        path = saved(tmp_path / f"palette.{suffix}", indexed)
        np.testing.assert_array_equal(read(path), colour)
    path = tmp_path / "moving.gif"
    saved(path, indexed, save_all=True, append_images=[indexed.rotate(180)])
    np.testing.assert_array_equal(read(path), colour)

    # JPEG is lossy, and least so for one flat colour.
    flat = np.full([16, 8, 3], [200, 90, 30], "uint8")
    path = saved(tmp_path / "flat.jpeg", PIL.Image.fromarray(flat), quality=100)
    np.testing.assert_allclose(read(path), flat, atol=2)


def test_transparency_is_laid_on_white(tmp_path):
    alpha = np.array([[0, 51], [204, 255]], "uint8")
    ink = np.full([2, 2, 3], [100, 0, 250], "uint8")
    picture = PIL.Image.fromarray(np.dstack([ink, alpha]))
    share = alpha[..., None] / 255
    found = files.load_image(saved(tmp_path / "rgba.png", picture))
    assert found.shape == (2, 2, 3)
    np.testing.assert_allclose(found, share * ink + (1 - share) * 255, atol=1)

    grey = PIL.Image.fromarray(np.dstack([ink[..., 0], alpha]))
    assert grey.mode == "LA"
    expected = share[..., 0] * 100 + (1 - share[..., 0]) * 255
    found = files.load_image(saved(tmp_path / "la.png", grey))
    np.testing.assert_allclose(found[..., 0], expected, atol=1)

    # One grey, or one colour of a palette, may be declared transparent.
    levels = np.array([[0, 1], [2, 0]], "uint8")
    plain = PIL.Image.fromarray(levels)
    path = saved(tmp_path / "key.png", plain, transparency=0)
    np.testing.assert_array_equal(files.load_image(path)[..., 0], [[255, 1], [2, 255]])
    indexed = PIL.Image.fromarray(levels, "P")
    indexed.putpalette([9, 9, 9, 1, 2, 3, 4, 5, 6])
    path = saved(tmp_path / "key.gif", indexed, transparency=0)
    np.testing.assert_array_equal(
        files.load_image(path),
        [[[255] * 3, [1, 2, 3]], [[4, 5, 6], [255] * 3]],
    )


@pytest.mark.parametrize(
    "orientation, seen",
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (8, np.rot90),
    ],
)
def test_a_camera_held_askew_is_turned_upright(tmp_path, orientation, seen):
    colour = pictures(1, side=6)[0, :, :4]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "photo.png", PIL.Image.fromarray(colour), exif=exif)
    np.testing.assert_array_equal(files.load_image(path), seen(colour))


def test_a_folder_of_folders_is_a_pool(tmp_path):
    prepare = images.ImagePreprocess(6, 6, 3, invert=False)
    stored = pictures(5, side=6)
    wide = pictures(1, side=12)[0]
    for name, number in (("b", 0), ("a", 1)):
        saved(tmp_path / "beta" / f"{name}.png", PIL.Image.fromarray(stored[number]))
    for name, number in (("1.bmp", 2), ("2.PNG", 3)):
        saved(tmp_path / "Alpha" / name, PIL.Image.fromarray(stored[number]))
    saved(tmp_path / "gamma" / "grey.png", PIL.Image.fromarray(stored[4][..., 0]))
    saved(tmp_path / "gamma" / "wide.png", PIL.Image.fromarray(wide))
    # None of these is a class or an image of one.
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "beta" / "notes.txt").write_text("notes")
    (tmp_path / "beta" / ".a.png").write_text("what macOS leaves behind")
    (tmp_path / ".hidden").mkdir()

    with pytest.warns() as told:
        pool = ClassPool.from_directory(str(tmp_path), prepare)
    (told,) = [str(warning.message) for warning in told]
    for reason in (
        f"2 skipped, hidden: {tmp_path.name}/.hidden, beta/.a.png",
        f"1 skipped, not in the folder of a class: {tmp_path.name}/notes.txt",
        "1 skipped, suffix not known: beta/notes.txt",
    ):
        assert reason in told
    assert pool.names == {0: "Alpha", 1: "beta", 2: "gamma"}
    assert pool.class_ids.tolist() == [0, 1, 2]
    for class_id, expected in (
        (0, stored[[2, 3]]),
        (1, stored[[1, 0]]),
        (2, [np.repeat(stored[4][..., :1], 3, -1), prepare.resize(wide).numpy()]),
    ):
        shown = [image.tobytes() for image in expected]
        assert levels(pool.images_of(class_id)) == shown
    x, _ = drawn(pool.episodes(3, 1, 1), 2)
    assert x["support_x"].shape == (2, 3, 6, 6, 3)


# TFDS.


@pytest.mark.parametrize("prepared", [False, True])
def test_a_mapped_file_gives_the_episodes_of_the_array_in_it(tmp_path, prepared):
    prepare = images.ImagePreprocess(4, 4, 1) if prepared else None
    labels = np.random.RandomState(0).permutation(np.repeat([7, 3, 5, 9], 6))
    np.save(tmp_path / "pictures.npy", pictures(24))
    mapped = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    pools = [
        ClassPool.from_arrays(all, labels, prepare) for all in (pictures(24), mapped)
    ]
    assert pools[0].shape == pools[1].shape
    for pool in (lambda pool: pool, lambda pool: pool.with_rotations().select([3, 9])):
        expected, found = (
            drawn(pool(each).episodes(2, 2, 3, seed=4), 8) for each in pools
        )
        equal(found, expected)
    np.testing.assert_array_equal(pools[0].images_of(5), pools[1].images_of(5))


def test_a_mapped_file_is_of_bytes(tmp_path):
    np.save(tmp_path / "numbers.npy", np.zeros([4, 2, 2, 1], "float32"))
    mapped = np.load(tmp_path / "numbers.npy", mmap_mode="r")
    said = sentence(ClassPool.from_arrays, mapped, np.zeros(4, int))
    assert said == "expected uint8 in a np.memmap, got float32."


def test_a_folder_is_read_when_asked(tmp_path):
    prepare = images.ImagePreprocess(4, 4, 3, invert=False)
    for index, picture in enumerate(pictures(12)):
        folder = tmp_path / f"class{index % 3}"
        folder.mkdir(exist_ok=True)
        saved(folder / f"{index:02}.png", PIL.Image.fromarray(picture))
    read = ClassPool.from_directory(tmp_path, prepare)
    asked = ClassPool.from_directory(tmp_path, prepare, in_memory=False)
    equal(drawn(asked.episodes(3, 1, 2), 5), drawn(read.episodes(3, 1, 2), 5))
    for path in tmp_path.glob("class1/*.png"):
        path.write_text("no image")
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected an image file"):
        drawn(asked.episodes(3, 1, 2), 1)


class TinyDrawings(tfds.core.GeneratorBasedBuilder):
    """Real TFDS data of two sizes: image i is all i and of class `names[i % 3]`."""

    VERSION = tfds.core.Version("1.0.0")
    COUNTS = {"train": 7, "test": 4}

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "label": tfds.features.ClassLabel(names=["ox", "cow", "elk"]),
        }
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        )

    def _split_generators(self, _):
        return {split: self._generate_examples(split) for split in self.COUNTS}

    def _generate_examples(self, split):
        for i in range(self.COUNTS[split]):
            value = i if split == "train" else 100 + i
            image = np.full([4 + i % 2, 4, 3], value, "uint8")
            yield f"{split}{i}", {"image": image, "label": i % 3}


class UnreachableDrawings(TinyDrawings):
    """Data whose server does not answer."""

    def _split_generators(self, _):
        raise ConnectionError("no route to host\nand more of it")


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def test_images_resized_together_are_those_resized_alone(monkeypatch):
    random = np.random.RandomState(0)
    sizes = [(9, 9, 3)] * 5 + [(9, 7, 3), (9, 9, 1), (9, 9, 3), (4, 4, 3), (4, 4, 1)]
    given = [random.randint(256, size=size).astype("uint8") for size in sizes]
    prepare, calls = images.ImagePreprocess(4, 4, 3), []
    alone = np.stack([prepare.resize(image) for image in given])
    resize = prepare.resize
    monkeypatch.setattr(prepare, "resize", lambda x: calls.append(len(x)) or resize(x))
    np.testing.assert_array_equal(sources.resized(iter(given), prepare), alone)
    assert calls == [5, 1, 1, 1, 1, 1]
    calls.clear()
    monkeypatch.setattr(sources, "BYTES_TOGETHER", 2 * 9 * 9 * 3)
    np.testing.assert_array_equal(sources.resized(iter(given), prepare), alone)
    assert calls == [2, 2, 1, 1, 1, 1, 1, 1]


def test_tfds_data_is_prepared_and_read(tfds_dir):
    prepare = images.ImagePreprocess(4, 4, 1, invert=False)

    def pool(split):
        return ClassPool.from_tfds("tiny_drawings", split, prepare, tfds_dir)

    for split, expected in (
        ("train", [[0, 3, 6], [1, 4], [2, 5]]),
        ("test", [[100, 103], [101], [102]]),
        ("train+test", [[0, 3, 6, 100, 103], [1, 4, 101], [2, 5, 102]]),
    ):
        found = pool(split)
        assert found.names == {0: "ox", 1: "cow", 2: "elk"}
        assert found.shape == (4, 4, 1)
        for class_id, values in enumerate(expected):
            drawings = np.round(found.images_of(class_id).numpy() * 255)
            assert sorted(drawings[:, 0, 0, 0]) == values
            assert (drawings == drawings[:, :1, :1]).all()
    some = pool("train[:40%]")
    assert sum(len(some.images_of(i)) for i in some.class_ids) == 3
    assert set(some.names) == set(some.class_ids)

    expected = (
        "expected 'tiny_drawings' with split {} to be available from TFDS (splits "
    )
    for split in ("'validation'", "'train['", "'train[:0]'"):
        said = sentence(pool, split[1:-1])
        assert said.startswith(expected.format(split) + "['test', 'train']), prepared")
        assert tfds_dir in said
    assert "'validation'" in sentence(pool, "validation").split(" by download: ")[1]


@pytest.mark.thorough
@pytest.mark.parametrize("name, prepared", [("cifar100", False), ("omniglot", True)])
@pytest.mark.parametrize("label_key", [None, "label", "other"])
def test_any_image_classification_set_of_tfds(tmp_path, name, prepared, label_key):
    if label_key == "other":
        label_key = {"cifar100": "coarse_label", "omniglot": "alphabet"}[name]
    prepare = images.ImagePreprocess(10, 10, 1) if prepared else None
    with tfds.testing.mock_data(num_examples=40):
        pool = ClassPool.from_tfds(
            name, "train", prepare, data_dir=str(tmp_path), label_key=label_key
        )
        examples = list(tfds.load(name, split="train").as_numpy_iterator())
    assert not list(tmp_path.iterdir())  # nothing was downloaded
    ids = np.array([example[label_key or "label"] for example in examples])
    assert pool.class_ids.tolist() == sorted(set(ids))
    assert set(pool.names) == set(ids)
    assert pool.shape == ((10, 10, 1) if prepared else (32, 32, 3))
    stored = [example["image"] for example in examples]
    scaled = [prepare(x) if prepared else x / np.float32(255) for x in stored]
    for class_id in pool.class_ids:
        # An image looks alike resized alone and among others, but for the last bit.
        np.testing.assert_allclose(
            pool.images_of(class_id),
            np.stack([scaled[i] for i in np.flatnonzero(ids == class_id)]),
            rtol=0,
            atol=1e-6,
        )


def test_what_tfds_cannot_give_gets_a_sentence(tfds_dir):
    def said(name, **kwargs):
        return sentence(ClassPool.from_tfds, name, data_dir=tfds_dir, **kwargs)

    name = "expected the name of a TFDS data set, got "
    assert said("omniglott") == f"{name}'omniglott': Dataset omniglott not found."
    assert said("not a name").startswith(f"{name}'not a name': ")
    old = said("tiny_drawings:9.9.9")
    assert old.startswith(f"{name}'tiny_drawings:9.9.9': ") and "1.0.0" in old
    assert said("unreachable_drawings") == (
        "expected 'unreachable_drawings' with split 'train' to be available from TFDS "
        f"(splits []), prepared in {tfds_dir}/unreachable_drawings/1.0.0 "
        "(set TFDS_DATA_DIR to change it) or by download: no route to host"
    )
    assert said("tiny_drawings") == (
        "expected the images of 'tiny_drawings' to share one size, they do not: give "
        "prepare=ImagePreprocess(height, width, channels)."
    )
    with tfds.testing.mock_data(num_examples=2):
        assert said("cifar100", label_key="name") == (
            "expected 'cifar100' to have one image and a label 'name', its images are "
            "['image'] and its labels ['label', 'coarse_label']."
        )
        assert said("ag_news_subset") == (
            "expected 'ag_news_subset' to have one image and a label 'label', its "
            "images are [] and its labels ['label']."
        )


# Groups.


def test_an_episode_of_one_group():
    pool, labels = numbered([3] * 9)
    groups = {i: "abc"[i % 3] for i in range(8)} | {8: "alone"}
    x, _ = drawn(pool.episodes(2, 1, 2, groups=groups), 600)
    classes = labels[x["support_x"][..., 0].astype(int)]
    assert {groups[i] for i in classes[:, 0]} == {"a", "b", "c"}
    assert all(len({groups[i] for i in row}) == 1 for row in classes)
    assert uniform(classes[:, 0] % 3, 3)
    # Of three classes in "a", and of two in "c".
    assert uniform(np.sort(classes[classes[:, 0] % 3 == 0], axis=1), 3)
    assert uniform(classes[classes[:, 0] % 3 == 2], 2)
    with pytest.raises(ValueError, match="has 9 and no group has as many"):
        pool.episodes(4, 1, 2, groups=groups)
    with pytest.raises(ValueError, match=r"every class of the pool, \[8\] are missing"):
        pool.episodes(2, 1, 2, groups={i: 0 for i in range(8)})


def test_labels_of_five_characters():
    pool, _ = numbered([3] * 9)
    plain, _ = drawn(pool.episodes(4, 1, 2), 900)
    x, query_y = drawn(pool.episodes(4, 1, 2, labels="strings"), 900)
    np.testing.assert_array_equal(x["support_x"], plain["support_x"])
    strings = x["support_y"]
    assert strings.shape == (900, 4, 5) and query_y.shape == (900, 8, 5)
    assert strings.dtype == query_y.dtype == np.int32
    for task in range(900):
        named = {
            n: tuple(s)
            for n, s in zip(plain["support_y"][task], strings[task], strict=True)
        }
        assert len(set(named.values())) == 4  # another for each class
    assert {tuple(s) for s in query_y[0]} == {tuple(s) for s in strings[0]}
    assert all(uniform(strings[:, 0, place], 5) for place in range(5))
    assert uniform(strings[:, 0, :2], 25)  # one character tells nothing of the next


# Errors.


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            {"labels": "words"},
            "expected labels to be one of onehot, strings, got 'words'.",
        ),
        ({"ways": 0}, "expected ways to be an integer >= 1, got 0."),
        ({"ways": 2.5}, "expected ways to be an integer >= 1, got 2.5."),
        ({"shots": 0}, "expected shots to be an integer >= 1, got 0."),
        ({"shots": 1.0}, "expected shots to be an integer >= 1, got 1.0."),
        ({"queries": -1}, "expected queries to be an integer >= 1, got -1."),
        ({"queries": None}, "expected queries to be an integer >= 1, got None."),
        ({"seed": -1}, "expected seed to be an integer >= 0, got -1."),
        ({"seed": math.nan}, "expected seed to be an integer >= 0, got nan."),
        ({"start": -1}, "expected start to be an integer >= 0, got -1."),
        (
            {"ways": 4},
            "expected at least 4 classes for 4-way episodes, the pool has 3.",
        ),
        (
            {"shots": 2, "queries": 3},
            "expected at least 2 + 3 images in each class, class 20 has 4.",
        ),
    ],
)
def test_episodes_that_cannot_be(arguments, expected):
    pool = numbered([5, 4, 6], ids=[10, 20, 30])[0]
    arguments = {"ways": 3, "shots": 1, "queries": 2, **arguments}
    assert sentence(pool.episodes, **arguments) == expected


def test_the_largest_episodes_that_can_be():
    pool, _ = numbered([5, 4, 6])
    x, _ = drawn(pool.episodes(np.int64(3), 1, 3), 1)
    assert x["query_x"].shape == (1, 9, 1)


@pytest.mark.parametrize(
    "ids, got",
    [
        ([10, 11], "[11]"),
        ([], "none"),
        ([10.5], "[10.5]"),
        ("ox", "['ox']"),
        (list(range(40, 60)), str(list(range(40, 50)))),
    ],
)
def test_ids_that_are_not_there(ids, got):
    pool = numbered([2, 2, 2], ids=[10, 20, 30])[0]
    expected = f"expected label ids among the pool's 3 classes, got {got}."
    assert sentence(pool.select, ids) == expected
    if len(ids) == 1:
        assert sentence(pool.images_of, ids[0]) == expected


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ([2, 2], "expected sizes that sum to at most 3 classes, got [2, 2]."),
        ([], "expected sizes that sum to at most 3 classes, got []."),
        ([2, 0], "expected each size to be an integer >= 1, got 0."),
        ([0.5, 0.5], "expected each size to be an integer >= 1, got 0.5."),
        ([1.0], "expected each size to be an integer >= 1, got 1.0."),
    ],
)
def test_splits_that_cannot_be(sizes, expected):
    # Rotations are no further classes to a split.
    pool = ClassPool.from_arrays(pictures(6), np.repeat(np.arange(3), 2))
    assert sentence(pool.split_classes, *sizes) == expected
    assert sentence(pool.with_rotations().split_classes, *sizes) == expected


def test_rotations_that_cannot_be():
    pool = ClassPool.from_arrays(pictures(4), [0, 0, 1, 1]).with_rotations()
    assert sentence(pool.with_rotations) == (
        "expected a pool without rotations, it has them already."
    )
    oblong = ClassPool.from_arrays(pictures(4)[:, :3], [0, 0, 1, 1])
    assert sentence(oblong.with_rotations) == (
        "expected square images [H, H, C], got (3, 5, 3)."
    )
    points = numbered([2, 2])[0]
    assert sentence(points.with_rotations) == (
        "expected square images [H, H, C], got (1,)."
    )


@pytest.mark.parametrize(
    "examples, labels, expected",
    [
        (
            [[0.0], [1.0]],
            [0.0, 1.0],
            "expected integer labels [n], got float64 of shape [2]: "
            "np.unique(labels, return_inverse=True)[1] numbers them.",
        ),
        (
            [[0.0]],
            ["ox"],
            "expected integer labels [n], got <U2 of shape [1]: "
            "np.unique(labels, return_inverse=True)[1] numbers them.",
        ),
        (
            [[0.0], [1.0]],
            [[0, 1]],
            "expected integer labels [n], got int64 of shape [1, 2]: "
            "np.argmax(labels, axis=-1) turns one-hot labels into integers.",
        ),
        ([[0.0], [math.nan]], [0, 1], "expected finite examples, got NaN or infinity."),
        ([[0.0], [math.inf]], [0, 1], "expected finite examples, got NaN or infinity."),
        (
            [[0.0], [1.0]],
            [0, 1, 2],
            "expected as many examples [n, ...] as labels [n], at least one; got "
            "examples of shape [2, 1] and 3 labels.",
        ),
        (
            [0.0, 1.0],
            [0, 1],
            "expected as many examples [n, ...] as labels [n], at least one; got "
            "examples of shape [2] and 2 labels.",
        ),
        (
            np.zeros([0, 1]),
            np.zeros(0, int),
            "expected as many examples [n, ...] as labels [n], at least one; got "
            "examples of shape [0, 1] and 0 labels.",
        ),
        (
            [np.zeros([4, 4, 1], "uint8"), np.zeros([5, 4, 1], "uint8")],
            [0, 1],
            "expected examples [n, ...] of one shape, got others: ",
        ),
    ],
)
def test_arrays_that_make_no_pool(examples, labels, expected):
    said = sentence(ClassPool.from_arrays, examples, labels)
    # What follows the colon is TensorFlow's.
    assert said.startswith(expected) if expected[-1] == " " else said == expected


def test_folders_that_make_no_pool(tmp_path):
    prepare = images.ImagePreprocess(4, 4, 1)

    def said():
        return sentence(ClassPool.from_directory, tmp_path / "pool", prepare)

    folder = tmp_path / "pool"
    assert said() == f"expected a folder of classes, found none at {folder}"
    folder.mkdir()
    saved(folder / "loose.png", PIL.Image.fromarray(pictures(1)[0]))
    assert said() == (
        f"expected a sub-folder of images for each class in {folder}, found no "
        "sub-folder."
    )
    (folder / "ox").mkdir()
    (folder / "ox" / "notes.txt").write_text("notes")
    assert said() == (
        f"expected images in {folder / 'ox'}, found none; 1 skipped, suffix not known: "
        "ox/notes.txt."
    )


def test_files_that_are_no_images(tmp_path):
    prepare = images.ImagePreprocess(4, 4, 1)
    whole = saved(tmp_path / "whole.png", PIL.Image.fromarray(pictures(1, 40)[0]))
    deep = PIL.Image.fromarray(np.full([4, 4], 0.5, "float32"))
    deep = saved(tmp_path / "deep.tif", deep)
    for name, content in (
        ("text.png", b"no image at all"),
        ("empty.jpg", b""),
        ("truncated.png", whole.read_bytes()[:2000]),
        ("deep.tif", deep.read_bytes()),  # Pillow would show it all black
    ):
        folder = tmp_path / name[:-4]
        path = folder / "class" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        said = sentence(ClassPool.from_directory, folder, prepare)
        if name in ("text.png", "empty.jpg"):
            assert said == f"expected an image file, {path} is none."
        else:
            assert said.startswith(f"expected an image file, could not read {path}: ")
