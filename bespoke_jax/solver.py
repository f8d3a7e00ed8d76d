"""What a solver is to the rest of the library.

`Solver` has all that running, comparing and saving ask of a solver, `LearnedSolver` what fitting asks in addition. Nothing
outside the families asks which kind a solver is.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import jax
import numpy as np
from jaxtyping import Float

from bespoke_jax.flow.flow import Flow
from bespoke_jax.types import Array

if TYPE_CHECKING:
    from bespoke_jax.table import SolverTable

__all__ = ["LearnedSolver", "Program", "Solver", "check_solver_arrays", "to_table"]


class Program(NamedTuple):
    """A solve of given noise as a loop over i = 0, ..., num_steps - 1.

    Attributes:
        start: the first carry; the state is its first element.
        step: `step(i, carry) -> carry`, traceable; `i` is traced.
        num_steps: the number of steps.
    """

    start: Any
    step: Callable
    num_steps: int


class Solver:
    """What `solve` runs: a pytree of numbers.

    Subclasses define `nfe`, `check` and, unless `has_table` is False, `table`.
    """

    has_table: ClassVar[bool] = True
    """Whether each state is a combination of the noise and velocities. Derivatives of the velocity have no place in a table."""
    has_steps: ClassVar[bool] = False
    """Whether the solver has the steps and knots of a Bespoke solver, from which the losses of single steps are computed."""

    @property
    def family(self) -> str:
        """The name of its family, which its file records."""
        raise NotImplementedError

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        raise NotImplementedError

    @property
    def latency(self) -> int:
        """Evaluations that have to wait for each other: `nfe`, or fewer if some can run at once."""
        return self.nfe

    def network_calls(self, flow: Flow) -> int:
        """Network calls per sample of `flow`: more than evaluations if each of these takes several (`guided`)."""
        return self.nfe * flow.calls_per_evaluation

    def evaluations(self, flow: Flow) -> float:
        """The cost per sample in evaluations of the flow's velocity: `nfe`, unless the solver calls its networks apart."""
        return self.network_calls(flow) / flow.calls_per_evaluation

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless the arrays agree and, where their numbers are `known`, describe a solver.

        Args:
            name: what errors call the solver.
        """
        raise NotImplementedError

    def check_flow(self, flow: Flow) -> None:
        """Raise ValueError for a flow that the solver cannot run, and warn of one that it was not learned for, if it can tell."""

    def table(self) -> "SolverTable":
        """The solver as a table."""
        raise TypeError(f"solver: wanted one with a table, got {type(self).__name__}.")

    def unrolled(self) -> "SolverTable":
        """`table()` compiled: rounded as wherever solvers run, and quicker than one operation after the other."""
        return _table(self)

    def table_and_jacobian(self) -> "tuple[SolverTable, SolverTable]":
        """(The table, the derivative of its factors in its P numbers `raw`, on a last axis [P] of each entry), on the host."""
        return jax.device_get(_table_and_jacobian(self))

    def program(self, flow: Flow, x0: Float[Array, "*shape"]) -> Program:
        """The solve of noise x0 as a loop: that of the table, unless there is a cheaper one."""
        return self.table().program(flow, x0)

    def end(self, flow: Flow, x0: Float[Array, "batch *event"]) -> Float[jax.Array, "batch *event"]:
        """x1 from noise x0, evaluation by evaluation in Python, from compiled programs that all solvers of a flow share.

        Nothing is compiled for this solver. `solve` compiles one program for the whole solver, which runs faster.
        """
        return self.unrolled().end(flow, x0)

    def saved(self) -> dict[str, Any]:
        """The entries of its file beside the table: what `load_solver` needs to return more than a table."""
        return {}


class LearnedSolver(Solver):
    """A solver of n = `num_steps` steps with a flat vector `raw` of numbers to learn; `fit` knows no more of it.

    Subclasses are frozen dataclasses, registered as pytrees, with a field `raw` and a row in `learned.families.FAMILIES`.
    """

    raw: jax.Array
    num_steps: int

    by_calls: ClassVar[bool] = False
    """Whether `nfe` counts single calls of a guided flow's networks, two of which make an evaluation."""

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return self.raw.shape[-1]

    def with_raw(self, raw: Float[Array, "P"]) -> Self:
        """The solver with these numbers."""
        return dataclasses.replace(self, raw=raw)  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses

    def suited(self, flow: Flow) -> Self:
        """The solver in the form that a fit for `flow` learns, with the numbers that this flow allows; a fit begins here."""
        return self

    def with_samples(
        self, flow: Flow, x0: Float[Array, "B *event"], x1: Float[Array, "B *event"], batch_size: int
    ) -> tuple[Self, int]:
        """(The solver with what it takes from samples of `flow`, velocity evaluations spent); its shapes stay as they are.

        Args:
            flow: the flow of these samples.
            x0, x1: their noises and true ends.
            batch_size: how many samples go through the network at a time.
        """
        return self, 0

    def most_per_sample(self, flow: Flow) -> int:
        """The most velocity evaluations that `with_samples` spends on a sample."""
        return 0

    def starts(self, flow: Flow) -> dict[str, Self]:
        """Solvers of the same family and size, by name, that a fit for `flow` may begin from."""
        return {}

    def rivals(self, flow: Flow) -> dict[str, Self]:
        """More of them, of another structure. Their loss does not tell how they end, beside those of `starts`."""
        return {}

    def first_directions(self, flow: Flow) -> Float[np.ndarray, "P p"] | None:
        """Directions that span the first half of the updates of a fit that chose its start; None for no restriction.

        A solver with many numbers can end higher if a few combinations of them are learned before the rest.
        """
        return None


def check_solver_arrays(name: str, solver: Any, *, needs_table: bool = True) -> Any:
    """`solver`, if its arrays agree and, where their numbers are known, describe a solver.

    Every function that takes a solver asks this first. It refuses shapes that disagree, integer or object arrays, NaN and
    infinity, times outside [0, 1], and factors of later velocities. Of tracers and shape structures it checks shapes and dtypes.
    The check takes some microseconds for numbers on the host; others are copied there once.

    Args:
        name: what errors call the solver.
        solver: a learned solver or a table.
        needs_table: refuse solvers without a table, such as `classic.TaylorSolver`.

    Raises:
        TypeError: if it is not a solver, or its numbers are not floating arrays.
        ValueError: for anything else; names the field.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> table = bj.classic.euler(3)
        >>> check_solver_arrays("solver", bj.SolverTable(jnp.zeros(4), table.a, table.b))
        Traceback (most recent call last):
        ValueError: solver.a: wanted shape [4], got [3].
    """
    if not isinstance(solver, Solver) or (needs_table and not solver.has_table):
        remedy = "; give its .theta" if hasattr(solver, "theta") else ""
        raise TypeError(f"{name}: wanted a learned solver or a SolverTable, got {type(solver).__name__}{remedy}.")
    solver.check(name)
    return solver


def to_table(solver: Solver) -> "SolverTable":
    """The table of a solver, exact up to rounding; of a table, itself.

    Raises:
        TypeError: if it is not a solver, or one without a table (`classic.TaylorSolver`).
        ValueError: for arrays that disagree, as `SolverTable.check`.

    Examples:
        >>> import bespoke_jax as bj
        >>> to_table(bj.init_theta("rk2", num_steps=1)).b.tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """
    return check_solver_arrays("solver", solver).unrolled()


@functools.partial(jax.jit, inline=True)
def _table(solver):
    return check_solver_arrays("solver", solver).table()


@jax.jit
def _table_and_jacobian(solver):
    return to_table(solver), jax.jacfwd(lambda raw: to_table(solver.with_raw(raw)).factors)(solver.raw)
