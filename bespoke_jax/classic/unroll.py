"""Unrolling: running a solver once on coefficient vectors gives its table.

Data prediction X1 and noise prediction X0 are linear in (x, u), and every state of a solver is linear in the noise x0 and the
velocities u_0, ..., u_{m-1} evaluated so far. A state can therefore be represented by its coefficients, [m + 1] in float64, and a
solver be written exactly as in its paper.
"""

from typing import TypeAlias

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_float_dtype
from bespoke_jax.classic.levels import Level
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike

State: TypeAlias = Float[np.ndarray, "n"]
"""Coefficients of x0, u_0, ..., u_{m-1}."""

__all__ = ["Unrolling", "data_step", "data_weight", "noise_step"]


class Unrolling:
    """Takes the place of a flow while a solver of `nfe` evaluations runs.

    Attributes:
        x0: the noise, from which the solver starts.

    Examples:
        >>> run = Unrolling(2)
        >>> half = run.x0 + 0.5 * run.velocity(0.0, run.x0)
        >>> run.table(run.x0 + 1.0 * run.velocity(0.5, half)).b.tolist()  # the midpoint method
        [[0.5, 0.0], [0.0, 1.0]]
    """

    def __init__(self, nfe: int):
        self._unit = np.eye(nfe + 1)
        self._times: list[float] = []
        self._states: list[np.ndarray] = []
        self.x0: np.ndarray = self._unit[0]

    def velocity(self, t: float, x: State) -> State:
        """u_t(x): one evaluation."""
        self._times.append(float(t))
        self._states.append(x)
        return self._unit[len(self._times)]

    def predict(self, level: Level, x: State) -> tuple[State, State]:
        """(X1, X0): one evaluation, read as data prediction and noise prediction.

        Raises:
            ValueError: as `Level.predictions`.
        """
        return level.predictions(x, self.velocity(level.t, x))

    def table(self, x1: State, dtype: DTypeLike = jnp.float32) -> SolverTable:
        """The table of the evaluations made, with result `x1`.

        Raises:
            TypeError: for a dtype that is not floating.
            ValueError: if a number is not finite in this dtype, or a time is outside [0, 1].
        """
        dtype = check_float_dtype("dtype", dtype)
        rows = np.stack([*self._states[1:], x1])  # the first state is the noise itself
        assert rows.shape == (len(self._unit) - 1, len(self._unit)), "the solver made another number of evaluations"
        t, a, b = (jnp.asarray(np.asarray(value, dtype), dtype) for value in (self._times, rows[:, 0], rows[:, 1:]))
        found = SolverTable(t, a, b)
        found.check("table")
        return found


def data_weight(s: Level, t: Level) -> float:
    """alpha_t - alpha_s sigma_t / sigma_s = -alpha_t expm1(-h), h the step in log-SNR: the weight of X1 in `data_step`."""
    return t.alpha - s.alpha * t.sigma / s.sigma


def data_step(s: Level, t: Level, x: State, data: State) -> State:
    """The step from level s to level t with constant X1: sigma_t / sigma_s x + (alpha_t - alpha_s sigma_t / sigma_s) X1.

    This is DDIM, or Euler's method for x / sigma as a function of the snr. It is finite at snr 0 and at sigma_t = 0.
    """
    return t.sigma / s.sigma * x + data_weight(s, t) * data


def noise_step(s: Level, t: Level, x: State, noise: State) -> State:
    """The step from level s to level t with constant X0; it needs alpha_s > 0.

    This is Euler's method for x / alpha as a function of sigma / alpha. It equals `data_step` if X1 and X0 were read off the same
    (x, u).
    """
    return t.alpha / s.alpha * x + (t.sigma - s.sigma * t.alpha / s.alpha) * noise
