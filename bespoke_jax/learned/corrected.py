"""Tables whose factors differ by class, or are functions of the guidance scale."""

import dataclasses

from bespoke_jax.checks import check_count, check_numbers, check_type
from bespoke_jax.corrections import Corrections
from bespoke_jax.solver import Solver, to_table
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Numbers

__all__ = ["corrected"]


def corrected(solver: Solver, *, num_classes: int | None = None, scales: Numbers | None = None) -> SolverTable:
    """The table of a solver with corrections to learn, all 0: for each class, or quadratic in the guidance scale.

    Learn the solver first, then `fit(flow, LearnedTable.of(corrected(solver, ...)), key)` from there. `solve` and `sample` find
    the class, or the scale, in the flow.

    Args:
        solver: a learned solver or a table.
        num_classes: of the flow's conditions, which are indices or vectors of as many weights.
        scales: (least, greatest) guidance scale of a `guided` flow. Outside of it the factors are those of its nearer end.

    Raises:
        TypeError: if it is no solver with a table.
        ValueError: unless exactly one of the two is given; for a range that is none; for a table that has corrections.

    Examples:
        >>> import bespoke_jax as bj
        >>> table = corrected(bj.classic.midpoint(4), num_classes=10)
        >>> table.nfe, table.num_parameters, bj.LearnedTable.of(table).num_parameters
        (4, 157, 157)
    """
    check_type("solver", solver, Solver, "a learned solver or a SolverTable")
    table = to_table(solver)
    if table.corrections is not None:
        raise ValueError("solver: wanted a table without corrections, got one with.")
    if (num_classes is None) == (scales is None):
        raise ValueError(f"corrected: wanted num_classes or scales, got {num_classes} and {scales}.")
    if num_classes is not None:
        added = Corrections.zeros(table, check_count("num_classes", num_classes), "class")
    else:
        low, high = (float(value) for value in check_numbers("scales", scales, (2,)))
        if not low < high:
            raise ValueError(f"scales: wanted (least, greatest), got ({low:g}, {high:g}).")
        added = Corrections.zeros(table, 2, "scale", (low, high))
    return dataclasses.replace(table, corrections=added)
