"""Scores of zoo entries on replayable test episodes."""

import math
import time

import numpy as np

from keras_meta import zoo
from keras_meta.zoo import named, recipes

# Tasks scored at once: enough to keep the cores busy, few enough for any memory.
BATCH = 20


def evaluate(
    name,
    episodes=1000,
    ways=None,
    shots=None,
    queries=None,
    seed=0,
    normalization=None,
    temperature=None,
    learner=None,
):
    """Scores an entry on episodes of classes it has never seen.

    Args:
        name: of a trained entry.
        episodes: how many; episode i is a pure function of (seed, i).
        ways: classes in an episode, as trained by default; fewer are fine.
        shots: support examples of each class (points, for regression), as trained by
            default.
        queries: query examples of each class (points), 15 (100) by default.
        seed: of the episodes.
        normalization: in place of the one it was trained with.
        temperature: that logits are divided by for `tempered`.
        learner: the learner to score, of the entry's kind; the entry itself by default.

    Returns:
        A dict: model, metric ("accuracy" as a share, "mse" or "nll"), mean, interval
        (half the width of the 95% interval over tasks), calibration (the expected
        calibration error; None for regression and strings), tempered (the same at
        `temperature`), temperature, episodes, seed, ways, shots, queries,
        normalization, seconds spent on each task, and the score of each of the tasks.

    Raises:
        ValueError: no such entry, more ways than it knows, or data that cannot be had.
    """
    card = zoo.card(name)
    task = recipes.recipe(name).task
    if ways and card.ways is None:
        raise ValueError(
            f"expected no ways for {name}, whose tasks have no classes to choose."
        )
    if episodes < 2:
        raise ValueError(f"expected at least 2 episodes, got {episodes}.")
    ways, shots = ways or card.ways, shots or card.shots
    queries = queries or task.test_queries
    learner = normalized(learner or zoo.load(name), normalization)
    if ways:
        named.check_ways(learner, name, ways)
    data = task.test_episodes(
        learner.preprocess, card.test_classes, ways, shots, queries, seed
    )
    asked = {"seed": seed, "ways": ways, "shots": shots, "queries": queries}
    return measure(learner, name, data, episodes, task.metric, temperature, **asked)


def evaluate_folder(
    name, directory, episodes=1000, ways=None, shots=None, queries=None, seed=0
):
    """Scores an entry on tasks of a user's own classes.

    Args:
        name: of a trained entry of images, or of a `.keras` file of such a learner.
        directory: a folder with a sub-folder of images for each class.
        episodes, seed: as of `evaluate`.
        shots: by default as trained, and 1 for a file.
        ways: by default as trained, and 5 for a file, or all classes where there are
            fewer.
        queries: by default 15 of each class, or as many as the smallest class has
            besides the support examples.

    Returns:
        A dict as `evaluate` gives it.

    Raises:
        ValueError: no such entry or file, or one that does not learn images; more ways
            than it has outputs; too few classes or images, or a file that is no image.
    """
    from keras_meta import ClassPool

    learner = named.image_learner(name)
    trained, images, tested = 5, 1, 15
    if not named.is_file(name):
        card, task = zoo.card(name), recipes.recipe(name).task
        trained, images, tested = card.ways, card.shots, task.test_queries
    shots = shots or images
    pool = ClassPool.from_directory(directory, learner.preprocess)
    if len(pool) < 2:
        raise ValueError(
            f"expected at least two sub-folders of images in {directory}, one for each "
            f"class, found {len(pool)}."
        )
    most = trained if learner.label_shape else learner.output_size or trained
    ways = ways or min(trained, most, len(pool))
    named.check_ways(learner, name, ways)
    queries = queries or max(min(tested, min(pool.sizes) - shots), 1)
    labels = "strings" if learner.label_shape else "onehot"
    data = pool.episodes(ways, shots, queries, seed, labels=labels)
    data = data.map(as_users_have_them(learner.preprocess))
    asked = {"seed": seed, "ways": ways, "shots": shots, "queries": queries}
    return measure(learner, name, data, episodes, "accuracy", **asked)


def as_users_have_them(prepare):
    """Prepares images by `pair`: the support set of an episode decides on inversion.

    Args:
        prepare: the `ImagePreprocess` that the episode came through.

    Returns:
        A function for `Dataset.map` on episodes.
    """

    def paired(episode, query_y):
        x = prepare.pair(
            *(prepare.unscale(episode[key])[None] for key in ("support_x", "query_x"))
        )
        return {**episode, "support_x": x[0][0], "query_x": x[1][0]}, query_y

    return paired


def normalized(learner, normalization):
    """The learner, or a copy of it that normalizes in another way.

    Raises:
        ValueError: a learner that has only one way.
    """
    if normalization in (None, learner.normalization):
        return learner
    config = learner.get_config()
    if "normalization" not in config:
        raise ValueError(
            f"expected {learner.normalization} of a {type(learner).__name__}, which "
            f"has no other normalization, got {normalization}."
        )
    copy = type(learner).from_config({**config, "normalization": normalization})
    copy.set_weights(learner.get_weights())
    return copy


def answers(learner, data):
    """Labels or targets and answers, batch by batch, as arrays."""
    from keras_meta.learner import stacked

    for episode, query_y in data:
        state = learner.adapt(episode["support_x"], episode["support_y"])
        outputs = learner.infer(state, episode["query_x"])

        yield query_y.numpy(), stacked(outputs).numpy()


def measure(learner, name, data, episodes, metric, temperature=None, **asked):
    """A learner's score on the first episodes of `data`; `asked` goes with it."""
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
    for query_y, outputs in answers(learner, data.take(episodes).batch(BATCH)):
        tasks.append(np.asarray(kind.score(query_y, outputs)))
        for error in errors.values():
            error.update_state(query_y, outputs)
    tasks = np.concatenate(tasks).astype("float64")
    mean, interval = summary(tasks)
    return {
        "model": name,
        "metric": metric,
        "mean": mean,
        "interval": interval,
        "calibration": None,
        "tempered": None,
        **{name: float(error.result()) for name, error in errors.items()},
        "temperature": temperature,
        "episodes": episodes,
        **asked,
        "normalization": learner.normalization,
        "seconds": (time.perf_counter() - began) / episodes,
        "tasks": tasks,
    }


def by_presentation(learner, batches, presentations):
    """A sequence learner's accuracy when a class is seen for the 1st, 2nd, ... time.

    Args:
        learner: a `SequenceLearner` of classes.
        batches: of episodes; their support sets are what it reads.
        presentations: of each class, how many.

    Returns:
        Shares of each sequence, `[tasks, presentations]`.
    """
    from keras_meta import metrics

    found = []
    for episode, _ in batches:
        answers = learner.sequence(episode["support_x"], episode["support_y"])
        scores = [
            metrics.PresentationAccuracy(k + 1).score(episode["support_y"], answers)
            for k in range(presentations)
        ]
        found.append(np.stack(scores, 1))
    return np.concatenate(found).astype("float64")


def summary(tasks):
    """Mean over tasks, and half the width of its 95% interval."""
    from keras_meta import metrics

    tasks = np.asarray(tasks, "float64")
    deviation = tasks.std(ddof=1) / len(tasks) ** 0.5
    return float(tasks.mean()), float(metrics.Z95 * deviation)


def chance(mean, interval):
    """The two-sided probability of so large a mean where the true one is zero.

    Args:
        mean: over tasks.
        interval: half the width of its 95% interval.
    """
    from keras_meta import metrics

    if interval == 0:
        return float(mean == 0)
    return math.erfc(abs(mean) * metrics.Z95 / interval / 2**0.5)


def holm(chances):
    """Holm's correction of the p-values of several comparisons, in their order.

    Reference:
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.
    """
    order = np.argsort(chances, kind="stable")
    factors = np.arange(len(chances), 0, -1)
    adjusted = np.maximum.accumulate(np.asarray(chances)[order] * factors)
    found = np.empty(len(chances))
    found[order] = np.minimum(adjusted, 1)
    return found.tolist()


def over_seeds(pairs):
    """Whether one method is better than another: "better", "worse" or "open".

    Args:
        pairs: `(mean, half-width)` of the paired difference in each training seed. It
            is "better" if every interval lies above zero, and "worse" if below.
    """
    if pairs and all(mean > width for mean, width in pairs):
        return "better"
    if pairs and all(mean < -width for mean, width in pairs):
        return "worse"
    return "open"


def proportion(right, count):
    """The 95% interval of a share, `(low, high)` (Wilson, 1927)."""
    from keras_meta import metrics

    z = metrics.Z95**2 / count
    centre, spread = right / count + z / 2, right / count * (1 - right / count)
    width = (z * spread + z**2 / 4) ** 0.5
    return (centre - width) / (1 + z), (centre + width) / (1 + z)


def summaries(values):
    """The `summary` of each column of `[tasks, K]`: means and half-widths, `[2, K]`."""
    return np.transpose([summary(each) for each in np.transpose(values)])


def difference(tasks, others):
    """How much more one entry scores than another, task by task, `[T, ...]`.

    Args:
        tasks, others: scores of the same tasks in the same order, `[T, ...]`.

    Raises:
        ValueError: they are not of as many tasks.
    """
    tasks, others = np.asarray(tasks, "float64"), np.asarray(others, "float64")
    if tasks.shape != others.shape:
        raise ValueError(
            f"expected scores of the same tasks, got {list(tasks.shape)} and "
            f"{list(others.shape)}."
        )
    return tasks - others


# What two figures of one data set must share for their tasks to be the same.
SHARED = ("ways", "shots", "queries", "seed", "episodes", "normalization")


def key(figure):
    """The name in `tasks.npz` of the scores that a figure is of."""
    return " ".join(str(figure[name]) for name in SHARED)


def against_maml(cards):
    """Each entry compared with MAML on the tasks that both were scored on.

    Args:
        cards: of entries, beside which `tasks.npz` has the scores of their tasks, by
            the `key` of the figure.

    Yields:
        `(model, MAML's entry, figure, mean, half-width)`: of the `difference`, and the
        model's figure of these tasks.
    """
    scored = {}
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
        # Of two MAMLs, that which was trained with this normalization.
        asked = bases[0][1]["normalization"]
        alike = [row for row in bases if row[0].normalization == asked]
        base, _, base_tasks = (alike or bases)[0]
        for card, figure, tasks in rows:
            if card.name != base.name:
                compared = summary(difference(tasks, base_tasks))
                yield card.name, base.name, figure, *compared


def temperature(name, tasks=200):
    """What to divide an entry's logits by, for the likelihood of validation tasks.

    Raises:
        ValueError: no such entry, or data that cannot be had.
    """
    learner, recipe = zoo.load(name), recipes.recipe(name)
    data = recipe.task.episodes(learner.preprocess, recipe.seed)["validation"]()
    found = list(answers(learner, data.take(tasks).batch(BATCH)))
    labels = np.concatenate([y.ravel() for y, _ in found])
    logits = np.concatenate([z.reshape(-1, z.shape[-1]) for _, z in found])
    logits = logits.astype("float64") - logits.max(axis=-1, keepdims=True)
    right = logits[np.arange(len(labels)), labels]
    choices = np.exp(np.linspace(-2, 2, 81))
    losses = [np.mean(np.log(np.exp(logits / t).sum(-1)) - right / t) for t in choices]
    return float(choices[np.argmin(losses)])


def protocol(figure):
    """What a figure's tasks were, such as `5 ways, 1 shot`."""
    shots = figure["shots"]
    words = f"{shots} points"
    if figure["ways"]:
        words = f"{figure['ways']} ways, {shots} shot{'s' * (shots != 1)}"
    return f"{words}, Lake's" if figure.get("protocol") == "lake" else words


def sentence(score):
    """A score in words, such as `98.50% ± 0.12%`."""
    if score["metric"] == "accuracy":
        return f"{100 * score['mean']:.2f}% ± {100 * score['interval']:.2f}%"
    mean, interval = f"{score['mean']:.4f}", f"{score['interval']:.4f}"
    if abs(score["mean"]) < 1e-3:
        mean, interval = f"{score['mean']:.2g}", f"{score['interval']:.1g}"
    return f"{score['metric']} {mean} ± {interval}"
