"""The learned curve: one scale-time curve (t_r, s_r) that makes a solver of any number of steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.classic.checks import check_count
from bespoke_jax.scale_time import Curve
from bespoke_jax.table import SolverTable, table_from_knots
from bespoke_jax.theta import BASES, Knots, check_base

__all__ = ["LearnedCurve"]

_LEAST_SLOPE = 1e-3  # of t, whose mean slope is 1: knots stay apart
_STEEPEST = 16.0  # of log s


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedCurve:
    """A Bespoke solver whose knots are read off a learned curve; all numbers 0 is the plain base solver.

    The numbers belong to the curve and not to the steps, so that what was learned with some n serves with every other:
    `with_steps`. The curve has K nodes r_k = k / (K - 1). Both dt/dr and dlog s/dr are piecewise linear between them, so that t
    and s have continuous derivatives, which the base solver needs for its order, and both are their exact integrals:

        t_r = int_0^r g / int_0^1 g,  g(r_k) = softmax(0, raw)_k;      log s_r = int_0^r d,  d(r_k) = raw_k (softly bounded).

    Attributes:
        raw: [2 K - 1] numbers, K - 1 of t and K of s.
        method: "rk1" or "rk2", the base solver; static.
        num_steps: n; static.

    Example:
        >>> curve = LearnedCurve.identity("rk2", num_steps=5)
        >>> curve.num_parameters, curve.nfe, curve.with_steps(8).nfe
        (15, 10, 16)
    """

    raw: jax.Array
    method: str = dataclasses.field(metadata=dict(static=True))
    num_steps: int = dataclasses.field(metadata=dict(static=True))

    @classmethod
    def identity(cls, method: str, num_steps: int, num_nodes: int = 8, dtype=jnp.float32) -> "LearnedCurve":
        """t_r = r, s_r = 1: the base solver ("rk1" or "rk2") itself, with `num_nodes` nodes to learn.

        Raises:
            ValueError: for another base solver, or numbers that are no integers, `num_steps` >= 1, `num_nodes` >= 2.
        """
        n, nodes = check_base(method, num_steps), check_count("num_nodes", num_nodes, 2)
        return cls(jnp.zeros(2 * nodes - 1, dtype), method, n)

    @property
    def base(self) -> str:
        """ "curve": the name of the family."""
        return "curve"

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        return BASES[self.method] * self.num_steps

    @property
    def num_parameters(self) -> int:
        """2 K - 1."""
        return self.raw.shape[-1]

    @property
    def num_nodes(self) -> int:
        """K."""
        return (self.num_parameters + 1) // 2

    def with_raw(self, raw) -> "LearnedCurve":
        """The same with other numbers."""
        return dataclasses.replace(self, raw=raw)

    def with_steps(self, num_steps: int) -> "LearnedCurve":
        """The same curve read at the knots of another number of steps."""
        return dataclasses.replace(self, num_steps=check_base(self.method, num_steps))

    def like(self, curve: Curve) -> "LearnedCurve":
        """A curve with the slopes of `curve` at the nodes: near it, where it bends little between them.

        For concrete (not traced) curves. What it has no room for (a slope of t below 1/1000 of the mean, of log s above 16) is drawn in.
        """
        t, t_dot, s, s_dot = (np.asarray(v, np.float64) for v in _read(curve, np.linspace(0, 1, self.num_nodes)))
        slope = np.nan_to_num(t_dot / (t[-1] - t[0]), nan=1.0, posinf=1e3) - _LEAST_SLOPE
        log_slope = np.log(np.clip(slope, _LEAST_SLOPE, None))
        steepness = np.clip(np.nan_to_num(s_dot / s), -0.99 * _STEEPEST, 0.99 * _STEEPEST)
        raw = np.concatenate([log_slope[1:] - log_slope[0], _STEEPEST * np.arctanh(steepness / _STEEPEST)])
        return self.with_raw(jnp.asarray(raw, self.raw.dtype))

    def at(self, r):
        """(t_r, dt/dr, s_r, ds/dr), each of r's shape, for r in [0, 1]."""
        by_t, by_s = jnp.split(self.raw, (self.num_nodes - 1,))
        g = jax.nn.softmax(jnp.concatenate([jnp.zeros((1,), by_t.dtype), by_t]))
        raised, slope = _integral(g, r)
        length, _ = _integral(g, jnp.ones((), g.dtype))
        log_s, steepness = _integral(_STEEPEST * jnp.tanh(by_s / _STEEPEST), r)
        s = jnp.exp(log_s)
        t = (1 - _LEAST_SLOPE) * raised / length + _LEAST_SLOPE * r
        return t, (1 - _LEAST_SLOPE) * slope / length + _LEAST_SLOPE, s, s * steepness

    def curve(self) -> Curve:
        """As a `scale_time.Curve`, for what works on any curve: `transform_velocity`, `theta_from_curve`, `scheduler_along`."""
        return Curve(lambda r: self.at(r)[0], lambda r: self.at(r)[2])

    def knots(self) -> Knots:
        """The knots of its n steps, as `Theta.knots`; differentiable in `raw`."""
        t, dt, s, ds = self.at(jnp.linspace(0.0, 1.0, self.nfe + 1, dtype=self.raw.dtype))
        return Knots(t.at[-1].set(1.0), dt[:-1], s, ds[:-1])

    def table(self) -> SolverTable:
        """The table of its n steps."""
        return table_from_knots(self.method, self.knots(), 1.0 / self.num_steps)


def _integral(values, r):
    """(integral from 0 to r, value at r) of the piecewise linear function with these values at equidistant nodes from 0 to 1."""
    width = 1.0 / (values.size - 1)
    steps = (values[1:] + values[:-1]) * (width / 2)
    before = jnp.concatenate([jnp.zeros_like(steps[:1]), jnp.cumsum(steps)])
    k = jnp.clip(jnp.floor(r / width), 0, values.size - 2).astype(int)
    z = r - k * jnp.asarray(width, values.dtype)
    bend = (values[k + 1] - values[k]) / width
    return before[k] + z * (values[k] + z * bend / 2), values[k] + z * bend


@functools.partial(jax.jit, static_argnums=0)
def _read(curve, r):
    return jax.vmap(curve)(r)
