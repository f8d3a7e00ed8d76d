"""Theta: the learned numbers of a Bespoke solver, raw (unconstrained) and as knots (constrained).

A solver of n steps has N intervals between its knots: N = n for rk1 and N = 2n for rk2, whose midpoints are knots too.
At the knots it knows t, s and, at the start of each interval, their derivatives: 4N - 1 free numbers, since t_0 = 0,
t_N = 1 and s_0 = 1 are fixed. That is 4n - 1 for rk1 and 8n - 1 for rk2 (Sec. 2.2, eqs. 17, 19-20). Of these, time (t and its
derivative) has 2N - 1, scale (s and its derivative) 2N; either may be learned alone, the other held where it stands.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_array, check_choice, check_count, check_float_dtype, check_numbers
from bespoke_jax.dtypes import promote

__all__ = ["BASES", "LEARNED", "Knots", "Theta", "init_theta", "theta_from_knots"]

BASES = {"rk1": 1, "rk2": 2}
"""Base solver -> velocity evaluations per step, which is also knot intervals per step."""

LEARNED = ("both", "time", "scale")
"""What of a theta may be learned."""

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

    def of_steps(self, num_steps: int) -> "Knots":
        """What each step sees: the same fields, [num_steps, N/n + 1] for t and s, [num_steps, N/n] for dt and ds.

        A step run on its own knots, as step 0, is the step of the whole solver.
        """
        width = self.dt.shape[0] // num_steps
        index = width * jnp.arange(num_steps)[:, None] + jnp.arange(width + 1)
        return Knots(self.t[index], self.dt[index[:, :-1]], self.s[index], self.ds[index[:, :-1]])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Theta:
    """The parameters of a Bespoke solver; a pytree with the single leaf `raw`, and `held` if a part of them is not learned.

    Attributes:
        raw: [num_parameters] unconstrained numbers that are learned, all 0 for the plain base solver.
        base: "rk1" or "rk2"; static.
        num_steps: n; static.
        learned: one of `LEARNED`; static. Set it with `learning`.
        held: the unconstrained numbers of the other part; carried, not learned. None if both are learned.

    Examples:
        >>> theta = init_theta("rk2", num_steps=5)
        >>> theta.num_parameters, theta.nfe
        (39, 10)
        >>> theta.learning("time").num_parameters, theta.learning("scale").num_parameters
        (19, 20)
    """

    raw: jax.Array
    base: str = dataclasses.field(metadata=dict(static=True))
    num_steps: int = dataclasses.field(metadata=dict(static=True))
    learned: str = dataclasses.field(default="both", metadata=dict(static=True))
    held: jax.Array | None = None

    def check(self, name: str) -> None:
        """Raise unless base and steps exist and there are as many numbers as they have; `name` is what errors call it.

        Raises:
            TypeError: if the numbers are no floating array.
            ValueError: for anything else, NaN and infinity among it where the numbers are known.

        Examples:
            >>> init_theta("rk1", num_steps=4).with_raw(jnp.zeros(31)).check("theta")
            Traceback (most recent call last):
            ValueError: theta.raw: wanted shape [15], got [31].
        """
        check_choice(f"{name}.base", self.base, BASES)
        check_count(f"{name}.num_steps", self.num_steps)
        check_choice(f"{name}.learned", self.learned, LEARNED)
        check_array(f"{name}.raw", self.raw, (self.num_parameters,))
        others = 4 * self.num_intervals - 1 - self.num_parameters
        if others:
            check_array(f"{name}.held", self.held, (others,))
        elif self.held is not None:
            raise ValueError(f"{name}.held: wanted None, for both parts are learned; Theta.learning sets it.")

    @property
    def num_intervals(self) -> int:
        """Knot intervals N."""
        return BASES[self.base] * self.num_steps

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned: 4N - 1 (4n - 1 for rk1, 8n - 1 for rk2); 2N - 1 of time alone, 2N of scale alone."""
        n = self.num_intervals
        return {"both": 4 * n - 1, "time": 2 * n - 1, "scale": 2 * n}[self.learned]

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        return BASES[self.base] * self.num_steps

    def with_raw(self, raw) -> "Theta":
        """The same solver with other numbers."""
        return dataclasses.replace(self, raw=raw)

    def numbers(self) -> jax.Array:
        """All 4N - 1 unconstrained numbers, learned or held: those of time, then those of scale."""
        self.check("theta")
        if self.learned == "both":
            return self.raw
        return jnp.concatenate([self.raw, self.held] if self.learned == "time" else [self.held, self.raw])

    def learning(self, learned: str) -> "Theta":
        """The same solver, of which another part is learned; the rest is held at the numbers that it has now.

        Args:
            learned: "time" (t and dt), "scale" (s and ds) or "both".

        Raises:
            ValueError: for anything else.

        Examples:
            >>> theta = init_theta("rk1", num_steps=4).learning("time")
            >>> moved = theta.with_raw(theta.raw + 0.5)
            >>> bool((moved.knots().s == theta.knots().s).all()), bool((moved.knots().dt == theta.knots().dt).any())
            (True, False)
        """
        check_choice("learned", learned, LEARNED)
        numbers = self.numbers()
        time, scale = jnp.split(numbers, (2 * self.num_intervals - 1,))
        raw, held = {"both": (numbers, None), "time": (time, scale), "scale": (scale, time)}[learned]
        return dataclasses.replace(self, raw=raw, learned=learned, held=held)

    def knots(self) -> Knots:
        """The constrained numbers (derived; the paper's Appendix F up to the choice of positive functions).

        The increments of t are a softmax with its first logit held at 0; dt = exp(b), s = exp(c), ds = d, with b, c
        and d softly bounded. Strictly monotone t and positive s for every raw vector, and nowhere a dead gradient at 0.
        """
        n, numbers = self.num_intervals, self.numbers()
        a, b, c, d = jnp.split(numbers, (n - 1, 2 * n - 1, 3 * n - 1))
        zero, one = jnp.zeros((1,), numbers.dtype), jnp.ones((1,), numbers.dtype)
        increments = (1 - _SHORTEST) * jax.nn.softmax(jnp.concatenate([zero, a])) + _SHORTEST / n
        t = jnp.concatenate([zero, jnp.cumsum(increments)[:-1], one])
        s = jnp.concatenate([one, jnp.exp(_soft_bound(c, _LOG_BOUND))])
        return Knots(t, jnp.exp(_soft_bound(b, _LOG_BOUND)), s, _soft_bound(d, _SLOPE_BOUND))


def _soft_bound(x, bound):
    """The identity near 0, within (-bound, bound) everywhere."""
    return bound * jnp.tanh(x / bound)


def _soft_bound_inverse(y, bound):
    return bound * np.arctanh(y / bound)


def check_base(base, num_steps) -> int:
    """Raise ValueError unless a solver of this base and number of steps exists; the number as a Python integer."""
    check_choice("base", base, BASES)
    return check_count("num_steps", num_steps)


def init_theta(base: str, num_steps: int, dtype=jnp.float32) -> Theta:
    """The start: exactly Euler ("rk1") or midpoint ("rk2") with `num_steps` equal steps.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another base, or `num_steps` that is no positive integer.

    Examples:
        >>> [float(t) for t in init_theta("rk1", num_steps=4).knots().t]
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    num_steps, dtype = check_base(base, num_steps), check_float_dtype("dtype", dtype)
    return Theta(jnp.zeros(4 * BASES[base] * num_steps - 1, dtype), base, num_steps)


def theta_from_knots(base: str, t, dt, s, ds, dtype=None) -> Theta:
    """The theta with these knots: the inverse of `Theta.knots`, for concrete (not traced) numbers.

    Args:
        base: "rk1" or "rk2".
        t, s: [N + 1], dt, ds: [N], as in `Knots`, arrays or lists; N = n for rk1, N = 2n for rk2.
        dtype: of the parameters; that of `t` (at least float32) if not given.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: if lengths disagree, N is odd for rk2, t does not increase from 0 to 1 with intervals of at least
            1/1000 of an even share, s[0] is not 1, s or dt is not positive, or a number is not finite or too large.

    Examples:
        >>> theta = init_theta("rk2", num_steps=3)
        >>> theta_from_knots("rk2", *theta.knots()).num_steps
        3
    """
    check_choice("base", base, BASES)
    if dtype is None:
        floating = hasattr(t, "dtype") and jnp.issubdtype(t.dtype, jnp.floating)
        dtype = promote(jnp.result_type(t if floating else float), jnp.float32)
    else:
        dtype = check_float_dtype("dtype", dtype)
    t, s = (check_numbers(name, value, ("N + 1",)) for name, value in dict(t=t, s=s).items())
    dt, ds = (check_numbers(name, value, ("N",)) for name, value in dict(dt=dt, ds=ds).items())
    n = len(dt)
    if not len(t) == len(s) == len(ds) + 1 == n + 1:
        raise ValueError(
            f"knots: wanted t and s of shape [N + 1], dt and ds of shape [N], got t [{len(t)}], dt [{n}], s [{len(s)}], "
            f"ds [{len(ds)}]."
        )
    if n % BASES[base]:
        raise ValueError(f"knots: {base} takes {BASES[base]} intervals a step, so N must be even; got N = {n}.")
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
    raw = [
        np.log(share[1:] / share[0]),
        _soft_bound_inverse(np.log(dt), _LOG_BOUND),
        _soft_bound_inverse(np.log(s[1:]), _LOG_BOUND),
        _soft_bound_inverse(ds, _SLOPE_BOUND),
    ]
    return Theta(jnp.asarray(np.concatenate(raw), dtype), base, n // BASES[base])
