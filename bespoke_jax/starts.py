"""Where a fit begins: a handful of scale-time curves read off as thetas, tried on true paths, the best one kept."""

import functools

import jax.numpy as jnp
import numpy as np

from bespoke_jax import schedulers
from bespoke_jax.curvature import evaluate
from bespoke_jax.flow import Flow
from bespoke_jax.ground_truth import Paths
from bespoke_jax.scale_time import Curve, curve_between, theta_from_curve
from bespoke_jax.theta import Theta

__all__ = ["NUM_START_PATHS", "best_start", "start_curves", "start_thetas"]


@functools.cache  # the curves are functions: the same ones again are compiled no more
def start_curves(scheduler: schedulers.Scheduler | None = None) -> dict[str, Curve]:
    """Curves worth trying, by name: powers of time, and changes from `scheduler` to the usual schedulers (Theorem 2.3).

    Each scheduler change comes twice, whole and as its time grid alone. A flow whose scheduler is unknown is treated as
    CondOT: the curves are then no scheduler changes, but candidates still.

    Example:
        >>> sorted(start_curves())[:2]
        ['condot', 'condot, time only']
    """
    source = scheduler or schedulers.CondOT()
    targets = {
        "condot": schedulers.CondOT(),
        "cosine": schedulers.Cosine(),
        "vp": schedulers.VariancePreserving(),
        # From snr 0.1 to 50 only: a sampler's grid, not a training range.
        "edm": schedulers.EDM(sigma_min=0.02, sigma_max=10.0),
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


def start_thetas(flow: Flow, theta: Theta) -> dict[str, Theta]:
    """The start curves as thetas like `theta`, and `theta` itself as "given", by name."""
    thetas = {"given": theta}
    for name, curve in start_curves(flow.scheduler).items():
        try:
            thetas[name] = theta_from_curve(theta.base, theta.num_steps, curve, dtype=theta.raw.dtype)
        except ValueError:  # the curve leaves the range of knots: not a start
            continue
    return thetas


NUM_START_PATHS = 16  # paths that starts are compared on: they differ by decibels


def best_start(flow: Flow, thetas: dict[str, Theta], paths: Paths) -> str:
    """The name of the theta of the least end-point loss on the first few of `paths`.

    Example:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian([1.0, 0.0], 0.1, scheduler=bj.schedulers.VariancePreserving())
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)))
        >>> best_start(flow, start_thetas(flow, bj.init_theta("rk2", num_steps=4)), paths) != "given"
        True
    """
    few = paths.take(jnp.arange(min(NUM_START_PATHS, paths.num_paths)))
    values = [float(evaluate("endpoint", flow, theta, few)) for theta in thetas.values()]
    return list(thetas)[int(np.argmin(np.where(np.isfinite(values), values, np.inf)))]
