"""Converts weights and images from Keras' layout to PyTorch's; the optimizer.

Keras pads a strided convolution at the end, PyTorch at both ends. With flipped kernels
and images, both compute the same result for images of even size.
"""

import torch


def tensor(weight):
    """Converts a Keras weight to a tensor; flips the kernels of convolutions."""
    if weight.ndim == 4:
        weight = weight[::-1, ::-1].transpose(3, 2, 0, 1)
    elif weight.ndim == 2:
        weight = weight.T
    return torch.tensor(weight.copy())


def array(value):
    """The inverse of `tensor`."""
    value = value.detach().contiguous().numpy()
    if value.ndim == 4:
        return value.transpose(2, 3, 1, 0)[::-1, ::-1]
    return value.T


def images(x):
    """Converts images `[T, S, H, W, C]` to `[T, S, C, H, W]`, flipped like kernels."""
    return torch.tensor(x[:, :, ::-1, ::-1].transpose(0, 1, 4, 2, 3).copy())


def tasks(episode, query_y):
    """Returns `support_x, support_y, query_x, query_y` of image tasks as tensors."""
    return (
        images(episode["support_x"]),
        torch.tensor(episode["support_y"]).long(),
        images(episode["query_x"]),
        torch.tensor(query_y).long(),
    )


def adam(parameters, rate):
    """Adam with Keras' epsilon."""
    return torch.optim.Adam(parameters, lr=rate, eps=1e-7)
