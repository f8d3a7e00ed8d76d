"""Where a fit begins: a handful of scale-time curves read off as thetas, tried on true paths, the best one kept."""


import jax
import jax.numpy as jnp

from bespoke_jax import schedulers
from bespoke_jax.flow import Flow
from bespoke_jax.ground_truth import Paths
from bespoke_jax.losses import endpoint
from bespoke_jax.scale_time import Curve, curve_between, theta_from_curve
from bespoke_jax.theta import Theta

__all__ = ["best_start", "start_curves"]


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
    curves = {"early dense": Curve(lambda r: r**1.5, jnp.ones_like), "late dense": Curve(lambda r: 1 - (1 - r) ** 1.5, jnp.ones_like)}
    for name, target in targets.items():
        curve = curve_between(source, target)
        curves[name] = curve
        curves[f"{name}, time only"] = Curve(curve.t, jnp.ones_like)
    return curves


def best_start(flow: Flow, theta: Theta, paths: Paths) -> tuple[str, Theta, int]:
    """The best of `theta` and the start curves by the end-point loss on `paths`: (name, theta, how many were tried).

    Args:
        flow: the velocity field; its scheduler, if known, names the curves.
        theta: the user's own start, "given" if it wins; base solver, number of steps and dtype come from it.
        paths: a few true paths, 16 suffice.
    """
    candidates = {"given": theta}
    for name, curve in start_curves(flow.scheduler).items():
        try:
            candidates[name] = theta_from_curve(theta.base, theta.num_steps, curve, dtype=theta.raw.dtype)
        except ValueError:  # the curve leaves the range of knots: not a start
            continue
    raws = jnp.stack([candidate.raw for candidate in candidates.values()])
    values = _values(flow, raws, theta, paths)
    best = int(jnp.argmin(jnp.where(jnp.isfinite(values), values, jnp.inf)))
    name = list(candidates)[best]
    return name, candidates[name], len(candidates)


@jax.jit
def _values(flow, raws, theta, paths):
    def value(raw):
        return endpoint(flow, jax.tree.unflatten(jax.tree.structure(theta), [raw]), paths)

    return jax.lax.map(value, raws)
