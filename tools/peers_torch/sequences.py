"""LSTM and MANN."""

import numpy as np
import torch
from torch.nn import functional

from peers_torch import layout


class LSTM(torch.nn.Module):
    """The network of `LSTMLearner` with `torch.nn.LSTM`."""

    def __init__(self, weights, features, classes):
        super().__init__()
        kernel, recurrent, bias, head, offset = map(torch.tensor, weights)
        self.rnn = torch.nn.LSTM(features + classes, recurrent.shape[0])
        self.head = torch.nn.Linear(*head.shape)
        with torch.no_grad():  # both libraries order the gates i, f, c, o
            self.rnn.weight_ih_l0.copy_(kernel.T)
            self.rnn.weight_hh_l0.copy_(recurrent.T)
            self.rnn.bias_ih_l0.copy_(bias)
            self.rnn.bias_hh_l0.zero_()
            self.head.weight.copy_(head.T)
            self.head.bias.copy_(offset)
        self.rnn.bias_hh_l0.requires_grad_(False)  # Keras has one bias only

    def forward(self, x, previous_labels):
        hidden, _ = self.rnn(torch.cat([x, previous_labels], -1))
        return self.head(torch.cat([x, hidden], -1))


class MANN(torch.nn.Module):
    """The network of `MANN` with default settings, one time step after the other."""

    def __init__(self, weights, features, classes, rows=128, width=40, heads=4):
        super().__init__()
        kernel, recurrent, bias, *rest = map(torch.tensor, weights)
        key, key_bias, gate, gate_bias, head, offset = rest
        self.rows, self.width, self.heads = rows, width, heads
        self.cell = torch.nn.LSTMCell(kernel.shape[0], recurrent.shape[0])
        self.key = torch.nn.Linear(*key.shape)
        self.gate = torch.nn.Linear(*gate.shape)
        self.head = torch.nn.Linear(*head.shape)
        with torch.no_grad():
            self.cell.weight_ih.copy_(kernel.T)
            self.cell.weight_hh.copy_(recurrent.T)
            self.cell.bias_ih.copy_(bias)
            self.cell.bias_hh.zero_()
            for layer, weight, bias in (
                (self.key, key, key_bias),
                (self.gate, gate, gate_bias),
                (self.head, head, offset),
            ):
                layer.weight.copy_(weight.T)
                layer.bias.copy_(bias)
        self.cell.bias_hh.requires_grad_(False)

    def forward(self, x, previous_labels):
        tasks, units = x.shape[1], self.cell.hidden_size
        hidden = cell = x.new_zeros(tasks, units)
        reads = x.new_zeros(tasks, self.heads * self.width)
        memory = x.new_zeros(tasks, self.rows, self.width)
        read_weights = x.new_zeros(tasks, self.heads, self.rows)
        usage = x.new_zeros(tasks, self.rows)
        outputs = []
        for inputs in torch.cat([x, previous_labels], -1):
            hidden, cell = self.cell(torch.cat([inputs, reads], -1), (hidden, cell))
            keys = torch.tanh(self.key(hidden)).view(tasks, self.heads, self.width)
            gates = torch.sigmoid(self.gate(hidden))[:, :, None]
            order = torch.sort(usage.detach(), stable=True, dim=-1).indices
            least_used = functional.one_hot(order[:, : self.heads], self.rows)
            least_used = least_used.to(x.dtype)
            write = gates * read_weights + (1 - gates) * least_used.sum(1, keepdim=True)
            memory = memory * (1 - least_used[:, 0, :, None])
            memory = memory + write.transpose(1, 2) @ keys
            scores = keys @ memory.transpose(1, 2)
            read_weights = torch.softmax(scores, -1)
            reads = (read_weights @ memory).reshape(tasks, -1)
            usage = 0.95 * usage + (read_weights + write).sum(1)
            outputs.append(reads)
        return self.head(torch.stack(outputs))


def recurrent(build, weights, episode, query_y, rate, classes):
    """Trains on sequences; the loss includes the predictions of support examples."""
    x = np.concatenate([episode["support_x"], episode["query_x"]], 1)
    y = np.concatenate([episode["support_y"], query_y], 1)
    x = torch.tensor(x.transpose(1, 0, 2).copy())  # time first
    y = torch.tensor(y.T.copy()).long()
    labels = functional.one_hot(y, classes).float()
    previous_labels = torch.cat([torch.zeros_like(labels[:1]), labels[:-1]])
    network = build(weights, x.shape[-1], classes)
    parameters = [w for w in network.parameters() if w.requires_grad]
    optimizer = layout.adam(parameters, rate)

    def step():
        optimizer.zero_grad()
        logits = network(x, previous_labels)
        loss = functional.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, parameters
