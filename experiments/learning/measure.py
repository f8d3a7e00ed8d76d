"""How far solvers end from the truth, on noise that no fit has seen."""

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from experiments.learning.settings import Job
from experiments.run import processes, stopping

__all__ = [
    "BASE_SOLVERS",
    "BATCH_SIZE",
    "Measured",
    "Row",
    "as_text",
    "base_solvers",
    "end_points",
    "measure",
    "row_of",
]

# Euler and midpoint as thetas that are exactly that: they share what is compiled with the learned ones.
BASE_SOLVERS = {
    "rk1": (1, lambda nfe: bj.init_theta("rk1", nfe)),
    "rk2": (2, lambda nfe: bj.init_theta("rk2", nfe // 2)),
    "rk4": (4, bj.classic.rk4),
}
"""Name -> (evaluations per step, solver from the number of evaluations)."""

BATCH_SIZE = 32
"""How many samples the flow sees at once."""


class Row(NamedTuple):
    """One solver's error: RMSE is the mean of the samples' own, PSNR that of this mean (Sec. 4)."""

    solver: str
    nfe: int
    rmse: float
    psnr: float
    mean_psnr: float  # the mean of the samples' own PSNR: not ruled by the few worst samples
    standard_error: float  # of `rmse`


class Measured(NamedTuple):
    """A row for each solver, and the first few of its samples by (solver, NFE)."""

    rows: list[Row]
    samples: dict[tuple[str, int], np.ndarray]


def measure(
    flow: bj.Flow, jobs: Iterable[Job], learned: dict[Job, bj.Theta | bj.SolverTable], x0, x1, keep: int
) -> Measured:
    """Measure the base solvers at the NFE of `jobs`, then the learned ones.

    Args:
        flow: the velocity field; if it is `given` conditions, one for each noise.
        jobs: what was to be learned; a base solver is measured at those of their NFE that its steps divide.
        learned: what was.
        x0, x1: noises and their true ends, [N, *event].
        keep: how many samples to return.
    """
    solvers = base_solvers({job.nfe for job in jobs})
    solvers += [(job.solver, theta) for job, theta in learned.items()]
    measured = Measured([], {})
    for name, solver in processes.bar(solvers, desc="fresh noise"):
        stopping.stop_if_asked()
        ends = end_points(flow, solver, x0)
        measured.rows.append(row_of(name, solver.nfe, ends, x1))
        measured.samples[name, solver.nfe] = ends[:keep]
    return measured


def base_solvers(nfes: Iterable[int]) -> list[tuple]:
    """[(name, solver)] of the base solvers at those of the numbers of evaluations that their steps divide."""
    nfes = sorted(nfes)
    return [(name, make(nfe)) for name, (stages, make) in BASE_SOLVERS.items() for nfe in nfes if nfe % stages == 0]


def end_points(flow: bj.Flow, solver, x0) -> np.ndarray:
    """Where a theta or a table ends from noises [N, *event]. Not bj.solve: it would compile the network for each solver."""
    return np.asarray(bj.sharding.gather(flow, bj.adjoint.end_points(flow, solver, jnp.asarray(x0), BATCH_SIZE)))


def row_of(name: str, nfe: int, ends, x1) -> Row:
    """The row of a solver that ends at `ends` where x1 is true, both [N, *event]."""
    errors = np.asarray(bj.metrics.rmse(ends, x1, event_ndim=x1.ndim - 1), np.float64)
    errors = np.where(np.isfinite(errors), errors, np.inf)  # a solver that blew up is the worst of all, not the first
    rmse, geometric_mean = errors.mean(), np.exp(np.log(np.maximum(errors, 1e-12)).mean())
    psnr, mean_psnr = (float(bj.metrics.psnr(error)) for error in (rmse, geometric_mean))
    spread = errors.std() if np.isfinite(rmse) else np.inf
    return Row(name, nfe, float(rmse), psnr, mean_psnr, float(spread / len(errors) ** 0.5))


def as_text(rows: list[Row]) -> str:
    """A table for the terminal: a line per NFE, RMSE and PSNR of each solver side by side."""
    solvers = list(dict.fromkeys(row.solver for row in rows))
    cells = {(row.nfe, row.solver): f"{row.rmse:.4f} {row.psnr:6.2f}" for row in rows}
    lines = [["NFE", *solvers]]
    lines += [[str(nfe), *(cells.get((nfe, s), "") for s in solvers)] for nfe in sorted({row.nfe for row in rows})]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["   ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(["RMSE and PSNR (dB) on fresh noise", "", text[0], "-" * len(text[0]), *text[1:]])
