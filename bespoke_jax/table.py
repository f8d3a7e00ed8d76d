"""What a solver is: the interface that every solver has, and the table that every fixed-grid solver is.

The table is eq. (11) of Shaul et al. 2024 (arXiv:2403.01329). `Solver` is all that running, comparing and saving ask of a solver,
`LearnedSolver` what fitting asks beyond that; nothing outside the families asks which kind a solver is.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from bespoke_jax.checks import check_array, check_type, known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.sharding import spread

__all__ = [
    "LearnedSolver",
    "Program",
    "Solver",
    "SolverTable",
    "check_solver_arrays",
    "check_times",
    "time_dtype",
    "to_table",
    "unrolled",
]


class Program(NamedTuple):
    """A solve of given noise as a loop: `step(i, carry) -> carry` for i = 0..num_steps - 1, the state first in the carry.

    Attributes:
        start: the first carry.
        step: traceable; `i` is traced.
        num_steps: how many steps.
    """

    start: Any
    step: Callable
    num_steps: int


class Solver:
    """What `solve` runs: a pytree of numbers. Subclasses define `nfe`, `check` and, unless `has_table` is False, `table`."""

    has_table: ClassVar[bool] = True
    """Whether the solver is a combination of noise and velocities, as all but those that use derivatives of the velocity are."""
    has_steps: ClassVar[bool] = False
    """Whether it has the steps and knots of a Bespoke solver, which the losses of single steps are made of."""

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        raise NotImplementedError

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless the arrays agree and, where their numbers are `known`, describe a solver.

        Args:
            name: what errors call the solver.
        """
        raise NotImplementedError

    def table(self) -> "SolverTable":
        """All its numbers, unrolled."""
        raise TypeError(f"solver: {type(self).__name__} has no table.")

    def program(self, flow, x0) -> Program:
        """The solve of noise x0 as a loop: that of its table, unless there is a cheaper one."""
        return self.table().program(flow, x0)

    def end(self, flow, x0):
        """x1 of noise x0 [B, *event], put together in Python from programs that all solvers of `flow` share.

        Nothing is compiled for this solver; `solve` compiles a program of its own, which runs faster.
        """
        return unrolled(self).walk(partial(kernels.velocity, flow), spread(flow, x0))

    def saved(self) -> dict[str, Any]:
        """What its file holds beside the table, by name: what `load_solver` needs to give back more than a table."""
        return {}


class LearnedSolver(Solver):
    """A solver with a flat vector `raw` of numbers to learn, in n = `num_steps` steps; all that `fit` knows of it.

    Subclasses are frozen dataclasses with a field `raw`, registered as pytrees, and a row in `learned.families.FAMILIES`.
    """

    raw: jax.Array
    num_steps: int

    @property
    def family(self) -> str:
        """The name of its family."""
        raise NotImplementedError

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return self.raw.shape[-1]

    def with_raw(self, raw) -> Self:
        """The same solver with other numbers."""
        return dataclasses.replace(self, raw=raw)

    def starts(self, flow) -> dict[str, Self]:
        """Solvers like this one, by name, that a fit for `flow` may begin from."""
        return {}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SolverTable(Solver):
    """m velocity evaluations: x_{i+1} = a_i x_0 + sum_{j <= i} b_ij u_{t_j}(x_j), i = 0..m-1.

    Attributes:
        t: [m] times of the evaluations.
        a: [m] factors of the noise.
        b: [m, m] factors of the velocities, lower triangular.

    Examples:
        >>> import bespoke_jax as bj
        >>> bj.classic.euler(2).b.tolist()
        [[0.5, 0.0], [0.5, 0.5]]
    """

    t: jax.Array
    a: jax.Array
    b: jax.Array

    def check(self, name: str) -> None:
        """Raise unless the arrays agree and, where their numbers are known, describe a solver.

        Times lie within [0, 1], in any order: RK4 repeats them, and learned ones need not increase. The check belongs where a
        table is run, written or learned. It is not made on construction, because this class also holds batches of tables and
        gradients.

        Args:
            name: what errors call the table.

        Raises:
            TypeError: if a field is not a floating array.
            ValueError: for shapes that disagree, NaN, infinity, a time outside [0, 1], or b that is not lower triangular.

        Examples:
            >>> SolverTable(jnp.zeros(3), jnp.ones(3), jnp.zeros((3, 5))).check("solver")
            Traceback (most recent call last):
            ValueError: solver.b: wanted shape [3, 3], got [3, 5].
        """
        m = check_times(f"{name}.t", check_array(f"{name}.t", self.t, ("m",))).shape[0]
        check_array(f"{name}.a", self.a, (m,))
        b = known(check_array(f"{name}.b", self.b, (m, m)))
        if b is not None and np.any(np.triu(b != 0, 1)):
            raise ValueError(
                f"{name}.b: wanted a lower triangular matrix; a state has no velocity that is yet to come."
            )

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample, m."""
        return self.t.shape[-1]

    @property
    def num_parameters(self) -> int:
        """m (m + 5) / 2 - 1: the first time is 0."""
        return self.nfe * (self.nfe + 5) // 2 - 1

    @property
    def family(self) -> str:
        """ "table": what its file says."""
        return "table"

    @property
    def raw(self) -> jax.Array:
        """[m (m + 2)] all entries of t, a and b, those above the diagonal included."""
        return ravel_pytree(self)[0]

    def with_raw(self, raw) -> "SolverTable":
        """The table with these entries."""
        return ravel_pytree(self)[1](raw)

    def table(self) -> "SolverTable":
        """Itself."""
        return self

    def program(self, flow, x0) -> Program:
        """The sum column by column: each velocity is added to all states to come, and then forgotten.

        The states are summed in place. With a history of velocities XLA would copy what is read and written in the same step;
        and this way the gradient in b needs no velocity but the step's own.
        """
        dtype = promote(x0.dtype, jnp.float32)

        def along_states(numbers):
            return numbers.astype(dtype).reshape(-1, *(1,) * x0.ndim)

        def step(i, carry):
            x, coming = carry
            velocity = flow(self.t[i].astype(time_dtype(self, x)), x)
            coming = coming + along_states(self.b[:, i]) * velocity.astype(dtype)
            return jax.lax.dynamic_index_in_dim(coming, i, keepdims=False).astype(x.dtype), coming

        return Program((x0, along_states(self.a) * x0.astype(dtype)), step, self.nfe)

    def walk(self, velocity: Callable, x0):
        """x_m from noise x0, row by row in Python: `velocity(t_i, x_i)` is called m times, with concrete times.

        Examples:
            >>> import bespoke_jax as bj
            >>> float(bj.classic.midpoint(2).walk(lambda t, x: -x, jnp.float32(1.0)))
            0.5
        """
        times, a, b = (np.asarray(value) for value in (self.t, self.a, self.b))
        times = times.astype(promote(times.dtype, x0.dtype))  # as `program` hands them to the flow
        x, velocities = x0, []
        for i, t in enumerate(times):
            velocities.append(velocity(t, x))
            x = kernels.combine([a[i], *b[i, : i + 1]], [x0, *velocities])
        return x


def check_times(name: str, t):
    """`t`, if its times lie within [0, 1] where they are `known`."""
    times = known(t)
    if times is not None and not np.all((times >= 0) & (times <= 1)):
        raise ValueError(f"{name}: wanted times within [0, 1], got {times.tolist()}.")
    return t


def time_dtype(solver, x):
    """The dtype of times for a state x: the wider of both."""
    return promote(solver.t.dtype, x.dtype)


def check_solver_arrays(name: str, solver, *, needs_table: bool = True):
    """`solver`, if its arrays agree and, where their numbers are known, describe a solver: the door of all that takes a solver.

    Refused are shapes that disagree, integer or object arrays, NaN and infinity, times outside [0, 1], factors of velocities yet
    to come. Tracers and shapes have shapes and dtypes alone, and those are checked. Costs some microseconds for numbers on the
    host; for others, the first time, their way there.

    Args:
        name: what errors call it.
        solver: a theta, a learned solver or a table.
        needs_table: refuse a `classic.TaylorSolver`, which has none.

    Raises:
        TypeError: if it is not a solver, or its numbers are not floating arrays.
        ValueError: for anything else; names the field.

    Examples:
        >>> import bespoke_jax as bj
        >>> table = bj.classic.euler(3)
        >>> check_solver_arrays("solver", SolverTable(jnp.zeros(4), table.a, table.b))
        Traceback (most recent call last):
        ValueError: solver.a: wanted shape [4], got [3].
    """
    kind = Solver if isinstance(solver, Solver) and (solver.has_table or not needs_table) else SolverTable
    check_type(name, solver, kind, "a learned solver or a SolverTable").check(name)
    return solver


def to_table(solver: Solver) -> SolverTable:
    """The table of a solver: the same numbers, unrolled. Exact up to rounding. A table is its own.

    Raises:
        TypeError: if it is not a solver, or one without a table (`classic.TaylorSolver`).
        ValueError: for arrays that disagree, as `SolverTable.check`.

    Examples:
        >>> import bespoke_jax as bj
        >>> to_table(bj.init_theta("rk2", num_steps=1)).b.tolist()
        [[0.5, 0.0], [0.0, 1.0]]
    """
    return check_solver_arrays("solver", solver).table()


unrolled = jax.jit(to_table)
"""`to_table` compiled: rounded as wherever solvers run, and quicker than one operation after the other."""
