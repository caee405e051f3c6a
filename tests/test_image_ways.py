"""Images give one result whatever the way: Python, commands and exports."""

import os

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import files, zoo
from keras_meta.zoo import cli, predictions

ENTRIES = ["maml.glyphs_5w1s-inductive", "protonet.omniglot_5w1s"]
SAME = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """`{name: learner}`, and the folder of their exports."""
    folder = tmp_path_factory.mktemp("served")
    learners = {name: zoo.load(name) for name in ENTRIES}
    for name, learner in learners.items():
        km.export(learner, folder / name)
    return learners, folder


@pytest.fixture(scope="module")
def drawings():
    """Three characters, six drawings of each, uint8 `[3, 6, 28, 28]`, dark on light."""
    pool = km.tasks.glyphs(3, drawings=6, prepare=km.ImagePreprocess())
    ink = [pool.images_of(i).numpy()[..., 0] for i in range(3)]
    return np.rint(255 * (1 - np.stack(ink))).astype("uint8")


def write_task(folder, drawings, **how):
    """Two examples and four questions of each, of many kinds; returns their labels."""
    kinds = ["png", "jpg", "bmp", "png"]
    for label, each in enumerate(drawings):
        for number, drawing in enumerate(each):
            size = 40 + 13 * number, 52 + 7 * label
            picture = PIL.Image.fromarray(drawing).resize(size, PIL.Image.BICUBIC)
            name = f"{label}{number}.{kinds[number % 4]}"
            path = folder / ("query" if number > 1 else f"support/{label}") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, picture, number=number, **how)
    return np.repeat(range(3), 4)


def save(path, picture, number, clear=False, turned=False):
    """Saves a drawing, also on no ground, or as a camera that is held upright does."""
    if clear and path.suffix == ".png":
        ink = picture.point(lambda v: 255 - v) if clear == "dark" else picture
        picture = PIL.Image.new("L", picture.size, 255 if clear == "light" else 0)
        picture.putalpha(ink)
    elif turned and path.suffix == ".jpg":
        exif = PIL.Image.Exif()
        exif[PIL.ExifTags.Base.Orientation] = 6
        picture.rotate(90, expand=True).save(path, exif=exif)
        return
    picture.save(path)


def by_commands(name, served, monkeypatch):
    """Probabilities `[Q, 3]` of `learn` and of `request --local`."""
    found = []

    def noted(output, model, names, paths, labels, probabilities, unknown=None):
        assert names == ["0", "1", "2"]
        found.append(np.asarray(probabilities)[:, :3])

    monkeypatch.setattr(predictions, "show_classes", noted)
    asked = ["--support", "task/support"]
    assert cli.main(["learn", "task/query", *asked, "--model", name]) == 0
    asked += ["--query", "task/query", "--local", str(served)]
    assert cli.main(["request", name, *asked]) == 0
    return found


def by_python(learner, folder):
    """Likewise, of a user's own program."""
    support, labels, query = [], [], []
    for label in range(3):
        paths = files.listed(folder / "support" / str(label))[0]
        support += paths
        labels += [label] * len(paths)
    query = files.listed(folder / "query")[0]
    prepare = learner.preprocess
    support, query = (
        np.stack([prepare.resize(files.load_image(path)) for path in paths])[None]
        for paths in (support, query)
    )
    support_x, query_x = prepare.pair(support, query)
    state = learner.adapt(support_x, np.array([labels]))
    return tf.nn.softmax(learner.infer(state, query_x))[0, :, :3].numpy()


@pytest.mark.thorough
@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("ink", ["dark", "light", "dark, clear", "light, clear"])
def test_all_ways_agree(name, ink, served, drawings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tone, _, clear = ink.partition(", ")
    shown = drawings if tone == "dark" else 255 - drawings
    labels = write_task(
        tmp_path / "task", shown, clear=clear and tone, turned=ink == "dark"
    )
    learners, folder = served
    expected = by_python(learners[name], tmp_path / "task")
    assert (expected.argmax(1) == labels).mean() > 0.8
    for found in by_commands(name, folder, monkeypatch):
        np.testing.assert_allclose(found, expected, **SAME)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ENTRIES)
def test_signatures_agree(name, served, drawings):
    learners, folder = served
    learner, prepare = learners[name], learners[name].preprocess
    signatures = tf.saved_model.load(folder / name / "1").signatures
    large = km.ImagePreprocess(60, 45, 1).resize(drawings[..., None]).numpy()
    # Two tasks in a request, of either ink: each is as it would be alone.
    tasks = np.stack([large, 255 - large[[1, 0, 2]]])
    support, query = (
        each.reshape(2, -1, *large.shape[2:]) for each in np.split(tasks, [2], axis=2)
    )
    support_y = np.tile(np.repeat(range(3), 2), [2, 1]).astype("int32")
    support_x, query_x = prepare.pair(support, query)
    state = learner.adapt(support_x, support_y)
    expected = tf.nn.softmax(learner.infer(state, query_x))
    alone = [prepare.pair(support[i : i + 1], query[i : i + 1]) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in alone]), support_x)
    np.testing.assert_array_equal(np.concatenate([x for _, x in alone]), query_x)

    def png(images):
        return [[tf.io.encode_png(image).numpy() for image in each] for each in images]

    for signature, inputs in {
        "serving_images": (support, query),
        "serving_bytes": (png(support), png(query)),
        "serving_default": (support_x, query_x),
    }.items():
        answer = signatures[signature](
            support_x=tf.constant(inputs[0]),
            support_y=tf.constant(support_y),
            query_x=tf.constant(inputs[1]),
        )
        np.testing.assert_allclose(answer["probabilities"], expected, **SAME)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a PNG or JPEG image"):
        signatures["serving_bytes"](
            support_x=tf.constant([[b"no image"]]),
            support_y=tf.constant([[0]]),
            query_x=tf.constant(png(query[:1, :1])),
        )


def test_examples_decide_for_all():
    prepare = km.ImagePreprocess(8, 8, 1)
    dark = np.full([8, 8, 1], 255, "uint8")
    dark[2:6, 3] = 0
    light = 255 - dark
    flat = np.full([8, 8, 1], 200, "uint8")
    support = np.stack(
        [
            [dark, dark, dark],
            [light, light, dark],
            [dark, light, flat],  # no majority: as the network was trained
            [flat, light, flat],
        ]
    )
    assert prepare.inverts(support).numpy().tolist() == [True, False, True, False]
    other = km.ImagePreprocess(8, 8, 1, invert=False, detect=True)
    assert other.inverts(support).numpy().tolist() == [True, False, False, False]
    for invert in (True, False):
        fixed = km.ImagePreprocess(8, 8, 1, invert=invert, detect=False)
        assert fixed.inverts(support).numpy().tolist() == [invert] * 4
    query = np.stack([[light]] * 4)
    support_x, query_x = prepare.pair(support, query)
    ink = (dark == 0).astype("float32")
    np.testing.assert_array_equal(query_x[:, 0], [1 - ink, ink, 1 - ink, ink])
    np.testing.assert_array_equal(support_x[0], [ink] * 3)
    np.testing.assert_array_equal(support_x[1], [ink, ink, 1 - ink])
    # Photographs stay as they are; a pool takes images with `invert` as set.
    assert not km.ImagePreprocess(8, 8, 3, invert=False).detect
    np.testing.assert_array_equal(prepare(light), 1 - ink)


def test_ink_in_bad_conditions(drawings):
    random = np.random.RandomState(0)
    drawn = drawings.reshape(-1, 28, 28, 1)
    ink = 1 - np.kron(drawn, np.ones([1, 3, 3, 1])) / 255
    row, column = np.mgrid[:84, :84] / 83 - 0.5
    for ground, tone, noise, lit in (
        (230, 70, 8, 90 * row),  # from the side
        (220, 60, 8, -200 * (row**2 + column**2)),  # corners in the dark
        (235, 190, 4, 40 * column),  # pencil
    ):
        light = np.clip(ground + lit, 0, 255)[..., None]
        scan = light * (1 - ink) + tone * ink + random.normal(0, noise, ink.shape)
        scan = np.clip(scan, 0, 255).astype("uint8")
        assert (km.images.ink_tones(scan) == -1).numpy().all()
        assert (km.images.ink_tones(255 - scan) == 1).numpy().all()


@pytest.mark.thorough
def test_skipped_files_and_odd_names_are_told(served, drawings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, folder = served
    write_task(tmp_path / "task", drawings)
    for name in ("support/1/notes.txt", "support/loose.png", "query/.x.png"):
        (tmp_path / "task" / name).touch()
    (tmp_path / "task/query/heic.heic").touch()
    (tmp_path / "task/query/more").mkdir()
    known = files._known_suffixes()
    monkeypatch.setattr(files, "_known_suffixes", lambda: known - {".heic"})
    (tmp_path / "task/support/2").rename(tmp_path / "task/support/字$_{")
    try:
        odd = os.fsdecode(b"task/query/\xff.png")
        (tmp_path / "task/query/02.bmp").rename(tmp_path / odd)
    except (OSError, UnicodeEncodeError):
        odd = None
    asked = ["--support", "task/support"]
    for command in (
        ["learn", "task/query", *asked, "--model", ENTRIES[0]],
        [
            "request",
            ENTRIES[0],
            *asked,
            "--query",
            "task/query",
            "--local",
            str(folder),
        ],
    ):
        with open("said.txt", "w", encoding="utf-8") as said:
            monkeypatch.setattr("sys.stdout", said)
            assert cli.main(command) == 0
        out = (tmp_path / "said.txt").read_text(encoding="utf-8")
        for note in (
            "1 skipped, not in the folder of a class: support/loose.png.",
            "1 skipped, suffix not known: 1/notes.txt.",
            "1 skipped, hidden: query/.x.png.",
            f"1 skipped, {files.EXTRA}: query/heic.heic.",
            "1 skipped, a folder: query/more.",
        ):
            assert f"Note: {note}" in out
        # Of sizes 40, 53, ... 105 by 52, 59, 66.
        assert "Note: 16 of 18 images are not square" in out
        assert "字$_{" in out and (odd is None or "�.png" in out)
    assert (tmp_path / "predictions.png").exists()


@pytest.mark.filterwarnings("default::UserWarning")
def test_evaluate_reports_files_that_it_skips_or_squeezes(
    drawings, tmp_path, monkeypatch, capsys
):
    write_task(tmp_path, drawings)
    (tmp_path / "support/1/notes.txt").touch()
    words = ["--data", str(tmp_path / "support"), "--episodes", "2"]
    assert cli.main(["evaluate", ENTRIES[0], *words]) == 0
    printed = capsys.readouterr()
    skipped = "1 skipped, suffix not known: 1/notes.txt."
    assert f"\nkeras-meta: warning: {skipped}\n" in f"\n{printed.err}"
    # Of 40 x 52, 40 x 59, 40 x 66, 53 x 52, 53 x 59 and 53 x 66.
    assert "Note: 5 of 6 images are not square" in printed.out
