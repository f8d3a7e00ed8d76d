"""Thetas from scale-time curves, and their transfer from one scheduler to another (Theorem 2.3)."""

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_float_dtype, check_type
from bespoke_jax.learned.scale_time import Curve, CurveAt, curve_between, read_curves
from bespoke_jax.learned.theta import Theta, knot_places, theta_from_reading
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import DTypeLike

__all__ = ["theta_from_curve", "transfer"]


def theta_from_curve(base: str, num_steps: int, curve: Curve, dtype: DTypeLike = jnp.float32) -> Theta:
    """The theta whose knots are read off `curve`: the base solver on the field transformed by it.

    A curve that misses t = 0 or t = 1 (a change between schedulers whose ends are only near 0 and 1) is stretched to meet them.
    s is divided by s_0, which does not change the solver.

    Raises:
        TypeError: if `curve` is not a `Curve`, or for a dtype that is not floating.
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
    """A theta learned for flows of scheduler `source`, rewritten for flows of scheduler `target`.

    Use it as it is, or as the start of a fit. For one model under both schedulers it is the same solver (Theorem 2.3): with the
    change of scheduler x(t) = c_t y(tau_t), its transformed path s_r x(t_r) is s_r c_{t_r} y(tau_{t_r}). Where the ends of the
    schedulers differ, it is stretched.

    Args:
        theta: of rk1 or rk2.
        source: the scheduler of the flow that it was learned for.
        target: the scheduler of the flow that it is to solve.

    Raises:
        TypeError: for another solver, or something that is not a scheduler.
        ValueError: as `theta_from_knots`, if knots come too close to each other.

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
    dt, ds = np.append(dt, 0), np.append(ds, 0)  # the last knot has no derivatives, and none are used
    change = read_curves((curve_between(target, source),), t)[0]
    reading = CurveAt(change.t, change.dt * dt, s * change.s, ds * change.s + s * change.ds * dt)
    return theta_from_reading(theta.base, reading, theta.raw.dtype).learning(theta.learned)
