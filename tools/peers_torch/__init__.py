"""PyTorch implementations (peers) for the comparisons of `tools/benchmark.py`.

The arguments of a peer are `weights` (in Keras' order and layout), `episode`,
`query_y`, `rate` (Adam's learning rate) and its own settings. It returns `(step,
parameters)`: a function that takes one meta-training step and returns its loss, and the
trained parameters in Keras' order.
"""

import functools

import torch

from peers_torch import encoders, gradient, processes, sequences

CASES = {
    "maml loop": gradient.maml_loop,
    "maml vmap": gradient.maml_vmap,
    "imaml": gradient.imaml,
    "protonet": functools.partial(encoders.train, encoders.ProtoNet),
    "cnp_classes": functools.partial(encoders.train, encoders.ClassProcess),
    "supervised": functools.partial(encoders.train, encoders.Supervised),
    "lstm": functools.partial(sequences.recurrent, sequences.LSTM),
    "mann": functools.partial(sequences.recurrent, sequences.MANN),
    "cnp": processes.cnp,
}

torch.manual_seed(0)
