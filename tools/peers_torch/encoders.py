"""ProtoNet, classification by a neural process, and pretraining, with encoders.

Layers have the names of Keras' layers: weights are loaded by name.
"""

import collections

import torch
from torch import nn
from torch.nn import functional

from peers_torch import layout

EPSILON = 1e-3  # Keras' batch normalization
# Names of weights in Keras and in PyTorch.
NAMES = {"kernel": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
FORMATS = {False: torch.contiguous_format, True: torch.channels_last}


def _convolution(inputs, filters, size, stride, name):
    """A convolution and its batch normalization, `{name: layer}`."""
    padding = size // 2
    return {
        f"conv{name}": nn.Conv2d(inputs, filters, size, stride, padding, bias=False),
        f"norm{name}": nn.BatchNorm2d(filters, eps=EPSILON),
    }


def _sequential(layers):
    return nn.Sequential(collections.OrderedDict(layers))


def conv4(filters, channels=3):
    layers = {}
    for block in range(1, 5):
        layers |= _convolution(channels, filters, 3, 2, block)
        layers[f"relu{block}"] = nn.ReLU(inplace=True)
        channels = filters
    layers |= {"mean": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten()}
    return _sequential(layers), filters


class ResidualBlock(nn.Module):
    """Three 3x3 convolutions, a shortcut, and 2x2 max pooling."""

    def __init__(self, block, inputs, filters):
        super().__init__()
        self.first = _sequential(_convolution(inputs, filters, 3, 1, f"{block}_1"))
        self.second = _sequential(_convolution(filters, filters, 3, 1, f"{block}_2"))
        self.third = _sequential(_convolution(filters, filters, 3, 1, f"{block}_3"))
        shortcut = _convolution(inputs, filters, 1, 1, f"{block}_shortcut")
        self.shortcut = _sequential(shortcut)
        self.relu = nn.LeakyReLU(0.1, inplace=True)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        y = self.relu(self.second(self.relu(self.first(x))))
        return self.pool(self.relu(self.third(y) + self.shortcut(x)))


def resnet12(filters, channels=3):
    widths = [channels, *filters]
    blocks = [
        ResidualBlock(block, *widths[block - 1 : block + 1])
        for block in range(1, len(widths))
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten()), filters[-1]


ENCODERS = {"conv4": conv4, "resnet12": resnet12}


def _class_means(features, labels):
    """Means `[T, N, D]` of features `[T, S, D]` over the examples of each class."""
    members = functional.one_hot(labels).to(features.dtype).transpose(1, 2)
    return members @ features / members.sum(2, keepdim=True)


class ProtoNet(nn.Module):
    """Squared distances to the class means."""

    def __init__(self, encoder, width):
        super().__init__()
        self.encoder = encoder

    def forward(self, encode, support_x, support_y, query_x, query_y):
        means = _class_means(encode(support_x), support_y)
        distances = encode(query_x)[:, :, None] - means[:, None]
        return -distances.pow(2).sum(-1), query_y


class ClassProcess(nn.Module):
    """A decoder scores each pair of a query, or support example, and a class."""

    def __init__(self, encoder, width, hidden=128):
        super().__init__()
        self.encoder = encoder
        self.decoder = _sequential(
            {
                "dense1": nn.Linear(2 * width, hidden),
                "relu1": nn.ReLU(inplace=True),
                "dense2": nn.Linear(hidden, hidden),
                "relu2": nn.ReLU(inplace=True),
                "head": nn.Linear(hidden, 1),
            }
        )

    def forward(self, encode, support_x, support_y, query_x, query_y):
        means = _class_means(encode(support_x), support_y)
        queries = encode(torch.cat([query_x, support_x], 1))
        tasks, count, ways = *queries.shape[:2], means.shape[1]
        pairs = torch.cat(
            [
                means[:, None].expand(tasks, count, ways, -1),
                queries[:, :, None].expand(tasks, count, ways, -1),
            ],
            -1,
        )
        return self.decoder(pairs).squeeze(-1), torch.cat([query_y, support_y], 1)


class Supervised(nn.Module):
    """A linear layer that classifies all training classes."""

    def __init__(self, encoder, width, classes):
        super().__init__()
        self.encoder = encoder
        self.classes = nn.Linear(width, classes)

    def forward(self, encode, support_x, support_y, query_x, query_y):
        return self.classes(encode(query_x)), query_y


def _load_weights(network, weights, paths, channels_last):
    """Loads Keras' weights by their paths; returns the parameters in Keras' order."""
    missing = {".".join(k.split(".")[-2:]): p for k, p in network.named_parameters()}
    parameters = []
    with torch.no_grad():
        for path, weight in zip(paths, weights, strict=True):
            layer, name = path.split("/")[-2:]
            parameter = missing.pop(f"{layer}.{NAMES[name]}")
            parameter.copy_(layout.tensor(weight))
            parameters.append(parameter)
    if missing:
        raise ValueError(f"expected weights of all layers, got none for {[*missing]}.")
    network.to(memory_format=FORMATS[channels_last])
    return parameters


def train(
    build,
    weights,
    episode,
    query_y,
    rate,
    paths,
    encoder,
    filters,
    smoothing=0.0,
    channels_last=False,
    half=False,
    **settings,
):
    """Returns a step of a network that encodes the images of all tasks at once.

    Args:
        build: `ProtoNet`, `ClassProcess` or `Supervised`.
        weights, episode, query_y, rate: the arguments of every peer.
        paths: paths of Keras' weights.
        encoder: a name in ENCODERS.
        filters: filters of the encoder's layers.
        smoothing: label smoothing.
        channels_last: if True, images have PyTorch's channels-last layout.
        half: if True, the encoder computes in bfloat16, by autocast.
        **settings: other arguments of `build`.
    """
    network = build(*ENCODERS[encoder](filters), **settings)
    parameters = _load_weights(network, weights, paths, channels_last)
    optimizer = layout.adam(parameters, rate)
    data = layout.tasks(episode, query_y)

    def encode(x):
        flat = x.flatten(0, 1).contiguous(memory_format=FORMATS[channels_last])
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = network.encoder(flat)
        return features.float().unflatten(0, x.shape[:2])

    def step():
        optimizer.zero_grad()
        logits, labels = network(encode, *data)
        loss = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing
        )
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, parameters
