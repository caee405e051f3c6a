"""MAML and iMAML."""

import torch
from torch.nn import functional

from peers_torch import layout


def _conv4(weights, x):
    for block in range(4):
        kernel, gain, offset = weights[3 * block : 3 * block + 3]
        x = functional.conv2d(x, kernel, stride=2, padding=1)
        x = functional.batch_norm(x, None, None, gain, offset, training=True, eps=1e-3)
        x = functional.relu(x)
    return functional.linear(x.mean((2, 3)), *weights[12:])


def _loss(theta, x, y):
    return functional.cross_entropy(_conv4(theta, x), y)


def _prepare(weights, episode, query_y):
    """Returns the parameters, and the tensors of the tasks."""
    phi = [layout.tensor(weight).requires_grad_() for weight in weights]
    return phi, layout.tasks(episode, query_y)


def _descend(theta, gradients, rate):
    return [w - rate * g for w, g in zip(theta, gradients, strict=True)]


def maml_loop(weights, episode, query_y, rate, inner_steps, inner_rate):
    """MAML, tasks in a loop through autograd, as in learn2learn and higher."""
    phi, tensors = _prepare(weights, episode, query_y)
    optimizer = layout.adam(phi, rate)
    tasks = list(zip(*tensors, strict=True))

    def step():
        optimizer.zero_grad()
        total = 0.0
        for support_x, support_y, query_x, query_y in tasks:
            theta = phi
            for _ in range(inner_steps):
                loss = _loss(theta, support_x, support_y)
                gradients = torch.autograd.grad(loss, theta, create_graph=True)
                theta = _descend(theta, gradients, inner_rate)
            loss = _loss(theta, query_x, query_y)
            (loss / len(tasks)).backward()
            total += loss.item()
        optimizer.step()
        return total / len(tasks)

    return step, phi


def maml_vmap(weights, episode, query_y, rate, inner_steps, inner_rate):
    """MAML, all tasks as one batch through `torch.func`."""
    phi, tensors = _prepare(weights, episode, query_y)
    optimizer = layout.adam(phi, rate)

    def query_loss(theta, support_x, support_y, query_x, query_y):
        for _ in range(inner_steps):
            gradients = torch.func.grad(_loss)(theta, support_x, support_y)
            theta = _descend(theta, gradients, inner_rate)
        return _loss(theta, query_x, query_y)

    over_tasks = torch.func.vmap(
        torch.func.grad_and_value(query_loss), in_dims=(None, 0, 0, 0, 0)
    )

    def step():
        gradients, losses = over_tasks([weight.detach() for weight in phi], *tensors)
        for weight, gradient in zip(phi, gradients, strict=True):
            weight.grad = gradient.mean(0)
        optimizer.step()
        return float(losses.mean())

    return step, phi


def conjugate_gradient(product, right_side, steps):
    """Solves `A v = right_side` from v = 0, on lists of tensors."""

    def inner(a, b):
        return sum((x * y).sum() for x, y in zip(a, b, strict=True))

    solution = [torch.zeros_like(r) for r in right_side]
    residual = [r.clone() for r in right_side]
    direction = [r.clone() for r in right_side]
    squared_norm = inner(residual, residual)
    for _ in range(steps):
        curvature = product(direction)
        step_size = squared_norm / inner(direction, curvature)
        solution = [s + step_size * d for s, d in zip(solution, direction, strict=True)]
        residual = [r - step_size * a for r, a in zip(residual, curvature, strict=True)]
        previous, squared_norm = squared_norm, inner(residual, residual)
        ratio = squared_norm / previous
        direction = [r + ratio * d for r, d in zip(residual, direction, strict=True)]
    return solution


def imaml(
    weights,
    episode,
    query_y,
    rate,
    inner_steps,
    inner_rate,
    regularization,
    conjugate_steps,
):
    """iMAML, tasks in a loop; Hessian-vector products by double backward.

    The inner step is a proximal step for the penalty, as in keras-meta.
    """
    phi, tensors = _prepare(weights, episode, query_y)
    optimizer = layout.adam(phi, rate)
    tasks = list(zip(*tensors, strict=True))
    proximal_factor = 1 / (1 + inner_rate * regularization)

    def adapt(x, y):
        theta = [weight.detach().clone().requires_grad_() for weight in phi]
        for _ in range(inner_steps):
            gradients = torch.autograd.grad(_loss(theta, x, y), theta)
            with torch.no_grad():
                for w, g, start in zip(theta, gradients, phi, strict=True):
                    w.sub_(inner_rate * g).sub_(start).mul_(proximal_factor).add_(start)
        return theta

    def step():
        for weight in phi:
            weight.grad = torch.zeros_like(weight)
        total = 0.0
        for support_x, support_y, query_x, query_y in tasks:
            theta = adapt(support_x, support_y)
            loss = _loss(theta, query_x, query_y)
            query_gradients = torch.autograd.grad(loss, theta)
            support_gradients = torch.autograd.grad(
                _loss(theta, support_x, support_y), theta, create_graph=True
            )

            def product(direction, support_gradients=support_gradients, theta=theta):
                products = torch.autograd.grad(
                    support_gradients, theta, grad_outputs=direction, retain_graph=True
                )
                return [
                    h + regularization * v
                    for h, v in zip(products, direction, strict=True)
                ]

            direction = conjugate_gradient(product, query_gradients, conjugate_steps)
            for weight, v in zip(phi, direction, strict=True):
                weight.grad += regularization / len(tasks) * v
            total += loss.item()
        optimizer.step()
        return total / len(tasks)

    return step, phi
