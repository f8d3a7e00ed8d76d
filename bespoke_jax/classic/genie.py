"""GENIE: a second-order Taylor method with the exact derivative of the noise prediction along the path."""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.classic.checks import check_count, check_scheduler
from bespoke_jax.classic.grids import time_grid
from bespoke_jax.classic.levels import Level, levels
from bespoke_jax.classic.unroll import data_step, noise_step
from bespoke_jax.dtypes import promote
from bespoke_jax.flow import Flow
from bespoke_jax.schedulers import Scheduler

__all__ = ["genie", "genie_nfe"]


def genie_nfe(num_steps: int) -> int:
    """What `genie` costs: two velocity evaluations a step, for a Jacobian-vector product costs about as much as one more.

    Example:
        >>> genie_nfe(5)
        10
    """
    return 2 * check_count("num_steps", num_steps)


def genie(flow: Flow, x0, num_steps: int, *, grid="uniform", scheduler: Scheduler | None = None):
    """x1 from given noise x0 by GENIE's steps (Dockhorn, Vahdat & Kreis 2022, arXiv:2210.05475): order 2.

    With y = x / alpha and gamma = sigma / alpha, dy = X0 d(gamma) (DDIM's variables); one step of size h in gamma is
    y + h X0 + h^2 / 2 dX0/dgamma, with dX0/dgamma the total derivative along the path. The paper trains a small head for
    it; here it is exact, one Jacobian-vector product of the flow with tangent (1, u). A table, which has no derivatives,
    cannot hold it.

    A step that begins at snr 0, where gamma is infinite, is the same on d(x / sigma) = X1 d(alpha / sigma), which is regular
    there; if it also ends at infinite snr (one step for all), DDIM's.

    Args:
        flow: the velocity field, differentiable in t and x.
        x0: noise, [*batch, *event_shape]; the state keeps its dtype.
        num_steps: steps, at least 1; the cost is `genie_nfe(num_steps)`.
        grid: a name or the num_steps + 1 times between which it steps, see `time_grid`.
        scheduler: the flow's own if not given.

    Raises:
        ValueError: if there is no scheduler, or num_steps or the grid is none.

    Example:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[3.0], std=1e-3)
        >>> [round(float(x), 2) for x in genie(flow, jnp.array([0.5]), num_steps=2)]
        [3.0]
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"flow: wanted a bespoke_jax.Flow, got {type(flow).__name__}.")
    n = check_count("num_steps", num_steps)
    scheduler = check_scheduler(flow.scheduler if scheduler is None else scheduler, "genie")
    points = levels(scheduler, time_grid(grid, n, scheduler))
    x0 = jnp.asarray(x0)
    flow.batch_shape(x0, "x0")
    rows = np.stack([_coefficients(s, t) for s, t in pairwise(points)])
    times = np.array([level.t for level in points[:-1]])
    time_dtype = promote(x0.dtype, jnp.float32)

    def step(x, now):
        t, row = now
        # One pass gives the velocity and, kept linear, its derivative in any direction: here along the path.
        velocity, push = jax.linearize(flow, t, x)
        acceleration = push(jnp.ones_like(t), velocity)
        return row[0] * x + row[1] * velocity + row[2] * acceleration, None

    return jax.lax.scan(step, x0, (jnp.asarray(times, time_dtype), jnp.asarray(rows, x0.dtype)))[0]


def _coefficients(s: Level, t: Level) -> np.ndarray:
    """The step from s to t as factors of (x, u, du/dt), du/dt taken along the path."""
    x, u, u_dot = np.eye(3)
    data, noise = s.predictions(x, u)
    # alpha X1 + sigma X0 = x and its derivative give X0 = (alpha u - alphadot x) / D; differentiate once more.
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
