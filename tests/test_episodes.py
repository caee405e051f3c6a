"""Tests of episodes: their contents, their distribution and their reproducibility."""

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


def draw(dataset, count):
    """Returns the first episodes of a dataset as one batch `(x, y)` of NumPy arrays."""
    return next(dataset.batch(count).as_numpy_iterator())


def numbered_pool(counts, ids=None):
    """Creates a pool whose float example i is `[i]`, and shuffled labels `[n]`."""
    ids = np.arange(len(counts)) if ids is None else np.asarray(ids)
    labels = np.random.RandomState(0).permutation(np.repeat(ids, counts))
    return ClassPool.from_arrays(np.arange(len(labels))[:, None] + 0.0, labels), labels


def pictures(count, side=5, channels=3):
    """Draws different random uint8 images `[count, side, side, channels]`."""
    shape = [count, side, side, channels]
    return np.random.RandomState(1).randint(0, 256, shape).astype("uint8")


def image_bytes(images):
    """Converts images in [0, 1] to uint8 and returns the bytes of each image."""
    return [np.round(255 * image).astype("uint8").tobytes() for image in images]


def error_message(call, *args, **kwargs):
    """Returns the one-line message of the ValueError that a call raises."""
    with pytest.raises(ValueError) as info:
        call(*args, **kwargs)
    assert "\n" not in str(info.value)
    return str(info.value)


# Contents of an episode.


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
def test_an_episode_has_n_ways_and_k_shots_without_repetition(
    counts, ways, shots, queries, seed
):
    ways = min(ways, len(counts))
    # The ids are unordered. A class has exactly enough images or a few more.
    ids = np.random.RandomState(2).permutation(3 * len(counts))[: len(counts)] - 4
    pool, classes = numbered_pool(np.array(counts) + shots + queries, ids)
    x, query_y = draw(pool.episodes(ways, shots, queries, seed), 20)
    assert x["support_x"].shape == (20, ways * shots, 1)
    assert x["query_x"].shape == (20, ways * queries, 1)
    assert x["support_x"].dtype == x["query_x"].dtype == np.float32
    assert x["support_y"].dtype == query_y.dtype == np.int32
    examples = np.concatenate([x["support_x"], x["query_x"]], 1)[..., 0].astype(int)
    labels = np.concatenate([x["support_y"], query_y], 1)
    for indices, support_labels, query_labels, task_labels in zip(
        examples, x["support_y"], query_y, labels, strict=True
    ):
        assert len(set(indices)) == ways * (shots + queries)
        assert np.bincount(support_labels).tolist() == [shots] * ways
        assert np.bincount(query_labels).tolist() == [queries] * ways
        # Each label stands for one class, and each class has one label.
        assert len(set(zip(task_labels, classes[indices], strict=True))) == ways
        assert len(set(classes[indices])) == ways


@pytest.mark.parametrize("mixed", [True, False])
def test_a_class_has_its_images_in_the_order_of_the_input(mixed):
    _, labels = numbered_pool([3, 1, 4, 2], ids=[7, -5, 0, 300])
    labels = labels if mixed else np.sort(labels)
    pool = ClassPool.from_arrays(np.arange(10)[:, None], labels.astype("int16"))
    assert pool.class_ids.tolist() == [-5, 0, 7, 300] and len(pool) == 4
    for class_id in (300, -5, 0, 7):
        (expected,) = np.nonzero(labels == class_id)
        assert pool.images_of(class_id).numpy()[:, 0].tolist() == expected.tolist()


def test_queries_belong_to_the_classes_of_the_support_set():
    stored = pictures(12)
    labels = np.random.RandomState(0).permutation(np.repeat([2, 5, 9], 4))
    pool = ClassPool.from_arrays(stored, labels)
    assert pool.shape == (5, 5, 3)
    class_of = {
        image.tobytes(): label for image, label in zip(stored, labels, strict=True)
    }
    x, y = draw(pool.episodes(3, 1, 3), 30)
    for support, support_y, queries, query_y in zip(
        x["support_x"], x["support_y"], x["query_x"], y, strict=True
    ):
        class_of_label = {
            label: class_of[image]
            for image, label in zip(image_bytes(support), support_y, strict=True)
        }
        assert [class_of_label[label] for label in query_y] == [
            class_of[image] for image in image_bytes(queries)
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
        values = np.concatenate([pool.images_of(0), pool.images_of(1)])
        assert values.dtype == np.float32
        # One rounding of a quotient in [0, 1] to float32.
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-7)
        x, y = draw(pool.episodes(2, 1, 2), 1)
        drawn = np.concatenate([x["support_x"], x["query_x"]], 1)[0]
        assert set(image_bytes(drawn)) == set(image_bytes(values))
        assert drawn.min() == values.min() and drawn.max() == values.max()


def test_images_are_resized_when_a_pool_is_created():
    prepare = images.ImagePreprocess(3, 4, 1)
    stored = pictures(6, side=9)
    pool = ClassPool.from_arrays(stored, np.repeat([0, 1], 3), prepare)
    assert pool.shape == (3, 4, 1)
    np.testing.assert_array_equal(pool.images_of(1), prepare(stored[3:]))


@pytest.mark.parametrize("dtype", ["float16", "float64", "int32", "bool"])
def test_other_types_are_stored_as_float32(dtype):
    values = np.array([[-2.5, 7], [0, 1000], [1, 3], [5, -1]]).astype(dtype)
    pool = ClassPool.from_arrays(values, [1, 0, 1, 0])
    assert pool.images_of(1).dtype == tf.float32
    assert pool.images_of(1).numpy().tolist() == values[[0, 2]].tolist()


def test_derived_pools_share_the_images():
    pool = ClassPool.from_arrays(pictures(12), np.repeat(np.arange(4), 3))
    train, test = pool.split_classes(2, 2)
    for derived in (train, test, pool.select([3]), pool.with_rotations()):
        assert derived._images is pool._images


def test_an_encoded_pool_yields_the_encoded_examples_of_the_same_episodes():
    stored, labels = pictures(14), np.repeat([3, 5, 9], [4, 5, 5])
    pool = ClassPool.from_arrays(stored, labels).with_rotations()
    pool = pool.select([9, 5])
    kernel = tf.random.stateless_normal([75, 2], [0, 1])

    def encode(x):
        return tf.reshape(x, [-1, 75]) @ kernel

    encoded = pool.encoded(encode)
    assert encoded.shape == (2,)
    np.testing.assert_array_equal(encoded.class_ids, pool.class_ids)
    settings = {"ways": 3, "shots": 2, "queries": 2, "seed": 1}
    x, y = draw(pool.episodes(**settings), 8)
    features, encoded_y = draw(encoded.episodes(**settings), 8)
    np.testing.assert_array_equal(encoded_y, y)
    for key in ("support_x", "query_x"):
        expected = encode(x[key].reshape([-1, 5, 5, 3]))
        np.testing.assert_allclose(features[key].reshape([-1, 2]), expected, atol=1e-5)


def test_derived_pools_have_the_class_names():
    names = {4: "alpha", 6: "beta"}
    pool = ClassPool.from_arrays(pictures(4), [4, 4, 6, 6], names=names)
    for derived in (pool, pool.select([6]), *pool.split_classes(1, 1)):
        assert derived.names == names
    assert pool.with_rotations().names == names
    assert numbered_pool([1, 1])[0].names == {}


# Splits.


def test_a_split_is_disjoint_seeded_and_of_the_given_sizes():
    ids = np.arange(30) * 7 - 20
    pool, _ = numbered_pool([2] * 30, ids)
    parts = pool.split_classes(11, 5, 8, seed=4)
    assert [len(part) for part in parts] == [11, 5, 8]
    class_ids = np.concatenate([part.class_ids for part in parts])
    assert len(set(class_ids)) == 24 and set(class_ids) <= set(ids)
    repeated = pool.split_classes(11, 5, 8, seed=4)
    reseeded = pool.split_classes(11, 5, 8, seed=5)
    for part, same, different in zip(parts, repeated, reseeded, strict=True):
        assert part.class_ids.tolist() == same.class_ids.tolist()
        assert part.class_ids.tolist() != different.class_ids.tolist()
    all_classes = pool.split_classes(30)[0]
    assert all_classes.class_ids.tolist() == ids.tolist()


def test_a_split_is_the_same_on_every_machine():
    # NumPy has frozen RandomState, so its permutations do not change.
    parts = numbered_pool([1] * 10)[0].split_classes(3, 2)
    assert [part.class_ids.tolist() for part in parts] == [[2, 4, 8], [1, 9]]


@pytest.mark.parametrize("rotated", [False, True])
def test_no_image_is_on_both_sides_of_a_split(rotated):
    stored = pictures(18, side=3, channels=1)
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(6), 3))
    pool = ClassPool.from_arrays(stored, labels)
    if rotated:
        pool = pool.with_rotations()
    rotations = 4 if rotated else 1
    index_of = {
        np.rot90(image, k).tobytes(): i
        for i, image in enumerate(stored)
        for k in range(rotations)
    }
    sides = []
    for part in pool.split_classes(4, 2, seed=1):
        ids, count = np.unique(part.class_ids, return_counts=True)
        assert count.tolist() == [rotations] * len(ids)
        x, _ = draw(part.episodes(2, 1, 2), 200)
        drawn = np.concatenate([x["support_x"], x["query_x"]], 1).reshape(-1, 9)
        sides.append({index_of[image] for image in image_bytes(drawn)})
        (expected,) = np.nonzero(np.isin(labels, ids))
        assert sides[-1] == set(expected)
    assert sides[0] | sides[1] == set(range(18)) and not sides[0] & sides[1]


def test_select_takes_ids_in_any_order():
    pool, labels = numbered_pool([2, 3, 4, 5], ids=[3, 1, 9, 7])
    selected = pool.select([9, 1, 9])
    assert selected.class_ids.tolist() == [1, 9]
    assert pool.select(np.int32(7)).class_ids.tolist() == [7]
    (expected,) = np.nonzero(labels == 9)
    assert selected.images_of(9).numpy()[:, 0].tolist() == expected.tolist()


# Distribution. The counted outcomes are independent draws, so the counts have a
# multinomial distribution and Pearson's statistic has a chi-square distribution.

CLASSES, WAYS, SHOTS, QUERIES, EPISODES = 5, 3, 2, 2, 6000
IMAGES = 6


def p_value(statistic, freedom):
    """Returns the probability of a chi-square statistic at least as large."""
    return tf.math.igammac(np.float64(freedom) / 2, statistic / 2).numpy()


def is_uniform(outcomes, number):
    """Tests whether outcomes are uniform over `number` possible values.

    The seeds are fixed, so the result is reproducible. A distribution that is wrong by
    a few per cent has a p-value far below 0.001. (Half a million episodes of seeds 0
    and 1 pass as well; the p-values of 60 seeds of 6000 episodes are evenly spread.)
    """
    values, counts = np.unique(np.asarray(outcomes), axis=0, return_counts=True)
    assert len(values) <= number
    mean = len(outcomes) / number
    assert mean >= 5  # the chi-square approximation requires it
    unseen = (number - len(values)) * mean
    statistic = np.sum((counts - mean) ** 2) / mean + unseen
    return p_value(statistic, number - 1) > 1e-3


@pytest.fixture(scope="module")
def long_run():
    """Draws many episodes; returns labels, classes and images by part.

    A part, "support" or "query", is `{"y": [E, S], "class": [E, S], "image": [E, S]}`,
    where image is the index of an image within its class.
    """
    pool, labels = numbered_pool([IMAGES] * CLASSES)
    image_index = np.zeros(len(labels), int)
    for class_id in range(CLASSES):
        image_index[labels == class_id] = np.arange(IMAGES)
    x, query_y = draw(pool.episodes(WAYS, SHOTS, QUERIES, seed=1), EPISODES)
    parts = {}
    for part, y in (("support", x["support_y"]), ("query", query_y)):
        indices = x[f"{part}_x"][..., 0].astype(int)
        parts[part] = {"y": y, "class": labels[indices], "image": image_index[indices]}
    return parts


def by_label(part, key):
    """Groups the values of a part's examples by label: `[E, N, k]`, in their order."""
    order = np.argsort(part["y"], axis=1, kind="stable")
    values = np.take_along_axis(part[key], order, axis=1)
    return values.reshape(len(values), WAYS, -1)


def test_classes_and_their_labels_are_uniform(long_run):
    classes = by_label(long_run["support"], "class")[:, :, 0]
    assert is_uniform(classes, math.perm(CLASSES, WAYS))


def test_images_are_uniform(long_run):
    # The joint choice of the support and the query images of a class. The test detects
    # a bias of single images, of pairs and of the parts.
    choices = [
        np.sort(by_label(long_run[part], "image"), axis=2).reshape(-1, 2)
        for part in ("support", "query")
    ]
    number = math.comb(IMAGES, SHOTS) * math.comb(IMAGES - SHOTS, QUERIES)
    assert is_uniform(np.concatenate(choices, axis=1), number)
    # The order of the images within a part.
    for part in ("support", "query"):
        in_order = by_label(long_run[part], "image").reshape(-1, 2)
        assert is_uniform(in_order, IMAGES * (IMAGES - 1))


def test_images_of_different_classes_are_independent(long_run):
    first_images = by_label(long_run["support"], "image")[:, :, 0]
    assert is_uniform(first_images, IMAGES**WAYS)


def test_images_are_uniform_in_a_class_of_any_size():
    counts = [3, 9, 5]
    pool, labels = numbered_pool(counts)
    x, _ = draw(pool.episodes(3, 1, 1, seed=3), 3000)
    for class_id, count in enumerate(counts):
        for part in ("support_x", "query_x"):
            indices = x[part][..., 0].astype(int)
            assert is_uniform(indices[labels[indices] == class_id], count)


@pytest.mark.parametrize("part", ["support", "query"])
def test_the_order_of_labels_is_uniform(long_run, part):
    # All arrangements of 0 0 1 1 2 2.
    number = math.factorial(6) // 2**3
    assert is_uniform(long_run[part]["y"], number)


def test_positions_are_independent_of_classes(long_run):
    for part in ("support", "query"):
        for position in (0, 1, -1):
            assert is_uniform(long_run[part]["class"][:, position], CLASSES)


def test_the_orders_of_support_and_queries_are_independent(long_run):
    # Equal first and last labels are less frequent, so their pair is not uniform. The
    # counts are compared with the product of their margins.
    support, query = (long_run[part]["y"] @ [3, 0, 0, 0, 0, 1] for part in long_run)
    expected = np.outer(np.bincount(support), np.bincount(query)) / EPISODES
    counts = np.bincount(9 * support + query, minlength=81).reshape(9, 9)
    assert p_value(np.sum((counts - expected) ** 2 / expected), 8 * 8) > 1e-3


def test_consecutive_episodes_are_independent(long_run):
    classes = by_label(long_run["support"], "class")[:, :, 0]
    pairs = np.concatenate([classes[:-1:2, :2], classes[1::2, :2]], axis=1)
    assert is_uniform(pairs, math.perm(CLASSES, 2) ** 2)
    order = long_run["support"]["y"][:, :1]
    assert is_uniform(np.concatenate([order[:-1:2], order[1::2]], axis=1), WAYS**2)


# Reproducibility.


def assert_equal(values, expected):
    for a, b in zip(tf.nest.flatten(values), tf.nest.flatten(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_start_equals_skip():
    pool = numbered_pool([6] * 8)[0]
    dataset = pool.episodes(4, 2, 3, seed=5)
    for start in (1, 1000):
        assert_equal(
            draw(pool.episodes(4, 2, 3, seed=5, start=start), 9),
            draw(dataset.skip(start), 9),
        )
    # An index that is too large for `skip`; consecutive indices agree.
    index = 10**15
    episodes = draw(pool.episodes(4, 2, 3, seed=5, start=index), 4)
    assert_equal(
        draw(pool.episodes(4, 2, 3, seed=5, start=index + 1), 3),
        tf.nest.map_structure(lambda v: v[1:], episodes),
    )


def test_an_episode_depends_on_the_class_table_only():
    pool = numbered_pool([6] * 8)[0]
    expected = draw(pool.episodes(4, 2, 3, seed=5), 20)
    assert_equal(draw(pool.episodes(4, 2, 3, seed=5), 20), expected)
    reordered = pool.select(pool.class_ids[::-1])
    assert_equal(draw(reordered.episodes(4, 2, 3, seed=5), 20), expected)
    parts, repeated = pool.split_classes(5, 3), pool.split_classes(5, 3)
    selected = pool.select(parts[0].class_ids)
    for part in (repeated[0], selected):
        assert_equal(
            draw(part.episodes(4, 2, 3, seed=5), 20),
            draw(parts[0].episodes(4, 2, 3, seed=5), 20),
        )


def test_no_two_seeds_or_indices_share_an_episode():
    pool = numbered_pool([6] * 8)[0]
    seen = set()
    for seed in (0, 1, 2, 2**32, 2**62):
        x, y = draw(pool.episodes(4, 2, 3, seed), 100)
        parts = [x["support_x"][..., 0], x["support_y"], x["query_x"][..., 0], y]
        seen |= {row.tobytes() for row in np.concatenate(parts, axis=1)}
    assert len(seen) == 500


def fingerprint():
    """Returns a hash of episodes of rotated and inverted images of a split."""
    random = np.random.RandomState(0)
    pool = km.ClassPool.from_arrays(
        random.randint(0, 256, [40, 12, 12, 3]).astype("uint8"),
        random.permutation(np.repeat(np.arange(10), 4)),
        images.ImagePreprocess(6, 6, 1),
    )
    part = pool.split_classes(6, 4, seed=3)[0].with_rotations()
    dataset = part.episodes(5, 1, 3, seed=9, start=17)
    digest = hashlib.sha256()
    for value in tf.nest.flatten(next(dataset.batch(25).as_numpy_iterator())):
        digest.update(value.tobytes())
    return digest.hexdigest()


@pytest.mark.thorough
def test_another_process_draws_the_same_episodes():
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
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=pathlib.Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert process.stdout.split() == [fingerprint()]


# Rotations.


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rotated_classes_contain_the_rotated_images(dtype):
    stored = pictures(6)
    pool = ClassPool.from_arrays(
        stored if dtype == "uint8" else stored / np.float32(255), [4, 4, 8, 8, 6, 6]
    ).with_rotations()
    assert len(pool) == 12
    assert sorted(pool.class_ids) == sorted([4, 6, 8] * 4)
    class_and_rotation = {
        np.rot90(image, k).tobytes(): (index // 2, k)
        for index, image in enumerate(stored)
        for k in range(4)
    }
    x, y = draw(pool.episodes(ways=12, shots=1, queries=1), 5)
    for support, support_y, queries, query_y in zip(
        x["support_x"], x["support_y"], x["query_x"], y, strict=True
    ):
        support_classes = [class_and_rotation[image] for image in image_bytes(support)]
        # All rotations of all classes occur. A label has one class and one rotation.
        assert sorted(support_classes) == list(itertools.product(range(3), range(4)))
        class_of_label = dict(zip(support_y, support_classes, strict=True))
        assert [class_and_rotation[image] for image in image_bytes(queries)] == [
            class_of_label[label] for label in query_y
        ]
    for class_id, first in ((4, 0), (8, 2), (6, 4)):
        expected = [image.tobytes() for image in stored[first : first + 2]]
        assert image_bytes(pool.images_of(class_id)) == expected


# A folder of images.


def save(path, image, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **kwargs)
    return path


def test_image_files_are_read_as_they_are_displayed(tmp_path):
    colour = pictures(1, side=6)[0, :, :4]  # taller than wide: rotations differ
    grey = colour[..., :1]
    picture = PIL.Image.fromarray(colour)
    load = files.load_image

    for suffix in ("png", "PNG", "bmp", "tif"):
        path = save(tmp_path / f"colour.{suffix}", picture)
        np.testing.assert_array_equal(load(path), colour)
    path = save(tmp_path / "exact.webp", picture, lossless=True)
    np.testing.assert_array_equal(load(path), colour)
    path = save(tmp_path / "grey.png", picture.getchannel(0))
    np.testing.assert_array_equal(load(path), grey)
    path = save(tmp_path / "ink.png", PIL.Image.fromarray(grey[..., 0] > 127))
    np.testing.assert_array_equal(load(path), np.where(grey > 127, 255, 0))

    # A palette with a colour for each pixel is lossless. An animation is read as its
    # first frame.
    indexed = PIL.Image.fromarray(np.arange(24, dtype="uint8").reshape(6, 4), "P")
    indexed.putpalette(colour.tobytes())
    for suffix in ("png", "gif"):
        path = save(tmp_path / f"palette.{suffix}", indexed)
        np.testing.assert_array_equal(load(path), colour)
    path = tmp_path / "moving.gif"
    save(path, indexed, save_all=True, append_images=[indexed.rotate(180)])
    np.testing.assert_array_equal(load(path), colour)

    # JPEG is lossy; its error is smallest for a uniform colour.
    flat = np.full([16, 8, 3], [200, 90, 30], "uint8")
    path = save(tmp_path / "flat.jpeg", PIL.Image.fromarray(flat), quality=100)
    np.testing.assert_allclose(load(path), flat, atol=2)


def test_transparent_images_are_composited_on_white(tmp_path):
    alpha = np.array([[0, 51], [204, 255]], "uint8")
    ink = np.full([2, 2, 3], [100, 0, 250], "uint8")
    picture = PIL.Image.fromarray(np.dstack([ink, alpha]))
    opacity = alpha[..., None] / 255
    image = files.load_image(save(tmp_path / "rgba.png", picture))
    assert image.shape == (2, 2, 3)
    np.testing.assert_allclose(image, opacity * ink + (1 - opacity) * 255, atol=1)

    grey = PIL.Image.fromarray(np.dstack([ink[..., 0], alpha]))
    assert grey.mode == "LA"
    expected = opacity[..., 0] * 100 + (1 - opacity[..., 0]) * 255
    image = files.load_image(save(tmp_path / "la.png", grey))
    np.testing.assert_allclose(image[..., 0], expected, atol=1)

    # A file may declare one grey or one colour of its palette transparent.
    greys = np.array([[0, 1], [2, 0]], "uint8")
    plain = PIL.Image.fromarray(greys)
    path = save(tmp_path / "key.png", plain, transparency=0)
    np.testing.assert_array_equal(files.load_image(path)[..., 0], [[255, 1], [2, 255]])
    indexed = PIL.Image.fromarray(greys, "P")
    indexed.putpalette([9, 9, 9, 1, 2, 3, 4, 5, 6])
    path = save(tmp_path / "key.gif", indexed, transparency=0)
    np.testing.assert_array_equal(
        files.load_image(path),
        [[[255] * 3, [1, 2, 3]], [[4, 5, 6], [255] * 3]],
    )


@pytest.mark.parametrize(
    "orientation, transform",
    [
        (1, lambda x: x),
        (2, np.fliplr),
        (3, lambda x: np.rot90(x, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (8, np.rot90),
    ],
)
def test_exif_orientation_is_applied(tmp_path, orientation, transform):
    colour = pictures(1, side=6)[0, :, :4]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "photo.png", PIL.Image.fromarray(colour), exif=exif)
    np.testing.assert_array_equal(files.load_image(path), transform(colour))


def test_sub_folders_are_the_classes_of_a_pool(tmp_path):
    prepare = images.ImagePreprocess(6, 6, 3, invert=False)
    stored = pictures(5, side=6)
    wide = pictures(1, side=12)[0]
    for name, index in (("b", 0), ("a", 1)):
        save(tmp_path / "beta" / f"{name}.png", PIL.Image.fromarray(stored[index]))
    for name, index in (("1.bmp", 2), ("2.PNG", 3)):
        save(tmp_path / "Alpha" / name, PIL.Image.fromarray(stored[index]))
    save(tmp_path / "gamma" / "grey.png", PIL.Image.fromarray(stored[4][..., 0]))
    save(tmp_path / "gamma" / "wide.png", PIL.Image.fromarray(wide))
    # None of these is a class or an image of a class.
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "beta" / "notes.txt").write_text("notes")
    (tmp_path / "beta" / ".a.png").write_text("what macOS leaves behind")
    (tmp_path / ".hidden").mkdir()

    with pytest.warns() as caught:
        pool = ClassPool.from_directory(str(tmp_path), prepare)
    (message,) = [str(warning.message) for warning in caught]
    for reason in (
        f"2 skipped, hidden: {tmp_path.name}/.hidden, beta/.a.png",
        f"1 skipped, not in the folder of a class: {tmp_path.name}/notes.txt",
        "1 skipped, suffix not known: beta/notes.txt",
    ):
        assert reason in message
    assert pool.names == {0: "Alpha", 1: "beta", 2: "gamma"}
    assert pool.class_ids.tolist() == [0, 1, 2]
    for class_id, expected in (
        (0, stored[[2, 3]]),
        (1, stored[[1, 0]]),
        (2, [np.repeat(stored[4][..., :1], 3, -1), prepare.resize(wide).numpy()]),
    ):
        expected_bytes = [image.tobytes() for image in expected]
        assert image_bytes(pool.images_of(class_id)) == expected_bytes
    x, _ = draw(pool.episodes(3, 1, 1), 2)
    assert x["support_x"].shape == (2, 3, 6, 6, 3)


# Data on disk.


@pytest.mark.parametrize("prepared", [False, True])
def test_a_mapped_file_yields_the_episodes_of_its_array(tmp_path, prepared):
    prepare = images.ImagePreprocess(4, 4, 1) if prepared else None
    labels = np.random.RandomState(0).permutation(np.repeat([7, 3, 5, 9], 6))
    np.save(tmp_path / "pictures.npy", pictures(24))
    mapped = np.load(tmp_path / "pictures.npy", mmap_mode="r")
    pools = [ClassPool.from_arrays(x, labels, prepare) for x in (pictures(24), mapped)]
    assert pools[0].shape == pools[1].shape
    for view in (lambda pool: pool, lambda pool: pool.with_rotations().select([3, 9])):
        expected, actual = (
            draw(view(pool).episodes(2, 2, 3, seed=4), 8) for pool in pools
        )
        assert_equal(actual, expected)
    np.testing.assert_array_equal(pools[0].images_of(5), pools[1].images_of(5))


def test_a_mapped_file_must_contain_uint8(tmp_path):
    np.save(tmp_path / "numbers.npy", np.zeros([4, 2, 2, 1], "float32"))
    mapped = np.load(tmp_path / "numbers.npy", mmap_mode="r")
    message = error_message(ClassPool.from_arrays, mapped, np.zeros(4, int))
    assert message == "expected uint8 in a np.memmap, got float32."


def test_images_on_disk_are_read_when_an_episode_is_drawn(tmp_path):
    prepare = images.ImagePreprocess(4, 4, 3, invert=False)
    for index, picture in enumerate(pictures(12)):
        folder = tmp_path / f"class{index % 3}"
        folder.mkdir(exist_ok=True)
        save(folder / f"{index:02}.png", PIL.Image.fromarray(picture))
    in_memory = ClassPool.from_directory(tmp_path, prepare)
    on_disk = ClassPool.from_directory(tmp_path, prepare, in_memory=False)
    assert_equal(
        draw(on_disk.episodes(3, 1, 2), 5), draw(in_memory.episodes(3, 1, 2), 5)
    )
    for path in tmp_path.glob("class1/*.png"):
        path.write_text("no image")
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected an image file"):
        draw(on_disk.episodes(3, 1, 2), 1)


# TFDS.


class TinyDrawings(tfds.core.GeneratorBasedBuilder):
    """TFDS data with two image sizes: image i has value i and class `names[i % 3]`."""

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
    """A data set whose server is unreachable."""

    def _split_generators(self, _):
        raise ConnectionError("no route to host\nand more of it")


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory):
    return str(tmp_path_factory.mktemp("tfds"))


def test_resizing_together_equals_resizing_alone(monkeypatch):
    random = np.random.RandomState(0)
    sizes = [(9, 9, 3)] * 5 + [(9, 7, 3), (9, 9, 1), (9, 9, 3), (4, 4, 3), (4, 4, 1)]
    originals = [random.randint(256, size=size).astype("uint8") for size in sizes]
    prepare, calls = images.ImagePreprocess(4, 4, 3), []
    expected = np.stack([prepare.resize(image) for image in originals])
    resize = prepare.resize
    monkeypatch.setattr(prepare, "resize", lambda x: calls.append(len(x)) or resize(x))
    np.testing.assert_array_equal(sources.resized(iter(originals), prepare), expected)
    assert calls == [5, 1, 1, 1, 1, 1]
    calls.clear()
    monkeypatch.setattr(sources, "BYTES_TOGETHER", 2 * 9 * 9 * 3)
    np.testing.assert_array_equal(sources.resized(iter(originals), prepare), expected)
    assert calls == [2, 2, 1, 1, 1, 1, 1, 1]


def test_tfds_data_is_prepared_and_read(tfds_dir):
    prepare = images.ImagePreprocess(4, 4, 1, invert=False)

    def load(split):
        return ClassPool.from_tfds("tiny_drawings", split, prepare, tfds_dir)

    for split, expected in (
        ("train", [[0, 3, 6], [1, 4], [2, 5]]),
        ("test", [[100, 103], [101], [102]]),
        ("train+test", [[0, 3, 6, 100, 103], [1, 4, 101], [2, 5, 102]]),
    ):
        pool = load(split)
        assert pool.names == {0: "ox", 1: "cow", 2: "elk"}
        assert pool.shape == (4, 4, 1)
        for class_id, values in enumerate(expected):
            drawings = np.round(pool.images_of(class_id).numpy() * 255)
            assert sorted(drawings[:, 0, 0, 0]) == values
            assert (drawings == drawings[:, :1, :1]).all()
    part = load("train[:40%]")
    assert sum(len(part.images_of(i)) for i in part.class_ids) == 3
    assert set(part.names) == set(part.class_ids)

    expected = (
        "expected 'tiny_drawings' with split {} to be available from TFDS (splits "
    )
    for split in ("'validation'", "'train['", "'train[:0]'"):
        error = error_message(load, split[1:-1])
        assert error.startswith(expected.format(split) + "['test', 'train']), prepared")
        assert tfds_dir in error
    assert (
        "'validation'" in error_message(load, "validation").split(" by download: ")[1]
    )


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
        # Resizing an image alone and in a batch differs in the last bit only.
        np.testing.assert_allclose(
            pool.images_of(class_id),
            np.stack([scaled[i] for i in np.flatnonzero(ids == class_id)]),
            rtol=0,
            atol=1e-6,
        )


def test_tfds_errors_are_one_sentence(tfds_dir):
    def message(name, **kwargs):
        return error_message(ClassPool.from_tfds, name, data_dir=tfds_dir, **kwargs)

    prefix = "expected the name of a TFDS data set, got "
    assert message("omniglott") == f"{prefix}'omniglott': Dataset omniglott not found."
    assert message("not a name").startswith(f"{prefix}'not a name': ")
    error = message("tiny_drawings:9.9.9")
    assert error.startswith(f"{prefix}'tiny_drawings:9.9.9': ") and "1.0.0" in error
    assert message("unreachable_drawings") == (
        "expected 'unreachable_drawings' with split 'train' to be available from TFDS "
        f"(splits []), prepared in {tfds_dir}/unreachable_drawings/1.0.0 "
        "(set TFDS_DATA_DIR to change it) or by download: no route to host"
    )
    assert message("tiny_drawings") == (
        "expected the images of 'tiny_drawings' to share one size, they do not: give "
        "prepare=ImagePreprocess(height, width, channels)."
    )
    with tfds.testing.mock_data(num_examples=2):
        assert message("cifar100", label_key="name") == (
            "expected 'cifar100' to have one image and a label 'name', its images are "
            "['image'] and its labels ['label', 'coarse_label']."
        )
        assert message("ag_news_subset") == (
            "expected 'ag_news_subset' to have one image and a label 'label', its "
            "images are [] and its labels ['label']."
        )


# Groups.


def test_an_episode_has_the_classes_of_one_group():
    pool, labels = numbered_pool([3] * 9)
    groups = {i: "abc"[i % 3] for i in range(8)} | {8: "alone"}
    x, _ = draw(pool.episodes(2, 1, 2, groups=groups), 600)
    classes = labels[x["support_x"][..., 0].astype(int)]
    assert {groups[i] for i in classes[:, 0]} == {"a", "b", "c"}
    assert all(len({groups[i] for i in row}) == 1 for row in classes)
    assert is_uniform(classes[:, 0] % 3, 3)
    # Group "a" has three classes, and group "c" has two.
    assert is_uniform(np.sort(classes[classes[:, 0] % 3 == 0], axis=1), 3)
    assert is_uniform(classes[classes[:, 0] % 3 == 2], 2)
    with pytest.raises(ValueError, match="has 9 and no group has as many"):
        pool.episodes(4, 1, 2, groups=groups)
    with pytest.raises(ValueError, match=r"every class of the pool, \[8\] are missing"):
        pool.episodes(2, 1, 2, groups={i: 0 for i in range(8)})


def test_labels_of_five_characters():
    pool, _ = numbered_pool([3] * 9)
    numbered, _ = draw(pool.episodes(4, 1, 2), 900)
    x, query_y = draw(pool.episodes(4, 1, 2, labels="strings"), 900)
    np.testing.assert_array_equal(x["support_x"], numbered["support_x"])
    strings = x["support_y"]
    assert strings.shape == (900, 4, 5) and query_y.shape == (900, 8, 5)
    assert strings.dtype == query_y.dtype == np.int32
    for task in range(900):
        string_of_label = {
            n: tuple(s)
            for n, s in zip(numbered["support_y"][task], strings[task], strict=True)
        }
        assert len(set(string_of_label.values())) == 4  # a string for each class
    assert {tuple(s) for s in query_y[0]} == {tuple(s) for s in strings[0]}
    assert all(is_uniform(strings[:, 0, position], 5) for position in range(5))
    assert is_uniform(strings[:, 0, :2], 25)  # characters are independent


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
def test_invalid_arguments_of_episodes_raise(arguments, expected):
    pool = numbered_pool([5, 4, 6], ids=[10, 20, 30])[0]
    arguments = {"ways": 3, "shots": 1, "queries": 2, **arguments}
    assert error_message(pool.episodes, **arguments) == expected


def test_episodes_of_the_largest_possible_size():
    pool, _ = numbered_pool([5, 4, 6])
    x, _ = draw(pool.episodes(np.int64(3), 1, 3), 1)
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
def test_unknown_ids_raise(ids, got):
    pool = numbered_pool([2, 2, 2], ids=[10, 20, 30])[0]
    expected = f"expected label ids among the pool's 3 classes, got {got}."
    assert error_message(pool.select, ids) == expected
    if len(ids) == 1:
        assert error_message(pool.images_of, ids[0]) == expected


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
def test_invalid_split_sizes_raise(sizes, expected):
    # A split does not count rotations as classes.
    pool = ClassPool.from_arrays(pictures(6), np.repeat(np.arange(3), 2))
    assert error_message(pool.split_classes, *sizes) == expected
    assert error_message(pool.with_rotations().split_classes, *sizes) == expected


def test_invalid_rotations_raise():
    pool = ClassPool.from_arrays(pictures(4), [0, 0, 1, 1]).with_rotations()
    assert error_message(pool.with_rotations) == (
        "expected a pool without rotations, it has them already."
    )
    oblong = ClassPool.from_arrays(pictures(4)[:, :3], [0, 0, 1, 1])
    assert error_message(oblong.with_rotations) == (
        "expected square images [H, H, C], got (3, 5, 3)."
    )
    points = numbered_pool([2, 2])[0]
    assert error_message(points.with_rotations) == (
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
def test_invalid_arrays_raise(examples, labels, expected):
    message = error_message(ClassPool.from_arrays, examples, labels)
    # TensorFlow writes the text after the colon.
    assert message.startswith(expected) if expected[-1] == " " else message == expected


def test_invalid_folders_raise(tmp_path):
    prepare = images.ImagePreprocess(4, 4, 1)

    def message():
        return error_message(ClassPool.from_directory, tmp_path / "pool", prepare)

    folder = tmp_path / "pool"
    assert message() == f"expected a folder of classes, found none at {folder}"
    folder.mkdir()
    save(folder / "loose.png", PIL.Image.fromarray(pictures(1)[0]))
    assert message() == (
        f"expected a sub-folder of images for each class in {folder}, found no "
        "sub-folder."
    )
    (folder / "ox").mkdir()
    (folder / "ox" / "notes.txt").write_text("notes")
    assert message() == (
        f"expected images in {folder / 'ox'}, found none; 1 skipped, suffix not known: "
        "ox/notes.txt."
    )


def test_invalid_image_files_raise(tmp_path):
    prepare = images.ImagePreprocess(4, 4, 1)
    png = save(tmp_path / "whole.png", PIL.Image.fromarray(pictures(1, 40)[0]))
    deep = PIL.Image.fromarray(np.full([4, 4], 0.5, "float32"))
    deep = save(tmp_path / "deep.tif", deep)
    for name, content in (
        ("text.png", b"no image at all"),
        ("empty.jpg", b""),
        ("truncated.png", png.read_bytes()[:2000]),
        ("deep.tif", deep.read_bytes()),  # Pillow would read it as black
    ):
        folder = tmp_path / name[:-4]
        path = folder / "class" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        error = error_message(ClassPool.from_directory, folder, prepare)
        if name in ("text.png", "empty.jpg"):
            assert error == f"expected an image file, {path} is none."
        else:
            assert error.startswith(f"expected an image file, could not read {path}: ")
