"""Scores of zoo entries on reproducible test episodes, and their comparison."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_meta import zoo
from keras_meta.typing_names import StrPath
from keras_meta.zoo import folders, intervals, named, recipes

if TYPE_CHECKING:
    import tensorflow as tf

    from keras_meta.images import ImagePreprocess
    from keras_meta.learner import Learner
    from keras_meta.learners.sequence import SequenceLearner
    from keras_meta.zoo.recipes.schema import Recipe

# Candidates of `temperature`, 5% apart.
TEMPERATURES = np.exp(np.linspace(-3, 4, 141))
# Tasks in a batch: enough to use all cores, few enough for the memory.
BATCH = 20


def evaluate(
    name: str,
    episodes: int = 1000,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    seed: int = 0,
    normalization: str | None = None,
    temperature: float | None = None,
    learner: Learner | None = None,
    first: int = 0,
) -> dict[str, Any]:
    """Scores an entry on episodes of unseen classes.

    Args:
        name: of a trained entry.
        episodes: how many; episode i is a pure function of (seed, i).
        ways: classes in an episode, by default as trained; may be fewer.
        shots: support examples of each class (points, for regression), by default as
            trained.
        queries: query examples of each class (points); by default `test_queries` of the
            entry's task.
        seed: of the episodes.
        normalization: by default as trained.
        temperature: `tempered` divides the logits by it.
        learner: the learner to score, of the entry's kind; by default the entry itself.
        first: index of the first episode.

    Returns:
        A dict: model, metric ("accuracy" as a share, "mse" or "nll"), mean, interval
        (half the width of the 95% interval over tasks), calibration (the expected
        calibration error; None for regression and strings), tempered (the same at
        `temperature`), temperature, first, episodes, seed, ways, shots, queries,
        normalization, seconds for each task, tasks, the score of each task, and bins,
        the sums that the calibration error is computed from (`merged` adds them).

    Raises:
        ValueError: no such entry, more ways than it has outputs, or data that are not
            available.
    """
    card = zoo.card(name)
    task = recipes.recipe(name).task
    if ways and card.ways is None:
        raise ValueError(f"expected no ways for {name}, whose tasks have no classes.")
    check_episodes(episodes)
    ways, shots = ways or card.ways, shots or card.shots
    queries = queries or task.test_queries
    learner = normalized(learner or zoo.load(name), normalization)
    if ways:
        named.check_ways(learner, name, ways)
    classes = learner.preprocess, card.test_classes
    learner, encode = on_features(learner)
    data = task.test_episodes(*classes, ways, shots, queries, seed, **encode)
    sizes = {"seed": seed, "ways": ways, "shots": shots, "queries": queries}
    return measure(
        learner, name, data, episodes, task.metric, temperature, first, **sizes
    )


def on_features(learner: Learner) -> tuple[Learner, dict[str, Any]]:
    """Returns the learner of `transfer.on_features`, and the argument for its data."""
    from keras_meta.zoo import transfer

    encoder, learner = transfer.on_features(learner)
    return learner, {"encode": encoder} if encoder else {}


def check_episodes(count: int) -> None:
    """Raises ValueError if there are too few episodes for an interval."""
    if count < 2:
        raise ValueError(f"expected at least 2 episodes, got {count}.")


def evaluate_folder(
    name: str,
    directory: StrPath,
    episodes: int = 1000,
    ways: int | None = None,
    shots: int | None = None,
    queries: int | None = None,
    seed: int = 0,
    first: int = 0,
    learner: Learner | None = None,
) -> dict[str, Any]:
    """Scores an entry on tasks of a user's own classes.

    Args:
        name: of a trained entry of images, or of a `.keras` file of such a learner.
        directory: a folder with a sub-folder of images for each class.
        episodes, seed, first: see `evaluate`.
        shots: by default as trained, or 1 for a file.
        ways: by default as trained, or 5 for a file; all classes if the folder has
            fewer.
        queries: of each class; by default `test_queries` of the entry's task, or 15 for
            a file; fewer if the smallest class has fewer images besides the support
            examples.
        learner: the learner of that name, if it is loaded already.

    Returns:
        A dict, see `evaluate`.

    Raises:
        ValueError: no such entry or file, or a learner of another kind; more ways than
            it has outputs; too few classes or images, or a file that is no image.
    """
    from keras_meta import ClassPool

    learner = learner or named.image_learner(name)
    trained, images, tested = 5, 1, 15
    if not named.is_file(name):
        card, task = zoo.card(name), recipes.recipe(name).task
        trained, images = card.ways or trained, card.shots
        tested = task.test_queries
    shots = shots or images
    pool = ClassPool.from_directory(directory, learner.preprocess)
    folders.check_classes(len(pool), directory)
    most = trained if learner.label_shape else learner.output_size or trained
    ways = ways or min(trained, most, len(pool))
    named.check_ways(learner, name, ways)
    queries = queries or max(min(tested, min(pool.sizes) - shots), 1)
    labels = "strings" if learner.label_shape else "onehot"
    data = pool.episodes(ways, shots, queries, seed, labels=labels)
    data = data.map(inverted_by_support(learner.preprocess))
    sizes = {"seed": seed, "ways": ways, "shots": shots, "queries": queries}
    return measure(learner, name, data, episodes, "accuracy", first=first, **sizes)


def inverted_by_support(prepare: ImagePreprocess) -> Callable[..., Any]:
    """Inverts the images of an episode if its support set has the other kind of ink.

    Args:
        prepare: the `ImagePreprocess` of the episode; see `ImagePreprocess.pair`.

    Returns:
        A function for `Dataset.map` on episodes.
    """

    def paired(episode, query_y):
        x = prepare.pair(
            *(prepare.unscale(episode[key])[None] for key in ("support_x", "query_x"))
        )
        return {**episode, "support_x": x[0][0], "query_x": x[1][0]}, query_y

    return paired


def normalized(learner: Learner, normalization: str | None) -> Learner:
    """The learner, or a copy with another normalization.

    Raises:
        ValueError: a learner without a choice of normalization.
    """
    from keras_meta import keras_private

    if normalization in (None, learner.normalization):
        return learner
    if "normalization" not in learner.get_config():
        raise ValueError(
            f"expected {learner.normalization} of a {type(learner).__name__}, which "
            f"has no other normalization, got {normalization}."
        )
    return keras_private.copy_of(learner, normalization=normalization)


def predictions(
    learner: Learner, data: tf.data.Dataset
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields `(labels or targets, outputs)` of each batch, as arrays."""
    from keras_meta.learner import stacked

    for episode, query_y in data:
        state = learner.adapt(episode["support_x"], episode["support_y"])
        outputs = learner.infer(state, episode["query_x"])
        yield query_y.numpy(), stacked(outputs).numpy()


def measure(
    learner: Learner,
    name: str,
    data: tf.data.Dataset,
    episodes: int,
    metric: str,
    temperature: float | None = None,
    first: int = 0,
    **sizes: int | None,
) -> dict[str, Any]:
    """A learner's score on episodes of `data`, see `evaluate`.

    Args:
        learner: the learner to score.
        name: of the model.
        data: a dataset of episodes.
        episodes: how many.
        metric: "accuracy", "mse" or "nll".
        temperature, first: see `evaluate`.
        **sizes: seed, ways, shots and queries, which are copied to the result.
    """
    from keras_meta import metrics

    began = time.perf_counter()
    kind = {
        "accuracy": metrics.EpisodeAccuracy,
        "mse": metrics.EpisodeSquaredError,
        "nll": metrics.EpisodeNLL,
    }[metric]()
    errors = {}
    if learner.classification and not learner.label_shape:
        errors["calibration"] = metrics.CalibrationError()
        if temperature:
            errors["tempered"] = metrics.CalibrationError(temperature=temperature)
    tasks = []
    data = data.skip(first).take(episodes)
    for query_y, outputs in predictions(learner, data.batch(BATCH)):
        tasks.append(np.asarray(kind.score(query_y, outputs)))
        for error in errors.values():
            error.update_state(query_y, outputs)
    scores = np.concatenate(tasks).astype("float64")
    mean, interval = intervals.summary(scores)
    return {
        "model": name,
        "metric": metric,
        "mean": mean,
        "interval": interval,
        "calibration": None,
        "tempered": None,
        **{name: float(error.result()) for name, error in errors.items()},
        "temperature": temperature,
        "first": first,
        "episodes": episodes,
        **sizes,
        "normalization": learner.normalization,
        "seconds": (time.perf_counter() - began) / episodes,
        "tasks": scores,
        "bins": {
            name: [error.count.numpy(), error.excess.numpy()]
            for name, error in errors.items()
        },
    }


def by_presentation(
    learner: SequenceLearner, batches: Iterable[tuple[Any, Any]], presentations: int
) -> np.ndarray:
    """A sequence learner's accuracy at the 1st, 2nd, ... presentation of a class.

    Args:
        learner: a `SequenceLearner` of classes.
        batches: of episodes, whose support sets are the sequences.
        presentations: the number of presentations of a class.

    Returns:
        Accuracy of each sequence, `[tasks, presentations]`.
    """
    from keras_meta import metrics

    rows = []
    for episode, _ in batches:
        outputs = learner.sequence(episode["support_x"], episode["support_y"])
        scores = [
            metrics.PresentationAccuracy(k + 1).score(episode["support_y"], outputs)
            for k in range(presentations)
        ]
        rows.append(np.stack(scores, 1))
    return np.concatenate(rows).astype("float64")


# Two figures of one data set with equal values of these have the same tasks.
SHARED = ("ways", "shots", "queries", "seed", "episodes", "normalization")


def key(figure: Mapping[str, Any]) -> str:
    """The name of a figure's task scores in `tasks.npz`."""
    return " ".join(str(figure[name]) for name in SHARED)


def against_maml(
    cards: Iterable[zoo.Card],
) -> Iterator[tuple[str, str, dict[str, Any], float, float]]:
    """Compares each entry with MAML on the tasks that both were scored on.

    Args:
        cards: of entries; `tasks.npz` beside a card has the scores of its tasks, by the
            `key` of the figure.

    Yields:
        `(model, MAML's entry, figure, mean, half-width)`: the model's figure of these
        tasks, and the mean and half-width of the paired difference.
    """
    scored: dict[Any, list[Any]] = {}
    for card in cards:
        path = card.directory / "tasks.npz"
        if path.exists():
            with np.load(path) as tasks:
                for figure in card.figures:
                    place = card.source, figure["metric"], key(figure)
                    row = card, figure, tasks[key(figure)]
                    scored.setdefault(place, []).append(row)
    for rows in scored.values():
        bases = [row for row in rows if row[0].learner == "MAML"]
        if not bases:
            continue
        # If there are two MAMLs: the one that was trained with this normalization.
        normalization = bases[0][1]["normalization"]
        alike = [row for row in bases if row[0].normalization == normalization]
        base, _, base_tasks = (alike or bases)[0]
        for card, figure, tasks in rows:
            if card.name != base.name:
                difference = intervals.difference(tasks, base_tasks)
                yield card.name, base.name, figure, *intervals.summary(difference)


def has_temperature(learner: Learner) -> bool:
    """Whether `temperature` applies: string labels have five distributions a query."""
    return learner.classification and not learner.label_shape


def temperature(learner: Learner, recipe: Recipe, tasks: int = 200) -> float:
    """The temperature of a learner's logits with the highest validation likelihood.

    Args:
        learner: of the recipe, trained; see `has_temperature`.
        recipe: of an entry.
        tasks: validation tasks.

    Returns:
        The divisor of the logits that `learner.infer` returns now: 1 if its own
        `temperature` is the best.

    Raises:
        ValueError: data that are not available.
    """
    import tensorflow as tf

    preprocess = learner.preprocess
    learner, encode = on_features(learner)
    data = recipe.task.episodes(preprocess, recipe.seed, **encode)["validation"]()
    pairs = list(predictions(learner, data.take(tasks).batch(BATCH)))
    labels = np.concatenate([y.ravel() for y, _ in pairs])
    logits = np.concatenate([z.reshape(-1, z.shape[-1]) for _, z in pairs])
    logits = logits.astype("float64")
    right = logits[np.arange(len(labels)), labels]
    losses = [
        np.mean(tf.reduce_logsumexp(logits / choice, -1) - right / choice)
        for choice in TEMPERATURES
    ]
    return float(TEMPERATURES[np.argmin(losses)])


def protocol(figure: Mapping[str, Any]) -> str:
    """The tasks of a figure in words, such as `5 ways, 1 shot`."""
    shots = figure["shots"]
    words = f"{shots} points"
    if figure["ways"]:
        words = f"{figure['ways']} ways, {shots} shot{'s' * (shots != 1)}"
    return f"{words}, Lake's" if figure.get("protocol") == "lake" else words


def sentence(score: Mapping[str, Any]) -> str:
    """A score in words, such as `98.50% ± 0.12%`."""
    if score["metric"] == "accuracy":
        return f"{100 * score['mean']:.2f}% ± {100 * score['interval']:.2f}%"
    mean, interval = f"{score['mean']:.4f}", f"{score['interval']:.4f}"
    if abs(score["mean"]) < 1e-3:
        mean, interval = f"{score['mean']:.2g}", f"{score['interval']:.1g}"
    return f"{score['metric']} {mean} ± {interval}"
