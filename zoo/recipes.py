"""Recipes: how each zoo entry is trained. Importing this needs no TensorFlow."""

import collections.abc
import dataclasses

MAML_PAPER = (
    "Finn, Abbeel and Levine, Model-Agnostic Meta-Learning for Fast Adaptation of Deep "
    "Networks, ICML 2017, arXiv 1703.03400"
)
REPTILE_PAPER = (
    "Nichol, Achiam and Schulman, On First-Order Meta-Learning Algorithms, 2018, arXiv "
    "1803.02999"
)
IMAML_PAPER = (
    "Rajeswaran, Finn, Kakade and Levine, Meta-Learning with Implicit Gradients, "
    "NeurIPS 2019, arXiv 1909.04630"
)
META_SGD_PAPER = (
    "Li, Zhou, Chen and Li, Meta-SGD: Learning to Learn Quickly for Few-Shot Learning, "
    "2017, arXiv 1707.09835"
)
ANIL_PAPER = (
    "Raghu, Raghu, Bengio and Vinyals, Rapid Learning or Feature Reuse? Towards "
    "Understanding the Effectiveness of MAML, ICLR 2020, arXiv 1909.09157"
)
SHRINKAGE_PAPER = (
    "Chen, Friesen, Behbahani, Doucet, Budden, Hoffman and de Freitas, Modular "
    "Meta-Learning with Shrinkage, NeurIPS 2020, arXiv 1909.05557"
)

# Episode streams of one recipe must not overlap, whatever its seed.
PART_SEEDS = {"train": 0, "validation": 1_000_000, "test": 2_000_000}


@dataclasses.dataclass(frozen=True)
class Source:
    """A pool of classes and its split into training, validation and test classes."""

    title: str
    licence: str
    sizes: tuple[int, int, int]
    load: collections.abc.Callable  # preprocess, label ids or None -> ClassPool
    rotations: bool = True


def _tfds(name):
    def load(preprocess, ids):
        import keras_meta as km

        pool = km.ClassPool.from_tfds(name, "train+test", preprocess)
        return pool if ids is None else pool.select(ids)

    return load


def _glyphs(preprocess, ids):
    import keras_meta as km

    return km.tasks.glyphs(1300 if ids is None else ids, prepare=preprocess)


OMNIGLOT = Source(
    "Omniglot (TFDS omniglot, train+test): 1100 characters to train, 100 to validate, "
    "423 to test, drawn with seed 0 over all 1623; 28x28; quarter turns as new classes "
    "while training",
    "MIT, Brenden Lake",
    (1100, 100, 423),
    _tfds("omniglot"),
)
GLYPHS = Source(
    "procedural glyphs (keras_meta.tasks.glyphs, seed 0): 1000 characters to train, "
    "100 to validate, 200 to test; 28x28; quarter turns as new classes while training",
    "Apache-2.0, drawn by this project's own code",
    (1000, 100, 200),
    _glyphs,
)
CIFAR100 = Source(
    "CIFAR-100 (TFDS cifar100, train+test): 64 classes to train, 16 to validate, 20 to "
    "test, drawn with seed 0",
    "unstated by its authors (Krizhevsky, 2009); for research",
    (64, 16, 20),
    _tfds("cifar100"),
    rotations=False,
)


@dataclasses.dataclass(frozen=True)
class Classification:
    """N-way K-shot episodes from a source."""

    source: Source
    ways: int = 5
    shots: int = 1
    queries: int = 5  # of each class, while training
    training_shots: int | None = None  # in place of shots, while training
    test_queries: int = 15
    metric: str = "accuracy"

    def pools(self, preprocess):
        """`{part: ClassPool}` of disjoint classes."""
        pool = self.source.load(preprocess, None)
        train, validation, test = pool.split_classes(*self.source.sizes, seed=0)
        if self.source.rotations:
            train = train.with_rotations()
        return {"train": train, "validation": validation, "test": test}

    def episodes(self, preprocess, seed):
        """`{part: start -> endless dataset}` for "train" and "validation"."""
        pools = self.pools(preprocess)

        def of(part, shots, queries):
            return lambda start=0: pools[part].episodes(
                self.ways, shots, queries, seed + PART_SEEDS[part], start
            )

        return {
            "train": of("train", self.training_shots or self.shots, self.queries),
            "validation": of("validation", self.shots, self.test_queries),
        }

    def test_episodes(self, preprocess, test_classes, ways, shots, queries, seed):
        """The endless dataset of episodes of unseen classes."""
        pool = self.source.load(preprocess, test_classes)
        return pool.episodes(ways, shots, queries, seed + PART_SEEDS["test"])

    def test_classes(self, preprocess):
        return [int(i) for i in self.pools(preprocess)["test"].class_ids]

    def __str__(self):
        shots = f"{self.training_shots} shots and " if self.training_shots else ""
        return (
            f"{self.ways}-way {self.shots}-shot, {shots}{self.queries} queries a class "
            f"while training, {self.test_queries} queries in tests"
        )


@dataclasses.dataclass(frozen=True)
class Sinusoid:
    """Regression of sinusoids, as MAML has it."""

    ways = None
    shots: int = 10
    queries: int = 10
    test_queries: int = 100
    metric: str = "mse"
    source = Source(
        "sinusoids drawn on the fly: amplitude in [0.1, 5], phase in "
        "[0, pi], x in [-5, 5]",
        "none: generated",
        (),
        None,
    )

    def episodes(self, preprocess, seed):
        def of(part, queries):
            return lambda start=0: self._stream(
                self.shots, queries, seed + PART_SEEDS[part], start
            )

        return {
            "train": of("train", self.queries),
            "validation": of("validation", self.test_queries),
        }

    def test_episodes(self, preprocess, test_classes, ways, shots, queries, seed):
        return self._stream(shots, queries, seed + PART_SEEDS["test"], 0)

    def _stream(self, shots, queries, seed, start):
        import keras_meta as km

        return km.tasks.sinusoid().episodes(shots, queries, seed, start)

    def test_classes(self, preprocess):
        return None

    def __str__(self):
        return f"{self.shots} points, {self.queries} queries while training"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that `tools/train.py` needs to train an entry.

    Attributes:
        learner: makes the untrained learner.
        task: its episodes.
        paper: of the algorithm.
        steps: meta-steps.
        tasks: tasks in a meta-step.
        rate: of the optimizer, brought to zero by a cosine.
        average: momentum of the moving average of the weights that is kept.
        warm_start: the entry whose weights to start from, if any.
        optimizer: the name of the meta-optimizer.
        seed: of the weights and the episodes.
    """

    learner: collections.abc.Callable
    task: Classification | Sinusoid
    paper: str
    steps: int
    tasks: int = 16
    rate: float = 1e-3
    average: float = 0.999
    warm_start: str | None = None
    optimizer: str = "adam"
    seed: int = 0


def _drawn(kind, ways=5, normalization="transductive", **settings):
    """Makes learners of 28x28 drawn characters with MAML's network.

    Settings are those of `kind`; by default MAML's in its section 5.2: one inner step
    at rate 0.4 to train, three to test.
    """
    settings = {
        "inner_rate": 0.4,
        "inner_steps": 1,
        "evaluation_steps": 3,
        "normalization": normalization,
        **settings,
    }

    def learner():
        import keras_meta as km

        return getattr(km, kind)(
            km.networks.conv4((28, 28, 1), outputs=ways),
            preprocess=km.ImagePreprocess(28, 28, 1, invert=True),
            **settings,
        )

    return learner


def _coloured():
    import keras_meta as km

    return km.MAML(
        km.networks.conv4((32, 32, 3), outputs=5),
        inner_rate=0.01,
        inner_steps=5,
        evaluation_steps=10,
        preprocess=km.ImagePreprocess(32, 32, 3, invert=False),
    )


def _sinusoid(kind, **settings):
    def learner():
        import keras_meta as km

        return getattr(km, kind)(
            km.networks.mlp(),
            "mse",
            inner_rate=0.01,
            inner_steps=5,
            evaluation_steps=10,
            **settings,
        )

    return learner


OMNIGLOT_5W1S = Classification(OMNIGLOT)
OMNIGLOT_20W1S = Classification(OMNIGLOT, ways=20, queries=3)
# Reptile and its sigma form learn from what adapting did: from more than one shot.
OMNIGLOT_5W5S_5W1S = Classification(OMNIGLOT, training_shots=5)

RECIPES = {
    "maml.omniglot_5w1s": Recipe(
        _drawn("MAML"), OMNIGLOT_5W1S, MAML_PAPER, steps=25_000
    ),
    "maml.omniglot_5w1s-inductive": Recipe(
        _drawn("MAML", normalization="inductive"),
        OMNIGLOT_5W1S,
        MAML_PAPER,
        steps=6_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "fomaml.omniglot_5w1s": Recipe(
        _drawn("FOMAML"),
        OMNIGLOT_5W1S,
        MAML_PAPER,
        steps=6_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "reptile.omniglot_5w1s": Recipe(
        _drawn(
            "Reptile",
            inner_optimizer="adam",
            inner_rate=1e-3,
            inner_steps=5,
            evaluation_steps=50,
        ),
        OMNIGLOT_5W1S,
        REPTILE_PAPER,
        steps=6_000,
        tasks=5,
        optimizer="sgd",
        rate=1.0,
        warm_start="maml.omniglot_5w1s",
    ),
    "imaml.omniglot_5w1s": Recipe(
        _drawn("IMAML", inner_steps=16, evaluation_steps=16, regularization=2.0),
        OMNIGLOT_5W1S,
        IMAML_PAPER,
        steps=3_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "meta_sgd.omniglot_5w1s": Recipe(
        _drawn("MetaSGD"),
        OMNIGLOT_5W1S,
        META_SGD_PAPER,
        steps=6_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "anil.omniglot_5w1s": Recipe(
        _drawn("ANIL"),
        OMNIGLOT_5W1S,
        ANIL_PAPER,
        steps=6_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "sigma_maml.omniglot_5w1s": Recipe(
        _drawn("SigmaMAML", initial_scale=2.0),
        OMNIGLOT_5W1S,
        SHRINKAGE_PAPER,
        steps=6_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "sigma_maml.omniglot_5w1s-inductive": Recipe(
        _drawn("SigmaMAML", normalization="inductive"),
        OMNIGLOT_5W1S,
        SHRINKAGE_PAPER,
        steps=6_000,
        warm_start="sigma_maml.omniglot_5w1s",
    ),
    "sigma_imaml.omniglot_5w1s": Recipe(
        # The scale that makes it iMAML with lambda = 2 at five examples, to begin with.
        _drawn(
            "SigmaIMAML",
            inner_steps=16,
            evaluation_steps=16,
            initial_scale=0.1**0.5,
        ),
        OMNIGLOT_5W1S,
        SHRINKAGE_PAPER,
        steps=3_000,
        warm_start="imaml.omniglot_5w1s",
    ),
    "sigma_reptile.omniglot_5w1s": Recipe(
        _drawn("SigmaReptile", inner_rate=0.1, inner_steps=5, evaluation_steps=20),
        OMNIGLOT_5W5S_5W1S,
        SHRINKAGE_PAPER,
        steps=6_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "maml.omniglot_20w1s": Recipe(
        _drawn("MAML", 20, inner_rate=0.1, inner_steps=5, evaluation_steps=10),
        OMNIGLOT_20W1S,
        MAML_PAPER,
        steps=10_000,
        warm_start="maml.omniglot_5w1s",
    ),
    "anil.omniglot_20w1s": Recipe(
        _drawn("ANIL", 20, inner_rate=0.1, inner_steps=5, evaluation_steps=10),
        OMNIGLOT_20W1S,
        ANIL_PAPER,
        steps=5_000,
        warm_start="maml.omniglot_20w1s",
    ),
    "sigma_maml.omniglot_20w1s": Recipe(
        _drawn("SigmaMAML", 20, inner_rate=0.1, inner_steps=5, evaluation_steps=10),
        OMNIGLOT_20W1S,
        SHRINKAGE_PAPER,
        steps=4_000,
        warm_start="maml.omniglot_20w1s",
    ),
    "maml.glyphs_5w1s-inductive": Recipe(
        _drawn("MAML", normalization="inductive"),
        Classification(GLYPHS),
        MAML_PAPER,
        steps=6_000,
    ),
    "maml.sinusoid": Recipe(
        _sinusoid("MAML"), Sinusoid(), MAML_PAPER, steps=30_000, tasks=25
    ),
    "sigma_maml.sinusoid": Recipe(
        _sinusoid("SigmaMAML"),
        Sinusoid(),
        SHRINKAGE_PAPER,
        steps=15_000,
        tasks=25,
        warm_start="maml.sinusoid",
    ),
    "maml.cifar100_5w1s": Recipe(
        _coloured, Classification(CIFAR100), MAML_PAPER, steps=30_000
    ),
}


def recipe(name):
    """The recipe of an entry.

    Raises:
        ValueError: no such recipe.
    """
    if name not in RECIPES:
        raise ValueError(
            f"expected the name of a recipe ({', '.join(RECIPES)}), got '{name}'."
        )
    return RECIPES[name]
