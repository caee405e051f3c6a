"""Conjugate gradient against linear algebra and a loop in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from keras_meta import solvers


def solve(matrix, right, steps, scales=None):
    """Conjugate gradient on a list of a vector and a matrix, from one flat vector."""
    scales = np.ones(len(right)) if scales is None else scales
    scales = tf.constant(scales, right.dtype)

    def split(v):
        return [v[:2], tf.reshape(v[2:], [-1, 2])]

    def join(parts):
        return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

    found = solvers.conjugate_gradient(
        lambda v: split(tf.linalg.matvec(tf.constant(matrix, right.dtype), join(v))),
        split(tf.constant(right)),
        lambda r: split(join(r) / scales),
        steps,
    )
    return join(found).numpy()


def of_eigenvalues(*eigenvalues, seed=0):
    """A symmetric matrix of these eigenvalues, in float64."""
    random = np.random.RandomState(seed)
    size = len(eigenvalues)
    axes, _ = np.linalg.qr(random.normal(size=[size, size]))
    matrix = axes * np.array(eigenvalues) @ axes.T
    return (matrix + matrix.T) / 2


def positive(seed=0):
    """A positive matrix `[6, 6]` of eigenvalues between 1 and 50."""
    return of_eigenvalues(*np.geomspace(1, 50, 6), seed=seed)


def iterates(matrix, right, steps, scales):
    """All iterates of a loop in NumPy, until the curvature is not positive."""
    v, residual = np.zeros_like(right), right.copy()
    direction = residual / scales
    size = residual @ direction
    found = []
    for _ in range(steps):
        curvature = direction @ matrix @ direction
        if curvature <= 0:
            break
        v = v + size / curvature * direction
        residual = residual - size / curvature * (matrix @ direction)
        found.append(v)
        conditioned = residual / scales
        size, before = residual @ conditioned, size
        direction = conditioned + size / before * direction
    return found


def residual(matrix, right, v):
    return np.linalg.norm(right - matrix @ v)


def test_it_ends_after_as_many_steps_as_unknowns():
    matrix, right = positive(), np.random.RandomState(1).normal(size=6)
    exact = np.linalg.solve(matrix, right)
    scales = np.diag(matrix)
    for preconditioner in (None, scales):
        np.testing.assert_allclose(
            solve(matrix, right, 6, preconditioner), exact, rtol=1e-8
        )
        before = solve(matrix, right, 5, preconditioner)
        assert np.abs(before - exact).max() > 1e-4
    # Nothing is left to do after an exact solution, and of nothing comes nothing.
    np.testing.assert_allclose(solve(matrix, right, 60), exact, rtol=1e-8)
    np.testing.assert_array_equal(solve(matrix, np.zeros(6), 3), np.zeros(6))
    # A preconditioner that is the inverse needs one step, and two eigenvalues two.
    diagonal = np.diag(scales)
    np.testing.assert_allclose(solve(diagonal, right, 1, scales), right / scales)
    two = of_eigenvalues(1, 1, 1, 7, 7, 7)
    np.testing.assert_allclose(
        solve(two, right, 2), np.linalg.solve(two, right), rtol=1e-12
    )
    # No step knows nothing of the matrix.
    np.testing.assert_array_equal(solve(matrix, right, 0, scales), right / scales)


def test_each_step_solves_the_system_on_a_krylov_space():
    """Galerkin's condition, as long as the matrix is positive on the space."""
    right = np.random.RandomState(1).normal(size=6)
    matrix = positive() - 1.9 * np.eye(6)  # one eigenvalue below zero
    basis = np.stack([np.linalg.matrix_power(matrix, k) @ right for k in range(6)], 1)
    best = None
    for steps in range(1, 7):
        space, _ = np.linalg.qr(basis[:, :steps])
        inside = space.T @ matrix @ space
        if np.linalg.eigvalsh(inside)[0] <= 0:
            break
        v = space @ np.linalg.solve(inside, space.T @ right)
        rises = best is not None
        if best is None or residual(matrix, right, v) < residual(*best):
            best = matrix, right, v
        np.testing.assert_allclose(solve(matrix, right, steps), best[2], rtol=1e-6)
    assert 1 < steps < 7 and rises
    for more in (steps, steps + 1, 50):
        np.testing.assert_allclose(solve(matrix, right, more), best[2], rtol=1e-6)


# Eigenvalues from tiny to large, and on both sides of zero. Residuals rise and fall.
SYSTEMS = {
    "positive": (np.geomspace(1, 50, 8), None),
    "ill-conditioned": (np.geomspace(1e-3, 1e2, 8), None),
    "ill-conditioned, scaled": (np.geomspace(1e-3, 1e2, 8), np.geomspace(1, 30, 8)),
    "indefinite": ([-0.5, 0.2, 1, 3, 10, 30, 50, 80], None),
    "indefinite, scaled": ([-0.5, 0.2, 1, 3, 10, 30, 50, 80], np.geomspace(1, 30, 8)),
    "nearly negative": ([-5, -3, -1, 1, 2, 3, 4, 5], None),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_iterate_has_a_smaller_residual(name):
    eigenvalues, scales = SYSTEMS[name]
    scales = np.ones(8) if scales is None else scales
    early, fallback = 0, 0
    for seed in range(6):
        matrix = of_eigenvalues(*eigenvalues, seed=seed)
        right = np.random.RandomState(100 + seed).normal(size=8)
        for steps in range(1, 6):
            all_of_them = iterates(matrix, right, steps, scales)
            found = solve(matrix, right, steps, scales)
            if not all_of_them:  # negative curvature at once
                fallback += 1
                np.testing.assert_allclose(found, right / scales, rtol=1e-12)
                continue
            sizes = [residual(matrix, right, v) for v in all_of_them]
            best = int(np.argmin(sizes))
            early += best < len(sizes) - 1
            # What rounding leaves of residuals by two ways, in float64.
            np.testing.assert_allclose(
                residual(matrix, right, found), sizes[best], rtol=1e-6, atol=1e-9
            )
    # The best is at times not the last.
    assert early or fallback or name == "positive"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_solution_scales_with_the_right_side(name, dtype):
    eigenvalues, scales = SYSTEMS[name]
    matrix = of_eigenvalues(*eigenvalues)
    right = np.random.RandomState(1).normal(size=8).astype(dtype)
    solution = solve(matrix, right, 4, scales)
    assert np.abs(solution).max() > 1e-3
    for power in (-20, 20):  # powers of two round nothing
        factor = np.array(2.0**power, dtype)
        found = solve(matrix, factor * right, 4, scales)
        np.testing.assert_array_equal(found, factor * solution)
    for factor in (1e-6, 1e6):
        found = solve(matrix, (factor * right).astype(dtype), 4, scales)
        limit = {"float32": 1e-3, "float64": 1e-9}[dtype] * np.abs(solution).max()
        np.testing.assert_allclose(found / factor, solution, rtol=0, atol=limit)


def test_negative_curvature_at_once_leaves_the_preconditioned_right_side():
    right = np.random.RandomState(1).normal(size=6)
    scales = np.arange(1.0, 7.0)
    for steps in (1, 9):
        found = solve(-positive(), right, steps, scales)
        np.testing.assert_array_equal(found, right / scales)
    # So does a matrix of zeros, along which nothing curves.
    found = solve(np.zeros([6, 6]), right, 9, scales)
    np.testing.assert_array_equal(found, right / scales)


def test_in_a_graph_it_is_a_loop():
    matrix, right = positive(), np.random.RandomState(1).normal(size=6)

    def size(steps):
        graph = tf.function(
            lambda r: solvers.conjugate_gradient(
                lambda v: [tf.linalg.matvec(tf.constant(matrix), v[0])],
                [r],
                lambda r: r,
                steps,
            )
        ).get_concrete_function(tf.TensorSpec([6], tf.float64))
        np.testing.assert_allclose(
            graph(tf.constant(right))[0], solve(matrix, right, steps), rtol=1e-12
        )
        return len(graph.graph.get_operations())

    assert size(5) == size(50)
