"""Levenberg-Marquardt for a handful of parameters and many residuals, as an optax transformation.

Theta has 30 to 100 numbers, so J^T J is tiny and one forward-mode pass per number gives the whole Jacobian.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

__all__ = ["LevenbergMarquardtState", "levenberg_marquardt"]


class LevenbergMarquardtState(NamedTuple):
    """The damping that the next step starts from."""

    damping: jax.Array


def levenberg_marquardt(
    damping: float = 1e-2, trials: tuple[float, ...] = (0.1, 1.0, 10.0, 100.0), limit: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt steps: (J^T J + damping diag(J^T J)) step = -J^T r.

    `update` takes two more arguments: `residual_fn(params) -> array` (any shape; the step lowers its sum of squares) and
    `value_fn(params) -> scalar`, which judges: of the steps for damping * each of `trials`, the one of the lowest value is
    taken, or none if no value falls below that of standing still. Judging on more data than the residuals hold keeps a
    step from fitting its own batch.

    Args:
        damping: the first damping, relative to the diagonal of J^T J.
        trials: factors tried at each step, increasing.
        limit: no parameter moves further than this in one step; keeps a near-singular J^T J from throwing it out.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> method = levenberg_marquardt()
        >>> fit_line = lambda p: p[0] * jnp.arange(4.0) + p[1] - jnp.array([1.0, 1.5, 2.0, 2.5])
        >>> p = jnp.zeros(2)
        >>> state = method.init(p)
        >>> for _ in range(8):
        ...     step, state = method.update(p, state, p, residual_fn=fit_line, value_fn=lambda p: (fit_line(p) ** 2).sum())
        ...     p = optax.apply_updates(p, step)
        >>> [round(float(v), 3) for v in p]
        [0.5, 1.0]
    """
    factors = jnp.asarray(trials, jnp.float32)

    def init(params):
        del params
        return LevenbergMarquardtState(jnp.asarray(damping, jnp.float32))

    def update(updates, state, params=None, *, residual_fn, value_fn, **extra):
        del updates, extra
        flat, unravel = ravel_pytree(params)

        def residual(vector):
            return residual_fn(unravel(vector)).ravel()

        # The primal pass is shared by all tangents: vmap leaves it unbatched.
        r, jacobian = jax.vmap(lambda v: jax.jvp(residual, (flat,), (v,)), out_axes=(None, 0))(
            jnp.eye(flat.size, dtype=flat.dtype)
        )
        gram, slope = jacobian @ jacobian.T, jacobian @ r
        diagonal = jnp.diag(gram)
        diagonal = diagonal + 1e-6 * jnp.max(diagonal) + jnp.finfo(flat.dtype).tiny

        def candidate(factor):
            scale = (state.damping * factor).astype(flat.dtype)
            step = -jnp.linalg.solve(gram + jnp.diag(scale * diagonal), slope)
            step = jnp.where(jnp.all(jnp.isfinite(step)), step, 0)
            return jnp.clip(step, -limit, limit)

        steps = jnp.concatenate([jnp.zeros((1, flat.size), flat.dtype), jax.vmap(candidate)(factors)])
        values = jax.lax.map(lambda step: value_fn(unravel(flat + step)), steps)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        # Standing still means that the quadratic model was trusted too far.
        factor = jnp.concatenate([factors[-1:] , factors])[best]
        state = LevenbergMarquardtState(jnp.clip(state.damping * factor, 1e-8, 1e4))
        return unravel(steps[best]), state

    return optax.GradientTransformationExtraArgs(init, update)
