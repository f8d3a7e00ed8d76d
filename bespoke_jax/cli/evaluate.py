"""Solvers beside the dedicated ones of the same NFE, on the same fresh noises."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from bespoke_jax import classic
from bespoke_jax.compare import Yardstick
from bespoke_jax.run.scores import Score, table_of_scores
from bespoke_jax.solver import Solver

__all__ = ["NUM_SCREENED", "Group", "evaluate"]

NUM_SCREENED = 16
"""The number of noises on which all dedicated solvers are tried."""

_FINALISTS = 5  # by either figure
_SHOWN = 3


class Group(NamedTuple):
    """The scores at one NFE, best first, with Euler and midpoint last. `str` gives a table."""

    nfe: int
    learned: list[Score]
    dedicated: list[Score]

    def __str__(self) -> str:
        rows = [(row.name, row) for row in self.learned] + [(f"  {row.name}", row) for row in self.dedicated]
        return "\n".join(table_of_scores(rows, f"NFE {self.nfe}"))


def evaluate(
    ruler: Yardstick,
    solvers: Mapping[str, Solver],
    through: Callable[[list], Iterable] = iter,
) -> list[Group]:
    """Score solvers, and at each of their NFE the dedicated ones: all on a few noises, then the best of these on all noises.

    Args:
        ruler: the noises and their true ends.
        solvers: name -> solver.
        through: what the loop over the dedicated solvers runs through, such as a progress bar.

    Returns:
        A group for each NFE, the least first: the solvers given, the best dedicated ones, Euler and midpoint.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> from bespoke_jax.compare import yardstick
        >>> ruler = yardstick(bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3), jax.random.key(0), num_paths=4)
        >>> (found,) = evaluate(ruler, {"mine": bj.classic.ipndm(3)})
        >>> found.nfe, found.learned[0].name, found.dedicated[-1].name
        (3, 'mine', 'euler')
    """
    by_nfe: dict[int, dict[str, Solver]] = {}
    for name, solver in solvers.items():
        by_nfe.setdefault(math.ceil(solver.evaluations(ruler.flow)), {})[name] = solver
    others = {nfe: classic.dedicated(nfe, ruler.flow.scheduler) for nfe in sorted(by_nfe)}
    few, screened = ruler.first(NUM_SCREENED), {nfe: [] for nfe in others}
    for nfe, name in through([(nfe, name) for nfe, tables in others.items() for name in tables]):
        screened[nfe].append(few.score(name, others[nfe][name]))
    groups = []
    for nfe, tables in others.items():
        learned = [ruler.score(name, solver) for name, solver in by_nfe[nfe].items()]
        dedicated = [ruler.score(name, tables[name]) for name in _best(screened[nfe])]
        plain = {"midpoint": classic.midpoint(nfe)} if nfe % 2 == 0 else {}
        plain |= {"euler": classic.euler(nfe)}
        last = [ruler.score(name, solver) for name, solver in plain.items()]
        groups.append(Group(nfe, _ranked(learned), _ranked(dedicated)[:_SHOWN] + last))
    return groups


def _best(scores: list[Score]) -> list[str]:
    """The names of the best few by either figure: on few noises the mean RMSE depends on the worst of them."""
    distinct = {(round(row.psnr, 2), round(row.mean_psnr, 2)): row for row in reversed(scores)}.values()
    ranked = (sorted(distinct, key=lambda row: -getattr(row, figure)) for figure in ("mean_psnr", "psnr"))
    return list(dict.fromkeys(row.name for rows in ranked for row in rows[:_FINALISTS]))


def _ranked(scores: list[Score]) -> list[Score]:
    return sorted(scores, key=lambda row: -row.mean_psnr)
