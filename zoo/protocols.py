"""What a recipe is made of: how tasks are drawn, and `Recipe`.

Importing this needs no TensorFlow.
"""

import collections.abc
import dataclasses
import itertools

from keras_meta.zoo import sources


def augmented(augment, preprocess):
    """Changes the images of an episode at random, for `episodes.seeded_map`.

    Args:
        augment: of `keras_meta.augmentation.apply`.
        preprocess: the `ImagePreprocess` that the images came through, or None. Its
            `mean` and `deviation` apply to the changed images.
    """
    import tensorflow as tf

    def function(seed, episode, query_y):
        seeds = tf.unstack(tf.random.split(seed, 2))
        keys = "support_x", "query_x"
        changed = {
            key: _changed(episode[key], own, augment, preprocess)
            for key, own in zip(keys, seeds, strict=True)
        }
        return {**episode, **changed}, query_y

    return function


def _changed(x, seed, augment, preprocess):
    """Augmented images x, which came through `preprocess`, if that is not None."""
    from keras_meta import augmentation

    if preprocess is None:
        return augmentation.apply(x, seed, augment)
    tones = augmentation.apply(preprocess.tones(x), seed, augment)
    return preprocess.standardize(tones)


def _queries(count):
    return f"{count} quer{'y' if count == 1 else 'ies'}"


@dataclasses.dataclass(frozen=True)
class Classification:
    """N-way K-shot episodes from a source."""

    source: sources.Source
    ways: int = 5
    shots: int = 1
    queries: int = 5  # of each class, while training
    # In place of ways and shots, while training.
    training_ways: int | None = None
    training_shots: int | None = None
    # `(ways, shots, tasks)` of what training begins with, one after the other.
    curriculum: tuple[tuple[int, int, int], ...] = ()
    test_queries: int = 15
    labels: str = "onehot"
    # Of `keras_meta.augmentation.apply`, for each image while training.
    augment: dict | None = None
    metric = "accuracy"

    @property
    def inputs(self):
        return "images" if self.labels == "onehot" else "images with string labels"

    def episodes(self, preprocess, seed, encode=None):
        """`{part: start -> endless dataset}` for "train" and "validation".

        With `encode`, of what it makes of the images.
        """
        from keras_meta import episodes

        pools = self.source.pools(preprocess)
        if encode:
            parts = "train", "validation"
            pools = {part: pools[part].encoded(encode) for part in parts}

        def of(ways, shots, queries):
            return lambda start=0: pools["train"].episodes(
                ways, shots, queries, seed, start, labels=self.labels
            )

        asked = self.training_ways or self.ways, self.training_shots or self.shots
        ends = [0, *itertools.accumulate(count for *_, count in self.curriculum)]

        def train(start=0):
            data = of(*asked, self.queries)(max(start, ends[-1]))
            stages = zip(self.curriculum, ends, ends[1:], strict=False)
            for (ways, shots, _), first, end in reversed(list(stages)):
                begin = max(start, first)
                stage = of(ways, shots, self.queries)(begin)
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

        return {"train": train, "validation": self.validation(pools, seed)}

    def validation(self, pools, seed):
        """`start -> endless dataset` of validation episodes from some pools."""
        groups = self.source.groups(pools["validation"])
        return lambda start=0: pools["validation"].episodes(
            self.ways,
            self.shots,
            self.test_queries,
            seed + sources.PART_SEEDS["validation"],
            start,
            groups,
            self.labels,
        )

    def test_episodes(self, preprocess, test_classes, ways, shots, queries, seed):
        """The endless dataset of episodes of unseen classes."""
        pool = self.source.load(preprocess, test_classes)
        return pool.episodes(
            ways, shots, queries, seed + sources.PART_SEEDS["test"], labels=self.labels
        )

    def __str__(self):
        ways = f"{self.training_ways} ways, " if self.training_ways else ""
        shots = f"{self.training_shots} shots, " if self.training_shots else ""
        for stage in self.curriculum:
            shots += "{} ways and {} shots in {} tasks at first, ".format(*stage)
        strings = ", labels of five characters" if self.labels == "strings" else ""
        augment = ", images changed at random while training" if self.augment else ""
        return (
            f"{self.ways}-way {self.shots}-shot, {ways}{shots}{_queries(self.queries)} "
            f"a class while training{augment}, {_queries(self.test_queries)} in tests"
            f"{strings}"
        )


@dataclasses.dataclass(frozen=True)
class Supervised:
    """Batches of labelled images of the training classes, all in one classification.

    Validation is that of the task which training is for. An element of the training
    data is an episode whose support set and queries are the same batch, for learners
    such as `supervised.Supervised`.

    Attributes:
        task: a `Classification`: its source, validation and augmentation are used.
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
                        _changed(x, seed, self.task.augment, preprocess),
                        y,
                    ),
                    seed + sources.AUGMENTATION_SEED,
                    start,
                )
            return data.map(
                lambda x, y: ({"support_x": x, "support_y": y, "query_x": x}, y)
            )

        return {"train": train, "validation": self.task.validation(pools, seed)}

    def __str__(self):
        return f"batches of {self.batch} images of all training classes"


@dataclasses.dataclass(frozen=True)
class Functions:
    """Tasks of a family of functions.

    Attributes:
        source: what they are, or are made of.
        family: `ClassPool or None -> keras_meta.tasks.TaskFamily`.
        shots: support points of a test, and while training if `training_shots` is None.
        queries: query points while training.
        training_shots: `(low, high)`, drawn for each meta-step.
        block: the tasks in a meta-step, if `training_shots` is given.
        test_queries: query points in tests.
        metric: "mse", "nll" or "accuracy".
        inputs: what x is: "curves" (a number), "points" or "pixels" (their places).
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
        pools = self.source.pools(preprocess)

        def of(part, shots, queries):
            family = self.family(pools[part])
            return lambda start=0: family.episodes(
                shots, queries, seed + sources.PART_SEEDS[part], start, self.block
            )

        return {
            "train": of("train", self.training_shots or self.shots, self.queries),
            "validation": of("validation", self.shots, self.test_queries),
        }

    def test_episodes(self, preprocess, test_classes, ways, shots, queries, seed):
        pool = self.source.load and self.source.load(preprocess, test_classes)
        return self.family(pool).episodes(
            shots, queries, seed + sources.PART_SEEDS["test"]
        )

    def __str__(self):
        shots = self.training_shots or (self.shots, self.shots)
        return (
            f"{'-'.join(map(str, dict.fromkeys(shots)))} points and "
            f"{_queries(self.queries)} while training, {self.shots} points in tests"
        )


@dataclasses.dataclass(frozen=True)
class External:
    """Weights that Keras downloads on first use; nothing of them is in the zoo.

    Attributes:
        url: of the file.
        md5: of the file, by which Keras checks it; None where Keras has none.
        licence: of the weights.
    """

    url: str
    md5: str | None
    licence: str


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that `keras-meta train` needs to train an entry.

    Attributes:
        learner: makes the untrained learner.
        task: its episodes.
        paper: of the algorithm.
        steps: meta-steps.
        tasks: tasks in a meta-step.
        rate: of the optimizer, brought to zero by a cosine.
        average: momentum of the moving average of the weights that is kept.
        warm_start: the entry whose weights to start from, if any.
        adjust: changes the learner that has been given them, in place.
        optimizer: the name of the meta-optimizer.
        optimizer_settings: further arguments of it, if any.
        clip: the norm that longer gradients are cut to, if any.
        intra_op: threads inside an op; 2 where all tasks are one batch.
        seed: of the weights and the episodes.
        pretraining: the recipe of the stage before this one, if any, whose best weights
            this one begins from.
        external: where weights that are not trained here come from, see `External`.
    """

    learner: collections.abc.Callable
    task: Classification | Functions
    paper: str
    steps: int
    tasks: int = 16
    rate: float = 1e-3
    average: float = 0.999
    warm_start: str | None = None
    adjust: collections.abc.Callable | None = None
    optimizer: str = "adam"
    optimizer_settings: dict | None = None
    clip: float | None = None
    intra_op: int = 1
    seed: int = 0
    pretraining: "Recipe | None" = None
    external: External | None = None

    @property
    def stages(self):
        """The recipes to train one after another; the last one is this."""
        return (*(self.pretraining.stages if self.pretraining else ()), self)

    @property
    def protocol(self):
        """The episodes of all stages, a sentence."""
        return "; before that, ".join(str(stage.task) for stage in self.stages[::-1])
