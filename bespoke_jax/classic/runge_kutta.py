"""Explicit Runge-Kutta methods on equal steps, as tables."""

import jax.numpy as jnp
import numpy as np

from bespoke_jax.table import SolverTable

__all__ = ["euler", "heun", "midpoint", "rk4", "runge_kutta"]


def runge_kutta(nfe: int, nodes, matrix, weights, name: str = "runge_kutta", dtype=jnp.float32) -> SolverTable:
    """The table of an explicit Runge-Kutta method with Butcher tableau (nodes c, matrix A, weights b) on equal steps.

    Args:
        nfe: velocity evaluations, a positive multiple of the number of stages.
        nodes: [S] times of the stages within a step, the first 0.
        matrix: [S, S] strictly lower triangular.
        weights: [S].

    Raises:
        ValueError: if `nfe` is no positive multiple of S.
    """
    nodes, matrix, weights = (np.asarray(v, np.float64) for v in (nodes, matrix, weights))
    stages = len(nodes)
    if isinstance(nfe, bool) or not isinstance(nfe, int | np.integer) or nfe < 1 or nfe % stages:
        raise ValueError(f"nfe: {name} takes a positive multiple of {stages}, got {nfe!r}.")
    steps = nfe // stages
    h = 1.0 / steps
    t = np.concatenate([(i + nodes) * h for i in range(steps)])
    b = np.zeros((nfe, nfe))
    for i in range(steps):
        first = i * stages
        # What the steps before have added stands in every row from here on.
        done = np.tile(h * weights, i)
        for stage in range(stages):
            row = first + stage
            b[row, :first] = done
            following = matrix[stage + 1] if stage + 1 < stages else weights
            b[row, first : first + stages] = h * following
    return SolverTable(jnp.asarray(t, dtype), jnp.ones(nfe, dtype), jnp.asarray(b, dtype))


def euler(nfe: int, dtype=jnp.float32) -> SolverTable:
    """Euler's method: order 1, one evaluation a step."""
    return runge_kutta(nfe, [0], [[0]], [1], "euler", dtype)


def midpoint(nfe: int, dtype=jnp.float32) -> SolverTable:
    """The midpoint method: order 2, two evaluations a step.

    Example:
        >>> midpoint(2).t.tolist()
        [0.0, 0.5]
    """
    return runge_kutta(nfe, [0, 0.5], [[0, 0], [0.5, 0]], [0, 1], "midpoint", dtype)


def heun(nfe: int, dtype=jnp.float32) -> SolverTable:
    """Heun's method (explicit trapezium): order 2, two evaluations a step."""
    return runge_kutta(nfe, [0, 1], [[0, 0], [1, 0]], [0.5, 0.5], "heun", dtype)


def rk4(nfe: int, dtype=jnp.float32) -> SolverTable:
    """The classical Runge-Kutta method: order 4, four evaluations a step."""
    matrix = [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]]
    return runge_kutta(nfe, [0, 0.5, 0.5, 1], matrix, [1 / 6, 1 / 3, 1 / 3, 1 / 6], "rk4", dtype)
