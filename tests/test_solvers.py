"""Tests of conjugate gradient against linear algebra and a NumPy loop."""

import numpy as np
import pytest
import tensorflow as tf

from keras_meta import solvers


def solve(matrix, right, steps, scales=None):
    """Solves for a flat vector, passed to the solver as a vector and a matrix."""
    scales = np.ones(len(right)) if scales is None else scales
    scales = tf.constant(scales, right.dtype)

    def split(v):
        return [v[:2], tf.reshape(v[2:], [-1, 2])]

    def join(parts):
        return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)

    solution = solvers.conjugate_gradient(
        lambda v: split(tf.linalg.matvec(tf.constant(matrix, right.dtype), join(v))),
        split(tf.constant(right)),
        lambda r: split(join(r) / scales),
        steps,
    )
    return join(solution).numpy()


def symmetric_matrix(*eigenvalues, seed=0):
    """Returns a symmetric float64 matrix with the given eigenvalues."""
    random = np.random.RandomState(seed)
    size = len(eigenvalues)
    axes, _ = np.linalg.qr(random.normal(size=[size, size]))
    matrix = axes * np.array(eigenvalues) @ axes.T
    return (matrix + matrix.T) / 2


def positive_matrix(seed=0):
    """Returns a positive matrix `[6, 6]` with eigenvalues between 1 and 50."""
    return symmetric_matrix(*np.geomspace(1, 50, 6), seed=seed)


def iterates(matrix, right, steps, scales):
    """Returns all iterates of a NumPy loop, until the curvature is not positive."""
    v, residual = np.zeros_like(right), right.copy()
    direction = residual / scales
    size = residual @ direction
    solutions = []
    for _ in range(steps):
        curvature = direction @ matrix @ direction
        if curvature <= 0:
            break
        v = v + size / curvature * direction
        residual = residual - size / curvature * (matrix @ direction)
        solutions.append(v)
        conditioned = residual / scales
        size, old_size = residual @ conditioned, size
        direction = conditioned + size / old_size * direction
    return solutions


def residual_norm(matrix, right, v):
    return np.linalg.norm(right - matrix @ v)


def test_the_solution_is_exact_after_as_many_steps_as_unknowns():
    matrix, right = positive_matrix(), np.random.RandomState(1).normal(size=6)
    exact = np.linalg.solve(matrix, right)
    scales = np.diag(matrix)
    for preconditioner in (None, scales):
        np.testing.assert_allclose(
            solve(matrix, right, 6, preconditioner), exact, rtol=1e-8
        )
        inexact = solve(matrix, right, 5, preconditioner)
        assert np.abs(inexact - exact).max() > 1e-4
    # Further steps keep an exact solution. The solution for a zero vector is zero.
    np.testing.assert_allclose(solve(matrix, right, 60), exact, rtol=1e-8)
    np.testing.assert_array_equal(solve(matrix, np.zeros(6), 3), np.zeros(6))
    # The exact inverse as preconditioner needs one step, two distinct eigenvalues two.
    diagonal = np.diag(scales)
    np.testing.assert_allclose(solve(diagonal, right, 1, scales), right / scales)
    clustered = symmetric_matrix(1, 1, 1, 7, 7, 7)
    np.testing.assert_allclose(
        solve(clustered, right, 2), np.linalg.solve(clustered, right), rtol=1e-12
    )
    # Without a step, the solution is the preconditioned right side.
    np.testing.assert_array_equal(solve(matrix, right, 0, scales), right / scales)


def test_each_step_solves_the_system_on_a_krylov_space():
    """Galerkin's condition holds while the matrix is positive on the Krylov space."""
    right = np.random.RandomState(1).normal(size=6)
    matrix = positive_matrix() - 1.9 * np.eye(6)  # one eigenvalue below zero
    basis = np.stack([np.linalg.matrix_power(matrix, k) @ right for k in range(6)], 1)
    best = None
    for steps in range(1, 7):
        space, _ = np.linalg.qr(basis[:, :steps])
        projected = space.T @ matrix @ space
        if np.linalg.eigvalsh(projected)[0] <= 0:
            break
        v = space @ np.linalg.solve(projected, space.T @ right)
        several = best is not None
        if best is None or residual_norm(matrix, right, v) < residual_norm(*best):
            best = matrix, right, v
        np.testing.assert_allclose(solve(matrix, right, steps), best[2], rtol=1e-6)
    assert 1 < steps < 7 and several
    for count in (steps, steps + 1, 50):
        np.testing.assert_allclose(solve(matrix, right, count), best[2], rtol=1e-6)


# Eigenvalues range from tiny to large, on both sides of zero. Residuals rise and fall.
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
    for seed in range(3):
        matrix = symmetric_matrix(*eigenvalues, seed=seed)
        right = np.random.RandomState(100 + seed).normal(size=8)
        for steps in range(1, 6):
            solutions = iterates(matrix, right, steps, scales)
            solution = solve(matrix, right, steps, scales)
            if not solutions:  # negative curvature in the first step
                fallback += 1
                np.testing.assert_allclose(solution, right / scales, rtol=1e-12)
                continue
            norms = [residual_norm(matrix, right, v) for v in solutions]
            best = int(np.argmin(norms))
            early += best < len(norms) - 1
            # Float64 rounding differs between two ways to compute the residual.
            np.testing.assert_allclose(
                residual_norm(matrix, right, solution),
                norms[best],
                rtol=1e-6,
                atol=1e-9,
            )
    # In some systems the best iterate is not the last.
    assert early or fallback or name == "positive"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_solution_scales_with_the_right_side(name, dtype):
    eigenvalues, scales = SYSTEMS[name]
    matrix = symmetric_matrix(*eigenvalues)
    right = np.random.RandomState(1).normal(size=8).astype(dtype)
    solution = solve(matrix, right, 4, scales)
    assert np.abs(solution).max() > 1e-3
    for power in (-20, 20):  # powers of two cause no rounding
        factor = np.array(2.0**power, dtype)
        scaled = solve(matrix, factor * right, 4, scales)
        np.testing.assert_array_equal(scaled, factor * solution)
    for factor in (1e-6, 1e6):
        scaled = solve(matrix, (factor * right).astype(dtype), 4, scales)
        limit = {"float32": 1e-3, "float64": 1e-9}[dtype] * np.abs(solution).max()
        np.testing.assert_allclose(scaled / factor, solution, rtol=0, atol=limit)


def test_immediate_negative_curvature_returns_the_preconditioned_right_side():
    right = np.random.RandomState(1).normal(size=6)
    scales = np.arange(1.0, 7.0)
    for steps in (1, 9):
        solution = solve(-positive_matrix(), right, steps, scales)
        np.testing.assert_array_equal(solution, right / scales)
    # A zero matrix has no positive curvature and returns the same.
    solution = solve(np.zeros([6, 6]), right, 9, scales)
    np.testing.assert_array_equal(solution, right / scales)


def test_a_graph_contains_a_loop():
    matrix, right = positive_matrix(), np.random.RandomState(1).normal(size=6)

    def count_operations(steps):
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

    assert count_operations(5) == count_operations(50)
