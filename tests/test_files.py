"""Tests of users' image files: photos, transparency, damage, unusual names."""

import io
import os
import pathlib
import struct

import numpy as np
import PIL.ExifTags
import PIL.features
import PIL.Image
import pytest
import tensorflow as tf

from keras_meta import files, images

INK = np.zeros([12, 10], bool)
INK[2:9, 4:6] = True


def photo(side=64):
    """Creates a smooth coloured picture, wider than high."""
    small = np.random.RandomState(0).randint(0, 256, [5, 7, 3]).astype("uint8")
    return PIL.Image.fromarray(small).resize((side + 16, side), PIL.Image.BICUBIC)


def save_with_orientation(path, picture, orientation):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    picture.save(path, exif=exif, quality=95)


def test_exif_orientation_is_applied(tmp_path):
    picture = photo()
    save_with_orientation(tmp_path / "turned.jpg", picture, 6)
    save_with_orientation(tmp_path / "plain.jpg", picture, 1)
    image = files.load_image(tmp_path / "turned.jpg")
    assert image.shape == (80, 64, 3)
    expected = np.rot90(files.load_image(tmp_path / "plain.jpg"), -1)
    np.testing.assert_array_equal(image, expected)
    # The encoded image is upright too. A file that needs no change is not re-encoded.
    content = files.encoded_image(tmp_path / "turned.jpg")
    assert content.startswith(images.PNG)
    np.testing.assert_array_equal(images.decode(content), expected)
    plain = tmp_path / "plain.jpg"
    assert files.encoded_image(plain) == plain.read_bytes()


def save(path, picture, **kwargs):
    picture.save(path, **kwargs)
    return path


def write_images(folder):
    """Writes an image file of each kind and yields the paths."""
    picture = photo()
    grey, indexed = picture.convert("L"), picture.quantize(9)
    bits = grey.point(lambda v: 255 * (v > 128)).convert("1")
    alpha = PIL.Image.fromarray(np.asarray(grey)[::-1].copy())
    transparent = picture.copy()
    transparent.putalpha(alpha)
    transparent_grey = grey.copy()
    transparent_grey.putalpha(alpha)
    deep = PIL.Image.fromarray(np.asarray(grey).astype("uint16") * 256 + 7)
    for name, suffix, image, kwargs in (
        ("grey", "png", grey, {}),
        ("colour", "png", picture, {}),
        ("palette", "png", indexed, {}),
        ("few", "png", picture.quantize(3), {"bits": 2}),
        ("key", "png", indexed, {"transparency": 2}),
        ("grey key", "png", grey, {"transparency": 90}),
        ("bits", "png", bits, {}),
        ("deep", "png", deep, {}),
        ("clear", "png", transparent, {}),
        ("grey clear", "png", transparent_grey, {}),
        ("moving", "png", picture, {"save_all": True, "append_images": [transparent]}),
        ("photo", "jpg", picture, {}),
        ("fine", "jpeg", picture, {"quality": 100, "subsampling": 0}),
        ("progressive", "jpg", picture, {"progressive": True, "quality": 40}),
        ("grey", "jpg", grey, {}),
        ("print", "jpg", picture.convert("CMYK"), {}),
        ("map", "bmp", picture, {}),
        ("palette", "gif", indexed, {}),
        ("deep", "tif", deep, {}),
        ("clear", "webp", transparent, {"lossless": True}),
        ("photo", "jfif", picture, {"format": "JPEG"}),
    ):
        yield save(folder / f"{name}.{suffix}", image, **kwargs)


def test_encoded_images_decode_to_the_loaded_images(tmp_path):
    decode = tf.function(images.decode, input_signature=[tf.TensorSpec([], tf.string)])
    unchanged = set()
    for path in write_images(tmp_path):
        content, loaded = files.encoded_image(path), files.load_image(path)
        assert loaded.dtype == np.uint8 and loaded.shape[:2] == (64, 80)
        assert loaded.shape[-1] == (1 if path.stem.split()[0] in GREY else 3), path
        for decoded in (images.decode(content), decode(content)):
            np.testing.assert_array_equal(decoded, loaded, err_msg=path.name)
        if content == path.read_bytes():
            unchanged.add(path.name)
    assert unchanged >= {
        *("grey.png", "colour.png", "palette.png", "few.png", "bits.png", "deep.png"),
        *("clear.png", "grey clear.png", "key.png", "moving.png"),
        *("photo.jpg", "fine.jpeg", "progressive.jpg", "grey.jpg", "photo.jfif"),
    }
    # A file that Pillow reads and the graph does not is encoded as PNG.
    path = tmp_path / "cut.png"
    path.write_bytes((tmp_path / "grey.png").read_bytes()[:-12])
    np.testing.assert_array_equal(
        images.decode(files.encoded_image(path)), files.load_image(path)
    )


GREY = {"grey", "bits", "deep"}


def test_16_bit_images_keep_the_upper_8_bits(tmp_path):
    deep = np.arange(0, 65536, 257, dtype="uint16").reshape(16, 16)
    path = save(tmp_path / "deep.png", PIL.Image.fromarray(deep))
    np.testing.assert_array_equal(files.load_image(path)[..., 0], deep >> 8)
    path = save(tmp_path / "deep.tif", PIL.Image.fromarray(deep))
    np.testing.assert_array_equal(files.load_image(path)[..., 0], deep >> 8)
    # A TIFF of 32-bit integers may hold 0 to 255 or any other range.
    path = save(tmp_path / "wide.tif", PIL.Image.fromarray(deep.astype("int32")))
    with pytest.raises(ValueError, match="32-bit integers without a known range"):
        files.load_image(path)


@pytest.mark.parametrize("tone", [0, 60, 200, 255])
def test_transparent_drawings_contrast_with_their_background(tmp_path, tone):
    drawing = np.zeros([12, 10, 4], "uint8")
    drawing[INK] = tone, tone, tone, 255
    image = files.load_image(save(tmp_path / "a.png", PIL.Image.fromarray(drawing)))
    expected = np.where(INK, tone, 255 if tone < 128 else 0)
    np.testing.assert_array_equal(image, np.repeat(expected[..., None], 3, -1))
    # A drawing with its own paper, except at round corners, which take its colour.
    paper = np.full([12, 10, 4], 255, "uint8")
    paper[..., :3] = np.where(INK, tone, 255 - tone)[..., None]
    paper[0, 0] = 0
    image = files.load_image(save(tmp_path / "b.png", PIL.Image.fromarray(paper)))
    assert set(image[0, 0]) == {255 if 255 - tone > 128 else 0}
    empty = np.zeros([3, 3, 4], "uint8")
    image = files.load_image(save(tmp_path / "c.png", PIL.Image.fromarray(empty)))
    assert (image == 255).all()


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_files_raise_one_sentence(tmp_path):
    paths = list(write_images(tmp_path))
    if "AVIF" in PIL.Image.SAVE:
        paths.append(save(tmp_path / "photo.avif", photo()))
    for path in paths:
        content = path.read_bytes()
        for damaged in (content[: len(content) // 4], content[:20], b"", b"no image"):
            path.write_bytes(damaged)
            with pytest.raises(ValueError) as info:
                files.load_image(path)
            message = str(info.value)
            assert message.startswith("expected an image file") and str(path) in message
            assert "\n" not in message


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError,
        MemoryError,
        SyntaxError,
        struct.error,
        PIL.Image.DecompressionBombError,
    ],
)
def test_errors_of_pillow_become_one_sentence(tmp_path, monkeypatch, error):
    path = save(tmp_path / "a.png", photo())

    def fail(*_):
        raise error("two\nlines")

    monkeypatch.setattr(PIL.Image.Image, "convert", fail)
    with pytest.raises(ValueError, match=r"could not read .*a\.png: two lines$"):
        files.load_image(path)


def test_bytes_that_are_not_an_image_raise(tmp_path):
    prepare = images.ImagePreprocess(4, 4, 1)
    for content in (b"", b"GIF89a", b"\xff", b"\x89PNG"):
        with pytest.raises(
            tf.errors.InvalidArgumentError,
            match="expected the bytes of a PNG or JPEG image, got bytes of neither.",
        ):
            prepare.decode([[content]])
    for content in (images.PNG + b"x", images.JPEG + b"x"):
        with pytest.raises(tf.errors.InvalidArgumentError):
            prepare.decode([[content]])


def test_skipped_files_are_listed_with_a_reason(tmp_path, monkeypatch):
    for name in ("a.png", "b.JFIF", "c.heic", "d.avif", ".e.png", "f.svg", "g"):
        (tmp_path / name).touch()
    (tmp_path / "h.png").mkdir()
    monkeypatch.setattr(files, "_known_suffixes", lambda: {".png", ".jfif"})
    paths, skipped = files.listed(tmp_path)
    assert [path.name for path in paths] == ["a.png", "b.JFIF"]
    assert {path.name: reason for path, reason in skipped} == {
        "c.heic": files.EXTRA,
        "d.avif": files.EXTRA,
        ".e.png": files.HIDDEN,
        "f.svg": files.UNKNOWN,
        "g": files.UNKNOWN,
        "h.png": files.FOLDER,
    }
    folders, skipped = files.listed(tmp_path, folders=True)
    assert [path.name for path in folders] == ["h.png"] and len(skipped) == 7
    text_files = [(pathlib.Path(f"a/{i}.txt"), files.UNKNOWN) for i in range(8)]
    assert list(files.notes([(pathlib.Path("b/.x"), files.HIDDEN), *text_files])) == [
        "1 skipped, hidden: b/.x",
        "8 skipped, suffix not known: a/0.txt, a/1.txt, a/2.txt, a/3.txt, a/4.txt and "
        "3 more",
    ]


def test_avif(tmp_path):
    if not PIL.features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = save(tmp_path / "photo.avif", photo(), quality=100)
    assert files.listed(tmp_path)[0] == [path]
    difference = files.load_image(path) - np.asarray(photo()).astype(float)
    assert abs(difference).mean() < 4


def test_heic(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    files._known_suffixes()  # registers the HEIC plugin
    path = save(tmp_path / "photo.heic", photo(), quality=100)
    assert heif and files.listed(tmp_path)[0] == [path]
    difference = files.load_image(path) - np.asarray(photo()).astype(float)
    assert abs(difference).mean() < 4


def test_file_names_of_any_bytes(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        path = save(tmp_path / name, photo())
    except (OSError, UnicodeEncodeError):
        pytest.skip("this file system accepts text names only")
    assert files.listed(tmp_path)[0] == [path]
    assert files.load_image(path).shape == (64, 80, 3)
    path.write_bytes(b"")
    with pytest.raises(ValueError) as info:
        files.load_image(path)
    # Python writes to stderr with this error handler.
    stderr = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace")
    stderr.write(str(info.value))
    assert files.printable(path.name) == "caf�.png"
    assert files.printable("日本 é\n\x1b[1m") == "日本 é��[1m"
