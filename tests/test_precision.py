"""Tests of weights stored in float16: file contents and rejected learners."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest

import keras_meta as km
from keras_meta.zoo import cli, precision, publishing
from keras_meta.zoo.recipes import protocols, schema, sources


def save_learner(path, scale=1.0):
    keras.utils.set_random_seed(0)
    learner = km.ProtoNet(km.networks.conv4((8, 8, 1), 3, filters=16))
    for variable in learner.variables:
        variable.assign(scale * variable + 1e-6)
    learner.compile()
    learner.save(path)
    return learner


def test_kernels_are_rounded_once_and_vectors_are_not(tmp_path):
    path = tmp_path / "model.keras"
    learner = save_learner(path)
    size = path.stat().st_size
    precision.halve(path)
    loaded = keras.models.load_model(path)
    assert isinstance(loaded, km.ProtoNet)
    for variable, copy in zip(learner.variables, loaded.variables, strict=True):
        expected = variable.numpy()
        if expected.ndim > 1:
            expected = expected.astype("float16").astype("float32")
        np.testing.assert_array_equal(copy.numpy(), expected)
        assert copy.dtype == "float32"
    kernels = sum(4 * np.prod(v.shape) for v in learner.variables if v.shape[1:])
    assert path.stat().st_size == pytest.approx(size - kernels / 2, abs=3000)
    with zipfile.ZipFile(path) as file, h5py.File(
        io.BytesIO(file.read(precision.WEIGHTS))
    ) as weights:  # fmt: skip
        dtypes = set()
        weights.visititems(
            lambda name, item: (
                dtypes.add((item.dtype.name, item.ndim > 1))
                if isinstance(item, h5py.Dataset)
                else None
            )
        )
    dtypes.discard(("int64", False))  # the optimizer's step
    assert dtypes == {("float16", True), ("float32", False)}
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


def test_weights_too_large_for_float16_leave_the_file_as_it_was(tmp_path):
    path = tmp_path / "model.keras"
    save_learner(path, scale=1e6)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="weights that float16 holds, .* has larger"):
        precision.halve(path)
    assert path.read_bytes() == before


@pytest.fixture
def recipe():
    x = np.random.RandomState(0).randint(0, 256, [24, 8, 8, 1]).astype("uint8")
    pool = km.ClassPool.from_arrays(x, np.repeat(np.arange(6), 4))
    source = sources.Source(
        *"xxxx", (2, 2, 2), lambda preprocess, ids: pool, rotations=False
    )
    task = protocols.Classification(source, 2, 1, 1, test_queries=2)
    return schema.Recipe(None, task, "x", steps=1, tasks=2)


@pytest.mark.thorough
def test_publishing_in_float16_checks_accuracy(tmp_path, recipe, monkeypatch):
    learner = save_learner(tmp_path / "other.keras")
    path = tmp_path / "model.keras"
    publishing.store(learner, path, recipe, 0, 6)
    assert path.stat().st_size < (tmp_path / "other.keras").stat().st_size - 9000

    def zero_weights(draft):
        broken = keras.models.load_model(draft)
        broken.set_weights([0 * w for w in broken.get_weights()])
        broken.save(draft)

    monkeypatch.setattr(precision, "halve", zero_weights)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="validation accuracy, it changes by .* with"):
        publishing.store(learner, path, recipe, 0, 6)
    assert path.read_bytes() == before
    assert not (tmp_path / "half.keras").exists()


def test_float16_requires_publish(capsys):
    assert cli.main(["train", "maml.sinusoid", "--float16"]) == 2
    assert "expected --publish with --float16" in capsys.readouterr().err
