"""The table that every fixed-grid solver is: a sum of the noise, an image and the velocities so far, for every state.

The plain table is eq. (11) of Shaul et al. 2024 (arXiv:2403.01329). The general one gives the first evaluation a time and a state
of its own, and every state a share of a fixed image (derived).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from bespoke_jax import stepping
from bespoke_jax.checks import check_array, check_count, known
from bespoke_jax.corrections import Corrections
from bespoke_jax.flow import kernels
from bespoke_jax.flow.classes import image_of
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import check_scale, of_call
from bespoke_jax.flow.sharding import spread
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.solver import Program, Solver
from bespoke_jax.stepping import check_times, time_dtype
from bespoke_jax.types import Array

__all__ = ["SolverTable"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SolverTable(Solver):
    """m velocity evaluations u_j = u_{t_j}(x_j), at states that are sums of the noise, an image xi and earlier velocities:

        x_i = a_i x_0 + c_i xi + sum_{j < i} b_ij u_j,   i = 0..m;   x_m is the sample.

    Plain tables begin at the noise, x_0, and have no image: `first` and `c` are None. In memory the rows of b and a begin with
    those of the second state.

    Attributes:
        t: [m] times of the evaluations.
        a: [m] factors of the noise in the states after an evaluation.
        b: [m, m] factors of the velocities in these states, lower triangular.
        first: [] factor of the noise in the state of the first evaluation; None for 1.
        c: [m + 1] factors of the image, in the state of the first evaluation and in those after each; None without an image.
        fields: for a guided flow, the network of each evaluation, 0 the conditional and 1 the unconditional; static. None to
            evaluate the flow's velocity itself. With them an evaluation is one network call.
        block: how many evaluations at a time do not use each other's velocities; static. `solve` makes one call of the network
            on them together.
        xi: the image, [*event], or one for each class, [K, *event], where the flow's condition is the index of a class or a
            vector [K] of weights. Without a class (all weights 0) it is the mean of all.
        corrections: what the factors gain for a sample's class, or for the guidance scale; None for the same factors everywhere.
        scale: with `fields`, the guidance scale that the factors hold, whatever the flow's; static. None if that is not known.

    Examples:
        >>> import bespoke_jax as bj
        >>> bj.classic.euler(2).b.tolist()
        [[0.5, 0.0], [0.5, 0.5]]
    """

    t: jax.Array
    a: jax.Array
    b: jax.Array
    first: jax.Array | None = None
    c: jax.Array | None = None
    xi: jax.Array | None = None
    fields: tuple[int, ...] | None = dataclasses.field(default=None, metadata=dict(static=True))
    block: int = dataclasses.field(default=1, metadata=dict(static=True))
    corrections: Corrections | None = None
    scale: float | None = dataclasses.field(default=None, metadata=dict(static=True))

    def check(self, name: str) -> None:
        """Raise, naming the table so, unless the arrays agree and, where their numbers are known, describe a solver.

        Times lie within [0, 1], in any order: RK4 repeats them, and learned ones need not increase. It is not made on
        construction, because this class also holds batches of tables and gradients.

        Raises:
            TypeError: if a field is not a floating array.
            ValueError: for shapes that disagree, NaN, infinity, a time outside [0, 1], b that is not lower triangular, or an
                image without factors.

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
        if check_count(f"{name}.block", self.block) > 1:
            if m % self.block:
                raise ValueError(f"{name}.block: wanted a divisor of {m} evaluations, got {self.block}.")
            if b is not None and np.any(b[~self.uses] != 0):
                raise ValueError(
                    f"{name}.b: wanted no factors of velocities of the same block of {self.block}, got some."
                )
        if self.first is not None:
            check_array(f"{name}.first", self.first, ())
        if (self.c is None) != (self.xi is None):
            got = "c without xi" if self.xi is None else "xi without c"
            raise ValueError(f"{name}.xi: wanted an image xi with its factors c, got {got}.")
        if self.fields is not None and (len(self.fields) != m or not set(self.fields) <= {0, 1}):
            raise ValueError(f"{name}.fields: wanted 0 or 1 for each of {m} evaluations, got {self.fields!r}.")
        if self.c is not None and self.xi is not None:
            check_array(f"{name}.c", self.c, (m + 1,))
            check_array(f"{name}.xi", self.xi, jnp.shape(self.xi))
        if self.corrections is not None:
            self.corrections.check(f"{name}.corrections", self)

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample, m."""
        return self.t.shape[-1]

    @property
    def num_parameters(self) -> int:
        """m (m + 5) / 2 - 1, as the first time is 0; 2 more with a first row of its own, m + 1 for an image; fewer in blocks.

        Corrections have as many for each feature, but for the times.
        """
        with_first, with_image = self.first is not None, self.c is not None
        factors = self.nfe + int(np.sum(self.uses)) + with_first + with_image * (self.nfe + 1)
        features = 0 if self.corrections is None else self.corrections.num_features
        return self.nfe - 1 + with_first + factors * (1 + features)

    @property
    def latency(self) -> int:
        """Blocks of evaluations."""
        return self.nfe // self.block

    @property
    def uses(self) -> np.ndarray:
        """[m, m] which velocities (columns) the states after an evaluation (rows) may use: those of earlier blocks."""
        index = np.arange(self.nfe)
        return index // self.block < (index[:, None] + 1) // self.block

    @property
    def family(self) -> str:
        """ "table"."""
        return "table"

    @property
    def factors(self) -> "SolverTable":
        """The table without its image: what is learned."""
        return dataclasses.replace(self, xi=None)

    @property
    def raw(self) -> jax.Array:
        """All entries of `factors`, those above the diagonal of b included: [m (m + 2)] for a plain table."""
        return ravel_pytree(self.factors)[0]

    def with_raw(self, raw: Float[Array, "P"]) -> "SolverTable":
        """The table with these entries."""
        return dataclasses.replace(ravel_pytree(self.factors)[1](jnp.asarray(raw)), xi=self.xi)

    def table(self) -> "SolverTable":
        """Itself."""
        return self

    unrolled = table

    def network_calls(self, flow: Flow) -> int:
        """Network calls per sample: one for an evaluation with a field, else as many as the flow's velocity takes."""
        return self.nfe * (flow if self.fields is None else of_call(flow, 0)).calls_per_evaluation

    def flow_of(self, flow: Flow, i: int | jax.Array) -> Flow:
        """The flow that evaluation i is of, which may be traced. Raises ValueError for fields of a flow that is not guided."""
        return flow if self.fields is None else of_call(flow, jnp.asarray(self.fields)[i])

    def image(self, flow: Flow) -> jax.Array | None:
        """The image of the flow's samples, [*event] or [B, *event]; None if the table has none.

        Raises:
            ValueError: if the image is not of the flow's event shape, or has classes that the flow's condition does not name.
        """
        return None if self.xi is None else image_of("solver.xi", self.xi, flow)

    def check_flow(self, flow: Flow) -> None:
        """As `Corrections.check_flow`; with `fields` refuse a flow that is not guided, warn of another scale than `scale`."""
        if self.fields is not None:
            check_scale(flow, self.scale)
        if self.corrections is not None:
            self.corrections.check_flow(flow)

    def of_samples(self, flow: Flow) -> "SolverTable":
        """The table of the flow's samples: itself, or with corrections, factors that have one more axis [B] where they differ.

        For a flow of one class, or one guidance scale, it is a table without corrections that runs anywhere.
        """
        return self if self.corrections is None else self.corrections.of_samples(self, flow)

    def end(self, flow: Flow, x0: Float[Array, "batch *event"]) -> Float[jax.Array, "batch *event"]:
        """x1 from noise x0, evaluation by evaluation in Python."""

        def velocity(i, t, x):
            return kernels.velocity(self.flow_of(flow, i), t, x)

        return self.of_samples(flow).walk_calls(velocity, spread(flow, x0), self.image(flow))

    def program(self, flow: Flow, x0: Float[Array, "*shape"]) -> Program:
        """The sum, column by column (`stepping.step`): a velocity is added to all later states at once and need not be kept."""
        table, size = self.of_samples(flow), self.block

        def velocity(i, x):
            return self.flow_of(flow, i)(self.t[i].astype(time_dtype(self, x)), x)

        def step(i, carry):
            return stepping.step(table, i, carry, velocity(i, carry.x))

        def step_of_block(i, carry):
            x, coming = carry
            first, others = i * size, jax.lax.dynamic_slice_in_dim(coming, i * size, size - 1)
            states, indices = jnp.concatenate([x[None], others.astype(x.dtype)]), first + jnp.arange(size)
            velocities = jax.vmap(velocity)(indices, states).astype(coming.dtype)
            coming = coming + jnp.tensordot(self.b[:, indices].astype(coming.dtype), velocities, axes=1)
            return stepping.Carry(coming[first + size - 1].astype(x.dtype), coming)

        return Program(stepping.begin(table, x0, self.image(flow)), step if size == 1 else step_of_block, self.latency)

    def begin(self, x0: Float[Array, "*shape"], image: Float[Array, "..."] | None = None) -> stepping.Carry:
        """Before the first evaluation: a carry whose `x` is the state to evaluate the velocity at.

        `begin`, `step` and `times` serve loops that own their network calls. All three can be traced.

        Args:
            x0: noise, [*batch, *event].
            image: of these samples, from `image`, for a table that has one; None for its `xi`, if that is one image.

        Examples:
            >>> import bespoke_jax as bj
            >>> table, x0 = bj.classic.midpoint(2), jnp.float32(1.0)
            >>> carry = table.begin(x0)
            >>> for i in range(table.nfe):
            ...     carry, x = table.step(i, carry, -carry.x)
            >>> float(x)
            0.5
        """
        self.check("table")
        return stepping.begin(self, x0, image)

    def step(self, i: Any, carry: stepping.Carry, u: Float[Array, "*shape"]) -> tuple[stepping.Carry, jax.Array]:
        """After evaluation i: the next carry and its state `carry.x`, after the last evaluation the sample.

        Args:
            i: the number of the evaluation, 0, ..., m - 1; may be traced.
            carry: from `begin` or the step before.
            u: the velocity dx/dt at `carry.x` and the time `times()[i]`, of the state's shape. Where a library's time falls from
                noise to data, dx/dt is minus its own velocity. With `fields`, of the network `fields[i]`.
        """
        carry = stepping.checked_step(self, i, carry, u)
        return carry, carry.x

    def times(self, convention: str = "noise_at_0", scheduler: Scheduler | None = None) -> Float[jax.Array, "m"]:
        """The times of the evaluations as another library writes them, at least float32.

        Args:
            convention: as `Flow.from_prediction(time=)` for a velocity: "noise_at_0" for t itself, "noise_at_1" for 1 - t,
                "steps_of_1000" for 1000 (1 - t), "sigma" for sigma_t, "noise_to_signal" for sigma_t / alpha_t.
            scheduler: for "sigma" and "noise_to_signal".
        """
        return stepping.times(self, convention, scheduler)

    def walk(
        self, velocity: Callable, x0: Float[Array, "*shape"], image: Float[Array, "..."] | None = None
    ) -> Float[jax.Array, "*shape"]:
        """x_m from noise x0, row by row in Python: `velocity(t_i, x_i)` is called m times, with concrete times.

        For loops that own their network calls; the velocity need not be traceable. A table with `fields` calls
        `velocity(t_i, x_i, field)`.

        Args:
            velocity: of (t, x), and of the field if the table has them.
            x0: noise, [*batch, *event].
            image: of these samples, from `image`, for a table that has one; None for its `xi`, if that is one image.

        Examples:
            >>> import bespoke_jax as bj
            >>> float(bj.classic.midpoint(2).walk(lambda t, x: -x, jnp.float32(1.0)))
            0.5
        """
        fields = [()] * self.nfe if self.fields is None else [(field,) for field in self.fields]
        return self.walk_calls(lambda i, t, x: velocity(t, x, *fields[i]), x0, image)

    def walk_calls(
        self, velocity: Callable, x0: Float[Array, "*shape"], image: Float[Array, "..."] | None = None
    ) -> Float[jax.Array, "*shape"]:
        """`walk` with a velocity of (i, t_i, x_i), i the number of the evaluation."""
        return stepping.walk_calls(self, velocity, x0, image)
