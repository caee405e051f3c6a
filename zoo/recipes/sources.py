"""Data sets with their splits into classes. Importing this needs no TensorFlow."""

import collections
import collections.abc
import dataclasses

from keras_meta.zoo import downloads

# The episode streams of a recipe's parts do not overlap, for any seed of the recipe.
PART_SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}
AUGMENTATION_SEED = 3_000_000


@dataclasses.dataclass(frozen=True)
class Source:
    """A data set, or a family of functions, that tasks are drawn from.

    Attributes:
        id: of the data and its split; with one id, ways and shots, tasks are the same.
        family: the data in a few words.
        title: the data set and its split, for the card.
        licence: of the data.
        sizes: numbers of training, validation and test classes.
        load: `(preprocess, label ids or None) -> ClassPool`; None if a formula draws
            the tasks.
        rotations: whether quarter turns are additional training classes.
        procedural: whether a program draws the images.
        photographs: whether the images are photographs rather than drawings.
    """

    id: str
    family: str
    title: str
    licence: str = "none: generated"
    sizes: tuple[int, int, int] = ()
    load: collections.abc.Callable | None = None
    rotations: bool = True
    procedural: bool = False
    photographs: bool = False

    def pools(self, preprocess):
        """`{part: ClassPool}` with disjoint classes; values are None without `load`."""
        if self.load is None:
            return dict.fromkeys(PART_SEEDS)
        pools = self.split(self.load(preprocess, None))
        if self.rotations:
            pools["train"] = pools["train"].with_rotations()
        return pools

    def split(self, pool):
        """`{part: ClassPool}` of all images, without rotations."""
        parts = pool.split_classes(*self.sizes, seed=0)
        return dict(zip(PART_SEEDS, parts, strict=True))

    def test_classes(self, preprocess):
        """Label ids of the test classes, or None without `load`."""
        pool = self.pools(preprocess)["test"]
        return pool and [int(i) for i in pool.class_ids]

    def groups(self, pool):
        """`{label id: group}`; a grouped task draws its classes from one group.

        None: all tasks draw from all classes. See `protocols.Classification.grouped`.
        """
        return None


# TFDS labels of the characters of Omniglot's twenty evaluation alphabets.
EVALUATION = range(964, 1623)


@dataclasses.dataclass(frozen=True)
class ByAlphabet(Source):
    """Characters of Omniglot, whose groups are alphabets."""

    def groups(self, pool):
        """`{label id: alphabet}`."""
        ids = map(int, pool.class_ids)
        return {i: pool.names[i].rpartition("_")[0] for i in ids}

    def select(self, pool, alphabets):
        """The pools of `{part: alphabets}`."""
        groups = self.groups(pool)
        return {
            part: pool.select([i for i in groups if groups[i] in members])
            for part, members in alphabets.items()
        }


@dataclasses.dataclass(frozen=True)
class Alphabets(ByAlphabet):
    """Whole alphabets to train and to validate, the evaluation alphabets to test.

    `sizes` has the numbers of training alphabets, validation alphabets and test
    characters. A validation task draws its classes from one alphabet, as Lake's tests
    do.
    """

    def split(self, pool):
        import numpy as np

        names = sorted(set(self.groups(pool).values()))
        order = np.random.RandomState(0).permutation(names)
        train, validation = self.sizes[:2]
        parts = {"validation": order[:validation], "train": order[validation:]}
        if len(order) != train + validation:
            raise ValueError(
                f"expected {train} + {validation} alphabets, got {len(order)}."
            )
        return self.select(pool, parts)

    def test_classes(self, preprocess):
        return list(EVALUATION)


@dataclasses.dataclass(frozen=True)
class LargeAlphabets(ByAlphabet):
    """Whole alphabets with at least `least` characters to train, validate and test.

    `sizes` has the numbers of alphabets in each part, drawn with seed 0; the other
    alphabets are not used.
    """

    least: int = 20
    rotations: bool = False

    def split(self, pool):
        import numpy as np

        counts = collections.Counter(self.groups(pool).values())
        large = sorted(name for name, count in counts.items() if count >= self.least)
        if len(large) < sum(self.sizes):
            raise ValueError(
                f"expected at least {sum(self.sizes)} alphabets of {self.least} or "
                f"more characters, got {len(large)}."
            )
        order = np.random.RandomState(0).permutation(large)
        parts = np.split(order, np.cumsum(self.sizes))
        return self.select(pool, dict(zip(PART_SEEDS, parts, strict=False)))


@dataclasses.dataclass(frozen=True)
class Named(Source):
    """A split by class names, such as a published one.

    Attributes:
        names: the names of the training, validation and test classes, three tuples.
    """

    names: tuple[tuple[str, ...], ...] = ()
    rotations: bool = False

    def split(self, pool):
        return {
            part: select_names(pool, names, self.family)
            for part, names in zip(PART_SEEDS, self.names, strict=True)
        }


def select_names(pool, names, data):
    """The classes of a pool with these names, a `ClassPool`.

    Args:
        pool: a `ClassPool`.
        names: of the classes.
        data: the name of the data set, for the error.

    Raises:
        ValueError: a name that no class has.
    """
    ids = {name: label_id for label_id, name in pool.names.items()}
    missing = sorted(set(names) - ids.keys())
    if missing:
        raise ValueError(
            f"expected the classes of {data}, got none with the name "
            f"{', '.join(missing[:5])}."
        )
    return pool.select([ids[name] for name in names])


def tfds(name, split="train+test"):
    """`load` of a source: the images of a TFDS data set."""

    def load(preprocess, ids):
        import keras_meta as km

        with downloads.quiet(name):
            if ids is None:
                return km.ClassPool.from_tfds(name, split, preprocess)
            return km.ClassPool.from_tfds(name, "train+test", preprocess).select(ids)

    return load
