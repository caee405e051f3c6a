"""What people would write in PyTorch: the other side of `tools/benchmark.py`.

Each case takes its data and settings and gives a function that takes one meta-training
step, from the weights `weights` (in Keras' order and layout), and returns its loss.
"""

import numpy as np
import torch
from torch.nn import functional


def _conv4_weights(weights):
    """Of `networks.conv4`, flipped: padding is left here and right there."""
    tensors = []
    for weight in weights:
        if weight.ndim == 4:
            weight = weight[::-1, ::-1].transpose(3, 2, 0, 1)
        elif weight.ndim == 2:
            weight = weight.T
        tensors.append(torch.tensor(weight.copy()))
    return tensors


def _images(x):
    """`[T, S, H, W, C]`, flipped as the kernels are, to `[T, S, C, H, W]`."""
    return torch.tensor(x[:, :, ::-1, ::-1].transpose(0, 1, 4, 2, 3).copy())


def _conv4(weights, x):
    for block in range(4):
        kernel, gain, offset = weights[3 * block : 3 * block + 3]
        x = functional.conv2d(x, kernel, stride=2, padding=1)
        x = functional.batch_norm(x, None, None, gain, offset, training=True, eps=1e-3)
        x = functional.relu(x)
    return functional.linear(x.mean((2, 3)), *weights[12:])


def maml_loop(weights, episode, query_y, inner_steps, inner_rate, rate):
    """Tasks one after another through autograd, as learn2learn and higher do."""
    phi = [weight.requires_grad_() for weight in _conv4_weights(weights)]
    optimizer = torch.optim.Adam(phi, lr=rate, eps=1e-7)
    support_x, query_x = _images(episode["support_x"]), _images(episode["query_x"])
    support_y = torch.tensor(episode["support_y"]).long()
    query_y = torch.tensor(query_y).long()

    def step():
        optimizer.zero_grad()
        total = 0.0
        for task in range(len(query_y)):
            theta = phi
            for _ in range(inner_steps):
                loss = functional.cross_entropy(
                    _conv4(theta, support_x[task]), support_y[task]
                )
                gradients = torch.autograd.grad(loss, theta, create_graph=True)
                theta = [
                    w - inner_rate * g for w, g in zip(theta, gradients, strict=True)
                ]
            loss = functional.cross_entropy(_conv4(theta, query_x[task]), query_y[task])
            (loss / len(query_y)).backward()
            total += loss.item()
        optimizer.step()
        return total / len(query_y)

    return step


def maml_vmap(weights, episode, query_y, inner_steps, inner_rate, rate):
    """All tasks as one batch through `torch.func`."""
    phi = [weight.requires_grad_() for weight in _conv4_weights(weights)]
    optimizer = torch.optim.Adam(phi, lr=rate, eps=1e-7)
    support_x, query_x = _images(episode["support_x"]), _images(episode["query_x"])
    support_y = torch.tensor(episode["support_y"]).long()
    query_y = torch.tensor(query_y).long()

    def support_loss(theta, x, y):
        return functional.cross_entropy(_conv4(theta, x), y)

    def query_loss(theta, support_x, support_y, query_x, query_y):
        for _ in range(inner_steps):
            gradients = torch.func.grad(support_loss)(theta, support_x, support_y)
            theta = [w - inner_rate * g for w, g in zip(theta, gradients, strict=True)]
        return functional.cross_entropy(_conv4(theta, query_x), query_y)

    each = torch.func.vmap(
        torch.func.grad_and_value(query_loss), in_dims=(None, 0, 0, 0, 0)
    )

    def step():
        gradients, losses = each(
            [weight.detach() for weight in phi],
            support_x,
            support_y,
            query_x,
            query_y,
        )
        for weight, gradient in zip(phi, gradients, strict=True):
            weight.grad = gradient.mean(0)
        optimizer.step()
        return float(losses.mean())

    return step


class LSTM(torch.nn.Module):
    """`LSTMLearner` around `torch.nn.LSTM`."""

    def __init__(self, weights, features, classes):
        super().__init__()
        kernel, recurrent, bias, head, offset = map(torch.tensor, weights)
        self.rnn = torch.nn.LSTM(features + classes, recurrent.shape[0])
        self.head = torch.nn.Linear(*head.shape)
        with torch.no_grad():  # both have the gates in the order i, f, c, o
            self.rnn.weight_ih_l0.copy_(kernel.T)
            self.rnn.weight_hh_l0.copy_(recurrent.T)
            self.rnn.bias_ih_l0.copy_(bias)
            self.rnn.bias_hh_l0.zero_()
            self.head.weight.copy_(head.T)
            self.head.bias.copy_(offset)
        self.rnn.bias_hh_l0.requires_grad_(False)  # Keras has one bias

    def forward(self, x, late):
        hidden, _ = self.rnn(torch.cat([x, late], -1))
        return self.head(torch.cat([x, hidden], -1))


class MANN(torch.nn.Module):
    """`MANN` with its defaults, a step at a time."""

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

    def forward(self, x, late):
        tasks, units = x.shape[1], self.cell.hidden_size
        hidden = cell = x.new_zeros(tasks, units)
        reads = x.new_zeros(tasks, self.heads * self.width)
        memory = x.new_zeros(tasks, self.rows, self.width)
        read_weights = x.new_zeros(tasks, self.heads, self.rows)
        usage = x.new_zeros(tasks, self.rows)
        outputs = []
        for inputs in torch.cat([x, late], -1):
            hidden, cell = self.cell(torch.cat([inputs, reads], -1), (hidden, cell))
            keys = torch.tanh(self.key(hidden)).view(tasks, self.heads, self.width)
            gates = torch.sigmoid(self.gate(hidden))[:, :, None]
            least = torch.sort(usage.detach(), stable=True, dim=-1).indices
            marks = functional.one_hot(least[:, : self.heads], self.rows).to(x.dtype)
            write = gates * read_weights + (1 - gates) * marks.sum(1, keepdim=True)
            memory = memory * (1 - marks[:, 0, :, None])
            memory = memory + write.transpose(1, 2) @ keys
            scores = keys @ memory.transpose(1, 2)
            read_weights = torch.softmax(scores, -1)
            reads = (read_weights @ memory).reshape(tasks, -1)
            usage = 0.95 * usage + (read_weights + write).sum(1)
            outputs.append(reads)
        return self.head(torch.stack(outputs))


def recurrent(kind, weights, x, y, classes, rate):
    """A step of `kind` on x `[T, S, D]` and y `[T, S]`, every answer scored."""
    x = torch.tensor(x.transpose(1, 0, 2).copy())
    y = torch.tensor(y.T.copy()).long()
    labels = functional.one_hot(y, classes).float()
    late = torch.cat([torch.zeros_like(labels[:1]), labels[:-1]])
    network = kind(weights, x.shape[-1], classes)
    optimizer = torch.optim.Adam(
        [w for w in network.parameters() if w.requires_grad], lr=rate, eps=1e-7
    )

    def step():
        optimizer.zero_grad()
        answers = network(x, late)
        loss = functional.cross_entropy(answers.flatten(0, 1), y.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def cnp(weights, support, query, rate):
    """A step of a neural process for regression, the support points asked too."""

    def dense(pairs):
        layers = []
        for kernel, bias in pairs:
            layer = torch.nn.Linear(*kernel.shape)
            with torch.no_grad():
                layer.weight.copy_(torch.tensor(kernel.T))
                layer.bias.copy_(torch.tensor(bias))
            layers += [layer, torch.nn.ReLU()]
        return torch.nn.Sequential(*layers[:-1])

    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    encoder, decoder = dense(pairs[:4]), dense(pairs[4:])
    optimizer = torch.optim.Adam(
        [*encoder.parameters(), *decoder.parameters()], lr=rate, eps=1e-7
    )
    (support_x, support_y), (query_x, query_y) = (
        map(torch.tensor, points) for points in (support, query)
    )
    x, y = torch.cat([query_x, support_x], 1), torch.cat([query_y, support_y], 1)

    def step():
        optimizer.zero_grad()
        found = encoder(torch.cat([support_x, support_y], -1)).mean(1, keepdim=True)
        found = found.expand(-1, x.shape[1], -1)
        mean, raw = decoder(torch.cat([found, x], -1)).chunk(2, -1)
        scale = 0.1 + 0.9 * functional.softplus(raw)
        loss = -torch.distributions.Normal(mean, scale).log_prob(y).mean()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def threads(count):
    torch.set_num_threads(count)


CASES = {
    "maml loop": maml_loop,
    "maml vmap": maml_vmap,
    "lstm": lambda **case: recurrent(LSTM, **case),
    "mann": lambda **case: recurrent(MANN, **case),
    "cnp": cnp,
}

torch.manual_seed(0)
np.random.seed(0)
