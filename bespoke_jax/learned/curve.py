"""The learned curve: one scale-time curve (t_r, s_r) that gives a solver for any number of steps."""

import dataclasses
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_array, check_count, check_float_dtype, check_type
from bespoke_jax.flow.flow import Flow
from bespoke_jax.learned.knots import Knots
from bespoke_jax.learned.scale_time import Curve, read_curves, start_curves
from bespoke_jax.learned.starts import made
from bespoke_jax.learned.steps import BASES, check_base, table_from_knots
from bespoke_jax.solver import LearnedSolver
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array, DTypeLike

__all__ = ["LearnedCurve"]

_LEAST_SLOPE = 1e-3  # of t, whose mean slope is 1: knots stay apart
_LOG_BOUND = 8.0  # of log s


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedCurve(LearnedSolver):
    """A Bespoke solver whose knots are read off a learned curve; with all parameters 0 it is the plain base solver.

    The parameters belong to the curve, not to the steps, so one curve serves any number of steps: see `with_steps`. The curve is
    smooth, so its solvers keep their order. t and log s are Bezier curves of degree K, in Bernstein polynomials B_k:

        t_r = sum_k beta_k B_k(r),  0 = beta_0 < ... < beta_K = 1;      log s_r = sum_k gamma_k B_k(r),  gamma_0 = 0.

    t increases because beta does; equal increments give t = r. A curve this smooth has little room for errors that cancel at a
    single n, so a curve fitted at some n also serves others, larger ones best. Fit it at the smallest n in use.

    Attributes:
        raw: [2 K - 1] parameters: K - 1 logarithms of increments of beta relative to the first, K softly bounded gamma.
        method: "rk1" or "rk2", the base solver; static.
        num_steps: n; static.

    Examples:
        >>> curve = LearnedCurve.identity("rk2", num_steps=5)
        >>> curve.num_parameters, curve.nfe, curve.with_steps(8).nfe
        (11, 10, 16)
    """

    raw: jax.Array
    method: str = dataclasses.field(metadata=dict(static=True))
    num_steps: int = dataclasses.field(metadata=dict(static=True))

    @classmethod
    def identity(cls, method: str, num_steps: int, degree: int = 6, dtype: DTypeLike = jnp.float32) -> "LearnedCurve":
        """t_r = r, s_r = 1: the base solver ("rk1" or "rk2") itself, with a curve of this degree to learn.

        Raises:
            ValueError: for another base solver, or if a number is not a positive integer.
        """
        n, degree = check_base(method, num_steps), check_count("degree", degree)
        return cls(jnp.zeros(2 * degree - 1, check_float_dtype("dtype", dtype)), method, n)

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless the method exists and `raw` has the shape of a curve's parameters."""
        check_base(self.method, self.num_steps)
        if check_array(f"{name}.raw", self.raw, ("2 K - 1",)).shape[0] % 2 == 0:
            raise ValueError(f"{name}.raw: wanted shape [2 K - 1], an odd length, got {list(self.raw.shape)}.")

    @property
    def family(self) -> str:
        """ "curve": the name of the family."""
        return "curve"

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        return BASES[self.method] * self.num_steps

    @property
    def degree(self) -> int:
        """K."""
        return (self.num_parameters + 1) // 2

    def with_steps(self, num_steps: int) -> "LearnedCurve":
        """The same curve, read at the knots of another number of steps."""
        return dataclasses.replace(self, num_steps=check_base(self.method, num_steps))

    def like(self, curve: Curve) -> "LearnedCurve":
        """The Bezier curve nearest to `curve` in the least-squares sense, within degree and bounds.

        Args:
            curve: concrete, not traced.

        Raises:
            TypeError: if it is not a `Curve`.
            ValueError: if the curve is not finite, t decreases, or s is not positive.
        """
        check_type("curve", curve, Curve, "a scale_time.Curve (LearnedCurve.curve gives its own)")
        r = np.linspace(0, 1, 32)
        t, _, s, _ = read_curves((curve,), r)[0]
        if not (
            np.all(np.isfinite(t))
            and np.all(np.isfinite(s))
            and np.all(s > 0)
            and np.all(np.diff(t) > -1e-6)
            and t[-1] > t[0]
        ):
            raise ValueError(f"curve: wanted finite t, increasing, and finite s > 0, got t={t}, s={s}.")
        basis = _bernstein(self.degree, r)[:, 1:]
        by_increment = np.cumsum(basis[:, ::-1], axis=1)[:, ::-1]  # increment k raises all later coefficients
        increments = np.linalg.lstsq(by_increment, (t - t[0]) / (t[-1] - t[0]))[0]
        increments = np.log(np.maximum(increments, 0.01 / self.degree))
        gamma = np.clip(np.linalg.lstsq(basis, np.log(s / s[0]))[0], -0.9 * _LOG_BOUND, 0.9 * _LOG_BOUND)
        raw = np.concatenate([increments[1:] - increments[0], _LOG_BOUND * np.arctanh(gamma / _LOG_BOUND)])
        return self.with_raw(jnp.asarray(raw, self.raw.dtype))

    def at(self, r: Float[Array, "*shape"]) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """(t_r, dt/dr, s_r, ds/dr), each of the shape of r, for r in [0, 1]."""
        by_t, by_s = jnp.split(self.raw, (self.degree - 1,))
        zero = jnp.zeros((1,), self.raw.dtype)
        share = jax.nn.softmax(jnp.concatenate([zero, by_t]))
        increments = (1 - _LEAST_SLOPE) * share + _LEAST_SLOPE / self.degree
        beta = jnp.concatenate([zero, jnp.cumsum(increments)[:-1], zero + 1])
        gamma = jnp.concatenate([zero, _LOG_BOUND * jnp.tanh(by_s / _LOG_BOUND)])
        basis, slopes = _bernstein(self.degree, r), self.degree * _bernstein(self.degree - 1, r)
        s = jnp.exp(jnp.sum(basis * gamma, axis=-1))
        dt, dlog_s = (jnp.sum(slopes * steps, axis=-1) for steps in (increments, jnp.diff(gamma)))
        return jnp.sum(basis * beta, axis=-1), dt, s, s * dlog_s

    def curve(self) -> Curve:
        """As a `scale_time.Curve`, for `transform_velocity`, `theta_from_curve`, `scheduler_along`."""
        return Curve(lambda r: self.at(r)[0], lambda r: self.at(r)[2])

    def knots(self) -> Knots:
        """The knots of its n steps, as `Theta.knots`; differentiable in `raw`."""
        t, dt, s, ds = self.at(jnp.linspace(0.0, 1.0, self.nfe + 1, dtype=self.raw.dtype))
        return Knots(t, dt[:-1], s, ds[:-1])

    def table(self) -> SolverTable:
        """The table of its n steps."""
        return table_from_knots(self.method, self.knots(), 1.0 / self.num_steps)

    def starts(self, flow: Flow) -> dict[str, "LearnedCurve"]:
        """The Bezier curve nearest to each of the `start_curves`."""
        return made({name: partial(self.like, curve) for name, curve in start_curves(flow.scheduler).items()})


def _bernstein(degree: int, r):
    """B_k(r) = binomial(K, k) r^k (1 - r)^(K - k), k = 0..K, on a last axis, in NumPy or JAX as r is. They add up to 1."""
    library = np if isinstance(r, np.ndarray) else jnp

    def powers(x):
        return library.cumprod(library.stack([library.ones_like(x)] + degree * [x], axis=-1), axis=-1)

    binomial = np.array([math.comb(degree, k) for k in range(degree + 1)], r.dtype)
    return binomial * powers(r) * powers(1 - r)[..., ::-1]
