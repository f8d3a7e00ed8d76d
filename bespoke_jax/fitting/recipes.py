"""A fit for a given number of velocity evaluations, the true ends and everything else included."""

import dataclasses
from typing import Any

import numpy as np

from bespoke_jax.checks import check_flag, check_type
from bespoke_jax.classic import ipndm, unipc
from bespoke_jax.fitting.stages import SMALL_STEPS, Stage
from bespoke_jax.fitting.starts import cost_of_choice, start_thetas
from bespoke_jax.flow.flow import Flow
from bespoke_jax.run.probe import EVALUATIONS as PROBE
from bespoke_jax.run.truth import NUM_CHECKED
from bespoke_jax.table import LearnedSolver, SolverTable, check_solver_arrays

__all__ = ["frugal", "reference"]

# Found on the shipped flows, rk2 of five steps; what they reach: benchmarks/README.md.
# Still smaller steps than the default's, of fewer paths each, with a memory that grows, which gains as much as twice the steps.
# A look at a step would cost a quarter of an update: they are taken unseen, and how far does not depend on four paths' luck.
_METHOD = dataclasses.replace(SMALL_STEPS, tries=0, damping=3e-2, powers=(2.0, 3.0))
_DAMPING_FALLS = 1000.0  # by so much in all
_STAGE = Stage("endpoint", 1, _METHOD, batch_size=4, chunk_size=4, keep_activations=True)
_NUM_VALIDATION = 12
_NUM_START_PATHS = 8
_PASSES_OVER_PATHS = 3
_MOST_ITERATIONS = 2**30
_MOST = 10**12  # evaluations: more than any fit takes
_LOOKS = 4  # at the held-out paths, besides the one at the start


def reference(flow: Flow, nfe: int) -> SolverTable:
    """The dedicated solver that takes the place of Dopri5 where a solver of `nfe` evaluations is learned from few.

    UniPC of third order on the log-SNR grid with 2.4 times as many evaluations, at least 24: 50 dB and more on every flow that
    it was tried on. Without a scheduler, Adams-Bashforth of fourth order with 4 times as many, at least 40.
    """
    return _of_evaluations(flow, max(40, 4 * nfe) if flow.scheduler is None else max(24, -(-12 * nfe // 5)))


def _of_evaluations(flow, nfe):
    if flow.scheduler is None:
        return ipndm(nfe, order=4)
    return unipc(nfe, flow.scheduler, order=3, grid="log_snr")


def frugal(flow: Flow, theta: LearnedSolver, budget: int = 20_000, *, choose_start: bool = True) -> dict[str, Any]:
    """Arguments for `fit` that spend at most `budget` velocity evaluations of single samples.

    The ends of the paths come from a dedicated solver in place of Dopri5, and Levenberg-Marquardt takes batches of a few samples
    and remembers the quadratics of earlier ones. A batch's activations at all evaluations are in memory together. Best begun
    from a solver learned on a model of the same kind: `transfer`.

    Args:
        flow, theta: as for `fit`.
        budget: evaluations in all: true ends, start, updates, held-out paths.
        choose_start: as for `fit`.

    Raises:
        TypeError: if `flow` is not a Flow, `theta` not a learned solver, or the budget not an integer.
        ValueError: if it does not suffice for one update; says what does.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow, theta = bj.analytic.mixture([[1.0, -1.0], [0.0, 1.0]], std=0.3), bj.init_theta("rk1", 2)
        >>> bj.fit(flow, theta, jax.random.key(0), **frugal(flow, theta, 8000)).cost <= 8000
        True
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    check_type("theta", theta, LearnedSolver, "what bespoke_jax.init_theta('rk2', 5) gives")
    check_solver_arrays("theta", theta)
    choose_start = check_flag("choose_start", choose_start)
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer):
        raise TypeError(f"budget: wanted an integer, got {budget!r}.")
    if budget > _MOST:
        raise ValueError(f"budget: wanted at most {_MOST:.0e} evaluations, got {budget:.3g}.")
    truth, nfe = reference(flow, theta.nfe), theta.nfe
    choice = cost_of_choice(len(start_thetas(flow, theta)), nfe, _NUM_START_PATHS) if choose_start else 0
    finer, checked = _of_evaluations(flow, 2 * truth.nfe), min(NUM_CHECKED, _STAGE.chunk_size)
    held_out = _NUM_VALIDATION * (truth.nfe + (1 + _LOOKS) * nfe) + checked * (PROBE + finer.nfe)

    def num_paths(iterations):
        return max(_NUM_START_PATHS, iterations * _STAGE.batch_size // _PASSES_OVER_PATHS)

    def cost(iterations):
        updates = iterations * _STAGE.batch_size * nfe * (_STAGE.passes(theta) + _METHOD.tries)
        return choice + held_out + num_paths(iterations) * truth.nfe + updates

    if budget < cost(1):
        raise ValueError(f"budget: got {budget!r}, wanted at least {cost(1)} for a solver of {nfe} evaluations.")
    few, many = 1, 2  # the cost grows with the iterations: bisection, from what costs too much
    while cost(many) <= budget and many < _MOST_ITERATIONS:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if cost(middle) <= budget else (few, middle)
    iterations = few
    method = dataclasses.replace(_METHOD, shrink=_DAMPING_FALLS ** (1 / iterations))
    every = -(-iterations // _LOOKS)
    return dict(
        stages=(dataclasses.replace(_STAGE, num_iterations=iterations, optimizer=method, validate_every=every),),
        num_paths=num_paths(iterations),
        num_validation=_NUM_VALIDATION,
        num_start_paths=_NUM_START_PATHS,
        choose_start=choose_start,
        reference=truth,
        checked_by=finer,
        best_by="mean_psnr",
    )
