"""Levenberg-Marquardt for a handful of parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.curvature import Quadratic
from bespoke_jax.dtypes import promote

__all__ = ["LevenbergMarquardt", "LevenbergMarquardtState"]


class LevenbergMarquardtState(NamedTuple):
    """What is carried from step to step: damping [], the running sum of Gauss-Newton matrices [P, P] and of their weights []."""

    damping: jax.Array
    matrix: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class LevenbergMarquardt:
    """Levenberg-Marquardt: steps (G + damping diag(G)) step = -gradient, taken only if they lower the loss.

    It runs in Python and NumPy around compiled functions, not inside one: `update` evaluates the loss as often as it must and no
    oftener, and neither the loss nor the step need be compiled for it.

    Attributes:
        damping: the first damping, relative to the diagonal of G.
        tries: dampings tried at a step, each `grow` times the one before, until one lowers the loss by `trust` times what the
            quadratic promised, or by less than the one before it; the best is taken.
        grow, trust: see above.
        shrink: the damping is divided by it after a step that was taken.
        limit: no parameter moves further than this in one step; keeps a near-singular G from throwing it out.
        memory: G is the average of all matrices so far, each weighing `memory` times the next; 0 takes the last alone. They are
            estimates from different samples, and change more slowly than they scatter.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> error = lambda p: p[0] * jnp.arange(4.0) + p[1] - jnp.array([1.0, 1.5, 2.0, 2.5])
        >>> loss = lambda p: jnp.sum(error(p) ** 2)
        >>> method, p = LevenbergMarquardt(), jnp.zeros(2)
        >>> state = method.init(p)
        >>> for _ in range(8):
        ...     J = jax.jacfwd(error)(p)
        ...     p, state = method.update(Quadratic(loss(p), 2 * J.T @ error(p), 2 * J.T @ J), state, p, loss)
        >>> [round(float(v), 3) for v in p]
        [0.5, 1.0]
    """

    damping: float = 1e-2
    tries: int = 4
    grow: float = 8.0
    trust: float = 0.5
    shrink: float = 4.0
    limit: float = 1.0
    memory: float = 0.5

    def init(self, params) -> LevenbergMarquardtState:
        """The state before the first step."""
        leaves = jax.tree.leaves(params)
        size, dtype = sum(leaf.size for leaf in leaves), promote(*(leaf.dtype for leaf in leaves))
        return LevenbergMarquardtState(
            np.asarray(self.damping, dtype), np.zeros((size, size), dtype), np.zeros((), dtype)
        )

    def update(
        self, quadratic: Quadratic, state: LevenbergMarquardtState, params: Any, value_fn: Callable
    ) -> tuple[Any, LevenbergMarquardtState]:
        """(new parameters, state). The parameters stay where they are if no step lowers the loss.

        Args:
            quadratic: the loss near `params`.
            state: what `init` or the last update returned.
            params: any pytree; the gradient and matrix are in the order of `ravel_pytree`.
            value_fn: `value_fn(params) -> scalar`, the loss on the data of `quadratic.value`.
        """
        flat, unravel = _ravel(params)
        damping, matrix, weight = (np.asarray(value) for value in state)
        if not np.all(np.isfinite(quadratic.matrix)):  # must not stay in the average
            return params, LevenbergMarquardtState(_bounded(damping * self.grow), matrix, weight)
        # Rounded to what the state is kept in, so that a restored one goes on in the same way.
        matrix = (self.memory * matrix + np.asarray(quadratic.matrix)).astype(matrix.dtype)
        weight = (self.memory * weight + 1).astype(weight.dtype)
        gradient = np.asarray(quadratic.gradient, np.float64)
        # Standing still: the quadratic was trusted too far. Not the last damping tried, for it may be the batch's fault.
        best, least, after = params, float(quadratic.value), damping * self.grow
        for _ in range(self.tries):
            step, promised = _step(matrix.astype(np.float64) / weight, gradient, damping, self.limit)
            candidate = unravel(flat + step)
            value = float(value_fn(candidate))
            if value < least:
                best, least, after = candidate, value, damping / self.shrink
            elif best is not params:
                break
            # A look costs a fraction of a linearisation: a step that does not keep its promise gets a shorter one to beat.
            if float(quadratic.value) - least > self.trust * promised:
                break
            damping = damping * self.grow
        return best, LevenbergMarquardtState(_bounded(after), matrix, weight)


def _ravel(params):
    """(all numbers as one float64 vector, the inverse of that)."""
    leaves, structure = jax.tree.flatten(params)
    arrays = [np.asarray(leaf) for leaf in leaves]

    def unravel(vector):
        parts = np.split(vector, np.cumsum([array.size for array in arrays])[:-1])
        pairs = zip(parts, arrays, strict=True)
        return structure.unflatten([jnp.asarray(part.reshape(array.shape), array.dtype) for part, array in pairs])

    return np.concatenate([array.ravel() for array in arrays]).astype(np.float64), unravel


def _step(matrix, gradient, damping, limit):
    """The step, and how far it should lower the loss."""
    # A parameter that moves nothing (yet) still needs a positive pivot.
    diagonal = np.diag(matrix)
    diagonal = diagonal + 1e-6 * np.max(diagonal) + np.finfo(diagonal.dtype).tiny
    try:
        step = -np.linalg.solve(matrix + np.diag(damping * diagonal), gradient)
    except np.linalg.LinAlgError:
        step = np.zeros_like(gradient)
    step = np.clip(step if np.all(np.isfinite(step)) else 0 * gradient, -limit, limit)
    return step, -(gradient @ step + 0.5 * step @ matrix @ step)


def _bounded(damping):
    return np.clip(damping, 1e-8, 1e4).astype(damping.dtype)
