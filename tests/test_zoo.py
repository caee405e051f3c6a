"""Tests of cards, recipes, and every committed model."""

import dataclasses
import functools
import json
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import (
    cards,
    facts,
    published,
    publishing,
    recipes,
    scores,
    training,
    transfer,
)
from keras_meta.zoo.recipes import protocols, sources

NAMES = [card.name for card in cards.stored()]


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_committed_entry(name):
    card = zoo.card(name)
    assert card.weights.stat().st_size < 12e6
    assert card.network == publishing.network_name(zoo.load(name))
    assert card.figures, "an entry is published with its figures"
    assert name in published.REASONS or not published.below(card)
    recipe = recipes.recipe(name)
    learner = zoo.load(name)
    count = sum(weight.shape.num_elements() for weight in learner.weights)
    assert card.weights.stat().st_size < 6 * count + 80_000, "no optimizer state"
    assert learner.optimizer is not None
    assert learner.normalization == card.normalization
    assert card.inputs == recipe.task.inputs
    source = recipe.task.source
    assert (card.source, card.data) == (source.id, source.title)
    for field in ("family", "procedural", "photographs"):
        assert getattr(card, field) == getattr(source, field)
    assert card.learner == type(learner).__name__
    # Entries older than `keras-meta train` have the second command.
    commands = facts.command(name), f"python tools/train.py --recipe={name}"
    # The interval of validation is the run's own.
    assert re.sub(r" --every \d+$", "", card.command) in commands
    assert card.initial_weights in (cards.RANDOM, *NAMES)
    assert card.validation["metric"] == recipe.task.metric
    assert (card.directory / "tasks.npz").exists()
    example = learner.example()
    if card.ways is not None:
        _, _, test_count = recipe.task.source.sizes
        assert len(set(card.test_classes)) == test_count
        images = np.zeros([1, 1, 50, 40, 3], "uint8")
        example["support_x"] = example["query_x"] = learner.preprocess(images)
    assert np.isfinite(learner(example)).all()


@pytest.mark.thorough
def test_the_sinusoid_entry_reaches_the_figure_of_its_card():
    score = scores.evaluate("maml.sinusoid", episodes=100)
    figure = zoo.card("maml.sinusoid").figures[0]
    assert score["metric"] == figure["metric"] == "mse"
    # Both are means over one stream of tasks: the first 100 tasks, and all tasks.
    assert abs(score["mean"] - figure["mean"]) < 2 * score["interval"]


@pytest.mark.thorough
def test_the_glyphs_entry_classifies_unseen_characters(monkeypatch):
    ids = zoo.card("maml.glyphs_5w1s-inductive").test_classes
    prepare = zoo.load("maml.glyphs_5w1s-inductive").preprocess
    pool = km.tasks.glyphs(ids, prepare=prepare)  # drawn once for both evaluations
    monkeypatch.setattr(km.tasks, "glyphs", lambda ids, prepare: pool)
    score = scores.evaluate("maml.glyphs_5w1s-inductive", episodes=60)
    figure = zoo.card("maml.glyphs_5w1s-inductive").figures[0]
    assert abs(score["mean"] - figure["mean"]) < 3 * score["interval"]
    two_way = scores.evaluate("maml.glyphs_5w1s-inductive", episodes=60, ways=2)
    assert two_way["mean"] > score["mean"]


def test_invalid_settings_of_a_score_are_rejected():
    with pytest.raises(ValueError, match="at most 5 classes"):
        scores.evaluate("maml.glyphs_5w1s-inductive", ways=6)
    with pytest.raises(ValueError, match="no ways"):
        scores.evaluate("maml.sinusoid", ways=5)
    with pytest.raises(ValueError, match="at least 2 episodes"):
        scores.evaluate("maml.sinusoid", episodes=1)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Returns a folder of models with one untrained entry, `maml.tiny`."""
    monkeypatch.setattr(cards, "MODELS", tmp_path)
    learner = km.MAML(km.networks.mlp(), loss="mse")
    learner.compile()
    (tmp_path / "maml.tiny").mkdir()
    learner.save(tmp_path / "maml.tiny" / "model.keras")
    fields = {field.name: "x" for field in dataclasses.fields(zoo.Card)}
    fields |= {"name": "maml.tiny", "test_classes": None, "ways": None, "figures": []}
    fields |= {"external": None}
    fields["sha256"] = cards.sha256(tmp_path / "maml.tiny" / "model.keras")
    cards.Card(**fields).write()
    return tmp_path


def test_a_changed_or_missing_file_is_rejected(models):
    assert isinstance(zoo.load("maml.tiny"), km.MAML)
    path = models / "maml.tiny" / "model.keras"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="expected .* to have sha256"):
        zoo.load("maml.tiny")
    path.unlink()
    with pytest.raises(ValueError, match="expected the weights of maml.tiny"):
        zoo.load("maml.tiny")


def test_unknown_names_are_rejected(models):
    with pytest.raises(ValueError, match=r"such as maml.tiny .* got 'maml.none'"):
        zoo.load("maml.none")
    with pytest.raises(ValueError, match="name of a recipe"):
        recipes.recipe("maml.none")


def test_a_card_is_read_as_written(models):
    written = json.loads((models / "maml.tiny" / "card.json").read_text())
    fields = {"schema": cards.SCHEMA, **dataclasses.asdict(zoo.card("maml.tiny"))}
    assert fields == written
    assert [card.name for card in zoo.list_models()] == ["maml.tiny"]


def build_source(load):
    """Returns a source of three training alphabets and two validation alphabets."""
    sizes = 3, 2, 659
    return sources.Alphabets("x", "x", "x", sizes=sizes, load=load, rotations=False)


def alphabets(preprocess, ids):
    """Returns five alphabets of three characters; pixels contain the class id."""
    images = np.repeat(np.arange(15, dtype="uint8"), 4)[:, None, None, None]
    names = {i: f"Old_{i // 3}_{i % 3}" for i in range(15)}
    images = np.broadcast_to(images, [60, 6, 6, 1])
    return km.ClassPool.from_arrays(images, np.repeat(np.arange(15), 4), names=names)


def test_alphabets_are_in_one_part_and_validation_tasks_in_one_alphabet():
    source = build_source(alphabets)
    pools = source.pools(None)
    train, validation = (set(pools[p].class_ids // 3) for p in ("train", "validation"))
    assert len(train) == 3 and len(validation) == 2 and not train & validation
    assert len(pools["train"]) == 9
    task = protocols.Classification(source, ways=3, queries=1, test_queries=2)
    data = task.episodes(None, seed=0)["validation"]()

    def alphabets_of_tasks(data):
        alphabet_sets = set()
        for x, _ in data.take(20).as_numpy_iterator():
            shades = np.round(255 * x["support_x"][:, 0, 0, 0])
            alphabet_sets.add(tuple(sorted(set(shades // 3))))
        return alphabet_sets

    assert alphabets_of_tasks(data) == {(alphabet,) for alphabet in validation}
    assert max(map(len, alphabets_of_tasks(task.episodes(None, seed=0)["train"]()))) > 1
    invalid = dataclasses.replace(source, sizes=(3, 1, 659))
    with pytest.raises(ValueError, match=r"expected 3 \+ 1 alphabets, got 5"):
        invalid.pools(None)


# The alphabet of each character: "c" has two characters, fewer than a task needs.
LARGE = dict(enumerate("aaabbbccddddeee"))


def large_alphabets(preprocess, ids):
    names = {i: f"{alphabet}_{i}" for i, alphabet in LARGE.items()}
    x = np.repeat(np.arange(15.0, dtype="float32"), 4)[:, None]
    pool = km.ClassPool.from_arrays(x, np.repeat(np.arange(15), 4), names=names)
    return pool if ids is None else pool.select(ids)


def test_large_alphabets_are_in_one_part_and_every_task_in_one_alphabet():
    source = sources.LargeAlphabets(
        "x", "x", "x", sizes=(2, 1, 1), load=large_alphabets, least=3
    )
    parts = [set(source.groups(pool).values()) for pool in source.pools(None).values()]
    assert list(map(len, parts)) == [2, 1, 1]
    assert set.union(*parts) == set("abde")
    task = protocols.Classification(
        source, 3, queries=1, test_queries=2, grouped=("train", "validation", "test")
    )
    episodes = task.episodes(None, seed=0)
    test = task.test_episodes(None, source.test_classes(None), 3, 1, 1, seed=0)
    data_sets = episodes["train"](), episodes["validation"](), test
    for data, alphabets in zip(data_sets, parts, strict=True):
        drawn = [
            {LARGE[int(i)] for i in x["support_x"][:, 0]}
            for x, _ in data.take(20).as_numpy_iterator()
        ]
        assert set(map(len, drawn)) == {1} and set.union(*drawn) == alphabets
    invalid = dataclasses.replace(source, sizes=(3, 1, 1))
    with pytest.raises(ValueError, match="at least 5 alphabets of 3 or more .*got 4"):
        invalid.pools(None)


def test_augmented_episodes_are_replayed():
    source = build_source(alphabets)
    identity = {"affine": {"degrees": 0, "zoom": (1, 1), "shift": 0.0}}
    rotation = {"affine": {"degrees": 10}}
    episodes = []
    for augment in (None, identity, rotation):
        task = protocols.Classification(source, ways=3, queries=1, augment=augment)
        data = task.episodes(None, seed=0)["train"]().take(4)
        episodes.append([x for x, _ in data.as_numpy_iterator()])
    plain, unchanged, rotated = episodes
    for key in plain[0]:
        np.testing.assert_array_equal(plain[3][key], unchanged[3][key])
    assert (plain[3]["support_x"] != rotated[3]["support_x"]).any()
    task = protocols.Classification(source, ways=3, queries=1, augment=rotation)
    replayed = next(task.episodes(None, seed=0)["train"](3).as_numpy_iterator())[0]
    np.testing.assert_array_equal(replayed["query_x"], rotated[3]["query_x"])
    assert (rotated[3]["query_x"] != rotated[2]["query_x"]).any()


@pytest.mark.thorough
def test_a_curriculum_comes_first_and_replays_from_any_index():
    source = build_source(alphabets)
    stages = (2, 1, 3), (3, 2, 4)
    task = protocols.Classification(source, 5, 3, 1, test_queries=1, curriculum=stages)
    train = task.episodes(None, seed=0)["train"]

    def support(start, count):
        data = train(start).take(count).as_numpy_iterator()
        return [episode["support_x"].ravel() for episode, _ in data]

    arrays = support(0, 9)
    assert [x.size // 36 for x in arrays] == [2] * 3 + [6] * 4 + [15] * 2
    for start in range(1, 9):
        for x, y in zip(support(start, 9 - start), arrays[start:], strict=True):
            np.testing.assert_array_equal(x, y)
    assert str(task).startswith("training on 3 2-way 1-shot tasks, then 4 3-way ")


TRAINED = [name for name, recipe in recipes.RECIPES.items() if not recipe.external]


@pytest.mark.thorough
@pytest.mark.parametrize("name", TRAINED)
def test_recipe_builds_a_learner_for_its_task(name):
    recipe = recipes.recipe(name)
    learner = recipe.learner()
    assert learner.classification == (recipe.task.metric == "accuracy")
    if recipe.task.ways:
        strings = getattr(learner, "labels", "onehot") == "strings"
        assert strings or learner.output_size >= recipe.task.ways
        assert strings == (recipe.task.labels == "strings")
        assert learner.example_shape == learner.preprocess.shape
    if getattr(recipe.task, "training_shots", None) and recipe.task.ways is None:
        assert recipe.task.block == recipe.tasks
    kind = name.partition(".")[0].replace("_", "")
    assert kind == type(learner).__name__.lower().removesuffix("learner")
    on_features = name.startswith(("lstm.omniglot", "mann.", "anil.photos"))
    fixed = on_features and recipe.warm_start is not None
    assert transfer.has_fixed_encoder(learner) == fixed
    assert recipe.warm_start is None or recipe.warm_start in recipes.RECIPES


def all_weights(learner):
    return [v.numpy() for v in [*learner.variables, *learner.optimizer.variables]]


def launch(directory, **kwargs):
    """Starts a process that trains to meta-step 60, or resumes training."""
    command = [sys.executable, "tools/train.py", "--recipe=maml.sinusoid"]
    command += ["--steps=60", "--every=10", "--validation_tasks=50"]
    return subprocess.Popen(
        [*command, f"--out={directory}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cards.MODELS.parents[1],
        **kwargs,
    )


def check_equal(directory, other_directory):
    expected = all_weights(keras.models.load_model(directory / "last.keras"))
    actual = all_weights(keras.models.load_model(other_directory / "last.keras"))
    for a, b in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.thorough
def test_training_resumes_to_the_same_bits(tmp_path, capsys):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted, process = launch(whole), launch(killed)
    reached = int(np.random.default_rng().integers(1, 5)) * 10
    for line in process.stdout:
        if line.startswith(f"step {reached}/"):
            process.kill()
            break
    process.wait()
    assert process.returncode != 0
    resumed = launch(killed)
    assert f"resuming at meta-step {reached}: to" in resumed.communicate()[0]
    uninterrupted.communicate()
    assert resumed.returncode == uninterrupted.returncode == 0
    assert (whole / "best.keras").stat().st_size > 0
    check_equal(whole, killed)

    # A truncated checkpoint is replaced by the previous one, or by a new start.
    run = training.Run(killed, "mse", 60, 10)
    for name, step in (("last", 50), ("previous", None)):
        path = killed / f"{name}.keras"
        path.write_bytes(path.read_bytes()[:-1000])
        learner = run.resume()
        assert f"{path} cannot be read" in capsys.readouterr().out
        assert (learner and int(learner.optimizer.iterations)) == step


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert launch(whole).communicate() and (whole / "last.keras").exists()
    random = np.random.default_rng()
    for _ in range(20):
        process = launch(killed)
        try:  # before, during and after writing a checkpoint
            process.communicate(timeout=random.uniform(4, 14))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
    while launch(killed).wait():
        pass
    check_equal(whole, killed)


@pytest.mark.slow
def test_a_full_disk_raises_an_error_and_loses_nothing(tmp_path):
    resource = pytest.importorskip("resource")  # Windows has no file limits

    def limit_size(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    launch(whole).communicate()
    written = (whole / "last.keras").stat().st_size
    for size in (100, written // 2, written - 100):
        process = launch(stopped, preexec_fn=functools.partial(limit_size, size))
        _, stderr = process.communicate()
        assert process.returncode == 2
        # SQLite, which locks the folder, reports a full disk differently.
        reason = "File too large|cannot lock .*: disk I/O error"
        assert re.search(f"keras-meta: error: ({reason}): nothing is lost", stderr)
        assert "Traceback" not in stderr
    assert launch(stopped).wait() == 0
    check_equal(whole, stopped)


def test_accuracy_by_presentation_separates_sequences():
    class Reader:
        def sequence(self, support_x, support_y):
            return np.eye(3)[support_x]  # support_x are the predicted labels

    labels = np.array([[0, 1, 0, 1, 0, 1], [2, 2, 2, 0, 0, 0]])
    predictions = np.array([[0, 0, 0, 1, 1, 1], [2, 0, 2, 0, 2, 0]])
    batches = [
        ({"support_x": p[None], "support_y": y[None]}, None)
        for p, y in zip(predictions, labels, strict=True)
    ]
    accuracy = scores.by_presentation(Reader(), batches, 3)
    np.testing.assert_array_equal(accuracy, [[0.5, 1, 0.5], [1, 0, 1]])
