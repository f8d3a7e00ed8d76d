"""What a solver is: the interface that every solver has, and the table that every fixed-grid solver is.

The table is eq. (11) of Shaul et al. 2024 (arXiv:2403.01329). `Solver` has all that running, comparing and saving ask of a
solver, `LearnedSolver` what fitting asks in addition. Nothing outside the families asks which kind a solver is.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from bespoke_jax.checks import check_array, check_type, known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import spread
from bespoke_jax.types import Array

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

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless the arrays agree and, where their numbers are `known`, describe a solver.

        Args:
            name: what errors call the solver.
        """
        raise NotImplementedError

    def table(self) -> "SolverTable":
        """The solver as a table."""
        raise TypeError(f"solver: wanted one with a table, got {type(self).__name__}.")

    def program(self, flow: Flow, x0: Float[Array, "*shape"]) -> Program:
        """The solve of noise x0 as a loop: that of the table, unless there is a cheaper one."""
        return self.table().program(flow, x0)

    def end(self, flow: Flow, x0: Float[Array, "batch *event"]) -> Float[jax.Array, "batch *event"]:
        """x1 from noise x0, evaluation by evaluation in Python, from compiled programs that all solvers of a flow share.

        Nothing is compiled for this solver. `solve` compiles one program for the whole solver, which runs faster.
        """
        return unrolled(self).end(flow, x0)

    def saved(self) -> dict[str, Any]:
        """The entries of its file beside the table: what `load_solver` needs to return more than a table."""
        return {}


class LearnedSolver(Solver):
    """A solver of n = `num_steps` steps with a flat vector `raw` of numbers to learn; `fit` knows no more of it.

    Subclasses are frozen dataclasses, registered as pytrees, with a field `raw` and a row in `learned.families.FAMILIES`.
    """

    raw: jax.Array
    num_steps: int

    @property
    def num_parameters(self) -> int:
        """How many numbers are learned."""
        return self.raw.shape[-1]

    def with_raw(self, raw: Float[Array, "P"]) -> Self:
        """The solver with these numbers."""
        return dataclasses.replace(self, raw=raw)  # pyright: ignore[reportArgumentType]  # subclasses are dataclasses

    def starts(self, flow: Flow) -> dict[str, Self]:
        """Solvers of the same family and size, by name, that a fit for `flow` may begin from."""
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
                f"{name}.b: wanted a lower triangular matrix, got entries above the diagonal: factors of later velocities."
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
        """ "table"."""
        return "table"

    @property
    def raw(self) -> jax.Array:
        """[m (m + 2)] all entries of t, a and b, those above the diagonal included."""
        return ravel_pytree(self)[0]

    def with_raw(self, raw: Float[Array, "P"]) -> "SolverTable":
        """The table with these entries."""
        return ravel_pytree(self)[1](jnp.asarray(raw))

    def table(self) -> "SolverTable":
        """Itself."""
        return self

    def end(self, flow: Flow, x0: Float[Array, "batch *event"]) -> Float[jax.Array, "batch *event"]:
        """x1 from noise x0, evaluation by evaluation in Python."""
        return self.walk(partial(kernels.velocity, flow), spread(flow, x0))

    def program(self, flow: Flow, x0: Float[Array, "*shape"]) -> Program:
        """The sum, column by column: each velocity is added to all later states at once and need not be kept.

        The states are summed in place. A history of velocities would be read and written in the same step, and XLA would copy
        it. The gradient in b, too, needs only the velocity of its own step.
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

    def walk(self, velocity: Callable, x0: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
        """x_m from noise x0, row by row in Python: `velocity(t_i, x_i)` is called m times, with concrete times.

        For loops that own their network calls; the velocity need not be traceable.

        Examples:
            >>> import bespoke_jax as bj
            >>> float(bj.classic.midpoint(2).walk(lambda t, x: -x, jnp.float32(1.0)))
            0.5
        """
        times, a, b = (np.asarray(value) for value in (self.t, self.a, self.b))
        times = times.astype(time_dtype(self, x0))
        noise = jnp.asarray(x0)
        x, velocities = noise, []
        for i, t in enumerate(times):
            velocities.append(velocity(t, x))
            x = kernels.combine([a[i], *b[i, : i + 1]], [noise, *velocities])
        return x


def check_times(name: str, t: Float[Array, "m"]) -> Float[Array, "m"]:
    """`t`, if its times lie within [0, 1] where they are `known`."""
    times = known(t)
    if times is not None and not np.all((times >= 0) & (times <= 1)):
        raise ValueError(f"{name}: wanted times within [0, 1], got {times.tolist()}.")
    return t


def time_dtype(solver: Any, x: Array) -> np.dtype:
    """The dtype in which a solver's times go to the flow: the wider of theirs and the state's."""
    return promote(solver.t.dtype, x.dtype)


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
    """The table of a solver, exact up to rounding; of a table, itself.

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
