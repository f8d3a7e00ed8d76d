"""Levenberg-Marquardt for a handful of parameters, as an optax transformation."""

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
    damping: float = 1e-2, trials: tuple[float, ...] = (0.1, 1.0, 10.0), limit: float = 1.0
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt steps: (G + damping diag(G)) step = -gradient, for a Gauss-Newton matrix G.

    The gradient is what any optax transformation is given. `update` takes three more arguments: `curvature`, the matrix G,
    [P, P] in the order of `ravel_pytree`; `value`, the loss at `params`; and `value_fn(params) -> scalar`, which judges: of
    the steps for damping times each of `trials` the one of the lowest value is taken, or none if no value falls below
    `value`. Judging on more data than gradient and curvature come from keeps a step from fitting its own batch.

    Args:
        damping: the first damping, relative to the diagonal of G.
        trials: factors tried at each step, increasing.
        limit: no parameter moves further than this in one step; keeps a near-singular G from throwing it out.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> error = lambda p: p[0] * jnp.arange(4.0) + p[1] - jnp.array([1.0, 1.5, 2.0, 2.5])
        >>> loss = lambda p: jnp.sum(error(p) ** 2)
        >>> curvature = lambda p: 2 * jax.jacfwd(error)(p).T @ jax.jacfwd(error)(p)
        >>> method, p = levenberg_marquardt(), jnp.zeros(2)
        >>> state = method.init(p)
        >>> for _ in range(8):
        ...     value, slope = jax.value_and_grad(loss)(p)
        ...     step, state = method.update(slope, state, p, value=value, value_fn=loss, curvature=curvature(p))
        ...     p = optax.apply_updates(p, step)
        >>> [round(float(v), 3) for v in p]
        [0.5, 1.0]
    """

    def init(params):
        del params
        return LevenbergMarquardtState(jnp.asarray(damping, jnp.float32))

    def update(updates, state, params=None, *, curvature, value, value_fn, **extra):
        del extra
        flat, unravel = ravel_pytree(params)
        slope = ravel_pytree(updates)[0]
        factors = jnp.asarray(trials, state.damping.dtype)
        diagonal = jnp.diag(curvature)
        # A parameter that moves nothing (yet) still needs a positive pivot.
        diagonal = diagonal + 1e-6 * jnp.max(diagonal) + jnp.finfo(flat.dtype).tiny

        def candidate(factor):
            scale = (state.damping * factor).astype(flat.dtype)
            step = -jnp.linalg.solve(curvature + jnp.diag(scale * diagonal), slope)
            return jnp.clip(jnp.where(jnp.all(jnp.isfinite(step)), step, 0), -limit, limit)

        steps = jax.vmap(candidate)(factors)
        values = jax.lax.map(lambda step: value_fn(unravel(flat + step)), steps)
        best = jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf))
        better = values[best] < value
        # Standing still means that the quadratic model was trusted too far.
        factor = jnp.where(better, factors[best], 10 * factors[-1])
        step = jnp.where(better, steps[best], 0)
        return unravel(step), LevenbergMarquardtState(jnp.clip(state.damping * factor, 1e-8, 1e4))

    return optax.GradientTransformationExtraArgs(init, update)
