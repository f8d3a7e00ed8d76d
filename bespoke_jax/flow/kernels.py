"""Small compiled programs, which Python calls one by one when it solves or fits evaluation by evaluation.

Sampling compiles a whole solve as one program, at the cost of compiling the network anew for every number of evaluations. The
programs here contain one velocity or none, and nothing of a solver: true paths, fits and validation share them for all families
and numbers of evaluations.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.flow.flow import Flow
from bespoke_jax.types import Array, Number, Scalar

__all__ = ["combine", "velocity", "velocity_and_slope"]


@jax.jit
def velocity(flow: Flow, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
    """u_t(x), for x [B, *event]."""
    return flow(t, x)


@jax.jit
def velocity_and_slope(
    flow: Flow, t: Float[Array, ""], x: Float[Array, "B *event"]
) -> tuple[Float[jax.Array, "B *event"], Float[jax.Array, "B *event"]]:
    """u_t(x), and its derivative du/dt along the path through (t, x), for x [B, *event]."""
    u, push = jax.linearize(flow, t, x)
    return u, push(jnp.ones_like(t), u)


def combine(
    weights: Sequence[Number | Float[np.ndarray, "..."]] | Float[np.ndarray, "k ..."],
    terms: Sequence[Float[Array, "*shape"]],
) -> Float[jax.Array, "*shape"]:
    """sum_i weights_i terms_i. Terms of weight 0 are not read, so they may be NaN.

    Args:
        weights: as many as terms; each a number, or one for each index of the first axes of the terms.
        terms: arrays of one shape and dtype.

    Examples:
        >>> import jax.numpy as jnp
        >>> combine([2.0, 0.0, 1.0], [jnp.ones(2), jnp.full(2, jnp.nan), jnp.ones(2)]).tolist()
        [3.0, 3.0]
    """
    factors = np.asarray(weights)
    used = np.flatnonzero(np.any(factors.reshape(len(factors), -1), axis=1))
    first, *others = used.tolist() or [0]
    total = _scaled(factors[first], terms[first])
    for i in others:
        total = _add_scaled(total, factors[i], terms[i])
    return total


@jax.jit
def _scaled(weight, x):
    return _along(weight, x) * x


@functools.partial(jax.jit, donate_argnums=0)
def _add_scaled(total, weight, x):
    return total + _along(weight, x) * x


def _along(weight, x):
    """A weight of the first axes of x, in its dtype."""
    return weight.astype(x.dtype).reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
