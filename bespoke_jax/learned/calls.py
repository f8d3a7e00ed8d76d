"""Guidance by the call: a learned table over the single calls of a guided flow's two networks."""

import dataclasses
from collections.abc import Collection
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_count, check_flag, check_numbers, check_type
from bespoke_jax.classic import euler
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import scale_of
from bespoke_jax.learned.table import LearnedTable
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Scalar

__all__ = ["LearnedCalls", "by_call"]


def by_call(table: SolverTable, guidance_scale: Scalar, without: Collection[int] = ()) -> SolverTable:
    """The table over network calls of one over evaluations of a guided flow, u = (1 + w) u(x | y) - w u(x | nothing).

    An evaluation is a call of the conditional network and, unless it is left out, one of the unconditional at the same state.
    Where it is left out, the last difference of the two stands in: u_j ~ u_j(x | y) + w (u_k(x | y) - u_k(x | nothing)).

    Args:
        table: over evaluations.
        guidance_scale: w.
        without: the evaluations, counted from 0, that leave out the unconditional call; not the first.

    Raises:
        TypeError: if `table` is not a table.
        ValueError: for a table over calls, an evaluation that there is not, or the first.

    Examples:
        >>> import bespoke_jax as bj
        >>> pairs = by_call(bj.classic.euler(2), 1.5)
        >>> pairs.nfe, pairs.fields, pairs.b[-1].tolist()
        (4, (0, 1, 0, 1), [1.25, -0.75, 1.25, -0.75])
        >>> by_call(bj.classic.euler(2), 1.5, without=[1]).b[-1].tolist()
        [2.0, -1.5, 0.5]
    """
    check_type("table", table, SolverTable, "a SolverTable (bespoke_jax.to_table makes one)").check("table")
    if table.fields is not None:
        raise ValueError("table: wanted one over evaluations of a guided flow, got one over calls already.")
    if not set(without) <= set(range(1, table.nfe)):
        raise ValueError(f"without: wanted evaluations from 1 to {table.nfe - 1}, got {sorted(without)}.")
    w, dtype = float(check_numbers("guidance_scale", guidance_scale, ())), table.t.dtype
    evaluations, fields = [], []
    columns = np.zeros((0, 0))  # of each evaluation's velocity over the calls
    last = (0, 0)
    for j in range(table.nfe):
        own = len(fields)
        pair = (0,) if j in without else (0, 1)
        evaluations += [j] * len(pair)
        fields += pair
        last = last if j in without else (own, own + 1)
        grown = np.zeros((j + 1, len(fields)))
        grown[:j, :own] = columns
        grown[j, own] = 1.0
        grown[j, list(last)] += w, -w
        columns = grown
    m, b = len(fields), np.asarray(table.b, np.float64)
    # The state after a call is that of the next call's evaluation, or the last; the rows of a table begin with the second state.
    rows = [j - 1 for j in [*evaluations[1:], table.nfe]]
    first = 1.0 if table.first is None else float(table.first)
    a = np.array([first if row < 0 else float(table.a[row]) for row in rows])
    expanded = np.stack([np.zeros(m) if row < 0 else b[row] @ columns for row in rows])
    c = None if table.c is None else table.c[np.array([0, *(row + 1 for row in rows)])]
    return SolverTable(
        table.t[np.array(evaluations)],
        jnp.asarray(a, dtype),
        jnp.asarray(expanded, dtype),
        table.first,
        c,
        table.xi,
        tuple(fields),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedCalls(LearnedTable):
    """A learned table of m network calls, conditional and unconditional ones, for a guided flow.

    The guided velocity costs two calls an evaluation. Here the calls are apart: each has a time, a state and factors of its own.
    `fit` tries to save the first pair, which is known beforehand on an ideal field. `nfe` counts calls.

    Attributes:
        raw, reference: as for `LearnedTable`; the reference has `fields`, which are not learned.

    Examples:
        >>> solver = LearnedCalls.euler(8)
        >>> solver.nfe, solver.reference.fields
        (8, (0, 1, 0, 1, 0, 1, 0, 1))
    """

    by_calls = True

    @classmethod
    def euler(cls, num_calls: int, *, without: Collection[int] = (), at_once: bool = False) -> Self:
        """Euler's method by calls, before it learns; `fit` begins from better ones.

        Args:
            num_calls: m; in pairs, but for the evaluations `without` an unconditional call.
            without: as for `by_call`.
            at_once: the two calls of a pair, at states of their own, do not use each other, so that `solve` makes them as one of
                twice the batch. Only for pairs.

        Raises:
            ValueError: if so many calls cannot be made in this way.

        Examples:
            >>> LearnedCalls.euler(7, without=[3]).reference.fields
            (0, 1, 0, 1, 0, 1, 0)
        """
        num_calls = check_count("num_calls", num_calls, 2)
        nfe, odd = divmod(num_calls + len(set(without)), 2)
        if odd:
            raise ValueError(f"num_calls: wanted pairs, and single calls for {sorted(without)}, got {num_calls}.")
        if check_flag("at_once", at_once) and without:
            raise ValueError(f"at_once: wanted pairs alone, got single calls for {sorted(without)}.")
        return cls.of(dataclasses.replace(by_call(euler(nfe), 1.0, without), block=2 if at_once else 1))

    def suited(self, flow: Flow) -> Self:
        """As that of a `LearnedTable`. Raises ValueError if the flow is not `guided`."""
        scale_of(flow)
        return super().suited(flow)

    @property
    def dedicated_nfe(self) -> int:
        """Evaluations of a dedicated solver to begin from: as many as there are conditional calls."""
        return len(self._pairs)

    def expanded(self, flow: Flow, table: SolverTable) -> SolverTable:
        """A table over evaluations by the same calls as this one's reference."""
        without = [j for j, follows in enumerate(self._pairs) if not follows]
        return dataclasses.replace(by_call(table, scale_of(flow), without), block=self.reference.block)

    @property
    def _pairs(self) -> list[str]:
        """Of each evaluation, what follows its conditional call: "1", or nothing."""
        assert self.reference.fields is not None
        return "".join(map(str, self.reference.fields)).split("0")[1:]
