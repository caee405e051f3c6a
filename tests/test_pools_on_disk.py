"""Pools whose images stay on disk: what is wrong with a file is one sentence."""

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_meta as km

SIDE = 16


@pytest.fixture
def folder(tmp_path):
    """Three classes of four images; names with quotes and other letters."""
    random = np.random.RandomState(0)
    for name in ("plain", "it's", 'ü "b"'):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = random.randint(0, 256, (SIDE, SIDE), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


PREPARE = km.ImagePreprocess(SIDE, SIDE, 1, invert=False)


def pool_of(folder):
    return km.ClassPool.from_directory(folder, PREPARE, in_memory=False)


def learner():
    made = km.ProtoNet(
        keras.Sequential(
            [
                keras.Input((SIDE, SIDE, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        ),
        preprocess=PREPARE,
    )
    made.compile()
    return made


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["plain", "it's", 'ü "b"'])
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_damaged_file_is_one_sentence(folder, method, name):
    pool = pool_of(folder)
    path = folder / name / "2.png"
    whole = path.read_bytes()
    arguments = {"fit": "steps_per_epoch"}.get(method, "steps")
    for content, stated in (
        (b"", f"expected an image file, {path} is none."),
        (whole[: len(whole) // 2], f"expected an image file, could not read {path}: "),
    ):
        path.write_bytes(content)
        run = getattr(learner(), method)
        # All four images of each class are in each episode.
        episodes = pool.episodes(ways=3, shots=1, queries=3).batch(2)
        with pytest.raises(ValueError) as caught:
            run(episodes, verbose=0, **{arguments: 2})
        said = str(caught.value)
        assert said.startswith(stated) and said.endswith(".")
        assert "Traceback" not in said and "\n" not in said


def test_a_dataset_and_a_class_state_it_without_a_traceback(folder):
    pool = pool_of(folder)
    path = folder / "plain" / "0.png"
    path.write_bytes(b"")
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        next(iter(pool.episodes(3, 1, 3)))
    assert f"[expected an image file, {path} is none.]" in caught.value.message
    assert "Traceback" not in caught.value.message
    label = {name: label for label, name in pool.names.items()}["plain"]
    with pytest.raises(ValueError) as caught:
        pool.images_of(label)
    assert str(caught.value) == f"expected an image file, {path} is none."
    other = {name: label for label, name in pool.names.items()}["it's"]
    assert pool.images_of(other).shape == (4, SIDE, SIDE, 1)


def test_a_class_with_too_few_images_is_named_by_its_folder(folder):
    (folder / "plain" / "3.png").unlink()
    for in_memory in (True, False):
        pool = km.ClassPool.from_directory(folder, PREPARE, in_memory)
        with pytest.raises(ValueError) as caught:
            pool.episodes(ways=2, shots=1, queries=3)
        assert str(caught.value) == (
            "expected at least 1 + 3 images in each class, class plain has 3."
        )
