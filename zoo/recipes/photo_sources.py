"""Sources of photographs: published splits of CIFAR-100, Caltech-101, ImageNet."""

import os

from keras_meta.zoo.recipes import sources, splits

CALTECH_DIR = "CALTECH101_DIR"
ORDER = (
    "The images trained on are those of the original, in another order: episodes "
    "differ from those of a download"
)
CIFAR_LICENCE = "none stated by its authors; cite Krizhevsky, 2009"


def _caltech(preprocess):
    """The classes of Caltech-101, from the folder that `CALTECH101_DIR` names."""
    import keras_meta as km

    directory = os.environ.get(CALTECH_DIR)
    if not directory:
        raise ValueError(
            f"expected the environment variable {CALTECH_DIR} to name a folder of "
            "Caltech-101 (doi 10.22002/D1.20086) with a sub-folder of images for each "
            "class; the variable is not set."
        )
    pool = km.ClassPool.from_directory(directory, preprocess)
    where = f"Caltech-101 in {directory} ({CALTECH_DIR})"
    return sources.select_names(pool, splits.CALTECH101, where)


def _photos(preprocess, ids):
    import keras_meta as km

    caltech = _caltech(preprocess)  # first, because it may refuse
    cifar = sources.tfds("cifar100")(preprocess, None)
    pool = km.ClassPool.joined({"cifar100": cifar, "caltech101": caltech})
    return pool if ids is None else pool.select(ids)


def _published(source_id, family, split, paper, pairs):
    """A published split of CIFAR-100 in 100 classes."""
    names = tuple(tuple(split[part]) for part in sources.PART_SEEDS)
    train, validation, test = sizes = tuple(map(len, names))
    return sources.Named(
        source_id,
        family,
        f"{family} (TFDS cifar100, train+test; {paper}): the published {train} classes "
        f"to train, {validation} to validate, {test} to test; 32x32. {ORDER}. 26 pairs "
        f"of images are identical, {pairs} of them across these parts",
        CIFAR_LICENCE,
        sizes,
        sources.tfds("cifar100"),
        names=names,
        photographs=True,
    )


CIFAR_FS = _published(
    "cifar_fs", "CIFAR-FS", splits.CIFAR_FS, "Bertinetto et al., 2019", 15
)
FC100 = _published("fc100", "FC100", splits.FC100, "Oreshkin et al., 2018", 3)


def _names_of_photos():
    """Names of the training, validation and test classes in the joined pool."""
    everything = {
        "cifar100": sum(splits.CIFAR_FS.values(), []),
        "caltech101": splits.CALTECH101,
    }

    def names(part):
        chosen = splits.PHOTOS[part]
        return tuple(f"{data}/{name}" for data in chosen for name in chosen[data])

    held_out = {*names("validation"), *names("test")}
    training = [f"{data}/{name}" for data in everything for name in everything[data]]
    return (
        tuple(name for name in training if name not in held_out),
        names("validation"),
        names("test"),
    )


_PHOTO_NAMES = _names_of_photos()
PHOTOS = sources.Named(
    "photos",
    "photographs",
    "CIFAR-100 (TFDS cifar100, train+test) and Caltech-101 (Li et al., 2022, without "
    "its background and Faces_easy), 64x64. 90 classes of each to train; to validate: "
    f"{', '.join(_PHOTO_NAMES[1])}; to test: {', '.join(_PHOTO_NAMES[2])}. {ORDER}. 26 "
    "pairs of CIFAR-100's images are identical",
    f"CIFAR-100: {CIFAR_LICENCE}; Caltech-101: CC BY 4.0, Li, Andreeto, Ranzato and "
    "Perona",
    tuple(map(len, _PHOTO_NAMES)),
    _photos,
    names=_PHOTO_NAMES,
    photographs=True,
)


def _caltech_classes(preprocess, ids):
    import keras_meta as km

    # Label ids are those of `splits.CALTECH101`, even if the folder has more classes.
    pool = km.ClassPool.joined({"caltech101": _caltech(preprocess)})
    return pool if ids is None else pool.select(ids)


_CALTECH_NAMES = tuple(
    tuple(name for name in part if name.startswith("caltech101/"))
    for part in _PHOTO_NAMES
)
IMAGENET = sources.Named(
    "caltech101",
    "photographs",
    "ImageNet (Russakovsky et al., 2015), by Keras' weights: many of its classes are "
    "Caltech-101's too. Tasks are of Caltech-101 (Li et al., 2022): 5 classes to "
    f"validate, {', '.join(_CALTECH_NAMES[1])}; 5 to test, "
    f"{', '.join(_CALTECH_NAMES[2])}",
    "ImageNet: for research; Caltech-101: CC BY 4.0, Li, Andreeto, Ranzato and Perona",
    tuple(map(len, _CALTECH_NAMES)),
    _caltech_classes,
    names=_CALTECH_NAMES,
    photographs=True,
)
