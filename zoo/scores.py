"""Scores of zoo entries on replayable test episodes."""

import time

import zoo
from zoo import recipes

# Tasks scored at once: enough to keep the cores busy, few enough for any memory.
BATCH = 20


def evaluate(name, episodes=1000, ways=None, shots=None, queries=None, seed=0):
    """Scores an entry on episodes of classes it has never seen.

    Args:
        name: of a trained entry.
        episodes: how many; episode i is a pure function of (seed, i).
        ways: classes in an episode, as trained by default; fewer are fine.
        shots: support examples of each class (points, for regression), as trained by
            default.
        queries: query examples of each class (points), 15 (100) by default.
        seed: of the episodes.

    Returns:
        A dict: model, metric ("accuracy" as a share, or "mse"), mean, interval (half
        the width of the 95% interval over tasks), episodes, seed, ways, shots, queries,
        normalization, and seconds spent on each task.

    Raises:
        ValueError: no such entry, more ways than it knows, or data that cannot be had.
    """
    card = zoo.card(name)
    task = recipes.recipe(name).task
    if ways and (card.ways is None or ways > card.ways):
        raise ValueError(
            f"expected at most {card.ways} ways for {name}, got {ways}."
            if card.ways
            else f"expected no ways for {name}, which is for regression."
        )
    if episodes < 2:
        raise ValueError(f"expected at least 2 episodes, got {episodes}.")
    ways, shots = ways or card.ways, shots or card.shots
    queries = queries or task.test_queries
    learner = zoo.load(name)
    data = task.test_episodes(
        learner.preprocess, card.test_classes, ways, shots, queries, seed
    )
    asked = {"seed": seed, "ways": ways, "shots": shots, "queries": queries}
    return measure(learner, card, data, episodes, task.metric, **asked)


def measure(learner, card, data, episodes, metric, **asked):
    """A learner's score on the first episodes of `data`; `asked` goes with it."""
    began = time.perf_counter()
    found = learner.evaluate(
        data.take(episodes).batch(BATCH), verbose=0, return_dict=True
    )
    return {
        "model": card.name,
        "metric": metric,
        "mean": found[metric],
        "interval": found[f"{metric}_95"],
        "episodes": episodes,
        **asked,
        "normalization": card.normalization,
        "seconds": (time.perf_counter() - began) / episodes,
    }


def sentence(score):
    """A score in words, such as `98.50% ± 0.12%`."""
    if score["metric"] == "accuracy":
        return f"{100 * score['mean']:.2f}% ± {100 * score['interval']:.2f}%"
    return f"{score['metric']} {score['mean']:.4f} ± {score['interval']:.4f}"
