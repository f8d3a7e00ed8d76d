"""The small compiled programs that Python puts together when it solves or fits evaluation by evaluation.

A whole solve compiled as one program is what sampling wants, but every new number of evaluations compiles the network anew.
These programs hold one velocity, or none, and know nothing of solvers: true paths, fits and validation share them, whatever the
family and the number of evaluations.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

__all__ = ["combine", "velocity", "velocity_and_slope"]


@jax.jit
def velocity(flow, t, x):
    """u_t(x), for x [B, *event]."""
    return flow(t, x)


@jax.jit
def velocity_and_slope(flow, t, x):
    """u_t(x), and its derivative du/dt along the path through (t, x)."""
    u, push = jax.linearize(flow, t, x)
    return u, push(jnp.ones_like(t), u)


def combine(weights: Sequence[float], terms: Sequence[jax.Array]):
    """sum_i weights_i terms_i, arrays of one shape and dtype; what has no weight is not read.

    Examples:
        >>> import jax.numpy as jnp
        >>> combine([2.0, 0.0, 1.0], [jnp.ones(2), jnp.full(2, jnp.nan), jnp.ones(2)]).tolist()
        [3.0, 3.0]
    """
    weights = np.asarray(weights)
    first, *others = np.flatnonzero(weights) if np.any(weights) else [0]
    total = _scaled(weights[first], terms[first])
    for i in others:
        total = _add_scaled(total, weights[i], terms[i])
    return total


@jax.jit
def _scaled(weight, x):
    return weight.astype(x.dtype) * x


@functools.partial(jax.jit, donate_argnums=0)
def _add_scaled(total, weight, x):
    return total + weight.astype(x.dtype) * x
