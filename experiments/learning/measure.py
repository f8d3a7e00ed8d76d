"""The error of solvers on noise that no fit has seen."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

import bespoke_jax as bj
from bespoke_jax.learned.steps import BASES
from bespoke_jax.run import scores
from bespoke_jax.solver import Solver
from bespoke_jax.types import Array
from experiments.learning.settings import Job
from experiments.run import processes, stopping

__all__ = [
    "BASE_SOLVERS",
    "BATCH_SIZE",
    "FreshNoise",
    "Measured",
    "Row",
    "as_text",
    "base_solvers",
    "end_points",
    "plain_solver",
    "row_of",
]

# Euler and midpoint as thetas, which are exactly these methods: they share compiled programs with the learned solvers.
BASE_SOLVERS: dict[str, tuple[int, Callable[[int], Solver]]] = {
    "rk1": (1, lambda nfe: bj.init_theta("rk1", nfe)),
    "rk2": (2, lambda nfe: bj.init_theta("rk2", nfe // 2)),
    "rk4": (4, bj.classic.rk4),
}
"""Name -> (evaluations per step, solver from the number of evaluations)."""

BATCH_SIZE = 32
"""How many samples the flow evaluates at once, unless a run has a size of its own."""


class Row(NamedTuple):
    """One solver's error (Sec. 4).

    Attributes:
        solver: its name.
        nfe: velocity evaluations per sample.
        rmse: the mean of the samples' RMSE.
        psnr: of `rmse`, in dB.
        mean_psnr: the mean of the samples' own PSNR, which the few worst samples do not dominate.
        standard_error: of `rmse`.
        mean_psnr_standard_error: of `mean_psnr`, in dB.
    """

    solver: str
    nfe: int
    rmse: float
    psnr: float
    mean_psnr: float
    standard_error: float
    mean_psnr_standard_error: float = math.nan


class Measured(NamedTuple):
    """A row for each solver, and its first few samples by (solver, NFE)."""

    rows: list[Row]
    samples: dict[tuple[str, int], np.ndarray]


class FreshNoise:
    """Noise that no fit has seen, and the true ends. Every solver is measured on it once, when it is first asked for.

    Args:
        flow: the velocity field; if it is `given` conditions, one for each noise.
        x0, x1: noises and their true ends, [N, *event].
        keep: how many samples of each solver to keep.
        batch_size: how many the flow evaluates at once; as many as elsewhere in a run spare a compilation of the network.
    """

    def __init__(
        self,
        flow: bj.Flow,
        x0: Float[Array, "N *event"],
        x1: Float[Array, "N *event"],
        keep: int,
        batch_size: int = BATCH_SIZE,
    ):
        self._flow, self._x0, self._x1, self._keep, self._batch_size = flow, x0, x1, keep, batch_size
        self._found: dict[tuple[str, int], tuple[Row, np.ndarray]] = {}

    def measure(self, jobs: Iterable[Job], learned: Mapping[Job, Solver]) -> Measured:
        """The base solvers at the NFE of `jobs`, then the learned ones.

        Args:
            jobs: the solvers that were to be learned. A base solver is measured at every NFE of theirs that its steps divide.
            learned: those that were learned.
        """
        solvers = base_solvers({job.nfe for job in jobs})
        solvers += [(job.solver, theta) for job, theta in learned.items()]
        measured = Measured([], {})
        for name, solver in processes.bar(solvers, desc="fresh noise"):
            stopping.stop_if_asked()
            row, samples = self._of(name, solver)
            measured.rows.append(row)
            measured.samples[name, row.nfe] = samples
        return measured

    def gain(self, job: Job, theta: Solver) -> str:
        """A line that says what a learned solver gains over `plain_solver`."""
        plain = plain_solver(job)
        (before, _), (after, _) = self._of(plain, BASE_SOLVERS[plain][1](job.nfe)), self._of(job.solver, theta)
        return (
            f"{job.solver} with {job.nfe} evaluations: {after.psnr:.1f} dB on fresh noise, {after.psnr - before.psnr:+.1f} dB "
            f"over {plain} without learning ({before.psnr:.1f} dB)"
        )

    def _of(self, name: str, solver: Solver) -> tuple[Row, np.ndarray]:
        nfe = int(solver.evaluations(self._flow))
        if (name, nfe) not in self._found:
            ends = end_points(self._flow, solver, self._x0, self._batch_size)
            self._found[name, nfe] = row_of(name, nfe, ends, self._x1), ends[: self._keep]
        return self._found[name, nfe]


def plain_solver(job: Job) -> str:
    """The base solver beside which a learned one is shown: its own; for other families midpoint, or Euler at an odd NFE."""
    if job.base in BASES:
        return job.base
    return "rk1" if job.nfe % 2 else "rk2"


def base_solvers(nfes: Iterable[int]) -> list[tuple[str, Solver]]:
    """[(name, solver)] of the base solvers, each at every NFE that its steps divide."""
    nfes = sorted(nfes)
    return [(name, make(nfe)) for name, (stages, make) in BASE_SOLVERS.items() for nfe in nfes if nfe % stages == 0]


def end_points(
    flow: bj.Flow, solver: Solver, x0: Float[Array, "N *event"], batch_size: int = BATCH_SIZE
) -> Float[np.ndarray, "N *event"]:
    """The ends of a solver's paths from noises [N, *event]. `bj.solve` would compile the network again for each solver."""
    return np.asarray(bj.sharding.gather(flow, bj.adjoint.end_points(flow, solver, jnp.asarray(x0), batch_size)))


def row_of(name: str, nfe: int, ends: Float[Array, "N *event"], x1: Float[Array, "N *event"]) -> Row:
    """The row of a solver that ends at `ends` where the true end is x1, both [N, *event]."""
    found = scores.score(name, bj.metrics.rmse(ends, x1, event_ndim=x1.ndim - 1), data_range=2.0)
    # The score's own PSNR is of float64: its last digits are not those of the results published so far.
    psnr, mean_psnr = (float(bj.metrics.psnr(error)) for error in (found.rmse, found.geometric_mean))
    return Row(name, nfe, found.rmse, psnr, mean_psnr, found.standard_error, found.mean_psnr_standard_error)


def as_text(rows: list[Row]) -> str:
    """A table for the terminal: a line per NFE, RMSE and PSNR of each solver side by side."""
    solvers = list(dict.fromkeys(row.solver for row in rows))
    cells = {(row.nfe, row.solver): f"{row.rmse:.4f} {row.psnr:6.2f}" for row in rows}
    lines = [["NFE", *solvers]]
    lines += [[str(nfe), *(cells.get((nfe, s), "") for s in solvers)] for nfe in sorted({row.nfe for row in rows})]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ["   ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(["RMSE and PSNR (dB) on fresh noise", "", text[0], "-" * len(text[0]), *text[1:]])
