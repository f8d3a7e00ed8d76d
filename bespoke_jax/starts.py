"""Where a fit begins: a handful of scale-time curves read off as thetas, tried on true paths, the best one kept."""

import jax
import jax.numpy as jnp

from bespoke_jax import schedulers
from bespoke_jax.flow import Flow
from bespoke_jax.ground_truth import Paths
from bespoke_jax.losses import endpoint
from bespoke_jax.scale_time import Curve, curve_between, theta_from_curve
from bespoke_jax.theta import Theta

__all__ = ["best_start", "start_curves", "start_thetas"]


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


def best_start(flow: Flow, thetas: dict[str, Theta], paths: Paths) -> str:
    """The name of the theta of the least end-point loss on `paths`; 16 paths suffice.

    Example:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian([1.0, 0.0], 0.1, scheduler=bj.schedulers.VariancePreserving())
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)))
        >>> best_start(flow, start_thetas(flow, bj.init_theta("rk2", num_steps=4)), paths) != "given"
        True
    """
    values = _values(flow, jax.tree.map(lambda *leaves: jnp.stack(leaves), *thetas.values()), paths)
    return list(thetas)[int(jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf)))]


@jax.jit
def _values(flow, stacked, paths):
    return jax.lax.map(lambda theta: endpoint(flow, theta, paths), stacked)
