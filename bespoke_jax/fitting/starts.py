"""Where a fit begins: scale-time curves read off as thetas, or dedicated solvers, tried on true paths, the best one kept."""

import functools

import jax.numpy as jnp
import numpy as np

from bespoke_jax import schedulers
from bespoke_jax.classic import GRIDS, dedicated, time_grid
from bespoke_jax.classic.grids import NEED_NO_SCHEDULER
from bespoke_jax.fitting.distance import Distance
from bespoke_jax.fitting.gauss_newton import evaluate
from bespoke_jax.flow.flow import Flow
from bespoke_jax.learned.curve import LearnedCurve
from bespoke_jax.learned.families import LearnedSolver
from bespoke_jax.learned.scale_time import Curve, curve_between, knot_places, read_curves, theta_from_reading
from bespoke_jax.learned.table import LearnedTable
from bespoke_jax.learned.times import LearnedTimes
from bespoke_jax.run.paths import Paths

__all__ = ["best_start", "cost_of_choice", "start_curves", "start_thetas"]


@functools.cache  # the curves are functions: the same ones again are compiled no more
def start_curves(scheduler: schedulers.Scheduler | None = None) -> dict[str, Curve]:
    """Curves worth trying, by name: powers of time, and changes from `scheduler` to the usual schedulers (Theorem 2.3).

    Each scheduler change comes twice, whole and as its time grid alone. A flow whose scheduler is unknown is treated as
    CondOT: the curves are then no scheduler changes, but candidates still.

    Examples:
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


def start_thetas(flow: Flow, theta: LearnedSolver) -> dict[str, LearnedSolver]:
    """Starts like `theta`, and `theta` itself as "given", by name.

    For "rk1", "rk2" and a learned curve the start curves, what `theta` holds left as it is; for a learned table every dedicated
    solver on every grid; for learned times the same solver on every grid.
    """
    dtype = theta.raw.dtype
    if isinstance(theta, LearnedTable):
        tables = dedicated(theta.nfe, flow.scheduler, dtype)
        return {"given": theta} | {name: LearnedTable.of(table) for name, table in tables.items()}
    if isinstance(theta, LearnedTimes):
        names = NEED_NO_SCHEDULER if flow.scheduler is None else GRIDS

        def start(name):
            times = time_grid(name, theta.num_steps, flow.scheduler)
            return LearnedTimes.of(theta.method, theta.num_steps, theta.scheduler, grid=times, dtype=dtype)
    elif isinstance(theta, LearnedCurve):
        names = start_curves(flow.scheduler)

        def start(name):
            return theta.like(names[name])
    else:
        curves = start_curves(flow.scheduler)
        readings = read_curves(tuple(curves.values()), knot_places(theta.base, theta.num_steps))
        names = dict(zip(curves, readings, strict=True))

        def start(name):
            return theta.with_raw(theta_from_reading(theta.base, names[name], dtype=dtype).learning(theta.learned).raw)

    thetas = {"given": theta}
    for name in names:
        try:
            thetas[name] = start(name)
        except ValueError:  # a curve that leaves the range of knots, a grid with too small gaps: not a start
            continue
    return thetas


NUM_START_PATHS = 32  # paths that the last few starts are compared on: they differ by decibels
_FIRST, _KEPT = 4, 6


def best_start(
    flow: Flow,
    thetas: dict[str, LearnedSolver],
    paths: Paths,
    loss: str | Distance = "endpoint",
    num_paths: int = NUM_START_PATHS,
) -> tuple[str, int]:
    """(the name of the theta of the least loss, one of ends, on the first `num_paths` of `paths`, velocity evaluations spent).

    Many are thinned out on four of those paths first.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian([1.0, 0.0], 0.1, scheduler=bj.schedulers.VariancePreserving())
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)))
        >>> best_start(flow, start_thetas(flow, bj.init_theta("rk2", num_steps=4)), paths)[0] != "given"
        True
    """
    names, spent = list(thetas), 0
    for count, keep in _rounds(len(names), num_paths):
        few = paths.take(jnp.arange(min(count, paths.num_paths)))
        values = np.array([float(evaluate(loss, flow, thetas[name], few)) for name in names])
        spent += few.num_paths * sum(thetas[name].nfe for name in names)
        order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
        names = [names[i] for i in order[:keep]]
    return names[0], spent


def cost_of_choice(num_starts: int, nfe: int, num_paths: int = NUM_START_PATHS) -> int:
    """Velocity evaluations that `best_start` spends on so many starts of `nfe` evaluations, if there are enough paths.

    Examples:
        >>> cost_of_choice(num_starts=11, nfe=10, num_paths=16), cost_of_choice(num_starts=100, nfe=10)
        (1760, 5920)
    """
    spent, left = 0, num_starts
    for count, keep in _rounds(num_starts, num_paths):
        spent, left = spent + left * count * nfe, keep
    return spent


def _rounds(num_starts, num_paths):
    """(paths to compare on, starts to keep) of each round."""
    last = (num_paths, 1)
    return ((_FIRST, _KEPT), last) if num_starts > 2 * _KEPT else (last,)
