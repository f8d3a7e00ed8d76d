"""Levenberg-Marquardt for a handful of parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bespoke_jax.curvature import Quadratic

__all__ = ["LevenbergMarquardt", "LevenbergMarquardtState"]


class LevenbergMarquardtState(NamedTuple):
    """What is carried from step to step: damping [], the running sum of Gauss-Newton matrices [P, P] and of their weights []."""

    damping: jax.Array
    matrix: jax.Array
    weight: jax.Array


@dataclasses.dataclass(frozen=True)
class LevenbergMarquardt:
    """Levenberg-Marquardt: steps (G + damping diag(G)) step = -gradient, taken only if they lower the loss.

    It runs in Python around compiled functions, not inside one: `update` evaluates the loss as often as it must and no
    oftener, and a loss need not be compiled for it.

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
        flat = ravel_pytree(params)[0]
        zero = jnp.zeros((), flat.dtype)
        return LevenbergMarquardtState(zero + self.damping, jnp.zeros((flat.size, flat.size), flat.dtype), zero)

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
        flat, unravel = ravel_pytree(params)
        if not bool(jnp.all(jnp.isfinite(quadratic.matrix))):  # must not stay in the average
            return params, state._replace(damping=_bounded(state.damping * self.grow))
        matrix = self.memory * state.matrix + quadratic.matrix.astype(flat.dtype)
        weight = self.memory * state.weight + 1
        gradient = quadratic.gradient.astype(flat.dtype)
        # Standing still: the quadratic was trusted too far. Not the last damping tried, for it may be the batch's fault.
        best, least, after = params, float(quadratic.value), state.damping * self.grow
        damping = state.damping
        for _ in range(self.tries):
            step, promised = _step(matrix / weight, gradient, damping, self.limit)
            candidate = unravel(flat + step)
            value = float(value_fn(candidate))
            if value < least:
                best, least, after = candidate, value, damping / self.shrink
            elif best is not params:
                break
            # A look costs a fraction of a linearisation: a step that does not keep its promise gets a shorter one to beat.
            if float(quadratic.value) - least > self.trust * float(promised):
                break
            damping = damping * self.grow
        return best, LevenbergMarquardtState(_bounded(after), matrix, weight)


@jax.jit
def _step(matrix, gradient, damping, limit):
    """The step, and how far it should lower the loss."""
    # A parameter that moves nothing (yet) still needs a positive pivot.
    diagonal = jnp.diag(matrix)
    diagonal = diagonal + 1e-6 * jnp.max(diagonal) + jnp.finfo(diagonal.dtype).tiny
    step = -jnp.linalg.solve(matrix + jnp.diag(damping * diagonal), gradient)
    step = jnp.clip(jnp.where(jnp.all(jnp.isfinite(step)), step, 0), -limit, limit)
    return step, -(gradient @ step + 0.5 * step @ matrix @ step)


def _bounded(damping):
    return jnp.clip(damping, 1e-8, 1e4)
