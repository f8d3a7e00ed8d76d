"""The default fit on 40 random flows: `python -m benchmarks.random_flows rows.csv [number ...]`.

Flow `number` is a mixture in closed form, random but for its dimension (2, 8, 64), its scheduler (CondOT, VP, cosine, EDM) and
the family of its solver, which take turns; NFE lies between 3 and 12. One row per flow, PSNR in dB on 4,096 fresh noises, of the
mean RMSE (mean over samples): the best dedicated solver (for each figure its own, chosen on 512 of these noises), `bj.frugal()`,
the default, and by how much the default is ahead of frugal. Rows are appended to the CSV as they are found, and rows that are
there are kept: an interrupted run goes on where it was. The table printed at the end has all of them.
"""

import csv
import pathlib
import sys
import warnings
from typing import NamedTuple

import jax
import numpy as np

import bespoke_jax as bj
from bespoke_jax.run.scores import distances, score
from bespoke_jax.solver import LearnedSolver, Solver

NUM_FLOWS, NUM_TEST, NUM_CHOICE = 40, 4096, 512
DIMENSIONS, NUM_COMPONENTS = (2, 8, 64), 8
FAMILIES = {"rk1": 1, "rk2": 2, "table": 1, "times": 1, "curve": 2}  # evaluations a step
SCHEDULERS = {
    "condot": bj.schedulers.CondOT(),
    "vp": bj.schedulers.VariancePreserving(),
    "cosine": bj.schedulers.Cosine(),
    "edm": bj.schedulers.EDM(),
}
FIGURES = ("psnr", "mean_psnr")
WAYS = {"frugal": bj.frugal(), "default": bj.Recipe()}


class Case(NamedTuple):
    """A random flow and the solver to learn for it."""

    flow_name: str
    flow: bj.Flow
    solver: LearnedSolver


class Row(NamedTuple):
    """One way of getting a solver for a flow; the columns of the CSV."""

    number: int
    flow: str
    solver: str
    way: str
    name: str
    evaluations: int
    psnr: float
    mean_psnr: float


def case(number: int) -> Case:
    """Dimension, scheduler and family take turns, so that all combinations of two occur; the rest is random."""
    random = np.random.default_rng(number)
    size, family = DIMENSIONS[number % len(DIMENSIONS)], list(FAMILIES)[number % len(FAMILIES)]
    scheduler = list(SCHEDULERS)[number % len(SCHEDULERS)]
    means = random.uniform(-1, 1, (NUM_COMPONENTS, size))
    std = np.exp(random.uniform(np.log(0.05), np.log(0.5), NUM_COMPONENTS))
    weights = random.dirichlet(np.ones(NUM_COMPONENTS))
    nfe = int(random.integers(3, 13))
    solver = bj.init_theta(family, max(2, nfe // FAMILIES[family]))
    flow = bj.analytic.mixture(means, std, weights, SCHEDULERS[scheduler])
    return Case(f"mixture{size} {scheduler}", flow, solver)


def figures(flow: bj.Flow, solver: Solver, paths: bj.Paths) -> tuple[float, float]:
    """PSNR of the mean RMSE, and mean PSNR, on these paths."""
    found = score("", distances(flow, bj.adjoint.end_points(flow, solver, paths.x0), paths.x1), 2.0)
    return found.psnr, found.mean_psnr


def rows_of(number: int) -> list[Row]:
    """The rows of a flow: the best dedicated solver by each figure, and each way of fitting."""
    name, flow, solver = case(number)
    head = (number, name, f"{solver.family} {solver.nfe}")
    test = bj.ground_truth(flow, flow.noise(jax.random.key(2), (NUM_TEST,)), batch_size=1024, ends_only=True)
    few, tables = test.take(np.arange(NUM_CHOICE)), bj.classic.dedicated(solver.nfe, flow.scheduler)
    found = {each: np.nan_to_num(figures(flow, table, few), nan=-np.inf) for each, table in tables.items()}
    rows = []
    for index, figure in enumerate(FIGURES):
        best = max(found, key=lambda each, index=index: found[each][index])
        rows.append(Row(*head, f"dedicated by {figure}", best, 0, *figures(flow, tables[best], test)))
    for way, recipe in WAYS.items():
        result = bj.fit(flow, solver, jax.random.key(0), recipe)
        rows.append(Row(*head, way, result.start, result.cost, *figures(flow, result.theta, test)))
    return rows


def read(path: pathlib.Path) -> dict[int, list[Row]]:
    """The rows that the CSV has, by number."""
    rows: dict[int, list[Row]] = {}
    for line in csv.DictReader(path.open()) if path.exists() else ():
        row = Row(*(kind(line[name]) for name, kind in Row.__annotations__.items()))
        rows.setdefault(row.number, []).append(row)
    return rows


def append(path: pathlib.Path, rows: list[Row]) -> None:
    """Append the rows of a flow in one write, with a header if the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(([Row._fields] if new else []) + rows)


def line(rows: list[Row]) -> str:
    """A row of the table."""
    by_way = {row.way: row for row in rows}
    best = [getattr(by_way[f"dedicated by {figure}"], figure) for figure in FIGURES]
    frugal, default = by_way["frugal"], by_way["default"]
    lead = [getattr(default, figure) - getattr(frugal, figure) for figure in FIGURES]
    cells = [f"{psnr:.1f} ({mean:.1f})" for psnr, mean in (best, frugal[-2:], default[-2:])]
    return " | ".join(
        [f"| {frugal.number}", frugal.flow, frugal.solver, *cells, f"{lead[0]:+.1f} ({lead[1]:+.1f})"]
        + [f"{frugal.evaluations:,}", f"{default.evaluations:,} |"]
    )


def summary(found: dict[int, list[Row]]) -> str:
    """On how many flows the default is behind, and how far it is ahead on average."""
    parts = []
    for way in ("frugal", "dedicated"):
        for figure in FIGURES:
            other = way if way == "frugal" else f"dedicated by {figure}"
            values = [{row.way: getattr(row, figure) for row in rows} for rows in found.values()]
            lead = np.array([each["default"] - each[other] for each in values])
            parts.append(
                f"{figure} against {way}: behind on {np.sum(lead < 0)}, mean {lead.mean():+.2f}, least {lead.min():+.2f}"
            )
    return f"{len(found)} flows; " + "; ".join(parts)


def main(path: str, *numbers: str):
    warnings.filterwarnings("ignore", "fit: ")  # of heavy tails, which both figures show
    file = pathlib.Path(path)
    for number in map(int, numbers or range(NUM_FLOWS)):
        if number not in read(file):
            append(file, rows_of(number))
    print(
        "| number | flow | solver | best dedicated | frugal | default | lead over frugal | evaluations, frugal | default |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    found = read(file)
    for number in sorted(found):
        print(line(found[number]))
    print(summary(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
