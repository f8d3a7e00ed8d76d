"""diffrax: a solver as a diffrax solver, for libraries that sample by `diffrax.diffeqsolve` (CellFlow, GenSBI).

A table is one step of an explicit method with m stages, so one step covers the whole time from noise to data.
"""

from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.adapters.tables import table_of_one_velocity
from bespoke_jax.checks import check_count, known
from bespoke_jax.solver import Solver
from bespoke_jax.stepping import Carry
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array, PyTree

__all__ = ["TableSolver"]


class _Ends(diffrax.AbstractLocalInterpolation):
    """What is known between noise and data: the ends. The states of a table are not states of the flow at its times."""

    t0: Any
    t1: Any
    y0: PyTree
    y1: PyTree

    def evaluate(self, t0: Any, t1: Any = None, left: bool = True) -> PyTree:
        if t1 is not None:
            return jax.tree.map(lambda end, start: end - start, self.evaluate(t1), self.evaluate(t0))
        t0 = eqx.error_if(
            jnp.asarray(t0),
            (t0 != self.t0) & (t0 != self.t1),
            "saveat: wanted the ends t0 and t1, where the states of a TableSolver are those of the flow, got a time between.",
        )
        return jax.tree.map(lambda start, end: jnp.where(t0 == self.t0, start, end), self.y0, self.y1)


class TableSolver(diffrax.AbstractSolver[None]):
    """A solver where diffrax takes `Tsit5()`: `diffeqsolve(term, TableSolver(theta), t0=0, t1=1, dt0=1, y0=x0)`.

    Its one step goes from noise to data and calls the vector field `solver.nfe` times. The step sizes are constant
    (`stepsize_controller=diffrax.ConstantStepSize()`, diffrax's default). Solvers with equal numbers are equal and hash alike.

    Args:
        solver: a learned solver or a table, of a flow from noise at t = 0 to data at t = 1.
        noise_at: the time of the noise in the vector field's convention, 0 or 1. Where it is 1, the field is dx/ds in the time
            s = 1 - t, and `diffeqsolve` integrates from t0=1 to t1=0 with dt0=-1.
        image: of these samples, for a table with images of classes (`SolverTable.image`).

    Raises:
        TypeError: if `solver` is not a solver with a table.
        ValueError: if its arrays disagree, if it calls the networks of a guided flow apart, or for another `noise_at`. When run,
            for an interval or a step other than the whole, or for a state between the ends (`SaveAt(ts=...)`).

    Examples:
        >>> import bespoke_jax as bj
        >>> solver = TableSolver(bj.classic.midpoint(2))
        >>> field = diffrax.ODETerm(lambda t, y, args: -y)
        >>> float(diffrax.diffeqsolve(field, solver, t0=0, t1=1, dt0=1, y0=jnp.float32(1.0)).ys[0])
        0.5
    """

    table: SolverTable
    image: Array | None
    noise_at: int = eqx.field(static=True)

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar = _Ends

    def __init__(self, solver: Solver, noise_at: int = 0, *, image: Array | None = None):
        self.table = table_of_one_velocity(solver)
        self.noise_at = check_count("noise_at", noise_at, 0, 1)
        self.image = image

    def __hash__(self) -> int:
        """Equal numbers hash alike: CellFlow keeps a compiled sampler for each solver."""
        return hash((self.noise_at, *(part.tobytes() for part in self._numbers())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TableSolver):
            return False
        same = jax.tree.structure(self) == jax.tree.structure(other)
        pairs = zip(self._numbers(), other._numbers(), strict=False)
        return same and all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)

    def _numbers(self) -> list[np.ndarray]:
        numbers = [known(leaf) for leaf in jax.tree.leaves(self)]
        if any(leaf is None for leaf in numbers):
            raise TypeError("solver: wanted numbers that are known now, which can be hashed, got traced ones.")
        return [leaf for leaf in numbers if leaf is not None]

    def order(self, terms: Any) -> None:
        """None: the error of one step of a fixed size says nothing of others."""

    def init(self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: PyTree) -> None:
        """No state."""

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: PyTree, args: PyTree, solver_state: None, made_jump: Any
    ) -> tuple[PyTree, None, dict[str, Any], None, diffrax.RESULTS]:
        """The table, from noise y0 to data."""
        # diffrax turns a time that falls from 1 to 0 into one that rises from -1 to 0.
        first, wanted = (0, "t0=0, t1=1, dt0=1") if self.noise_at == 0 else (-1, "t0=1, t1=0, dt0=-1")
        t0 = eqx.error_if(
            jnp.asarray(t0),
            (t0 != first) | (t1 != first + 1),
            f"TableSolver: wanted one step from noise to data, {wanted}, got other times or a smaller step. "
            f"Where the noise is at the other end, noise_at={1 - self.noise_at}.",
        )
        control = terms.contr(t0, t1)

        def evaluate(carries, index_and_time):
            i, t = index_and_time
            u = terms.vf_prod(t0 + t.astype(jnp.result_type(t0)), _states(carries), args, control)
            return jax.tree.map(lambda carry, u: self.table.step(i, carry, u)[0], carries, u, is_leaf=_is_carry), None

        # Under vmap a state is one sample, and the table's image one of its shape.
        image = self.table.xi if self.image is None else self.image
        begun = jax.tree.map(lambda y: self.table.begin(y, image), y0)
        carries, _ = jax.lax.scan(evaluate, begun, (jnp.arange(self.table.nfe), self.table.times()))
        y1 = _states(carries)
        return y1, None, dict(y0=y0, y1=y1), None, diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: PyTree, args: PyTree) -> PyTree:
        """The vector field itself."""
        return terms.vf(t0, y0, args)


def _is_carry(value: Any) -> bool:
    return isinstance(value, Carry)


def _states(carries: PyTree) -> PyTree:
    return jax.tree.map(lambda carry: carry.x, carries, is_leaf=_is_carry)
