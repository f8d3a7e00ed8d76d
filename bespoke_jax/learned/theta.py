"""Theta: the parameters of a Bespoke solver, raw (unconstrained) and as knots (constrained).

A solver of n steps has N intervals between its knots: N = n for rk1 and N = 2n for rk2, whose midpoints are knots too. So it
has 4n - 1 or 8n - 1 parameters (Sec. 2.2, eqs. 17, 19-20); `learned.knots` gives their meaning. Either time or scale can be
learned alone, with the other held fixed.
"""

import dataclasses
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import (
    check_array,
    check_choice,
    check_count,
    check_float_dtype,
)
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.flow import Flow
from bespoke_jax.learned.knots import Knots, knots_of_numbers, numbers_of_knots
from bespoke_jax.learned.scale_time import CurveAt, read_curves, start_curves
from bespoke_jax.learned.starts import made
from bespoke_jax.learned.steps import BASES, check_base, step, table_from_knots
from bespoke_jax.solver import LearnedSolver, Program
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Array, DTypeLike, Numbers

__all__ = ["LEARNED", "Theta", "init_theta", "knot_places", "theta_from_knots", "theta_from_reading"]

LEARNED = ("both", "time", "scale")
"""The parts of a theta that can be learned."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Theta(LearnedSolver):
    """A Bespoke solver: a pytree with the leaf `raw`, and the leaf `held` if a part of it is not learned.

    Attributes:
        raw: [num_parameters] unconstrained parameters, all 0 for the plain base solver.
        base: "rk1" or "rk2"; static.
        num_steps: n; static.
        learned: one of `LEARNED`; static. Set it with `learning`.
        held: the unconstrained parameters of the part that is not learned; None if both are learned.

    Examples:
        >>> theta = init_theta("rk2", num_steps=5)
        >>> theta.num_parameters, theta.nfe
        (39, 10)
        >>> theta.learning("time").num_parameters, theta.learning("scale").num_parameters
        (19, 20)
    """

    raw: jax.Array
    base: str = dataclasses.field(metadata=dict(static=True))
    num_steps: int = dataclasses.field(metadata=dict(static=True))
    learned: str = dataclasses.field(default="both", metadata=dict(static=True))
    held: jax.Array | None = None
    has_steps: ClassVar[bool] = True

    def check(self, name: str) -> None:
        """Raise unless base and number of steps exist, with the number of parameters that they have.

        Args:
            name: what errors call the solver.

        Raises:
            TypeError: if the parameters are not a floating array.
            ValueError: for anything else, including NaN and infinity where the parameters are known.

        Examples:
            >>> init_theta("rk1", num_steps=4).with_raw(jnp.zeros(31)).check("theta")
            Traceback (most recent call last):
            ValueError: theta.raw: wanted shape [15], got [31].
        """
        check_choice(f"{name}.base", self.base, BASES)
        check_count(f"{name}.num_steps", self.num_steps)
        check_choice(f"{name}.learned", self.learned, LEARNED)
        check_array(f"{name}.raw", self.raw, (self.num_parameters,))
        others = 4 * self.num_intervals - 1 - self.num_parameters
        if others:
            check_array(f"{name}.held", self.held, (others,))
        elif self.held is not None:
            raise ValueError(
                f"{name}.held: wanted None, since both parts are learned, got numbers; set it with Theta.learning."
            )

    @property
    def family(self) -> str:
        """The base solver: "rk1" or "rk2"."""
        return self.base

    @property
    def num_intervals(self) -> int:
        """Knot intervals N."""
        return BASES[self.base] * self.num_steps

    @property
    def num_parameters(self) -> int:
        """Number of learned parameters: 4N - 1 (4n - 1 for rk1, 8n - 1 for rk2), 2N - 1 for time alone, 2N for scale alone."""
        n = self.num_intervals
        return {"both": 4 * n - 1, "time": 2 * n - 1, "scale": 2 * n}[self.learned]

    @property
    def nfe(self) -> int:
        """Velocity evaluations per sample."""
        return BASES[self.base] * self.num_steps

    def numbers(self) -> jax.Array:
        """All 4N - 1 unconstrained parameters, learned or held: those of time, then those of scale."""
        self.check("theta")
        if self.held is None:
            return self.raw
        return jnp.concatenate([self.raw, self.held] if self.learned == "time" else [self.held, self.raw])

    def learning(self, learned: str) -> "Theta":
        """The same solver with another part to learn; the rest is held at its present values.

        Args:
            learned: "time" (t and dt), "scale" (s and ds) or "both".

        Raises:
            ValueError: for anything else.

        Examples:
            >>> theta = init_theta("rk1", num_steps=4).learning("time")
            >>> moved = theta.with_raw(theta.raw + 0.5)
            >>> bool((moved.knots().s == theta.knots().s).all()), bool((moved.knots().dt == theta.knots().dt).any())
            (True, False)
        """
        check_choice("learned", learned, LEARNED)
        numbers = self.numbers()
        time, scale = jnp.split(numbers, (2 * self.num_intervals - 1,))
        raw, held = {"both": (numbers, None), "time": (time, scale), "scale": (scale, time)}[learned]
        return dataclasses.replace(self, raw=raw, learned=learned, held=held)

    def knots(self) -> Knots:
        """The constrained parameters; differentiable in `raw`."""
        return knots_of_numbers(self.numbers())

    def table(self) -> SolverTable:
        """The table of its steps."""
        return table_from_knots(self.base, self.knots(), 1.0 / self.num_steps)

    def program(self, flow: Flow, x0: Float[Array, "*shape"]) -> Program:
        """Its own steps, which carry only the state."""
        knots = self.knots()

        def step_number(i, carry):
            return step(self.base, knots, 1.0 / self.num_steps, i, carry[0], flow)[1], None

        return Program((x0, None), step_number, self.num_steps)

    def saved(self) -> dict:
        """The entries of its file beside the table: order, steps, the learned part, all raw parameters, and the knots."""
        knots = _knots(self)._asdict()
        own = dict(order=BASES[self.base], num_steps=self.num_steps, learned=self.learned)
        return own | dict(raw=self.numbers(), knots=knots)

    def starts(self, flow: Flow) -> dict[str, "Theta"]:
        """The solver with the knots of each of the `start_curves`; the part that is held stays as it is.

        Curves that leave the range of knots are left out.
        """
        curves = start_curves(flow.scheduler)
        readings = read_curves(tuple(curves.values()), knot_places(self.base, self.num_steps))

        def like(reading):
            start = theta_from_reading(self.base, reading, dtype=self.raw.dtype)
            return self.with_raw(start.learning(self.learned).raw)

        return made({name: partial(like, reading) for name, reading in zip(curves, readings, strict=True)})


_knots = jax.jit(Theta.knots)  # rounded as it is wherever solvers run


def init_theta(base: str, num_steps: int, dtype: DTypeLike = jnp.float32) -> Theta:
    """The solver before it learns: exactly Euler ("rk1") or midpoint ("rk2") with `num_steps` equal steps.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another base, or if `num_steps` is not a positive integer.

    Examples:
        >>> [float(t) for t in init_theta("rk1", num_steps=4).knots().t]
        [0.0, 0.25, 0.5, 0.75, 1.0]
    """
    num_steps, dtype = check_base(base, num_steps), check_float_dtype("dtype", dtype)
    return Theta(jax.device_put(np.zeros(4 * BASES[base] * num_steps - 1, dtype)), base, num_steps)


def theta_from_knots(
    base: str, t: Numbers, dt: Numbers, s: Numbers, ds: Numbers, dtype: DTypeLike | None = None
) -> Theta:
    """The theta with these knots: the inverse of `Theta.knots`, for concrete (not traced) numbers.

    Args:
        base: "rk1" or "rk2".
        t, s: [N + 1], dt, ds: [N], as in `Knots`, arrays or lists; N = n for rk1, N = 2n for rk2.
        dtype: of the parameters; by default that of `t`, at least float32.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: if lengths disagree, N is odd for rk2, t does not increase from 0 to 1 with intervals of at least
            1/1000 of an even share, s[0] is not 1, s or dt is not positive, or a number is not finite or too large.

    Examples:
        >>> theta = init_theta("rk2", num_steps=3)
        >>> theta_from_knots("rk2", *theta.knots()).num_steps
        3
    """
    check_choice("base", base, BASES)
    if dtype is None:
        floating = isinstance(t, Array) and jnp.issubdtype(t.dtype, jnp.floating)
        dtype = promote(jnp.result_type(t if floating else float), jnp.float32)  # pyright: ignore[reportArgumentType]
    else:
        dtype = check_float_dtype("dtype", dtype)
    numbers = numbers_of_knots(t, dt, s, ds)
    if (n := len(dt)) % BASES[base]:
        raise ValueError(f"knots: wanted a multiple of {BASES[base]} intervals for {base}, got {n}.")
    return Theta(jax.device_put(np.asarray(numbers, dtype)), base, n // BASES[base])


def knot_places(base: str, num_steps: int) -> Float[np.ndarray, "knots"]:
    """r at the knots of `base` with `num_steps` steps, [N + 1]."""
    return np.linspace(0, 1, check_base(base, num_steps) * BASES[base] + 1)


def theta_from_reading(base: str, reading: CurveAt, dtype: DTypeLike = jnp.float32) -> Theta:
    """`theta_from_curve` of a curve that has been read at the `knot_places`."""
    t, dt, s, ds = reading
    length = t[-1] - t[0]
    return theta_from_knots(
        base, (t - t[0]) / length, np.maximum(dt[:-1] / length, 1e-3), s / s[0], ds[:-1] / s[0], dtype=dtype
    )
