"""Image files: which of a folder are read, and how."""

import collections
import functools
import io
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from keras_meta.typing_names import StrPath

# Of these, the last four need Pillow 11.3 or pillow-heif, which come with the extra.
SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".hif"),
)
HIDDEN, FOLDER, NO_FOLDER = "hidden", "a folder", "not in the folder of a class"
UNKNOWN = "suffix not known"
EXTRA = "extra not installed: pip install 'keras-meta[photos]'"
# Names of skipped files that a sentence gives.
NAMED = 5


def load_image(path: StrPath) -> np.ndarray:
    """Reads an image file as uint8 `[H, W, 1 or 3]`, rotated as its EXIF data state.

    `images.opaque` replaces transparency. Of 16 bits, the upper 8 are kept.

    Raises:
        ValueError: the file cannot be read as an image.
    """
    import PIL.Image
    import PIL.ImageOps

    from keras_meta import images

    _add_heif()
    try:
        with PIL.Image.open(path) as file:
            clear = file.has_transparency_data
            image = PIL.ImageOps.exif_transpose(file)
            grey = image.mode in ("1", "L", "LA", "La")
            wide = image.mode == "I" and file.format not in ("PNG", "PPM")  # 32 bits
            if wide or image.mode[0] == "F":
                kind = "32-bit integers" if wide else "floats"
                raise ValueError(f"its pixels are {kind} without a known range")
            if image.mode[0] == "I":
                pixels = (np.asarray(image) >> 8).astype(np.uint8)
            elif clear:
                pixels = np.asarray(image.convert("LA" if grey else "RGBA"))
            else:
                pixels = np.asarray(image.convert("L" if grey else "RGB"))
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        return images.opaque(pixels).numpy() if clear else pixels
    except PIL.UnidentifiedImageError as error:
        raise ValueError(f"expected an image file, {path} is none.") from error
    except Exception as error:  # Pillow raises many kinds, of damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"expected an image file, could not read {path}: {reason}"
        ) from error


def encoded_image(path: StrPath) -> bytes:
    """The bytes of a PNG or JPEG image that decode to what `load_image` reads.

    They are the file's own if those decode to these pixels, else a PNG image of its
    pixels.

    Raises:
        ValueError: as `load_image`.
    """
    import PIL.Image
    import tensorflow as tf

    from keras_meta import images

    pixels, content = load_image(path), pathlib.Path(path).read_bytes()
    try:
        if np.array_equal(images.decode(content), pixels):
            return content
    except tf.errors.OpError:
        pass  # another format, or damage that Pillow reads around
    image = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def listed(
    directory: StrPath, folders: bool = False
) -> tuple[list[pathlib.Path], list[tuple[pathlib.Path, str]]]:
    """The image files of a folder, or its sub-folders, and what is skipped.

    Args:
        directory: the folder.
        folders: for the sub-folders, such as those of classes.

    Returns:
        `(paths, skipped)`, paths sorted by name and skipped `[(path, reason)]`.
    """
    paths, skipped = [], []
    for path in sorted(pathlib.Path(directory).iterdir()):
        reason = _why_not(path, folders)
        if reason is None:
            paths.append(path)
        else:
            skipped.append((path, reason))
    return paths, skipped


def notes(skipped: Iterable[tuple[pathlib.Path, str]]) -> Iterator[str]:
    """A sentence for each reason: how many files were skipped, and which.

    Args:
        skipped: `[(path, reason)]`.
    """
    by_reason = collections.defaultdict(list)
    for path, reason in skipped:
        by_reason[reason].append(printable(f"{path.parent.name}/{path.name}"))
    for reason, names in by_reason.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        shown = ", ".join(names[:NAMED]) + more
        yield f"{len(names)} skipped, {reason}: {shown}"


def none_found(
    what: str, directory: StrPath, skipped: Iterable[tuple[pathlib.Path, str]]
) -> str:
    """The error message for a folder without the expected files."""
    parts = [f"expected {what} in {directory}, found none", *notes(skipped)]
    return "; ".join(parts) + "."


def printable(text: str) -> str:
    """Replaces characters that a terminal does not show by "�"."""
    return "".join(c if c.isprintable() else "�" for c in text)


def _why_not(path, folders):
    """Why a path is skipped, or None."""
    if path.name.startswith("."):
        return HIDDEN
    if path.is_dir():
        return None if folders else FOLDER
    if folders:
        return NO_FOLDER
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        return UNKNOWN
    return None if suffix in _known_suffixes() else EXTRA


@functools.cache
def _known_suffixes():
    """Those that Pillow can open, as it is installed here."""
    import PIL.Image

    _add_heif()
    kinds = PIL.Image.registered_extensions()
    return {suffix for suffix, kind in kinds.items() if kind in PIL.Image.OPEN}


@functools.cache
def _add_heif():
    try:
        import pillow_heif
    except ImportError:
        return
    pillow_heif.register_heif_opener()
