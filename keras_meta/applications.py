"""Networks of `keras.applications` as encoders of few-shot learners."""

import inspect
import re
import types
from typing import Any

import keras
import tensorflow as tf


def pretrained(
    application: str,
    size: int = 224,
    outputs: int | None = None,
    weights: str | None = "imagenet",
    trainable: bool = False,
    **kwargs: Any,
) -> keras.Model:
    """Returns a network of `keras.applications` that includes its own preprocessing.

    Its inputs are what `ImagePreprocess(size, size, 3, invert=False)` returns. With
    `outputs=None` it is an encoder for ProtoNet and CNP. With `outputs=N` it has a head
    for gradient learners: ANIL adapts the head alone, and `modules=networks.block_of`
    gives the shrinkage learners one scale per block.

    Args:
        application: the name of its function in `keras.applications`, such as
            "MobileNetV2".
        size: height and width of an image, in pixels.
        outputs: number of logits N of a new dense layer; None for the features,
            averaged over space.
        weights: "imagenet", which Keras downloads on first use and stores; a file of
            such weights (without the top); or None for random ones.
        trainable: whether the layers before the head are trained; if False they are
            frozen, and batch normalization uses its stored statistics.
        **kwargs: for the application, such as `alpha=0.35`.

    Returns:
        A functional `keras.Model` from `[B, size, size, 3]` in [0, 1] to features `[B,
        D]` or logits `[B, N]`.

    Raises:
        ValueError: no such application, an argument that it does not accept, or weights
            that cannot be loaded or downloaded.

    Example:
        >>> encoder = km.networks.pretrained(
        ...     "MobileNetV2", size=32, alpha=0.35, weights=None
        ... )
        >>> prepare = km.ImagePreprocess(32, 32, 3, invert=False)
        >>> learner = km.ProtoNet(encoder, preprocess=prepare)
    """
    module_of(application)
    image = keras.Input((size, size, 3), name="image")
    prepared = ApplicationInput(application, name="prepare")(image)
    try:
        network = getattr(keras.applications, application)(
            include_top=False,
            weights=weights,
            input_tensor=prepared,
            input_shape=(size, size, 3),
            pooling="avg",
            **kwargs,
        )
    except (ValueError, TypeError):
        raise
    except Exception as error:  # Keras raises a bare one where a download fails
        raise ValueError(
            f"expected the {weights} weights of {application}, which Keras downloads "
            f"on first use ({' '.join(str(error).split())}): connect to the network "
            "once, or put the file into ~/.keras/models (KERAS_HOME/models)."
        ) from error
    for layer in network.layers:
        layer.trainable = trainable
    features = network.output
    if outputs is not None:
        features = keras.layers.Dense(outputs, name="head")(features)
    return keras.Model(image, features, name=application.lower())


def block_of(path: str) -> str:
    """Returns the block of a variable, for `modules` of shrinkage learners.

    It is "block_3" for "block_3_expand/kernel", and "block2" for "norm2_1/gamma" of
    `conv4` and `resnet12`. If the name of the layer has no block, it is that name.

    Args:
        path: the path of a variable.

    Example:
        >>> km.networks.block_of("norm2_1/gamma")
        'block2'
    """
    layer = path.split("/")[-2]
    own = re.match(r"(?:conv|norm)(\d+)(?:_\d|_shortcut|$)", layer)
    if own:
        return f"block{own[1]}"
    named = re.match(r".*?block_?\d+[a-z]?", layer)
    return named[0] if named else layer


def module_of(application: str) -> types.ModuleType:
    """Returns the module of an application, which has its `preprocess_input`.

    Args:
        application: the name of its function.

    Raises:
        ValueError: no such application.
    """
    known = dict(inspect.getmembers(keras.applications, inspect.isfunction))
    if application not in known:
        raise ValueError(
            "expected the name of a network in keras.applications "
            f"({', '.join(known)}), got {application!r}."
        )
    return getattr(keras.applications, known[application].__module__.rpartition(".")[2])


@keras.saving.register_keras_serializable("keras_meta")
class ApplicationInput(keras.layers.Layer):
    """Converts images in [0, 1] to the inputs of a network of `keras.applications`.

    Args:
        application: the name of its function.
        **kwargs: for `keras.layers.Layer`.
    """

    def __init__(self, application: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.application = application

    def call(self, images: tf.Tensor) -> tf.Tensor:
        return module_of(self.application).preprocess_input(255.0 * images)

    def compute_output_shape(
        self, input_shape: tuple[int | None, ...]
    ) -> tuple[int | None, ...]:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "application": self.application}
