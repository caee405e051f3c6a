"""Tests that Python, commands and exports predict the same for images."""

import os
import warnings

import numpy as np
import PIL.Image
import pytest
import tensorflow as tf

import keras_meta as km
from keras_meta import files, zoo
from keras_meta.zoo import cli, image_notes, predictions

ENTRIES = ["maml.glyphs_5w1s-inductive", "protonet.omniglot_5w1s"]
TOLERANCE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Exports the learners; returns `{name: learner}` and the folder of the exports."""
    folder = tmp_path_factory.mktemp("served")
    learners = {name: zoo.load(name) for name in ENTRIES}
    for name, learner in learners.items():
        km.export(learner, folder / name)
    return learners, folder


@pytest.fixture(scope="module")
def drawings():
    """Draws three characters six times, uint8 `[3, 6, 28, 28]`, dark on light."""
    pool = km.tasks.glyphs(3, drawings=6, prepare=km.ImagePreprocess())
    ink = [pool.images_of(i).numpy()[..., 0] for i in range(3)]
    return np.rint(255 * (1 - np.stack(ink))).astype("uint8")


def write_task(folder, drawings, **options):
    """Writes two support and four query images of each class; returns query labels."""
    suffixes = ["png", "jpg", "bmp", "png"]
    for label, images in enumerate(drawings):
        for number, drawing in enumerate(images):
            size = 40 + 13 * number, 52 + 7 * label
            picture = PIL.Image.fromarray(drawing).resize(size, PIL.Image.BICUBIC)
            name = f"{label}{number}.{suffixes[number % 4]}"
            path = folder / ("query" if number > 1 else f"support/{label}") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            save(path, picture, number=number, **options)
    return np.repeat(range(3), 4)


def save(path, picture, number, transparent=False, rotated=False):
    """Saves a drawing, optionally with a transparent background or an EXIF rotation."""
    if transparent and path.suffix == ".png":
        ink = picture.point(lambda v: 255 - v) if transparent == "dark" else picture
        picture = PIL.Image.new("L", picture.size, 255 if transparent == "light" else 0)
        picture.putalpha(ink)
    elif rotated and path.suffix == ".jpg":
        exif = PIL.Image.Exif()
        exif[PIL.ExifTags.Base.Orientation] = 6
        picture.rotate(90, expand=True).save(path, exif=exif)
        return
    picture.save(path)


def by_commands(name, served, monkeypatch):
    """Returns the probabilities `[Q, 3]` of `learn` and of `request --local`."""
    results = []

    def record(output, model, names, paths, labels, probabilities, unknown=None):
        assert names == ["0", "1", "2"]
        results.append(np.asarray(probabilities)[:, :3])

    monkeypatch.setattr(predictions, "show_classes", record)
    arguments = ["--support", "task/support"]
    assert cli.main(["learn", "task/query", *arguments, "--model", name]) == 0
    arguments += ["--query", "task/query", "--local", str(served)]
    assert cli.main(["request", name, *arguments]) == 0
    return results


def by_python(learner, folder):
    """Computes the same probabilities as a user's program would."""
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
def test_python_and_commands_agree(name, ink, served, drawings, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tone, _, clear = ink.partition(", ")
    images = drawings if tone == "dark" else 255 - drawings
    labels = write_task(
        tmp_path / "task", images, transparent=clear and tone, rotated=ink == "dark"
    )
    learners, folder = served
    expected = by_python(learners[name], tmp_path / "task")
    assert (expected.argmax(1) == labels).mean() > 0.8
    for probabilities in by_commands(name, folder, monkeypatch):
        np.testing.assert_allclose(probabilities, expected, **TOLERANCE)


@pytest.mark.thorough
@pytest.mark.parametrize("name", ENTRIES)
def test_python_and_signatures_agree(name, served, drawings):
    learners, folder = served
    learner, prepare = learners[name], learners[name].preprocess
    signatures = tf.saved_model.load(folder / name / "1").signatures
    large = km.ImagePreprocess(60, 45, 1).resize(drawings[..., None]).numpy()
    # A request has two tasks, with dark and with light ink. The images of a task do not
    # depend on the other task.
    tasks = np.stack([large, 255 - large[[1, 0, 2]]])
    support, query = (
        part.reshape(2, -1, *large.shape[2:]) for part in np.split(tasks, [2], axis=2)
    )
    support_y = np.tile(np.repeat(range(3), 2), [2, 1]).astype("int32")
    support_x, query_x = prepare.pair(support, query)
    state = learner.adapt(support_x, support_y)
    expected = tf.nn.softmax(learner.infer(state, query_x))
    alone = [prepare.pair(support[i : i + 1], query[i : i + 1]) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate([x for x, _ in alone]), support_x)
    np.testing.assert_array_equal(np.concatenate([x for _, x in alone]), query_x)

    def png(images):
        return [[tf.io.encode_png(image).numpy() for image in task] for task in images]

    for signature, inputs in {
        "serving_images": (support, query),
        "serving_bytes": (png(support), png(query)),
        "serving_default": (support_x, query_x),
    }.items():
        outputs = signatures[signature](
            support_x=tf.constant(inputs[0]),
            support_y=tf.constant(support_y),
            query_x=tf.constant(inputs[1]),
        )
        np.testing.assert_allclose(outputs["probabilities"], expected, **TOLERANCE)
    with pytest.raises(tf.errors.InvalidArgumentError, match="a PNG or JPEG image"):
        signatures["serving_bytes"](
            support_x=tf.constant([[b"no image"]]),
            support_y=tf.constant([[0]]),
            query_x=tf.constant(png(query[:1, :1])),
        )


def test_support_examples_determine_the_inversion():
    prepare = km.ImagePreprocess(8, 8, 1)
    dark = np.full([8, 8, 1], 255, "uint8")
    dark[2:6, 3] = 0
    light = 255 - dark
    flat = np.full([8, 8, 1], 200, "uint8")
    support = np.stack(
        [
            [dark, dark, dark],
            [light, light, dark],
            [dark, light, flat],  # no majority: the network's own tone
            [flat, light, flat],
        ]
    )
    assert prepare.inverts(support).numpy().tolist() == [True, False, True, False]
    uninverted = km.ImagePreprocess(8, 8, 1, invert=False, detect=True)
    assert uninverted.inverts(support).numpy().tolist() == [True, False, False, False]
    for invert in (True, False):
        fixed = km.ImagePreprocess(8, 8, 1, invert=invert, detect=False)
        assert fixed.inverts(support).numpy().tolist() == [invert] * 4
    query = np.stack([[light]] * 4)
    support_x, query_x = prepare.pair(support, query)
    ink = (dark == 0).astype("float32")
    np.testing.assert_array_equal(query_x[:, 0], [1 - ink, ink, 1 - ink, ink])
    np.testing.assert_array_equal(support_x[0], [ink] * 3)
    np.testing.assert_array_equal(support_x[1], [ink, ink, 1 - ink])
    # Photographs are not inverted. A pool inverts as `invert` states.
    assert not km.ImagePreprocess(8, 8, 3, invert=False).detect
    np.testing.assert_array_equal(prepare(light), 1 - ink)


def test_ink_tones_in_poor_conditions(drawings):
    random = np.random.RandomState(0)
    drawn = drawings.reshape(-1, 28, 28, 1)
    ink = 1 - np.kron(drawn, np.ones([1, 3, 3, 1])) / 255
    row, column = np.mgrid[:84, :84] / 83 - 0.5
    for ground, tone, noise, shading in (
        (230, 70, 8, 90 * row),  # light from the side
        (220, 60, 8, -200 * (row**2 + column**2)),  # dark corners
        (235, 190, 4, 40 * column),  # pencil
    ):
        light = np.clip(ground + shading, 0, 255)[..., None]
        scan = light * (1 - ink) + tone * ink + random.normal(0, noise, ink.shape)
        scan = np.clip(scan, 0, 255).astype("uint8")
        assert (km.images.ink_tones(scan) == -1).numpy().all()
        assert (km.images.ink_tones(255 - scan) == 1).numpy().all()


@pytest.mark.thorough
def test_commands_report_skipped_files_and_print_unusual_names(
    served, drawings, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    _, folder = served
    write_task(tmp_path / "task", drawings)
    for name in ("support/1/notes.txt", "support/loose.png", "query/.x.png"):
        (tmp_path / "task" / name).touch()
    (tmp_path / "task/query/heic.heic").touch()
    (tmp_path / "task/query/more").mkdir()
    suffixes = files._known_suffixes()
    monkeypatch.setattr(files, "_known_suffixes", lambda: suffixes - {".heic"})
    (tmp_path / "task/support/2").rename(tmp_path / "task/support/字$_{")
    try:
        unusual_path = os.fsdecode(b"task/query/\xff.png")
        (tmp_path / "task/query/02.bmp").rename(tmp_path / unusual_path)
    except (OSError, UnicodeEncodeError):
        unusual_path = None
    support = ["--support", "task/support"]
    for command in (
        ["learn", "task/query", *support, "--model", ENTRIES[0]],
        [
            "request",
            ENTRIES[0],
            *support,
            "--query",
            "task/query",
            "--local",
            str(folder),
        ],
    ):
        with open("stdout.txt", "w", encoding="utf-8") as stdout:
            monkeypatch.setattr("sys.stdout", stdout)
            assert cli.main(command) == 0
        out = (tmp_path / "stdout.txt").read_text(encoding="utf-8")
        for note in (
            "1 skipped, not in the folder of a class: support/loose.png.",
            "1 skipped, suffix not known: 1/notes.txt.",
            "1 skipped, hidden: query/.x.png.",
            f"1 skipped, {files.EXTRA}: query/heic.heic.",
            "1 skipped, a folder: query/more.",
        ):
            assert f"Note: {note}" in out
        # The sizes are 40, 53, ... 105 by 52, 59, 66.
        assert "Note: 16 of 18 images are not square" in out
        assert "字$_{" in out and (unusual_path is None or "�.png" in out)
    assert (tmp_path / "predictions.png").exists()


@pytest.mark.thorough
@pytest.mark.filterwarnings("default::UserWarning")
def test_evaluate_reports_files_that_it_skips_or_squeezes(
    drawings, tmp_path, monkeypatch, capsys
):
    write_task(tmp_path, drawings)
    (tmp_path / "support/1/notes.txt").touch()
    arguments = ["--data", str(tmp_path / "support"), "--episodes", "2"]
    assert cli.main(["evaluate", ENTRIES[0], *arguments]) == 0
    printed = capsys.readouterr()
    skipped = "1 skipped, suffix not known: 1/notes.txt."
    assert f"\nkeras-meta: warning: {skipped}\n" in f"\n{printed.err}"
    # The sizes are 40 x 52, 40 x 59, 40 x 66, 53 x 52, 53 x 59 and 53 x 66.
    assert "Note: 5 of 6 images are not square" in printed.out


def test_notes_on_a_folder_of_photographs(tmp_path, drawings, monkeypatch):
    monkeypatch.setattr(image_notes, "SAMPLE", 3)
    write_task(tmp_path, drawings)
    paths = sorted((tmp_path / "support").glob("*/*"))
    prepare = km.ImagePreprocess()
    (squeezed,) = image_notes.of_folder("maml", prepare, paths)
    assert squeezed.startswith("5 of 6 images are not square")
    noise = np.random.RandomState(0)
    for path in paths[::2]:  # the sample
        rough = noise.randint(256, size=[8, 8, 3]).astype("uint8")
        PIL.Image.fromarray(rough).resize((90, 90), PIL.Image.BILINEAR).save(path)
    (photographs,) = image_notes.of_folder("maml", prepare, paths)
    assert photographs.startswith("these look like photographs. maml was trained on")
    colours = km.ImagePreprocess(invert=False)  # a model of photographs
    assert list(image_notes.of_folder("protonet", colours, paths)) != [photographs]


def test_a_learner_takes_a_preprocess_of_its_own_images_alone():
    network = km.networks.conv4((8, 8, 1), outputs=3, filters=4)
    message = r"shape of one x, \(8, 8, 1\), got an ImagePreprocess to \(28, 28, 1\)"
    with pytest.raises(ValueError, match=message):
        km.MAML(network, preprocess=km.ImagePreprocess())
    learner = km.MAML(network, preprocess=km.ImagePreprocess(8, 8, 1))
    with pytest.raises(ValueError, match="preprocess to be an ImagePreprocess"):
        learner.preprocess = "resize"
    with pytest.raises(ValueError, match=message):
        learner.preprocess = km.ImagePreprocess()
    assert learner.preprocess.shape == (8, 8, 1)
    flat = km.networks.mlp((8 * 8,), 3, units=(4,))
    with pytest.raises(ValueError, match=r"one x, \(64,\), got .* to \(8, 8, 1\)"):
        km.MAML(flat, preprocess=km.ImagePreprocess(8, 8, 1))
    any_size = km.networks.conv4((None, None, 1), outputs=None, filters=4)
    assert km.ProtoNet(any_size, preprocess=km.ImagePreprocess()).preprocess


@pytest.mark.parametrize("normalize", [False, True])
def test_unscaled_images_cause_a_warning(normalize):
    colours = {"mean": 0.5, "deviation": [0.1, 0.2, 0.25]} if normalize else {}
    prepare = km.ImagePreprocess(8, 8, 3, invert=False, **colours)
    assert repr(prepare).startswith("ImagePreprocess(height=8, width=8, channels=3, ")
    network = km.networks.conv4((8, 8, 3), outputs=None, filters=4)
    learner = km.ProtoNet(network, preprocess=prepare)
    images = np.random.RandomState(0).randint(256, size=[1, 6, 8, 8, 3]).astype("uint8")
    y = np.arange(6)[None] % 3
    support_x, query_x = prepare.pair(images, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = learner.adapt(support_x, y)
        learner.infer(state, query_x)
    intensity = "64" if normalize else "255"  # 255 * 0.25 + 0.5
    expected = rf"as learner.preprocess returns it, .* \[0, 1\], got one of {intensity}"
    with pytest.warns(UserWarning, match=f"expected support_x {expected}") as caught:
        learner.adapt(images.astype("float32"), y)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match=f"expected query_x {expected}") as caught:
        learner.infer(state, images.astype("float32"))
    assert caught[0].filename == __file__
    for arguments in ((images[0], images), (images, images[0])):
        with pytest.raises(ValueError, match=r"\[6, 8, 8, 3\]: images\[None\] makes"):
            prepare.pair(*arguments)
