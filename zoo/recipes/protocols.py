"""How tasks are drawn from a source. Importing this needs no TensorFlow."""

import collections.abc
import dataclasses
import functools
import itertools

from keras_meta.zoo.recipes import sources


def augmented(augment, preprocess):
    """A function that augments the images of an episode, for `episodes.seeded_map`.

    Args:
        augment: see `keras_meta.augmentation.apply`.
        preprocess: the `ImagePreprocess` of the images, or None. Its `mean` and
            `deviation` are applied after the augmentation.
    """
    import tensorflow as tf

    def function(seed, episode, query_y):
        seeds = tf.unstack(tf.random.split(seed, 2))
        keys = "support_x", "query_x"
        images = {
            key: _augmented_images(episode[key], own_seed, augment, preprocess)
            for key, own_seed in zip(keys, seeds, strict=True)
        }
        return {**episode, **images}, query_y

    return function


def _augmented_images(x, seed, augment, preprocess):
    """Augments images x that have passed through `preprocess`, unless it is None."""
    from keras_meta import augmentation

    if preprocess is None:
        return augmentation.apply(x, seed, augment)
    tones = augmentation.apply(preprocess.tones(x), seed, augment)
    return preprocess.standardize(tones)


def _encoded(pool, encode):
    """A pool, or that of its features."""
    return pool.encoded(encode) if encode else pool


def _lazy(pool, encode):
    """A function that returns `_encoded`, computed when called for the first time."""
    return functools.cache(lambda: _encoded(pool, encode))


def _queries(count):
    return f"{count} quer{'y' if count == 1 else 'ies'}"


@dataclasses.dataclass(frozen=True)
class Classification:
    """N-way K-shot episodes from a source.

    Attributes:
        source: a `sources.Source`.
        ways, shots: of test and validation tasks.
        queries: queries of each class in training tasks.
        training_ways, training_shots: of training tasks; None: `ways` and `shots`.
        curriculum: `(ways, shots, tasks)` of the stages that training begins with, one
            after another.
        test_queries: queries of each class in test and validation tasks.
        labels: "onehot" or "strings".
        augment: random changes of the images of training tasks, see
            `keras_meta.augmentation.apply`; None: no changes.
        grouped: parts whose tasks draw their classes from one group of the source,
            such as an alphabet. No effect if the source has no groups.
    """

    source: sources.Source
    ways: int = 5
    shots: int = 1
    queries: int = 5
    training_ways: int | None = None
    training_shots: int | None = None
    curriculum: tuple[tuple[int, int, int], ...] = ()
    test_queries: int = 15
    labels: str = "onehot"
    augment: dict | None = None
    grouped: tuple[str, ...] = ("validation",)
    metric = "accuracy"

    @property
    def inputs(self):
        return "images" if self.labels == "onehot" else "images with string labels"

    def episodes(self, preprocess, seed, encode=None):
        """`{part: start -> endless dataset}` for "train" and "validation".

        Args:
            preprocess: the `ImagePreprocess` of the learner.
            seed: of the episodes.
            encode: a model of the images; the episodes then hold its outputs.
        """
        from keras_meta import episodes

        pools = self.source.pools(preprocess)
        groups = self._groups("train", pools["train"])
        pool = _lazy(pools["train"], encode)
        ways, shots = self.training_ways or self.ways, self.training_shots or self.shots
        ends = [0, *itertools.accumulate(count for *_, count in self.curriculum)]

        def tasks(ways, shots, start):
            return pool().episodes(
                ways, shots, self.queries, seed, start, groups, self.labels
            )

        def train(start=0):
            data = tasks(ways, shots, max(start, ends[-1]))
            stages = zip(self.curriculum, ends, ends[1:], strict=False)
            for (stage_ways, stage_shots, _), first, end in reversed(list(stages)):
                begin = max(start, first)
                stage = tasks(stage_ways, stage_shots, begin)
                data = stage.take(max(end - begin, 0)).concatenate(data)
            return data

        if self.augment:
            plain = train

            def train(start=0):
                return episodes.seeded_map(
                    plain(start),
                    augmented(self.augment, preprocess),
                    seed + sources.AUGMENTATION_SEED,
                    start,
                )

        validation = self.validation(pools["validation"], seed, encode)
        return {"train": train, "validation": validation}

    def validation(self, pool, seed, encode=None):
        """`start -> endless dataset` of validation episodes.

        Args:
            pool: the validation classes of the source.
            seed: of the recipe.
            encode: see `episodes`.
        """
        groups, pool = self._groups("validation", pool), _lazy(pool, encode)
        return lambda start=0: pool().episodes(
            self.ways,
            self.shots,
            self.test_queries,
            seed + sources.PART_SEEDS["validation"],
            start,
            groups,
            self.labels,
        )

    def test_episodes(
        self, preprocess, test_classes, ways, shots, queries, seed, encode=None
    ):
        """The endless dataset of episodes of unseen classes; see `episodes`."""
        pool = self.source.load(preprocess, test_classes)
        groups, pool = self._groups("test", pool), _encoded(pool, encode)
        return pool.episodes(
            ways,
            shots,
            queries,
            seed + sources.PART_SEEDS["test"],
            groups=groups,
            labels=self.labels,
        )

    def _groups(self, part, pool):
        return self.source.groups(pool) if part in self.grouped else None

    def __str__(self):
        ways, shots = self.training_ways or self.ways, self.training_shots or self.shots
        stages = "".join(
            f"{tasks} {ways}-way {shots}-shot tasks, then "
            for ways, shots, tasks in self.curriculum
        )
        strings = ", labels of five symbols" if self.labels == "strings" else ""
        augment = ", images changed at random" if self.augment else ""
        return (
            f"training on {stages}{ways}-way {shots}-shot tasks with "
            f"{_queries(self.queries)} a class{augment}{strings}; tests on "
            f"{self.ways}-way {self.shots}-shot tasks with "
            f"{_queries(self.test_queries)} a class"
        )


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Batches of labelled images of the training classes, all in one classification.

    Validation uses few-shot tasks. An element of the training data is an episode whose
    support set and queries are the same batch, for learners such as
    `supervised.Supervised`.

    Attributes:
        task: a `Classification`; defines the source, validation and augmentation.
        batch: images in a batch.
    """

    task: Classification
    batch: int = 128
    labels = "onehot"
    metric = "accuracy"

    @property
    def source(self):
        return self.task.source

    def episodes(self, preprocess, seed, encode=None):
        """`{part: start -> endless dataset}` for "train" and "validation"."""
        from keras_meta import episodes

        pools = self.source.pools(preprocess)

        def train(start=0):
            data = pools["train"].batches(self.batch, seed, start)
            if self.task.augment:
                data = episodes.seeded_map(
                    data,
                    lambda seed, x, y: (
                        _augmented_images(x, seed, self.task.augment, preprocess),
                        y,
                    ),
                    seed + sources.AUGMENTATION_SEED,
                    start,
                )
            return data.map(
                lambda x, y: ({"support_x": x, "support_y": y, "query_x": x}, y)
            )

        validation = self.task.validation(pools["validation"], seed)
        return {"train": train, "validation": validation}

    def __str__(self):
        return f"batches of {self.batch} images of all training classes"


@dataclasses.dataclass(frozen=True)
class Functions:
    """Tasks of a family of functions.

    Attributes:
        source: the functions, or the images that the tasks are drawn from.
        family: `ClassPool or None -> keras_meta.tasks.TaskFamily`.
        shots: support points of a test task, and of a training task if
            `training_shots` is None.
        queries: query points of a training task.
        training_shots: `(low, high)`, drawn for each meta-step.
        block: the tasks in a meta-step, if `training_shots` is given.
        test_queries: query points of a test task.
        metric: "mse", "nll" or "accuracy".
        inputs: the kind of x: "curves" (a number), "points" or "pixels" (a place in an
            image).
    """

    source: sources.Source
    family: collections.abc.Callable
    shots: int = 10
    queries: int = 10
    training_shots: tuple[int, int] | None = None
    block: int = 1
    test_queries: int = 100
    metric: str = "mse"
    inputs: str = "curves"
    ways = None

    def episodes(self, preprocess, seed):
        """`{part: start -> endless dataset}` for "train" and "validation"."""
        pools = self.source.pools(preprocess)

        def tasks(part, shots, queries):
            family = self.family(pools[part])
            return lambda start=0: family.episodes(
                shots, queries, seed + sources.PART_SEEDS[part], start, self.block
            )

        return {
            "train": tasks("train", self.training_shots or self.shots, self.queries),
            "validation": tasks("validation", self.shots, self.test_queries),
        }

    def test_episodes(self, preprocess, test_classes, ways, shots, queries, seed):
        """The endless dataset of unseen tasks."""
        pool = self.source.load and self.source.load(preprocess, test_classes)
        return self.family(pool).episodes(
            shots, queries, seed + sources.PART_SEEDS["test"]
        )

    def __str__(self):
        shots = self.training_shots or (self.shots, self.shots)
        return (
            f"training on tasks of {'-'.join(map(str, dict.fromkeys(shots)))} points "
            f"and {_queries(self.queries)}; tests on tasks of {self.shots} points"
        )
