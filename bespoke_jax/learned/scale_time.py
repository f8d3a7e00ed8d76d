"""Scale-time transformations: xbar(r) = s_r x(t_r) (arXiv:2310.19075, Sec. 2.1).

A curve r -> (t_r, s_r) turns a velocity field into another one, whose paths run through the same points up to scale, eq. (16).
Every change of scheduler is such a curve (Theorem 2.3), and its values at the step times are the knots of a theta.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_type
from bespoke_jax.schedulers import EDM, CondOT, Cosine, Scheduler, VariancePreserving
from bespoke_jax.types import Scalar

__all__ = [
    "Curve",
    "CurveAt",
    "curve_between",
    "identity_curve",
    "read_curves",
    "scheduler_along",
    "start_curves",
    "transform_velocity",
    "transform_velocity_by",
]


@dataclasses.dataclass(frozen=True)
class Curve:
    """A scale-time curve from two differentiable functions of a scalar r in [0, 1].

    Args:
        t: r -> t_r, increasing, with t_0 = 0 and t_1 = 1, which a change of scheduler may reach only approximately.
        s: r -> s_r > 0; a constant factor of s changes no solver.
    """

    t: Callable
    s: Callable

    def __post_init__(self):
        for name in ("t", "s"):
            if not callable(getattr(self, name)):
                raise TypeError(f"Curve.{name}: wanted a function of r, got {type(getattr(self, name)).__name__}.")

    def __call__(self, r: Scalar) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
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

    t_r = snr^-1(snrbar_r); s_r = sigmabar_r / sigma_{t_r} = alphabar_r / alpha_{t_r}. Each of these quotients is 0/0 at one end;
    the quotient of the lengths of (alpha, sigma) has the same value and is regular at both.

    Raises:
        TypeError: if either is not a scheduler.
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
    """The converse of `curve_between` (Theorem 2.3): the scheduler whose paths the transformed field follows.

    alphabar_r = s_r alpha_{t_r}, sigmabar_r = s_r sigma_{t_r}.
    """
    return Scheduler(
        lambda r: curve.s(r) * scheduler.alpha(curve.t(r)),
        lambda r: curve.s(r) * scheduler.sigma(curve.t(r)),
    )


class CurveAt(NamedTuple):
    """Values of a curve: t_r, dt/dr, s_r, ds/dr, float64 [m] each."""

    t: np.ndarray
    dt: np.ndarray
    s: np.ndarray
    ds: np.ndarray


_PIECE = 32


@functools.partial(jax.jit, static_argnums=0)
def _read(curves, r):
    return [jax.vmap(curve)(r) for curve in curves]


def read_curves(curves: tuple[Curve, ...], r: Float[np.ndarray, "m"]) -> list[CurveAt]:
    """Values of concrete (not traced) curves at `r` [m]; compiled once for these curves, for every m."""
    padded = np.append(r, np.ones(-len(r) % _PIECE)).reshape(-1, _PIECE)
    pieces = [_read(curves, piece) for piece in padded]
    return [
        CurveAt(*(np.concatenate(parts).astype(np.float64)[: len(r)] for parts in zip(*of_curve, strict=True)))
        for of_curve in zip(*pieces, strict=True)
    ]


@functools.cache  # curves are functions, and compiled programs depend on their identity
def start_curves(scheduler: Scheduler | None = None) -> dict[str, Curve]:
    """Curves worth trying, by name: powers of time, and changes from `scheduler` to the usual schedulers (Theorem 2.3).

    Each change of scheduler comes twice: as it is, and as its time grid alone. A flow whose scheduler is unknown is treated as
    CondOT: the curves remain candidates, though not changes of its own scheduler.

    Examples:
        >>> sorted(start_curves())[:2]
        ['condot', 'condot, time only']
    """
    source = scheduler or CondOT()
    targets = {
        "condot": CondOT(),
        "cosine": Cosine(),
        "vp": VariancePreserving(),
        # Only snr 0.1 to 50, the range of a sampler's grid rather than that of training.
        "edm": EDM(sigma_min=0.02, sigma_max=10.0),
    }
    curves = {
        "early dense": Curve(lambda r: r**1.5, jnp.ones_like),
        "late dense": Curve(lambda r: 1 - (1 - r) ** 1.5, jnp.ones_like),
    }
    for name, target in targets.items():
        curve = curve_between(source, target)
        curves[name] = curve
        curves[f"{name}, time only"] = Curve(curve.t, jnp.ones_like)
    return curves
