"""Tables with evaluations added: where a longer table may begin."""

import dataclasses
from typing import Any

import jax
import numpy as np

from bespoke_jax.checks import check_count, check_type
from bespoke_jax.solver import Solver, to_table
from bespoke_jax.table import SolverTable

__all__ = ["lengthened"]


def lengthened(solver: Solver, nfe: int) -> SolverTable:
    """The table of a solver with evaluations added between its own: it solves as before, for more can be learned.

    The new ones are spread evenly. Their times and states lie on straight lines between those of their neighbours, and their
    velocities have no factors yet. A fit of `LearnedTable.of(lengthened(learned, nfe))` with `Recipe(choose_start=False)` goes on
    from there; docs/fitting.md tells where that ends higher than a fit from the dedicated solvers.

    Args:
        solver: a learned solver or a table, of m evaluations; over the calls of a guided flow, of m calls.
        nfe: how many the table is to have, m or more. Calls are added in pairs.

    Returns:
        A table of `nfe` evaluations, with the image and the corrections of the given one.

    Raises:
        TypeError: if it is no solver with a table.
        ValueError: for fewer evaluations than it has, or an odd number of calls more; for a table in blocks.

    Examples:
        >>> import bespoke_jax as bj
        >>> table = lengthened(bj.classic.euler(2), 3)
        >>> table.t.tolist(), table.b.tolist()
        ([0.0, 0.25, 0.5], [[0.25, 0.0, 0.0], [0.5, 0.0, 0.0], [0.5, 0.0, 0.5]])
    """
    table = to_table(check_type("solver", solver, Solver, "a learned solver or a SolverTable"))
    if table.block > 1:
        raise ValueError(f"solver: wanted one evaluation after the other, got blocks of {table.block}.")
    m = table.nfe
    more = check_count("nfe", nfe, m) - m
    if table.fields is not None and more % 2:
        raise ValueError(f"nfe: wanted {m} calls and pairs of them, got {nfe}.")
    old, fields = _places(table, more)
    units = np.eye(m + 1)  # of the states, the last of which is the sample
    between = np.stack([np.interp(np.arange(nfe + 1), [*old, nfe], unit) for unit in units])  # [m + 1, nfe + 1]
    columns = np.eye(nfe)[old]

    def wider(factors: Any, first: Any) -> dict[str, Any]:
        a, b, c = factors.a, factors.b, factors.c
        rows = np.concatenate([np.zeros_like(b[..., :1, :]), b], axis=-2)
        found = dict(
            a=(np.concatenate([first[..., None], a], axis=-1) @ between)[..., 1:],
            b=(between.T @ rows @ columns)[..., 1:, :],
            c=None if c is None else c @ between,
        )
        return {name: None if value is None else jax.device_put(value.astype(a.dtype)) for name, value in found.items()}

    host = jax.device_get(table)
    corrections = host.corrections
    if corrections is not None:
        zeros = np.zeros(corrections.num_features) if corrections.first is None else corrections.first
        corrections = dataclasses.replace(corrections, **wider(corrections, zeros))
    times = (np.append(host.t, 1.0) @ between)[:-1].astype(host.t.dtype)
    added = wider(host, np.ones(()) if host.first is None else host.first)
    return dataclasses.replace(table, t=jax.device_put(times), fields=fields, corrections=corrections, **added)


def _places(table: SolverTable, more: int) -> tuple[list[int], tuple[int, ...] | None]:
    """(The places of a table's evaluations among so many more, the networks of all if they are calls).

    Calls that follow a conditional one stay with it.
    """
    fields = table.fields or (0,) * table.nfe
    added = [0] if table.fields is None else [0, 1]
    groups: list[list[int]] = []
    for field in fields:
        if field == 0 or not groups:
            groups.append([])
        groups[-1].append(field)
    count = more // len(added)
    total = len(groups) + count
    new = {(k + 1) * total // (count + 1) for k in range(count)}
    old, all_fields = [], []
    for place in range(total):
        group = added if place in new else groups.pop(0)
        if place not in new:
            old += range(len(all_fields), len(all_fields) + len(group))
        all_fields += group
    return old, None if table.fields is None else tuple(all_fields)
