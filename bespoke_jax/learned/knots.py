"""Knots: a scale-time transformation (t_r, s_r) at r_j = j / N, and its unconstrained parameters.

The knots are t, s and, at the start of each interval, their derivatives: 4N - 1 free numbers, since t_0 = 0, t_N = 1 and s_0 = 1
are fixed (Sec. 2.2). Time (t and its derivative) takes 2N - 1 of them, scale (s and its derivative) 2N.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_numbers
from bespoke_jax.types import Array, Numbers

__all__ = ["Knots", "knots_of_numbers", "numbers_of_knots"]

# Any raw number gives usable knots. No interval is shorter than _SHORTEST of its even share, so that neighbouring knots
# stay apart in float32; logarithms of s and tdot stay within _LOG_BOUND, sdot within _SLOPE_BOUND.
_SHORTEST = 1e-3
_LOG_BOUND = 8.0
_SLOPE_BOUND = 1e3


class Knots(NamedTuple):
    """The scale-time transformation at the knots r_j = j / N.

    Attributes:
        t: [N + 1] times, strictly increasing from exactly 0 to exactly 1.
        dt: [N] derivatives dt/dr > 0 at the start of each interval.
        s: [N + 1] scales > 0, s[0] = 1.
        ds: [N] derivatives ds/dr at the start of each interval.
    """

    t: jax.Array
    dt: jax.Array
    s: jax.Array
    ds: jax.Array

    @functools.partial(jax.jit, static_argnums=1, inline=True)
    def of_steps(self, num_steps: int) -> "Knots":
        """The knots of each step: the same fields, [num_steps, N/n + 1] for t and s, [num_steps, N/n] for dt and ds.

        A step run on its own knots, as step 0, equals that step of the whole solver.
        """
        width = self.dt.shape[0] // num_steps
        index = width * jnp.arange(num_steps)[:, None] + jnp.arange(width + 1)
        return Knots(self.t[index], self.dt[index[:, :-1]], self.s[index], self.ds[index[:, :-1]])


@functools.partial(jax.jit, inline=True)
def knots_of_numbers(numbers: Float[Array, "P"]) -> Knots:
    """The knots of 4N - 1 unconstrained numbers (derived; the paper's Appendix F up to the choice of positive functions).

    The increments of t are a softmax with its first logit held at 0; dt = exp(b), s = exp(c), ds = d, with b, c
    and d softly bounded. t is strictly monotone and s positive for every vector, and no gradient vanishes at 0.

    Examples:
        >>> knots_of_numbers(jnp.zeros(7)).t.tolist()
        [0.0, 0.5, 1.0]
    """
    n = (numbers.shape[0] + 1) // 4
    a, b, c, d = jnp.split(numbers, (n - 1, 2 * n - 1, 3 * n - 1))
    zero, one = jnp.zeros((1,), numbers.dtype), jnp.ones((1,), numbers.dtype)
    increments = (1 - _SHORTEST) * jax.nn.softmax(jnp.concatenate([zero, a])) + _SHORTEST / n
    t = jnp.concatenate([zero, jnp.cumsum(increments)[:-1], one])
    s = jnp.concatenate([one, jnp.exp(_soft_bound(c, _LOG_BOUND))])
    return Knots(t, jnp.exp(_soft_bound(b, _LOG_BOUND)), s, _soft_bound(d, _SLOPE_BOUND))


def numbers_of_knots(t: Numbers, dt: Numbers, s: Numbers, ds: Numbers) -> Float[np.ndarray, "P"]:
    """The inverse of `knots_of_numbers`, for concrete (not traced) knots: float64 [4N - 1].

    Raises:
        ValueError: if lengths disagree, t does not increase from 0 to 1 with intervals of at least 1/1000 of an even share,
            s[0] is not 1, s or dt is not positive, or a number is not finite or too large.

    Examples:
        >>> numbers_of_knots([0, 0.5, 1], [1, 1], [1, 1, 1], [0, 0]).tolist()
        [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    t, s = (check_numbers(name, value, ("N + 1",)) for name, value in dict(t=t, s=s).items())
    dt, ds = (check_numbers(name, value, ("N",)) for name, value in dict(dt=dt, ds=ds).items())
    n = len(dt)
    if not len(t) == len(s) == len(ds) + 1 == n + 1:
        raise ValueError(
            f"knots: wanted t and s of shape [N + 1], dt and ds of shape [N], got t [{len(t)}], dt [{n}], s [{len(s)}], "
            f"ds [{len(ds)}]."
        )
    increments = np.diff(t)
    share = (increments - _SHORTEST / n) / (1 - _SHORTEST)
    if abs(t[0]) > 1e-6 or abs(t[-1] - 1) > 1e-6 or np.any(share <= 0):
        raise ValueError(
            f"t: wanted times increasing from 0 to 1, no interval shorter than {_SHORTEST / n:.1e}, got {t}."
        )
    if abs(s[0] - 1) > 1e-6:
        raise ValueError(f"s: wanted s[0] = 1, got {s[0]}.")
    limit = np.exp(_LOG_BOUND)
    for name, value in dict(s=s, dt=dt).items():
        if np.any(value <= 0) or np.any(np.abs(np.log(value)) >= _LOG_BOUND):
            raise ValueError(f"{name}: wanted numbers between {1 / limit:.1e} and {limit:.1e}, got {value}.")
    if np.any(np.abs(ds) >= _SLOPE_BOUND):
        raise ValueError(f"ds: wanted numbers within +-{_SLOPE_BOUND}, got {ds}.")
    numbers = [
        np.log(share[1:] / share[0]),
        _soft_bound_inverse(np.log(dt), _LOG_BOUND),
        _soft_bound_inverse(np.log(s[1:]), _LOG_BOUND),
        _soft_bound_inverse(ds, _SLOPE_BOUND),
    ]
    return np.concatenate(numbers)


def _soft_bound(x, bound):
    """The identity near 0, within (-bound, bound) everywhere."""
    return bound * jnp.tanh(x / bound)


def _soft_bound_inverse(y, bound):
    return bound * np.arctanh(y / bound)
