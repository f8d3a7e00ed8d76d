"""Scale-time transformations: xbar(r) = s_r x(t_r) (Sec. 2.1).

A curve r -> (t_r, s_r) turns a velocity field into another whose paths run through the same points (16). Every change
of scheduler is such a curve (Theorem 2.3), and a curve read at the knots is a theta.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_float_dtype, check_type
from bespoke_jax.learned.theta import BASES, Theta, check_base, theta_from_knots
from bespoke_jax.schedulers import Scheduler

__all__ = [
    "Curve",
    "CurveAt",
    "curve_between",
    "identity_curve",
    "knot_places",
    "read_curves",
    "scheduler_along",
    "theta_from_curve",
    "theta_from_reading",
    "transfer",
    "transform_velocity",
    "transform_velocity_by",
]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A scale-time curve from two differentiable functions of a scalar r in [0, 1].

    Args:
        t: r -> t_r, increasing, t_0 = 0 and t_1 = 1 (a scheduler change comes near these ends).
        s: r -> s_r > 0; a constant factor of s changes no solver.
    """

    t: Callable
    s: Callable

    def __post_init__(self):
        for name in ("t", "s"):
            check_type(f"Curve.{name}", getattr(self, name), Callable, "a function of r")

    def __call__(self, r):
        """(t_r, tdot_r, s_r, sdot_r) at a scalar r."""
        r = jnp.asarray(r, jnp.result_type(float))
        one = jnp.ones_like(r)
        t, t_dot = jax.jvp(self.t, (r,), (one,))
        s, s_dot = jax.jvp(self.s, (r,), (one,))
        return t, t_dot, s, s_dot


def identity_curve() -> Curve:
    """t_r = r, s_r = 1."""
    return Curve(lambda r: r, jnp.ones_like)


def transform_velocity(u: Callable, curve: Curve) -> Callable:
    """The transformed field, eq. (16): ubar_r(x) = (sdot_r / s_r) x + tdot_r s_r u_{t_r}(x / s_r).

    Takes and returns functions `u(t, x)`. If x(t) solves x' = u_t(x), then s_r x(t_r) solves the new field.
    """

    def ubar(r, x):
        t, t_dot, s, s_dot = (value.astype(x.dtype) for value in curve(r))
        return s_dot / s * x + t_dot * s * u(t, x / s)

    return ubar


def transform_velocity_by(u: Callable, t: Callable, phi: Callable, phi_inverse: Callable) -> Callable:
    """The field of xbar(r) = phi_r(x(t_r)) for any smooth invertible phi_r, Prop. 2.1.

    ubar_r(x) = phidot_r(y) + tdot_r d_x phi_r(y) u_{t_r}(y) with y = phi_r^-1(x): one Jacobian-vector product.

    Args:
        u: velocity `u(t, x)`.
        t: r -> t_r.
        phi, phi_inverse: `phi(r, x)` and its inverse in x.
    """

    def ubar(r, x):
        r = jnp.asarray(r, jnp.result_type(float))
        time, t_dot = jax.jvp(t, (r,), (jnp.ones_like(r),))
        y = phi_inverse(r, x)
        _, tangent = jax.jvp(phi, (r, y), (jnp.ones_like(r), t_dot.astype(x.dtype) * u(time, y)))
        return tangent

    return ubar


def curve_between(scheduler: Scheduler, target: Scheduler) -> Curve:
    """The curve that carries paths of `scheduler` to those of `target` (Theorem 2.3, Sec. 2.2).

    t_r = snr^-1(snrbar_r); s_r = sigmabar_r / sigma_{t_r} = alphabar_r / alpha_{t_r}. Both quotients are 0/0 at an end; the
    quotient of (alpha, sigma)'s lengths is the same number and never is.

    Raises:
        TypeError: if either is no scheduler.
    """
    check_type("scheduler", scheduler, Scheduler, "a bespoke_jax.schedulers.Scheduler")
    check_type("target", target, Scheduler, "a bespoke_jax.schedulers.Scheduler")

    def t(r):
        return scheduler.time_of(target.alpha(r), target.sigma(r))

    def s(r):
        time = t(r)
        return jnp.hypot(target.alpha(r), target.sigma(r)) / jnp.hypot(scheduler.alpha(time), scheduler.sigma(time))

    return Curve(t, s)


def scheduler_along(scheduler: Scheduler, curve: Curve) -> Scheduler:
    """The other way (Theorem 2.3): the scheduler whose paths the transformed field follows.

    alphabar_r = s_r alpha_{t_r}, sigmabar_r = s_r sigma_{t_r}.
    """
    return Scheduler(
        lambda r: curve.s(r) * scheduler.alpha(curve.t(r)),
        lambda r: curve.s(r) * scheduler.sigma(curve.t(r)),
    )


class CurveAt(NamedTuple):
    """A curve at some r: t_r, dt/dr, s_r, ds/dr, NumPy's float64."""

    t: np.ndarray
    dt: np.ndarray
    s: np.ndarray
    ds: np.ndarray


def theta_from_curve(base: str, num_steps: int, curve: Curve, dtype=jnp.float32) -> Theta:
    """The theta of the base solver run on the field transformed by `curve`: its knots read off the curve.

    A curve that misses t = 0 or t = 1 (a scheduler change between models whose ends are only near 0 and 1) is stretched
    to meet them, and s is divided by s_0, which no solver notices.

    Raises:
        TypeError: if `curve` is none, or for a dtype that is not floating.
        ValueError: as `init_theta` for base and num_steps; as `theta_from_knots` if the curve does not increase or leaves
            its bounds at a knot.

    Examples:
        >>> import bespoke_jax as bj
        >>> curve = curve_between(bj.schedulers.CondOT(), bj.schedulers.Cosine())
        >>> theta = theta_from_curve("rk1", 2, curve)
        >>> round(float(theta.knots().t[1]), 4)  # where t / (1 - t) = tan(pi / 4)
        0.5
    """
    check_type("curve", curve, Curve, "a scale_time.Curve")
    dtype = check_float_dtype("dtype", dtype)
    return theta_from_reading(base, read_curves((curve,), knot_places(base, num_steps))[0], dtype)


def transfer(theta: Theta, source: Scheduler, target: Scheduler) -> Theta:
    """A theta learned on a flow of scheduler `source`, for flows of scheduler `target`: a start for `fit`, or to use as it is.

    With one model under both schedulers it is the same solver (Theorem 2.3): its transformed path s_r x(t_r) is, with the
    change of scheduler x(t) = c_t y(tau_t) put in, s_r c_{t_r} y(tau_{t_r}). It is stretched where the schedulers' ends differ.

    Args:
        theta: of rk1 or rk2.
        source, target: schedulers of the flow that it was learned on, and of the one it is for.

    Raises:
        TypeError: for another solver, or what is no scheduler.
        ValueError: as `theta_from_knots`, if knots come too near each other.

    Examples:
        >>> import bespoke_jax as bj
        >>> theta = bj.models.shipped_solver("fashion_cosine_class", "rk2", 5)
        >>> transfer(theta, bj.schedulers.Cosine(), bj.schedulers.CondOT()).nfe
        10
    """
    check_type("theta", theta, Theta, "a theta of rk1 or rk2")
    for name, scheduler in (("source", source), ("target", target)):
        check_type(name, scheduler, Scheduler, "a bespoke_jax.schedulers.Scheduler")
    t, dt, s, ds = (np.asarray(value, np.float64) for value in theta.knots())
    dt, ds = np.append(dt, 0), np.append(ds, 0)  # of the last knot, which has none, nothing is used
    change = read_curves((curve_between(target, source),), t)[0]
    reading = CurveAt(change.t, change.dt * dt, s * change.s, ds * change.s + s * change.ds * dt)
    return theta_from_reading(theta.base, reading, theta.raw.dtype).learning(theta.learned)


def knot_places(base: str, num_steps: int) -> np.ndarray:
    """r at the knots of `base` with `num_steps` steps, [N + 1]."""
    return np.linspace(0, 1, check_base(base, num_steps) * BASES[base] + 1)


def theta_from_reading(base: str, reading: CurveAt, dtype=jnp.float32) -> Theta:
    """`theta_from_curve` of a curve that has been read at the `knot_places`."""
    t, dt, s, ds = reading
    length = t[-1] - t[0]
    return theta_from_knots(
        base, (t - t[0]) / length, np.maximum(dt[:-1] / length, 1e-3), s / s[0], ds[:-1] / s[0], dtype=dtype
    )


_PIECE = 32


@functools.partial(jax.jit, static_argnums=0)
def _read(curves, r):
    return [jax.vmap(curve)(r) for curve in curves]


def read_curves(curves: tuple[Curve, ...], r) -> list[CurveAt]:
    """Concrete curves at `r` [m]; compiled once for these curves, whatever m."""
    padded = np.append(r, np.ones(-len(r) % _PIECE)).reshape(-1, _PIECE)
    pieces = [_read(curves, piece) for piece in padded]
    return [
        CurveAt(*(np.concatenate(parts).astype(np.float64)[: len(r)] for parts in zip(*of_curve, strict=True)))
        for of_curve in zip(*pieces, strict=True)
    ]
