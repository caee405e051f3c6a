"""JAX implementations for the comparisons of `tools/benchmark.py`."""

import functools

import jax
import jax.numpy as jnp
from jax.example_libraries import optimizers


def _conv4(weights, x):
    for block in range(4):
        kernel, gain, offset = weights[3 * block : 3 * block + 3]
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        mean, variance = jnp.mean(x, (0, 1, 2)), jnp.var(x, (0, 1, 2))
        x = jax.nn.relu((x - mean) * jax.lax.rsqrt(variance + 1e-3) * gain + offset)
    return jnp.mean(x, (1, 2)) @ weights[12] + weights[13]


def _cross_entropy(logits, y):
    return -jnp.mean(
        jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
    )


def maml(form, weights, episode, query_y, rate, inner_steps, inner_rate):
    """Returns a compiled step over tasks: "unrolled", by "vmap" or by "map"."""

    def support_loss(theta, x, y):
        return _cross_entropy(_conv4(theta, x), y)

    def query_loss(theta, task):
        for _ in range(inner_steps):
            gradients = jax.grad(support_loss)(
                theta, task["support_x"], task["support_y"]
            )
            theta = [w - inner_rate * g for w, g in zip(theta, gradients, strict=True)]
        return _cross_entropy(_conv4(theta, task["query_x"]), task["query_y"])

    def mean_loss(theta, tasks):
        count = len(query_y)
        if form == "unrolled":
            losses = [
                query_loss(theta, {name: x[i] for name, x in tasks.items()})
                for i in range(count)
            ]
            return sum(losses) / count
        return jnp.mean(jax.vmap(query_loss, (None, 0))(theta, tasks))

    def value_and_grad(theta, tasks):
        if form == "map":
            per_task = jax.lax.map(
                functools.partial(jax.value_and_grad(query_loss), theta), tasks
            )
            return jax.tree.map(lambda x: jnp.mean(x, 0), per_task)
        return jax.value_and_grad(mean_loss)(theta, tasks)

    init_state, update_state, get_weights = optimizers.adam(rate, eps=1e-7)

    @jax.jit
    def train(index, state, tasks):
        loss, gradients = value_and_grad(get_weights(state), tasks)
        return loss, update_state(index, gradients, state)

    tasks = jax.tree.map(jnp.asarray, {**episode, "query_y": query_y})
    state, index = init_state([jnp.asarray(weight) for weight in weights]), 0

    def step():
        nonlocal state, index
        loss, state = train(index, state, tasks)
        index += 1
        return float(loss)

    return step


CASES = {
    f"maml {form}": functools.partial(maml, form)
    for form in ("unrolled", "vmap", "map")
}
