"""Tests that zoo files of commit c373558 keep the logits of that commit."""

import functools
import hashlib
import json
import pathlib
import subprocess

import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta.learner import stacked

COMMIT = "c373558"
GOLDEN = pathlib.Path(__file__).parent / "golden"
ROOT = GOLDEN.parents[1]
FILES = json.loads((GOLDEN / "files.json").read_text())
# Names of entries at that commit, and current names.
RENAMED = {
    "lstm.omniglot_5w": "lstm.omniglot_5w-on_protonet",
    "mann.omniglot_5w": "mann.omniglot_5w-on_protonet",
}
FAST = (
    "maml.omniglot_5w1s",
    "sigma_imaml.omniglot_5w1s",
    "mann.omniglot_5w",
    "protonet.omniglot_5w1s",
)


@functools.cache
def current_files():
    """Returns `{sha256: path}` of the zoo's files."""
    paths = (ROOT / "zoo" / "models").glob("*/model.keras")
    return {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in paths}


def committed_file(name, folder):
    """Returns the path of a file of `COMMIT`, whatever its entry's name is now."""
    if FILES[name] in current_files():
        return current_files()[FILES[name]]
    # The entry was trained again since; Git has its old file.
    process = subprocess.run(
        ["git", "show", f"{COMMIT}:zoo/models/{name}/model.keras"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert hashlib.sha256(process.stdout).hexdigest() == FILES[name]
    path = folder / "model.keras"
    path.write_bytes(process.stdout)
    return path


def episode(learner, images):
    """Returns two tasks of glyphs or random points: `(support_x, y, query_x)`."""
    random = np.random.RandomState(0)
    shape = learner.preprocess and learner.preprocess.shape
    if shape == tuple(learner.example_shape):
        ways = 15 if learner.label_shape else min(learner.output_size, 20)
        x = np.asarray(learner.preprocess(images.reshape(60, *images.shape[2:])))
        x = x.reshape(20, 3, *shape)
        tasks = [np.roll(x, -5 * task, axis=0)[:ways] for task in range(2)]
        support_x = np.stack([task[:, 0] for task in tasks])
        query_x = np.stack([np.concatenate([t[:, 1], t[:, 2]]) for t in tasks])
        support_y = np.tile(np.arange(ways), (2, 1))
        if learner.label_shape:
            support_y = random.randint(0, 5, (2, ways, 5))
        return support_x, support_y.astype("int32"), query_x
    support_x, query_x = (
        random.uniform(-1, 1, (2, count, *learner.example_shape)).astype("float32")
        for count in (10, 7)
    )
    if learner.classification:
        support_y = random.randint(0, learner.output_size, (2, 10)).astype("int32")
    else:
        shape = (2, 10, learner.output_size)
        support_y = random.uniform(0, 1, shape).astype("float32")
    return support_x, support_y, query_x


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    [n if n in FAST else pytest.param(n, marks=pytest.mark.slow) for n in FILES],
)
def test_a_committed_file_keeps_its_logits(name, tmp_path):
    golden = np.load(GOLDEN / "logits.npz")
    learner = keras.models.load_model(committed_file(name, tmp_path), compile=False)
    assert isinstance(learner, km.Learner)
    support_x, support_y, query_x = episode(learner, golden["images"])
    logits = stacked(learner.infer(learner.adapt(support_x, support_y), query_x))
    expected = golden[name]
    valid = expected > -1e6  # logits of absent classes are rounded to 64
    assert logits.shape == expected.shape
    # The tolerance is relative to the logits. The order of float32 sums depends on the
    # processor; inner steps amplify the difference, to 1.2e-5 between vector widths.
    scale = max(np.abs(expected[valid]).max(), 1)
    np.testing.assert_allclose(
        np.asarray(logits)[valid] / scale, expected[valid] / scale, rtol=0, atol=5e-5
    )
    assert (np.asarray(logits)[~valid] < -1e8).all()


def test_renamed_entries_keep_their_files():
    for old, new in RENAMED.items():
        assert current_files()[FILES[old]].parent.name == new
