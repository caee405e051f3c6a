"""Photographs: CIFAR-100's published splits, Caltech-101, and the entries of both."""

import os

from keras_meta.zoo import papers, protocols, sources, splits

CALTECH_DIR = "CALTECH101_DIR"
# Of CIFAR-100's images, by channel, in [0, 1].
MEAN, DEVIATION = [0.507, 0.487, 0.441], [0.267, 0.256, 0.276]
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
            "class, it is not set."
        )
    pool = km.ClassPool.from_directory(directory, preprocess)
    where = f"Caltech-101 in {directory} ({CALTECH_DIR})"
    return sources.called(pool, splits.CALTECH101, where)


def _photos(preprocess, ids):
    import keras_meta as km

    cifar = sources.tfds("cifar100")(preprocess, None)
    pools = {"cifar100": cifar, "caltech101": _caltech(preprocess)}
    pool = km.ClassPool.joined(pools)
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
    )


CIFAR_FS = _published(
    "cifar_fs", "CIFAR-FS", splits.CIFAR_FS, "Bertinetto et al., 2019", 15
)
FC100 = _published("fc100", "FC100", splits.FC100, "Oreshkin et al., 2018", 3)


def _names_of_photos():
    """Names in the joined pool, training, validation and test."""
    everything = {
        "cifar100": sum(splits.CIFAR_FS.values(), []),
        "caltech101": splits.CALTECH101,
    }

    def names(part):
        chosen = splits.PHOTOS[part]
        return tuple(f"{data}/{name}" for data in chosen for name in chosen[data])

    kept_out = {*names("validation"), *names("test")}
    training = [f"{data}/{name}" for data in everything for name in everything[data]]
    return (
        tuple(name for name in training if name not in kept_out),
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
)


def _caltech_classes(preprocess, ids):
    import keras_meta as km

    # Label ids of `splits.CALTECH101`, whatever other folders there are.
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
)


def prepared(size):
    """The preprocessing of colour photographs for a network of size x size pixels."""
    import keras_meta as km

    settings = {"invert": False, "mean": MEAN, "deviation": DEVIATION}
    return km.ImagePreprocess(size, size, 3, **settings)


def _gradient(kind, **settings):
    """Makes gradient learners with the published Conv-4 of 64 filters.

    Settings are those of `kind`; by default MAML's for miniImageNet: five inner steps
    at rate 0.01 to train, ten to test, statistics shared among queries.
    """
    settings = {
        "inner_rate": 0.01,
        "inner_steps": 5,
        "evaluation_steps": 10,
        "normalization": "transductive",
        **settings,
    }

    def learner():
        import keras_meta as km

        shape = {"momentum": 0.0, "pooling": "none", "halving": "max"}
        return getattr(km, kind)(
            km.networks.conv4((32, 32, 3), outputs=5, **shape),
            preprocess=prepared(32),
            **settings,
        )

    return learner


def _conv4():
    import keras_meta as km

    return km.networks.conv4(
        (32, 32, 3), outputs=None, momentum=0.99, pooling="none", halving="max"
    )


def _resnet12(size, filters):
    def encoder():
        import keras_meta as km

        return km.networks.resnet12((size, size, 3), None, filters)

    return encoder


def _prototypes(encoder, most_ways):
    def learner():
        import keras_meta as km

        network = encoder()
        preprocess = prepared(network.input_shape[1])
        return km.ProtoNet(network, most_ways, preprocess=preprocess)

    return learner


def _classifier(encoder, classes):
    def learner():
        from keras_meta.zoo import supervised

        network = encoder()
        preprocess = prepared(network.input_shape[1])
        return supervised.Supervised(network, classes, preprocess=preprocess)

    return learner


def _pretrained(encoder, task, pretraining_steps, steps, most_ways):
    """A prototypical network whose encoder first learns to classify all classes."""
    first = protocols.Recipe(
        _classifier(encoder, task.source.sizes[0]),
        protocols.Supervised(task),
        papers.PROTONET_PAPER,
        steps=pretraining_steps,
        tasks=1,
        rate=0.1,
        optimizer="sgd",
        # Keras' decay is apart from the momentum, which makes a penalty's ten times it.
        optimizer_settings={"momentum": 0.9, "nesterov": True, "weight_decay": 3e-3},
        intra_op=2,
    )
    return protocols.Recipe(
        _prototypes(encoder, most_ways),
        task,
        papers.PROTONET_PAPER,
        steps=steps,
        tasks=1,
        rate=1e-4,
        intra_op=2,
        pretraining=first,
    )


def _imagenet(application, size, file, md5):
    """A prototypical network on the features of a network of `keras.applications`.

    Args:
        application: see `keras_meta.networks.pretrained`.
        size: of an image, in pixels.
        file: of the weights, below Keras' folder of applications.
        md5: see `protocols.External`.
    """

    def learner():
        import keras_meta as km

        return km.ProtoNet(
            km.networks.pretrained(application, size),
            60,
            preprocess=km.ImagePreprocess(size, size, 3, invert=False),
        )

    return protocols.Recipe(
        learner,
        protocols.Classification(IMAGENET),
        papers.PROTONET_PAPER,
        steps=0,
        external=protocols.External(APPLICATIONS + file, md5, "Apache-2.0, Keras"),
    )


FLIPPED = {"flip": {}, "crop": {"padding": 4}}
CHANGED = {**FLIPPED, "jitter": {}, "cutout": {"size": 12}}
ONE_SHOT = protocols.Classification(CIFAR_FS, queries=15, augment=FLIPPED)
FIVE_SHOTS = protocols.Classification(CIFAR_FS, shots=5, queries=15, augment=FLIPPED)
# From more ways than are asked for, as Snell et al. train.
MANY_WAYS = {"queries": 10, "training_ways": 20, "augment": {**FLIPPED, "jitter": {}}}
RESIDUAL = protocols.Classification(
    CIFAR_FS, queries=6, training_ways=20, augment=CHANGED
)
USERS = protocols.Classification(
    PHOTOS,
    ways=10,
    queries=6,
    training_ways=20,
    augment={"flip": {}, "crop": {"padding": 8}, "jitter": {}, "cutout": {"size": 24}},
)

APPLICATIONS = "https://storage.googleapis.com/tensorflow/keras-applications/"
RECIPES = {
    "maml.cifar_fs_5w1s": protocols.Recipe(
        _gradient("MAML"), ONE_SHOT, papers.MAML_PAPER, steps=26_000, tasks=4
    ),
    "maml.cifar_fs_5w5s": protocols.Recipe(
        _gradient("MAML"), FIVE_SHOTS, papers.MAML_PAPER, steps=9_500, tasks=4
    ),
    "anil.cifar_fs_5w1s": protocols.Recipe(
        _gradient("ANIL", inner_rate=0.1),
        ONE_SHOT,
        papers.ANIL_PAPER,
        steps=30_000,
        tasks=4,
    ),
    "sigma_maml.cifar_fs_5w1s": protocols.Recipe(
        # A module keeps 0.92 of a step on five examples.
        _gradient("SigmaMAML", initial_scale=0.15),
        ONE_SHOT,
        papers.SHRINKAGE_PAPER,
        steps=30_000,
        tasks=4,
    ),
    "protonet.cifar_fs_5w1s": protocols.Recipe(
        _prototypes(_conv4, 20),
        protocols.Classification(CIFAR_FS, **MANY_WAYS),
        papers.PROTONET_PAPER,
        steps=20_000,
        tasks=1,
        intra_op=2,
    ),
    "protonet.cifar_fs_5w5s": protocols.Recipe(
        _prototypes(_conv4, 20),
        protocols.Classification(CIFAR_FS, shots=5, **MANY_WAYS),
        papers.PROTONET_PAPER,
        steps=15_000,
        tasks=1,
        intra_op=2,
    ),
    "protonet.cifar_fs-resnet12": _pretrained(
        _resnet12(32, (64, 96, 160, 256)), RESIDUAL, 28_000, 6_000, most_ways=20
    ),
    "protonet.photos": _pretrained(
        _resnet12(64, (32, 64, 128, 256)), USERS, 10_000, 2_500, most_ways=60
    ),
    "protonet.imagenet-mobilenet_v2": _imagenet(
        "MobileNetV2",
        160,
        "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_160_no_top.h5",
        None,
    ),
    "protonet.imagenet-efficientnet_v2": _imagenet(
        "EfficientNetV2B0",
        192,
        "efficientnet_v2/efficientnetv2-b0_notop.h5",
        "893217f2bb855e2983157299931e43ff",
    ),
}
