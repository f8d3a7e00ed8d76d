"""Parallel evaluations: tables whose evaluations come in blocks that one call of the network computes together."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_count, check_type
from bespoke_jax.table import SolverTable

__all__ = ["in_blocks"]


def in_blocks(table: SolverTable, size: int) -> SolverTable:
    """The table with `size` evaluations in the place of each, which run at once: it solves as before, for more can be learned.

    The first of a block is the table's own evaluation. The others lie between its time and the next one's, at its state moved
    there by the last velocity of the block before; their velocities have no factors yet. With more of them a solver of the same
    latency can be better, where calls of a larger batch take no longer (compare EPD, arXiv:2507.14797).

    Args:
        table: of n evaluations, in blocks of one.
        size: evaluations in a block, k.

    Returns:
        A table of n k evaluations, of latency n.

    Raises:
        TypeError: if `table` is not a table.
        ValueError: for a table that is in blocks, or over the calls of a guided flow; for a size below 1.

    Examples:
        >>> import bespoke_jax as bj
        >>> table = in_blocks(bj.classic.euler(4), 2)
        >>> table.nfe, table.latency, [round(float(t), 3) for t in table.t]
        (8, 4, [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875])
    """
    check_type("table", table, SolverTable, "a SolverTable (bespoke_jax.to_table makes one)").check("table")
    size = check_count("size", size)
    if table.block > 1 or table.fields is not None:
        raise ValueError(
            "table: wanted one evaluation after the other, each of the flow itself, got blocks or single calls."
        )
    if size == 1:
        return table
    n = table.nfe
    t, b = np.asarray(table.t, np.float64), np.asarray(table.b, np.float64)
    first = 1.0 if table.first is None else float(table.first)
    # Rows of all states, the first evaluation's first.
    a = np.append(first, np.asarray(table.a, np.float64))
    rows = np.concatenate([np.zeros((1, n)), b])
    share = np.arange(size) / size
    times = np.concatenate([t_j + share * (t_next - t_j) for t_j, t_next in zip(t, [*t[1:], 1.0], strict=True)])
    wide = np.zeros((n * size + 1, n * size))
    for i in range(n * size + 1):
        j, q = divmod(i, size)
        wide[i, ::size] = rows[j]
        if q and j:
            wide[i, (j - 1) * size] += times[i] - t[j]
    of_block = np.arange(1, n * size + 1) // size
    dtype = table.t.dtype
    return dataclasses.replace(
        table,
        t=jnp.asarray(times, dtype),
        a=jnp.asarray(a[of_block], dtype),
        b=jnp.asarray(wide[1:], dtype),
        c=None if table.c is None else table.c[np.append(0, of_block)],
        block=size,
    )
