"""The default fit on 40 random flows: `python -m benchmarks.random_flows rows.csv [--keys K] [number ...]`.

Flow `number` is a mixture in closed form, random but for its dimension (2, 8, 64), its scheduler (CondOT, VP, cosine, EDM) and
the family of its solver, which take turns; NFE lies between 3 and 12. One row per flow, PSNR in dB on 4,096 fresh noises, of the
mean RMSE (mean over samples): the best dedicated solver (for each figure its own, chosen on 512 of these noises), `bj.frugal()`,
the default, and by how much the default is ahead of frugal. Two fits that differ in nothing but their random key differ by a
decibel and more: with `--keys 6` the figures are means over keys 0 to 5, and the lead has its standard error. Rows are appended
to the CSV as they are found, and rows that are there are kept: an interrupted run goes on where it was. The table printed at the
end has all flows of which all keys are there.
"""

import argparse
import csv
import pathlib
import warnings
from typing import NamedTuple

import jax
import numpy as np

import bespoke_jax as bj
from benchmarks.figures import figures
from bespoke_jax.run.scores import standard_error
from bespoke_jax.solver import LearnedSolver

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
    key: int
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


def rows_of(number: int, key: int) -> list[Row]:
    """The rows of a flow: each way of fitting, and with key 0 the best dedicated solver by each figure."""
    name, flow, solver = case(number)
    head = (number, key, name, f"{solver.family} {solver.nfe}")
    test = bj.ground_truth(flow, flow.noise(jax.random.key(2), (NUM_TEST,)), batch_size=1024, ends_only=True)
    rows = [] if key else [Row(*head, *found) for found in _dedicated(flow, solver.nfe, test)]
    for way, recipe in WAYS.items():
        result = bj.fit(flow, solver, jax.random.key(key), recipe)
        rows.append(Row(*head, way, result.start, result.cost, *figures(flow, result.theta, test)))
    return rows


def _dedicated(flow: bj.Flow, nfe: int, test: bj.Paths) -> list[tuple]:
    """(way, name, evaluations, figures) of the best dedicated solver by each figure."""
    few, tables = test.take(np.arange(NUM_CHOICE)), bj.classic.dedicated(nfe, flow.scheduler)
    found = {each: np.nan_to_num(figures(flow, table, few), nan=-np.inf) for each, table in tables.items()}
    best = [max(found, key=lambda each, index=index: found[each][index]) for index in range(len(FIGURES))]
    return [
        (f"dedicated by {figure}", name, 0, *figures(flow, tables[name], test))
        for figure, name in zip(FIGURES, best, strict=True)
    ]


def read(path: pathlib.Path) -> list[Row]:
    """The rows that the CSV has."""
    lines = csv.DictReader(path.open()) if path.exists() else ()
    return [Row(*(kind(line[name]) for name, kind in Row.__annotations__.items())) for line in lines]


def by_flow(rows: list[Row], keys: int) -> dict[int, list[Row]]:
    """The rows of each flow that has all keys, by its number."""
    found: dict[int, list[Row]] = {}
    for row in rows:
        if row.key < keys:
            found.setdefault(row.number, []).append(row)
    return {number: found[number] for number in sorted(found) if len({row.key for row in found[number]}) == keys}


def values(rows: list[Row], way: str) -> np.ndarray:
    """[keys, figures] of one way, in the order of the keys."""
    return np.array([row[-len(FIGURES) :] for row in sorted(rows, key=lambda row: row.key) if row.way == way])


def append(path: pathlib.Path, rows: list[Row]) -> None:
    """Append the rows of a flow in one write, with a header if the file is new."""
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(([Row._fields] if new else []) + rows)


def line(rows: list[Row]) -> str:
    """A row of the table."""
    first = {row.way: row for row in rows if row.key == 0}
    best = [getattr(first[f"dedicated by {figure}"], figure) for figure in FIGURES]
    frugal, default = values(rows, "frugal"), values(rows, "default")
    lead = [_with_error(each) for each in (default - frugal).T]
    cells = [f"{psnr:.1f} ({mean:.1f})" for psnr, mean in (best, frugal.mean(axis=0), default.mean(axis=0))]
    head = first["frugal"]
    costs = [f"{first[way].evaluations:,}" for way in WAYS]
    return f"| {' | '.join([str(head.number), head.flow, head.solver, *cells, f'{lead[0]} ({lead[1]})', *costs])} |"


def _with_error(values: np.ndarray) -> str:
    """The mean, and with several values its standard error."""
    error = "" if len(values) == 1 else f" ± {standard_error(values):.1f}"
    return f"{np.mean(values):+.1f}{error}"


def summary(found: dict[int, list[Row]]) -> str:
    """On how many flows the default is behind, and how far it is ahead on average."""
    parts = []
    for way in ("frugal", "dedicated"):
        for index, figure in enumerate(FIGURES):
            other = way if way == "frugal" else f"dedicated by {figure}"
            leads = [values(rows, "default")[:, index] - values(rows, other)[:, index] for rows in found.values()]
            lead = np.array([np.mean(each) for each in leads])
            parts.append(
                f"{figure} against {way}: behind on {np.sum(lead < 0)}, mean {lead.mean():+.2f}, least {lead.min():+.2f}"
            )
    return f"{len(found)} flows; " + "; ".join(parts)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", type=pathlib.Path)
    parser.add_argument("--keys", type=int, default=1)
    parser.add_argument("numbers", type=int, nargs="*", default=range(NUM_FLOWS))
    options = parser.parse_intermixed_args()  # numbers may follow an option
    warnings.filterwarnings("ignore", "fit: ")  # of heavy tails, which both figures show
    there = {(row.number, row.key) for row in read(options.rows)}
    for number in options.numbers:
        for key in range(options.keys):
            if (number, key) not in there:
                append(options.rows, rows_of(number, key))
    print(
        "| number | flow | solver | best dedicated | frugal | default | lead over frugal | evaluations, frugal | default |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    found = by_flow(read(options.rows), options.keys)
    for rows in found.values():
        print(line(rows))
    print(summary(found))


if __name__ == "__main__":
    main()
