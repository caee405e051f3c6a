"""A neural process for regression."""

import torch
from torch import nn
from torch.nn import functional

from peers_torch import layout


def _dense(weights):
    """Returns linear layers with ReLU between them."""
    layers = []
    for kernel, bias in zip(weights[::2], weights[1::2], strict=True):
        layer = nn.Linear(*kernel.shape)
        with torch.no_grad():
            layer.weight.copy_(layout.tensor(kernel))
            layer.bias.copy_(layout.tensor(bias))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def cnp(weights, episode, query_y, rate):
    """A conditional neural process; the loss includes the support points."""
    encoder, decoder = _dense(weights[:8]), _dense(weights[8:])
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = layout.adam(parameters, rate)
    support_x, support_y, query_x = (
        torch.tensor(episode[name]) for name in ("support_x", "support_y", "query_x")
    )
    x = torch.cat([query_x, support_x], 1)
    y = torch.cat([torch.tensor(query_y), support_y], 1)

    def step():
        optimizer.zero_grad()
        features = encoder(torch.cat([support_x, support_y], -1))
        representation = features.mean(1, keepdim=True).expand(-1, x.shape[1], -1)
        mean, raw_scale = decoder(torch.cat([representation, x], -1)).chunk(2, -1)
        scale = 0.1 + 0.9 * functional.softplus(raw_scale)
        loss = -torch.distributions.Normal(mean, scale).log_prob(y).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, parameters
