"""Learned solvers compared with the dedicated ones, at the same NFE and on the same fresh noise.

Each NFE has some hundred dedicated solvers and grids. All are tried on a few noises; the best, and the best grid of each of
their methods, are then measured on all noises.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from jaxtyping import Float

import bespoke_jax as bj
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.solver import Solver
from bespoke_jax.types import Array
from experiments.learning.measure import Row, end_points, row_of
from experiments.learning.settings import Job
from experiments.run import processes, stopping
from experiments.run.runs import Run

__all__ = ["NUM_FINALISTS", "NUM_SCREENED", "Comparison", "Named", "as_text", "compare", "curves", "learned_solvers"]

Named: TypeAlias = tuple[str, Solver]
"""A solver with its name."""

NUM_SCREENED = 12  # noises that every dedicated solver is tried on
NUM_FINALISTS = 8  # dedicated solvers of each NFE that are measured on all noises
_PLAIN = ("euler/uniform", "midpoint/uniform", "rk4/uniform")


class Comparison(NamedTuple):
    """The rows measured on all noises, and those of the screening."""

    learned: list[Row]
    dedicated: list[Row]
    plain: list[Row]
    screened: list[Row]  # every dedicated solver, on the first `num_screened` noises
    num_noises: int
    num_screened: int

    @property
    def rows(self) -> list[Row]:
        """All rows measured on all noises."""
        return self.learned + self.dedicated + self.plain


def learned_solvers(run: Run, flow: bj.Flow, flow_name: str, jobs: Iterable[Job]) -> tuple[list[Named], str]:
    """([(name, solver)], where they come from): those in the run's folder; if it has none, those shipped with the flow.

    The name is the file's without its -n5. A solver that was learned for another flow causes a warning.
    """
    folder = run.folder / "solvers"
    if files := run.solver_files():
        found = [(path.stem, bj.load_solver(path, flow=flow)) for path in files]
        where = f"from {folder}"
    else:
        found = list(_shipped(flow_name, jobs)) if flow_name in bj.models.SHIPPED else []
        where = "those shipped with the flow" if found else f"none in {folder}; experiments.train learns them"
    return [(re.sub(r"-n\d+$", "", name), solver) for name, solver in found], where


def _shipped(flow_name, jobs):
    for job in jobs:
        try:
            yield job.name, bj.models.shipped_solver(flow_name, job.base, job.num_steps)
        except ValueError:  # none was learned for this job
            continue


def compare(
    flow: bj.Flow,
    nfes: Iterable[int],
    learned: list[Named],
    x0: Float[Array, "N *event"],
    x1: Float[Array, "N *event"],
    num_screened: int = NUM_SCREENED,
    num_finalists: int = NUM_FINALISTS,
) -> Comparison:
    """Measure learned, dedicated and plain solvers.

    Args:
        flow: the velocity field; if it is `given` conditions, one for each noise.
        nfes: the numbers of evaluations to compare at, besides those of the learned solvers.
        learned: (name, solver) of each learned solver.
        x0, x1: noises and their true ends, [N, *event].
        num_screened: how many of the noises every dedicated solver is tried on; the first ones.
        num_finalists: how many dedicated solvers of each NFE are measured on all noises.
    """
    all_nfes = sorted({*nfes, *(int(solver.evaluations(flow)) for _, solver in learned)})
    solvers = [item for nfe in all_nfes for item in _dedicated(nfe, flow.scheduler).items()]
    plain = [item for item in solvers if item[0] in _PLAIN]
    solvers = [item for item in solvers if item[0] not in _PLAIN]
    few = slice(min(num_screened, len(x0)))

    def measured(solvers, part, label):
        rows = []
        for name, solver in processes.bar(solvers, desc=label, unit="solver"):
            stopping.stop_if_asked()
            ends = end_points(of_samples(flow, part), solver, x0[part])
            rows.append(row_of(name, int(solver.evaluations(flow)), ends, x1[part]))
        return rows

    screened = measured(solvers, few, f"screening on {few.stop} noises")
    chosen = _finalists(screened, num_finalists)
    finalists = [item for item in solvers if (item[0], item[1].nfe) in chosen]
    rows = measured([*learned, *finalists, *plain], slice(None), f"the best on {len(x0)} noises")
    dedicated = rows[len(learned) : len(learned) + len(finalists)]
    return Comparison(rows[: len(learned)], dedicated, rows[-len(plain) :], screened, len(x0), few.stop)


def _finalists(screened: list[Row], count: int) -> set[tuple[str, int]]:
    """(solver, NFE) of the best `count` at each NFE, and of the best grid at every NFE of each of their methods and of GENIE."""
    ranked, chosen = {}, set()
    for nfe in {row.nfe for row in screened}:
        rows = [row for row in screened if row.nfe == nfe]
        # By the two figures in turn: on few noises the mean RMSE depends on the worst of them.
        orders = (sorted(rows, key=lambda row: -getattr(row, figure)) for figure in ("psnr", "mean_psnr"))
        ranked[nfe] = list(dict.fromkeys(row for pair in zip(*orders, strict=True) for row in pair))
        # Solvers that coincide (DDIM is Euler's method on CondOT) count once.
        distinct = {}
        for row in ranked[nfe]:
            distinct.setdefault((round(row.psnr, 2), round(row.mean_psnr, 2)), row)
        chosen.update((row.solver, nfe) for row in list(distinct.values())[:count])
    for method in {_method(solver) for solver, _ in chosen} | {"genie"}:
        for nfe, rows in ranked.items():
            chosen.update((row.solver, nfe) for row in [row for row in rows if _method(row.solver) == method][:1])
    return chosen


def _method(solver: str) -> str:
    return solver.split("/")[0]


def _dedicated(nfe, scheduler) -> dict:
    """The dedicated tables, and GENIE, which is not a table, on the same grids."""
    solvers = bj.classic.dedicated(nfe, scheduler)
    if scheduler is not None and nfe % 2 == 0:
        solvers |= {f"genie/{grid}": bj.classic.genie(nfe, scheduler, grid=grid) for grid in bj.classic.GRIDS}
    return solvers


def curves(rows: Iterable[Row], by_method: bool = False) -> dict[str, dict[int, Row]]:
    """Solver -> NFE -> row, or method -> NFE -> that of its best grid, sorted by the PSNR at the largest NFE, best first."""
    lines: dict[str, dict[int, Row]] = {}
    for row in rows:
        line = lines.setdefault(_method(row.solver) if by_method else row.solver, {})
        if row.nfe not in line or row.psnr > line[row.nfe].psnr:
            line[row.nfe] = row
    lines = {name: dict(sorted(line.items())) for name, line in lines.items()}
    return dict(sorted(lines.items(), key=lambda item: (max(item[1]), item[1][max(item[1])].psnr), reverse=True))


_NUM_SHOWN = 5


def as_text(found: Comparison, where: str) -> str:
    """The comparison for the terminal, a block for each NFE; `where` says where the learned solvers come from."""
    lines = [
        f"{found.num_noises} fresh noises. Learned solvers: {where}.",
        f"{len(found.screened)} dedicated solvers and grids were tried on the first {found.num_screened} noises. The best at "
        "each NFE, by PSNR or mean PSNR,",
        f"and the best grid of each of their methods were measured on all; the {_NUM_SHOWN} best are shown.",
    ]
    width = max(len(row.solver) for row in found.rows)
    for nfe in sorted({row.nfe for row in found.rows}):
        lines += ["", f"{f'NFE {nfe}':<12}{'':<{width}}  RMSE              PSNR  mean PSNR"]
        learned, dedicated, plain = (
            sorted((row for row in rows if row.nfe == nfe), key=lambda row: -row.psnr)
            for rows in (found.learned, found.dedicated, found.plain)
        )
        for label, rows in (("learned", learned), ("dedicated", dedicated[:_NUM_SHOWN]), ("plain", plain)):
            for i, row in enumerate(rows):
                lines.append(
                    f"  {'' if i else label:<10}{row.solver:<{width}}  {row.rmse:.5f} +-{row.standard_error:.5f} "
                    f"{row.psnr:6.2f} {row.mean_psnr:10.2f}"
                )
        lines += [_gain(row, dedicated + plain) for row in learned]
    return "\n".join(lines)


def _gain(row: Row, others: list[Row]) -> str:
    by_figure = []
    for figure in ("psnr", "mean_psnr"):
        best = max(others, key=lambda other: getattr(other, figure))
        by_figure.append(f"{getattr(row, figure) - getattr(best, figure):+.2f} dB over {best.solver}")
    return f"  {row.solver}: PSNR {by_figure[0]}; mean PSNR {by_figure[1]}"
