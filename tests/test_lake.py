"""Tests of Lake's protocol: one alphabet, two drawers, a folder of official runs."""

import math
import statistics

import keras
import numpy as np
import pytest
from tensorflow_datasets.core import hashing

import keras_meta as km
from keras_meta import zoo
from keras_meta.zoo import cli, lake

PREPROCESS = km.ImagePreprocess(2, 2, 1, invert=False)
# Three alphabets, of 20, 21 and 25 characters.
NAMES = [
    f"{alphabet}_{character}"
    for alphabet, count in (("Old_(a)", 20), ("B", 21), ("C_c", 25))
    for character in range(count)
]


def read_in_tfds_order(name, split, preprocess):
    """Returns images that encode their character and drawer, in the order of TFDS."""
    labels = {964 + i: class_name for i, class_name in enumerate(NAMES)}
    files = [(label, drawer) for label in labels for drawer in range(20)]

    def file_hash(file):
        label, drawer = file
        text = f"{labels[label]}_{label + 1:04d}_{drawer + 1:02d}.png"
        return hashing.Hasher(split).hash_key(text)

    files.sort(key=file_hash)
    images = np.zeros([len(files), 2, 2, 1], "uint8")
    images[:, 0, 0, 0] = [label - 964 for label, _ in files]
    images[:, 1, 1, 0] = [drawer for _, drawer in files]
    return images, np.array([label for label, _ in files]), labels


def test_the_order_of_names_identifies_the_drawers(monkeypatch):
    monkeypatch.setattr("keras_meta.sources.read_tfds", read_in_tfds_order)
    images, alphabets = lake.drawings(PREPROCESS)
    assert images.shape == (66, 20, 2, 2, 1)
    assert (images[:, :, 0, 0, 0] == np.arange(66)[:, None]).all()
    assert (images[:, :, 1, 1, 0] == np.arange(20)).all()
    assert list(alphabets) == ["Old_(a)"] * 20 + ["B"] * 21 + ["C_c"] * 25

    def read_in_reversed_order(*arguments):
        images, labels, names = read_in_tfds_order(*arguments)
        return images, labels[::-1], names

    monkeypatch.setattr("keras_meta.sources.read_tfds", read_in_reversed_order)
    with pytest.raises(ValueError, match="another order"):
        lake.drawings(PREPROCESS)


def test_tasks_have_one_alphabet_and_two_drawers(monkeypatch):
    monkeypatch.setattr("keras_meta.sources.read_tfds", read_in_tfds_order)
    images, alphabets = lake.drawings(PREPROCESS)
    seen = set()
    tasks = lake.episodes(images, alphabets, PREPROCESS).take(60)
    for episode, query_y in tasks.as_numpy_iterator():
        support, query = (
            np.rint(255 * episode[key]).astype(int) for key in ("support_x", "query_x")
        )
        characters = support[:, 0, 0, 0]
        assert len(set(characters)) == 20
        (alphabet,) = set(alphabets[characters])
        (support_drawer,) = set(support[:, 1, 1, 0])
        (query_drawer,) = set(query[:, 1, 1, 0])
        assert support_drawer != query_drawer
        np.testing.assert_array_equal(query[:, 0, 0, 0], characters[query_y])
        seen.add((alphabet, support_drawer))
    assert len({alphabet for alphabet, _ in seen}) == 3 and len(seen) > 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Writes twenty runs of the same glyphs, which differ in the order of the items."""
    folder = tmp_path_factory.mktemp("runs")
    pool = km.tasks.glyphs(range(7000, 7020), drawings=2)
    for run in range(1, 21):
        run_folder = folder / f"run{run:02d}"
        for part in ("training", "test"):
            (run_folder / part).mkdir(parents=True)
        order = np.random.RandomState(run).permutation(20)
        lines = []
        for item, character in enumerate(order):
            training_image, test_image = pool.images_of(7000 + character)
            paths = (
                f"{run_folder.name}/test/item{item + 1:02d}.png",
                f"{run_folder.name}/training/class{character + 1:02d}.png",
            )
            for path, image in zip(paths, (test_image, training_image), strict=True):
                keras.utils.save_img(folder / path, image)
            lines.append(" ".join(paths))
        (run_folder / "class_labels.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.thorough
def test_official_runs(runs, monkeypatch, capsys):
    name = "protonet.omniglot_20w1s"
    command = ["evaluate", name, "--lake-runs", str(runs)]
    assert cli.main(command) == 2
    assert "was trained on some of their characters" in capsys.readouterr().err

    monkeypatch.setattr(lake, "checked_card", zoo.card)
    assert cli.main(command) == 0
    output = capsys.readouterr().out
    assert "run20" in output and "errors in 20 runs" in output
    errors = lake.official(name, runs)
    assert len(set(np.round(errors, 6))) == 1  # independent of the order of items
    assert errors[0] < 0.5  # chance level is 0.95

    labels = runs / "run07" / "class_labels.txt"
    text = labels.read_text()
    labels.write_text("run07/test/item01.png\n")
    with pytest.raises(ValueError, match="two paths in each line"):
        lake.official(name, runs)
    labels.write_text(text)
    with pytest.raises(ValueError, match="expected 20 folders run01"):
        lake.official(name, runs / "run01")


def test_the_interval_over_official_runs(monkeypatch, capsys):
    errors = [0.05 * (run % 7) for run in range(20)]
    monkeypatch.setattr(lake, "official", lambda name, directory: errors)
    assert cli.main(["evaluate", "protonet.lake", "--lake-runs", "x"]) == 0
    quantile = statistics.NormalDist().inv_cdf(0.975)
    width = quantile * statistics.stdev(errors) / math.sqrt(20)
    expected = f"{statistics.fmean(errors):.1%} ± {width:.1%} errors in 20 runs"
    assert expected == "14.3% ± 4.3% errors in 20 runs"
    assert f"protonet.lake: {expected}" in capsys.readouterr().out


def test_entries_of_other_tasks_raise():
    with pytest.raises(ValueError, match="20 classes of images, got maml.sinusoid"):
        lake.checked_card("maml.sinusoid")
    # Its training classes are drawn glyphs, with label ids of their own.
    assert lake.checked_card("protonet.glyphs_20w1s").procedural
