"""Entries of an algorithm are trained by that algorithm from random weights."""

import itertools

import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import (
    cards,
    entries,
    initial,
    intervals,
    modularity,
    recipes,
    scores,
    training,
)

# Entries with equal networks.
GRADIENT = [
    f"{name}.omniglot_5w1s"
    for name in (
        *("maml", "fomaml", "reptile", "imaml", "meta_sgd", "anil"),
        *("sigma_maml", "sigma_imaml", "sigma_reptile"),
    )
]
RANDOM_START = [*GRADIENT, "lstm.omniglot_5w", "mann.omniglot_5w"]
# Least relative distance of two entries; fine-tuning alone moves weights by 0.02.
MIN_DISTANCE = 0.3


def distance(a, b):
    """`|a - b| / max(|a|, |b|)` of two lists of arrays of equal shapes."""
    a, b = (np.concatenate([np.ravel(w) for w in weights]) for weights in (a, b))
    return np.linalg.norm(a - b) / max(np.linalg.norm(a), np.linalg.norm(b))


def near_pairs(weights):
    """Yields the pairs of names whose weights are closer than `MIN_DISTANCE`.

    Args:
        weights: `{name: list of arrays}`; different shapes are not compared.
    """
    for a, b in itertools.combinations(weights, 2):
        shapes = [[np.shape(w) for w in weights[name]] for name in (a, b)]
        if shapes[0] == shapes[1] and distance(weights[a], weights[b]) < MIN_DISTANCE:
            yield a, b


def test_distances_of_tuned_and_fresh_weights():
    random = np.random.RandomState(0)
    base = [random.normal(size=[5, 7]), random.normal(size=[7])]
    tuned = [w + 0.02 * random.normal(size=w.shape) for w in base]
    fresh = [random.normal(size=w.shape) for w in base]
    assert distance(base, tuned) == pytest.approx(0.02, rel=0.3)
    assert distance(base, fresh) == pytest.approx(2**0.5, rel=0.3)
    assert distance(base, [2 * w for w in base]) == pytest.approx(0.5)
    assert distance(tuned, base) == distance(base, tuned)
    weights = {"base": base, "tuned": tuned, "fresh": fresh, "small": base[:1]}
    assert list(near_pairs(weights)) == [("base", "tuned")]


def test_entries_from_random_weights_differ():
    weights = {
        name: [v.numpy() for v in zoo.load(name).network.trainable_variables]
        for name in GRADIENT
    }
    assert len({tuple(map(np.shape, w)) for w in weights.values()}) == 1
    assert list(near_pairs(weights)) == []


@pytest.mark.parametrize("name", RANDOM_START)
def test_entries_and_recipes_of_algorithms_start_from_random_weights(name):
    assert zoo.card(name).began_at_random
    recipe = recipes.recipe(name)
    assert recipe.warm_start is None and recipe.adjust is None
    settings = training.settings(name, recipe.steps, recipe.seed, 100, None)
    assert settings["initial_weights"] == cards.RANDOM
    assert settings["initial_sha256"] is None


def test_training_without_a_warm_start_begins_at_meta_step_0():
    recipe = recipes.recipe("maml.omniglot_5w1s")
    keras.utils.set_random_seed(recipe.seed)
    expected = recipe.learner().get_weights()
    learner = initial.begin(recipe, recipe.seed, recipe.warm_start)
    learner = entries.compiled(recipe, learner, recipe.steps)
    assert int(learner.optimizer.iterations) == 0
    for weight, expected_weight in zip(learner.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(weight, expected_weight)
    trained = zoo.load("maml.omniglot_5w1s").get_weights()
    assert distance(trained[:1], expected[:1]) > MIN_DISTANCE


@pytest.mark.thorough
def test_recreate_loads_the_initial_weights_into_the_learner():
    name = "sigma_maml.sinusoid"
    learner, origin = initial.recreate(name), zoo.load("maml.sinusoid")
    assert isinstance(learner, km.SigmaMAML)
    pairs = zip(learner.network.weights, origin.network.weights, strict=True)
    for weight, expected_weight in pairs:
        np.testing.assert_array_equal(weight, expected_weight)
    entry = zoo.load(name)
    assert learner.inner_rate == entry.inner_rate
    assert set(learner.scales().values()) == {learner.initial_scale}
    # A scale of 1 keeps 0.999 of an inner step: the score equals that of MAML.
    score = scores.evaluate(name, 20, learner=learner)
    figure = zoo.card("maml.sinusoid").figures[0]
    assert abs(score["mean"] - figure["mean"]) < 3 * score["interval"]
    assert score["queries"] == figure["queries"]
    with pytest.raises(ValueError, match="maml.sinusoid began from random ones"):
        initial.recreate("maml.sinusoid")


def test_recreate_rejects_changed_initial_weights(monkeypatch):
    monkeypatch.setattr(training, "sha256_of", lambda origin: "other")
    with pytest.raises(ValueError, match="of sha256 .*maml.sinusoid has other weights"):
        initial.recreate("sigma_maml.sinusoid")


def test_orders_of_modules_agree_up_to_ties():
    runs = [{"a": 0.9, "b": 0.5, "c": 0.505}, {"a": 0.8, "b": 0.31, "c": 0.305}]
    assert modularity.agree(runs)
    assert not modularity.agree([*runs, {"a": 0.1, "b": 0.5, "c": 0.505}])
    assert not modularity.agree([*runs, {"a": 0.9, "b": 0.895, "c": 0.9}])  # no order
    assert not modularity.agree(
        [
            *runs[:1],
            {"a": 0.9, "b": 0.5, "c": 0.48},
            runs[1],
            {"a": 0.9, "b": 0.48, "c": 0.5},
        ]
    )


def test_modularity_sentence_follows_the_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(modularity, "path", lambda: tmp_path / "modularity.csv")
    card = zoo.card("sigma_maml.omniglot_5w1s")
    assert modularity.sentence(card).startswith("Not shown to be modular")
    head = "model,sha256,steps,seeds,agrees,half,half_cost,half_95,largest,"
    head += "largest_cost,largest_95,more,more_95,tasks\n"

    def sentence(agrees=True, half=0.001, more=0.1, sha=card.sha256):
        row = f"{card.name},{sha},9,0 1 2,{agrees},conv1 norm1,{half},0.002,head,0.101,"
        (tmp_path / "modularity.csv").write_text(f"{head}{row}0.01,{more},0.01,1000\n")
        return modularity.sentence(card)

    assert sentence() == (
        "Modular: freezing conv1 norm1 costs 0.10 ± 0.20 points, freezing head 10.10 ± "
        "1.00 points of accuracy on 1000 validation tasks."
    )
    assert modularity.measured(card).modular
    assert "order of its modules differs" in sentence(agrees=False)
    assert "smallest factors costs too much" in sentence(half=0.006)
    assert "Freezing conv1 norm1 costs 0.60 ± 0.20 points" in sentence(half=0.006)
    assert "largest factor costs no more" in sentence(more=0.009)
    assert not modularity.measured(card).modular
    # The row describes weights of an earlier training.
    assert sentence(sha="other").startswith("Not shown to be modular")


def test_a_verdict_needs_every_seed():
    assert intervals.over_seeds([(0.02, 0.01), (0.03, 0.02)]) == "better"
    assert intervals.over_seeds([(-0.02, 0.01), (-0.03, 0.02)]) == "worse"
    assert intervals.over_seeds([(0.02, 0.01), (0.01, 0.02)]) == "open"
    assert intervals.over_seeds([(0.02, 0.01), (-0.03, 0.01)]) == "open"
    assert intervals.over_seeds([]) == "open"
