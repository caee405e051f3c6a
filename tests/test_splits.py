"""Tests of the class splits of cards, their recipes and their initial weights.

Images are not needed: pools of blank images have the class ids of the real pools.
"""

import functools
import itertools

import numpy as np
import pytest

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cards, recipes
from keras_meta.zoo.recipes import (
    characters,
    functions,
    photo_sources,
    protocols,
    sources,
    splits,
)

CARDS = {card.name: card for card in zoo.list_models()}
PARTS = "train", "validation", "test"
# Character counts of Omniglot's 30 background alphabets, in the order of TFDS.
BACKGROUND = {
    "Arcadian": 26,
    "Armenian": 41,
    "Asomtavruli_(Georgian)": 40,
    "Balinese": 24,
    "Bengali": 46,
    "Blackfoot_(Canadian_Aboriginal_Syllabics)": 14,
    "Braille": 26,
    "Cyrillic": 33,
    "Early_Aramaic": 22,
    "Syriac_(Estrangelo)": 23,
    "Anglo-Saxon_Futhorc": 29,
    "Futurama": 26,
    "Grantha": 43,
    "Greek": 24,
    "Gujarati": 48,
    "Hebrew": 22,
    "Japanese_(hiragana)": 52,
    "Inuktitut_(Canadian_Aboriginal_Syllabics)": 16,
    "Malay_(Jawi_-_Arabic)": 40,
    "Japanese_(katakana)": 47,
    "Korean": 40,
    "Latin": 26,
    "Alphabet_of_the_Magi": 20,
    "Mkhedruli_(Georgian)": 41,
    "Burmese_(Myanmar)": 34,
    "N_Ko": 33,
    "Ojibwe_(Canadian_Aboriginal_Syllabics)": 14,
    "Sanskrit": 42,
    "Tagalog": 17,
    "Tifinagh": 55,
}
ALPHABET = [name for name, count in BACKGROUND.items() for _ in range(count)]
SMALL = {
    "small1": {"Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"},
    "small2": {"Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"},
}
OMNIGLOT = {
    "train+test": range(1623),
    "train": range(964),
    **{
        split: [i for i, name in enumerate(ALPHABET) if name in names]
        for split, names in SMALL.items()
    },
}


# The superclasses of CIFAR-100 (Krizhevsky, 2009).
SUPERCLASSES = [
    "beaver dolphin otter seal whale",
    "aquarium_fish flatfish ray shark trout",
    "orchid poppy rose sunflower tulip",
    "bottle bowl can cup plate",
    "apple mushroom orange pear sweet_pepper",
    "clock keyboard lamp telephone television",
    "bed chair couch table wardrobe",
    "bee beetle butterfly caterpillar cockroach",
    "bear leopard lion tiger wolf",
    "bridge castle house road skyscraper",
    "cloud forest mountain plain sea",
    "camel cattle chimpanzee elephant kangaroo",
    "fox porcupine possum raccoon skunk",
    "crab lobster snail spider worm",
    "baby boy girl man woman",
    "crocodile dinosaur lizard snake turtle",
    "hamster mouse rabbit shrew squirrel",
    "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "bicycle bus motorcycle pickup_truck train",
    "lawn_mower rocket streetcar tank tractor",
]
# Class names in the order of TFDS.
CIFAR100 = sorted(" ".join(SUPERCLASSES).split())


def omniglot(ids):
    """Returns a pool of one blank image per class, with Omniglot's class names."""
    names = {i: f"{ALPHABET[i]}_{i}" if i < 964 else f"X_{i}" for i in map(int, ids)}
    return km.ClassPool.from_arrays(
        np.zeros([len(ids), 2, 2, 1], "uint8"), np.array(ids), names=names
    )


def blanks(names):
    """Returns a pool of one blank image per class, with the given class names."""
    return km.ClassPool.from_arrays(
        np.zeros([len(names), 2, 2, 1], "uint8"),
        np.arange(len(names)),
        names=dict(enumerate(names)),
    )


@pytest.fixture
def loaded(monkeypatch):
    """Makes sources load blank images; returns a list of the data sets loaded."""
    data_sets = []

    def from_tfds(name, split, prepare):
        data_sets.append(name)
        assert name in ("omniglot", "cifar100")
        return omniglot(OMNIGLOT[split]) if name == "omniglot" else blanks(CIFAR100)

    def from_directory(directory, prepare):
        assert directory == "somewhere"
        data_sets.append("caltech101")
        return blanks(sorted([*splits.CALTECH101, "BACKGROUND_Google", "Faces_easy"]))

    def glyphs(classes, prepare):
        data_sets.append("glyphs")
        return omniglot(range(classes))

    monkeypatch.setenv("CALTECH101_DIR", "somewhere")
    monkeypatch.setattr(km.ClassPool, "from_tfds", from_tfds)
    monkeypatch.setattr(km.ClassPool, "from_directory", from_directory)
    monkeypatch.setattr(km.tasks, "glyphs", glyphs)
    return data_sets


def load_parts(name, loaded):
    """Returns the data set of a recipe, and its `{part: set of class ids}`."""
    source = recipes.recipe(name).task.source
    if source.load is None:
        return source.title, dict.fromkeys(PARTS, set())
    del loaded[:]
    pools = source.pools(None)
    parts = {part: set(pools[part].class_ids) for part in PARTS[:2]}
    parts["test"] = set(source.test_classes(None))
    return "+".join(sorted(set(loaded))), parts


def chosen(source, data):
    """Computes `{part: set of class ids}` of a source with NumPy alone."""
    cifar = [f"cifar100/{name}" for name in CIFAR100]
    caltech = [f"caltech101/{name}" for name in sorted(splits.CALTECH101)]
    named_classes = {
        "cifar100": CIFAR100,
        "caltech101": caltech,
        "caltech101+cifar100": cifar + caltech,
    }
    if data in named_classes:
        classes = named_classes[data]
        names = zip(PARTS, source.names, strict=True)
        return {part: {classes.index(name) for name in group} for part, group in names}
    if data != "omniglot" or sum(source.sizes) == 1623:
        count = {"omniglot": 1623, "glyphs": 1300}[data]
        order = np.random.RandomState(0).permutation(count)
        ends = np.cumsum(source.sizes)
        parts = np.split(order, ends)[:3]
        return {part: set(ids) for part, ids in zip(PARTS, parts, strict=True)}
    train, validation, _ = source.sizes
    names = SMALL["small1"] if source is characters.SMALL1 else set(BACKGROUND)
    names = SMALL["small2"] if source is characters.SMALL2 else names
    order = list(np.random.RandomState(0).permutation(sorted(names)))
    assert len(order) == train + validation
    alphabets = {"train": order[validation:], "validation": order[:validation]}
    parts = {
        part: {i for i, name in enumerate(ALPHABET) if name in group}
        for part, group in alphabets.items()
    }
    return {**parts, "test": set(range(964, 1623))}


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_split_of_a_recipe(name, loaded):
    data, parts = load_parts(name, loaded)
    source = recipes.recipe(name).task.source
    if source.load is None:
        assert source.test_classes(None) is None
        return
    assert parts == chosen(source, data)
    for first, second in itertools.combinations(PARTS, 2):
        assert not parts[first] & parts[second]


@pytest.mark.parametrize("name", CARDS)
def test_test_classes_of_a_card_equal_those_of_its_recipe(name, loaded):
    _, parts = load_parts(name, loaded)
    class_ids = CARDS[name].test_classes
    if recipes.recipe(name).task.source.load is None:
        assert class_ids is None
        return
    assert len(class_ids) == len(set(class_ids)) > 0
    assert set(class_ids) == parts["test"]
    assert not set(class_ids) & (parts["train"] | parts["validation"])


def test_published_splits_of_cifar100():
    for split, sizes in ((splits.CIFAR_FS, (64, 16, 20)), (splits.FC100, (60, 20, 20))):
        assert list(split) == list(PARTS)
        assert tuple(map(len, split.values())) == sizes
        assert sorted(itertools.chain(*split.values())) == CIFAR100
    # FC100 splits superclasses: twelve, four and four.
    for part, count in zip(PARTS, (12, 4, 4), strict=True):
        names = set(splits.FC100[part])
        complete = [group for group in SUPERCLASSES if names >= set(group.split())]
        assert len(complete) == count and len(names) == 5 * count


def test_held_out_photo_classes_are_random_and_unlike_training_classes():
    random = np.random.RandomState(0)

    def draw(names, data):
        candidates = sorted(set(names) - set(splits.KIN[data]))
        return [str(name) for name in random.permutation(candidates)]

    validation = draw(splits.CIFAR_FS["validation"], "cifar100")[:5]
    test = draw(splits.CIFAR_FS["test"], "cifar100")[:5]
    caltech = draw(splits.CALTECH101, "caltech101")
    assert splits.PHOTOS["validation"] == {
        "cifar100": sorted(validation),
        "caltech101": sorted(caltech[:5]),
    }
    assert splits.PHOTOS["test"] == {
        "cifar100": sorted(test),
        "caltech101": sorted(caltech[5:10]),
    }
    shared = set(splits.CALTECH101) & set(CIFAR100)
    assert len(splits.CALTECH101) == 100 and len(shared) == 12
    for names in splits.KIN.values():
        assert shared <= set(names) and len(set(names)) == len(names)
    assert set(splits.KIN["cifar100"]) < set(CIFAR100)
    assert set(splits.KIN["caltech101"]) < set(splits.CALTECH101)
    for part in ("validation", "test"):
        for names in splits.PHOTOS[part].values():
            assert all(name in photo_sources.PHOTOS.title for name in names)


@pytest.mark.parametrize("rotations", [False, True])
def test_every_split_has_the_rotations_that_its_source_states(rotations):
    x = np.random.RandomState(0).randint(0, 256, [12, 2, 2, 1]).astype("uint8")
    names = [f"{alphabet}_{i}" for alphabet in "abc" for i in (1, 2)]
    labels = np.repeat(np.arange(6), 2)
    pool = km.ClassPool.from_arrays(x, labels, names=dict(enumerate(names)))
    parts = ("a_1", "b_1", "b_2"), ("c_1",), ("c_2",)
    for kind, arguments in (
        (sources.Source, {"sizes": (3, 2, 1)}),
        (sources.Alphabets, {"sizes": (2, 1)}),
        (sources.LargeAlphabets, {"sizes": (1, 1, 1), "least": 2}),
        (sources.Named, {"names": parts}),
    ):
        arguments |= {"load": lambda *_: pool, "rotations": rotations}
        pools = kind("x", "x", "x", **arguments).pools(None)
        train = pools.pop("train")
        unique = len(set(train.class_ids))
        assert len(train.class_ids) == unique * (4 if rotations else 1), kind
        assert all(len(set(p.class_ids)) == len(p.class_ids) for p in pools.values())


def test_errors_name_the_missing_data_of_photos(loaded, monkeypatch):
    incomplete = blanks(["ant", "bass"])
    monkeypatch.setattr(km.ClassPool, "from_directory", lambda *arguments: incomplete)
    with pytest.raises(
        ValueError, match="Caltech-101 in somewhere .* with the name Faces, "
    ):
        photo_sources.PHOTOS.pools(None)
    monkeypatch.delenv("CALTECH101_DIR")
    with pytest.raises(ValueError, match="variable CALTECH101_DIR to name a folder"):
        photo_sources.PHOTOS.pools(None)
    monkeypatch.setattr(
        km.ClassPool,
        "from_tfds",
        lambda name, split, prepare: blanks(["apple", "bear"]),
    )
    with pytest.raises(ValueError, match="of CIFAR-FS, got none with the name aquari"):
        photo_sources.CIFAR_FS.pools(None)


def origins(name):
    """Yields the entries that a card or its recipe starts from, nearest first."""
    warm_start = recipes.recipe(name).warm_start or cards.RANDOM
    for origin in dict.fromkeys([CARDS[name].initial_weights, warm_start]):
        if origin not in (cards.RANDOM, cards.EXTERNAL):
            yield origin
            yield from origins(origin)


@pytest.mark.parametrize("name", CARDS)
def test_origins_of_an_entry_were_not_trained_on_its_test_classes(name, loaded):
    data, parts = load_parts(name, loaded)
    for origin in origins(name):
        origin_data, origin_parts = load_parts(origin, loaded)
        if origin_data != data:  # equal ids are different classes
            assert {origin_data, data} == {"glyphs", "omniglot"}
            continue
        assert origin_parts == parts
        for trained, tested in ((origin_parts, parts), (parts, origin_parts)):
            assert not (trained["train"] | trained["validation"]) & tested["test"]
        assert set(CARDS[origin].test_classes or []) == origin_parts["test"]


def test_origins_cover_entries_of_the_same_data_and_of_other_data(loaded):
    pairs = {
        (load_parts(name, loaded)[0], load_parts(origin, loaded)[0])
        for name in CARDS
        for origin in origins(name)
    }
    assert {("omniglot", "omniglot"), ("omniglot", "glyphs")} <= pairs


def test_streams_of_parts_have_different_seeds():
    seeds = sorted([*sources.PART_SEEDS.values(), sources.AUGMENTATION_SEED])
    assert set(sources.PART_SEEDS) == set(PARTS)
    # Seeds of recipes are below a million, so that sums with part seeds are unique.
    assert np.diff(seeds).min() >= 1_000_000
    assert max(recipe.seed for recipe in recipes.RECIPES.values()) < 1_000_000
    assert max(card.seed for card in CARDS.values()) < 1_000_000


@pytest.mark.parametrize("task", [functions.SINUSOID, functions.GP_RBF])
def test_no_task_is_in_two_parts(task):
    occurrences = {}
    for seed in (0, 1):
        episodes = task.episodes(None, seed)
        shots = {"train": (task.training_shots or (task.shots,))[0]}
        streams = {part: episodes[part]() for part in PARTS[:2]}
        streams["test"] = task.test_episodes(None, None, None, task.shots, 1, seed)
        for part, data in streams.items():
            for episode, _ in data.take(30).as_numpy_iterator():
                x = episode["support_x"][: shots.get(part, task.shots)]
                occurrences.setdefault(x[0].tobytes(), set()).add((seed, part))
    assert len(occurrences) == 180, "2 seeds x 3 parts x 30 tasks, and none twice"
    assert all(len(pairs) == 1 for pairs in occurrences.values())


@pytest.mark.thorough
def test_classification_draws_each_part_with_its_own_seed():
    images = np.random.RandomState(0).randint(0, 256, [60, 2, 2, 1], dtype="uint8")
    ids = np.repeat(np.arange(15), 4)
    pool = km.ClassPool.from_arrays(images, ids)  # the pool of every part

    class OnePool(sources.Source):
        def pools(self, preprocess):
            return dict.fromkeys(PARTS, pool)

    task = protocols.Classification(
        OnePool("x", "x", "x", load=lambda preprocess, ids: pool),
        queries=1,
        test_queries=1,
    )
    episodes = task.episodes(None, 7)
    streams = {part: episodes[part]() for part in PARTS[:2]}
    streams["test"] = task.test_episodes(None, None, 5, 1, 1, 7)
    for part, seed in (("train", 7), ("validation", 1_000_007), ("test", 2_000_007)):
        expected = pool.episodes(5, 1, 1, seed)
        pairs = zip(
            streams[part].take(5).as_numpy_iterator(),
            expected.take(5).as_numpy_iterator(),
            strict=True,
        )
        for (x, y), (expected_x, expected_y) in pairs:
            np.testing.assert_array_equal(x["support_x"], expected_x["support_x"])
            np.testing.assert_array_equal(y, expected_y)


@pytest.mark.slow
@pytest.mark.parametrize("split", OMNIGLOT)
def test_class_ids_of_omniglot_match_the_data(split):
    pool = km.ClassPool.from_tfds("omniglot", split, km.ImagePreprocess(2, 2, 1))
    assert list(pool.class_ids) == list(OMNIGLOT[split])
    for i in pool.class_ids:
        alphabet, _, _ = pool.names[i].rpartition("_")
        assert (i >= 964) == (alphabet not in BACKGROUND)
        assert i >= 964 or alphabet == ALPHABET[i]


@pytest.mark.slow
def test_class_names_of_cifar100_match_the_data():
    pool = km.ClassPool.from_tfds("cifar100", "test", km.ImagePreprocess(2, 2, 3))
    assert [pool.names[i] for i in range(100)] == CIFAR100
    assert pool.sizes.tolist() == [100] * 100


@functools.cache
def real_test_classes(source):
    """Returns the test classes of a source, from its data."""
    return source.test_classes(km.ImagePreprocess(2, 2, 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_test_classes_of_a_card_equal_those_of_its_data(name):
    class_ids = real_test_classes(recipes.recipe(name).task.source)
    assert class_ids == CARDS[name].test_classes
