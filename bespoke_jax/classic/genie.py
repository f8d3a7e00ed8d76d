"""GENIE: a second-order Taylor method with the exact derivative of the noise prediction along the path."""

import dataclasses
import math
from itertools import pairwise
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_array, check_count, check_float_dtype
from bespoke_jax.classic.grids import time_grid
from bespoke_jax.classic.levels import Level, check_scheduler, levels
from bespoke_jax.classic.unroll import data_step, noise_step
from bespoke_jax.flow import kernels
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import spread
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.solver import Program, Solver
from bespoke_jax.stepping import check_times, time_dtype
from bespoke_jax.types import Array, DTypeLike, GridLike

__all__ = ["TaylorSolver", "genie"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TaylorSolver(Solver):
    """The counterpart of a table for solvers that use du/dt; `solve` and `sample` take it.

    Step j is x <- c_j0 x + c_j1 u + c_j2 du/dt, with u and its derivative along the path evaluated at (t_j, x).

    Attributes:
        t: [n], times.
        c: [n, 3], factors.
    """

    t: jax.Array
    c: jax.Array
    has_table: ClassVar[bool] = False

    def check(self, name: str) -> None:
        """Raise TypeError or ValueError unless the arrays agree and the times lie within [0, 1]; as `SolverTable.check`."""
        n = check_times(f"{name}.t", check_array(f"{name}.t", self.t, ("n",))).shape[0]
        check_array(f"{name}.c", self.c, (n, 3))

    @property
    def num_steps(self) -> int:
        """The number of steps n."""
        return self.t.shape[0]

    @property
    def nfe(self) -> int:
        """2 n, because a Jacobian-vector product costs about as much as another velocity evaluation."""
        return 2 * self.num_steps

    def program(self, flow: Flow, x0: Float[Array, "*shape"]) -> Program:
        """The program of the steps; each evaluates the velocity and its derivative along the path."""

        def step(i, carry):
            x = carry[0]
            t, c = self.t[i].astype(time_dtype(self, x)), self.c[i].astype(x.dtype)
            velocity, slope = kernels.velocity_and_slope(flow, t, x)
            return c[0] * x + c[1] * velocity + c[2] * slope, None

        return Program((x0, None), step, self.num_steps)

    def end(self, flow: Flow, x0: Float[Array, "batch *event"]) -> Float[jax.Array, "batch *event"]:
        """x1 of noise x0 [B, *event], step by step in Python."""
        x = spread(flow, x0)
        times, factors = (np.asarray(value) for value in (self.t, self.c))
        for t, c in zip(times.astype(time_dtype(self, x)), factors, strict=True):
            x = kernels.combine(c, [x, *kernels.velocity_and_slope(flow, t, x)])
        return x


def genie(
    nfe: int, scheduler: Scheduler, *, grid: GridLike = "uniform", dtype: DTypeLike = jnp.float32
) -> TaylorSolver:
    """GENIE's steps (Dockhorn, Vahdat & Kreis 2022, arXiv:2210.05475): order 2.

    In DDIM's variables y = x / alpha and gamma = sigma / alpha, dy = X0 d(gamma), with X0 and X1 the predicted noise and
    data. A step h in gamma is y + h X0 + h^2 / 2 dX0/dgamma, dX0/dgamma the total derivative along the path. The paper trains a
    small head to predict it; here one Jacobian-vector product of the flow with tangent (1, u) gives it exactly.

    A step that begins at snr 0, where gamma is infinite, is the same step on d(x / sigma) = X1 d(alpha / sigma), which is regular
    there; if it also ends at infinite snr (a single step), it is DDIM's.

    Args:
        nfe: velocity evaluations, even: a step counts as two.
        scheduler: the flow's.
        grid: a name or the nfe / 2 + 1 times between which it steps, see `time_grid`.
        dtype: of the factors.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: if nfe is odd, or for another wrong argument.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[3.0], std=1e-3)
        >>> [round(float(x), 2) for x in bj.solve(flow, genie(4, flow.scheduler), jnp.array([0.5]))]
        [3.0]
    """
    dtype = check_float_dtype("dtype", dtype)
    if check_count("nfe", nfe) % 2:
        raise ValueError(f"nfe: wanted an even number, two evaluations a step, got {nfe}.")
    check_scheduler(scheduler, "genie")
    points = levels(scheduler, time_grid(grid, nfe // 2, scheduler))
    rows = np.stack([_coefficients(s, t) for s, t in pairwise(points)])
    solver = TaylorSolver(jnp.asarray([level.t for level in points[:-1]], dtype), jnp.asarray(rows, dtype))
    solver.check("genie")
    return solver


def _coefficients(s: Level, t: Level) -> np.ndarray:
    """The factors of (x, u, du/dt) in the step from s to t, with du/dt along the path."""
    x, u, u_dot = np.eye(3)
    data, noise = s.predictions(x, u)
    # x = alpha X1 + sigma X0 and its derivative give X0 = (alpha u - alphadot x) / D; differentiate that once more.
    d, d_dot = s.determinant, s.alpha * s.sigma_ddot - s.sigma * s.alpha_ddot
    if math.isfinite(s.log_snr):
        noise_dot = (s.alpha * u_dot - s.alpha_ddot * x - d_dot * noise) / d
        h, rate = t.noise_to_signal - s.noise_to_signal, d / s.alpha**2
        return noise_step(s, t, x, noise) + t.alpha * h**2 / 2 * noise_dot / rate
    if not math.isfinite(t.log_snr):
        return data_step(s, t, x, data)
    data_dot = (s.sigma_ddot * x - s.sigma * u_dot - d_dot * data) / d
    h, rate = t.snr - s.snr, -d / s.sigma**2
    return data_step(s, t, x, data) + t.sigma * h**2 / 2 * data_dot / rate
