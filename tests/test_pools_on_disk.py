"""Tests of pools on disk: an error about an image file is one sentence."""

import keras
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_meta as km

SIDE = 16


@pytest.fixture
def folder(tmp_path):
    """Creates three classes of four images; names have quotes and an umlaut."""
    random = np.random.RandomState(0)
    for name in ("plain", "it's", 'ü "b"'):
        (tmp_path / name).mkdir()
        for number in range(4):
            pixels = random.randint(0, 256, (SIDE, SIDE), dtype=np.uint8)
            PIL.Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    return tmp_path


PREPARE = km.ImagePreprocess(SIDE, SIDE, 1, invert=False)


def pool_on_disk(folder):
    return km.ClassPool.from_directory(folder, PREPARE, in_memory=False)


def learner():
    protonet = km.ProtoNet(
        keras.Sequential(
            [
                keras.Input((SIDE, SIDE, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        ),
        preprocess=PREPARE,
    )
    protonet.compile()
    return protonet


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["plain", "it's", 'ü "b"'])
@pytest.mark.parametrize("method", ["fit", "evaluate", "predict"])
def test_a_damaged_file_raises_an_error_of_one_sentence(folder, method, name):
    pool = pool_on_disk(folder)
    path = folder / name / "2.png"
    image = path.read_bytes()
    arguments = {"fit": "steps_per_epoch"}.get(method, "steps")
    for content, start in (
        (b"", f"expected an image file, {path} is none."),
        (image[: len(image) // 2], f"expected an image file, could not read {path}: "),
    ):
        path.write_bytes(content)
        run = getattr(learner(), method)
        # Each episode has all four images of each class.
        episodes = pool.episodes(ways=3, shots=1, queries=3).batch(2)
        with pytest.raises(ValueError) as error:
            run(episodes, verbose=0, **{arguments: 2})
        message = str(error.value)
        assert message.startswith(start) and message.endswith(".")
        assert "Traceback" not in message and "\n" not in message


def test_datasets_and_images_of_report_a_damaged_file(folder):
    pool = pool_on_disk(folder)
    path = folder / "plain" / "0.png"
    path.write_bytes(b"")
    with pytest.raises(tf.errors.InvalidArgumentError) as error:
        next(iter(pool.episodes(3, 1, 3)))
    assert f"[expected an image file, {path} is none.]" in error.value.message
    assert "Traceback" not in error.value.message
    label = {name: label for label, name in pool.names.items()}["plain"]
    with pytest.raises(ValueError) as error:
        pool.images_of(label)
    assert str(error.value) == f"expected an image file, {path} is none."
    undamaged = {name: label for label, name in pool.names.items()}["it's"]
    assert pool.images_of(undamaged).shape == (4, SIDE, SIDE, 1)


def test_a_class_with_too_few_images_is_named_by_its_folder(folder):
    (folder / "plain" / "3.png").unlink()
    for in_memory in (True, False):
        pool = km.ClassPool.from_directory(folder, PREPARE, in_memory)
        with pytest.raises(ValueError) as error:
            pool.episodes(ways=2, shots=1, queries=3)
        assert str(error.value) == (
            "expected at least 1 + 3 images in each class, class plain has 3."
        )
