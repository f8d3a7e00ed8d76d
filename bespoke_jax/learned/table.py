"""The learned table: all entries of a `SolverTable`, as corrections to a reference (Shaul et al. 2024, arXiv:2403.01329)."""

import dataclasses

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_array, check_type
from bespoke_jax.classic.dedicated import dedicated
from bespoke_jax.flow.flow import Flow
from bespoke_jax.table import LearnedSolver, SolverTable

__all__ = ["LearnedTable"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LearnedTable(LearnedSolver):
    """A table of m evaluations with learned times and factors; with all corrections 0 it is exactly the reference.

    The times are independent of the factors (the "model time" is decoupled) and of each other. Each moves by an angle of its own,
    t_j = sin^2(arcsin(sqrt(t_ref_j)) + raw_j): it stays in [0, 1] for any value and turns back at 0 and 1, where a logit would
    be stuck for good. The first time is fixed. The factors are a_ref + raw and b_ref + raw. No step is divided by a difference
    of times, so times may coincide.

    Attributes:
        raw: [m (m + 5) / 2 - 1] corrections: m - 1 of times, m of a, m (m + 1) / 2 of b by rows.
        reference: the table it starts as; carried, not learned.

    Examples:
        >>> import bespoke_jax as bj
        >>> table = LearnedTable.of(bj.classic.midpoint(8))
        >>> table.num_parameters, table.nfe
        (51, 8)
    """

    raw: jax.Array
    reference: SolverTable

    @classmethod
    def of(cls, reference: SolverTable) -> "LearnedTable":
        """The learned table that begins as `reference`.

        Raises:
            TypeError: if it is not a table; `to_table` gives the table of another solver.
            ValueError: if its arrays disagree, as `SolverTable.check`.
        """
        check_type("reference", reference, SolverTable, "a SolverTable (bespoke_jax.to_table makes one)")
        reference.check("reference")
        m = reference.nfe
        return cls(jnp.zeros(m * (m + 5) // 2 - 1, reference.t.dtype), reference)

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless the reference is a table and `raw` has a correction for each of its entries."""
        check_type(f"{name}.reference", self.reference, SolverTable, "a SolverTable").check(f"{name}.reference")
        m = self.nfe
        check_array(f"{name}.raw", self.raw, (m * (m + 5) // 2 - 1,))

    @property
    def family(self) -> str:
        """ "table": the name of the family."""
        return "table"

    @property
    def num_steps(self) -> int:
        """As `nfe`: a step is an evaluation."""
        return self.nfe

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample, m."""
        return self.reference.nfe

    def table(self) -> SolverTable:
        """The reference with the corrections."""
        m, t = self.nfe, self.reference.t
        by_time, by_a, by_b = jnp.split(self.raw, (m - 1, 2 * m - 1))
        # With phi the reference's angle this is t + sin(x) sin(2 phi + x): exactly t for x = 0. sin(2 phi) = 2 sqrt(t (1 - t)).
        tiny = jnp.finfo(t.dtype).tiny  # a root has no derivative at 0
        sine, cosine = 2 * jnp.sqrt(jnp.maximum(t[1:] * (1 - t[1:]), tiny)), 1 - 2 * t[1:]
        moved = t[1:] + jnp.sin(by_time) * (sine * jnp.cos(by_time) + cosine * jnp.sin(by_time))
        times = jnp.concatenate([t[:1], jnp.clip(moved, 0, 1)])
        return SolverTable(
            times, self.reference.a + by_a, self.reference.b.at[jnp.tril_indices(m)].add(by_b, unique_indices=True)
        )

    def starts(self, flow: Flow) -> dict[str, "LearnedTable"]:
        """Every dedicated solver with as many evaluations, on every grid."""
        return {
            name: LearnedTable.of(table) for name, table in dedicated(self.nfe, flow.scheduler, self.raw.dtype).items()
        }
