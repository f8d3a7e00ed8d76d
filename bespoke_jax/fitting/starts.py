"""Where a fit begins: the starts that a family has, tried on true paths, and the best one kept."""

import jax.numpy as jnp
import numpy as np

from bespoke_jax.fitting.gauss_newton import evaluate
from bespoke_jax.fitting.loss import Loss
from bespoke_jax.fitting.losses_of_ends import Endpoint
from bespoke_jax.flow.flow import Flow
from bespoke_jax.run.paths import Paths
from bespoke_jax.solver import LearnedSolver

__all__ = ["best_start", "cost_of_choice", "start_thetas"]


def start_thetas(flow: Flow, theta: LearnedSolver) -> dict[str, LearnedSolver]:
    """The solver itself, as "given", and the starts of its family for this flow, by name."""
    return {"given": theta} | theta.starts(flow)


NUM_START_PATHS = 32
"""Paths on which the best few starts, which differ by decibels, are compared."""

_FIRST, _KEPT = 4, 6


def best_start(
    flow: Flow,
    thetas: dict[str, LearnedSolver],
    paths: Paths,
    loss: Loss | None = None,
    num_paths: int = NUM_START_PATHS,
) -> tuple[str, int]:
    """The name of the best start, and the velocity evaluations spent on finding it.

    Best is the one of the least loss, one of ends and `Endpoint` by default, on the first `num_paths` of `paths`.
    Many starts are reduced to a few on four of those paths first.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian([1.0, 0.0], 0.1, scheduler=bj.schedulers.VariancePreserving())
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (16,)))
        >>> best_start(flow, start_thetas(flow, bj.init_theta("rk2", num_steps=4)), paths)[0] != "given"
        True
    """
    names, spent, loss = list(thetas), 0, loss or Endpoint()
    for count, keep in _rounds(len(names), num_paths):
        few = paths.take(jnp.arange(min(count, paths.num_paths)))
        values = np.array([float(evaluate(loss, flow, thetas[name], few)) for name in names])
        spent += few.num_paths * sum(thetas[name].nfe for name in names)
        order = np.argsort(np.where(np.isfinite(values), values, np.inf), kind="stable")
        names = [names[i] for i in order[:keep]]
    return names[0], spent


def cost_of_choice(num_starts: int, nfe: int, num_paths: int = NUM_START_PATHS) -> int:
    """Velocity evaluations that `best_start` spends on this many starts of `nfe` evaluations, if there are enough paths.

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
