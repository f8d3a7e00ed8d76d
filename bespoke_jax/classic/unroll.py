"""Unrolling: run a solver once on coefficient vectors, and what it did is its table.

Data prediction X1 and noise prediction X0 are linear in (x, u), and so is every solver here in the noise x0 and the
velocities u_0, ..., u_{m-1} that it has asked for. So a state may be the vector of its coefficients, [m + 1] in float64,
and a solver may be written just as its paper writes it.
"""

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_float_dtype
from bespoke_jax.classic.levels import Level
from bespoke_jax.table import SolverTable

__all__ = ["Unrolling", "data_step", "data_weight", "noise_step"]


class Unrolling:
    """Stands for a flow while a solver of `nfe` evaluations runs.

    Attributes:
        x0: the noise, the state to start from.

    Examples:
        >>> run = Unrolling(2)
        >>> half = run.x0 + 0.5 * run.velocity(0.0, run.x0)
        >>> run.table(run.x0 + 1.0 * run.velocity(0.5, half)).b.tolist()  # the midpoint method
        [[0.5, 0.0], [0.0, 1.0]]
    """

    def __init__(self, nfe: int):
        self._unit = np.eye(nfe + 1)
        self._times, self._states = [], []
        self.x0 = self._unit[0]

    def velocity(self, t: float, x):
        """u_t(x): one evaluation."""
        self._times.append(float(t))
        self._states.append(x)
        return self._unit[len(self._times)]

    def predict(self, level: Level, x):
        """(X1, X0): one evaluation, read as data prediction and noise prediction."""
        return level.predictions(x, self.velocity(level.t, x))

    def table(self, x1, dtype=jnp.float32) -> SolverTable:
        """The table of all that was asked, with result `x1`.

        Raises:
            TypeError: for a dtype that is not floating.
            ValueError: if a number is not finite in it, or a time outside [0, 1].
        """
        dtype = check_float_dtype("dtype", dtype)
        rows = np.stack([*self._states[1:], x1])  # the first state is the noise itself
        assert rows.shape == (len(self._unit) - 1, len(self._unit)), "a solver made other than nfe evaluations"
        found = SolverTable(*(jnp.asarray(value, dtype) for value in (np.array(self._times), rows[:, 0], rows[:, 1:])))
        found.check("table")
        return found


def data_weight(s: Level, t: Level) -> float:
    """alpha_t - alpha_s sigma_t / sigma_s = -alpha_t expm1(-h), h the step in log-SNR: the weight of X1 in `data_step`."""
    return t.alpha - s.alpha * t.sigma / s.sigma


def data_step(s: Level, t: Level, x, data):
    """From level s to level t with X1 held fixed: sigma_t / sigma_s x + (alpha_t - alpha_s sigma_t / sigma_s) X1.

    That is DDIM. It has no infinities at snr 0 nor at sigma_t = 0. In x / sigma over snr it is a step of Euler's method.
    """
    return t.sigma / s.sigma * x + data_weight(s, t) * data


def noise_step(s: Level, t: Level, x, noise):
    """From level s to level t with X0 held fixed: the same step if X1 and X0 were read off the same (x, u); asks alpha_s > 0.

    In x / alpha over sigma / alpha it is a step of Euler's method.
    """
    return t.alpha / s.alpha * x + (t.sigma - s.sigma * t.alpha / s.alpha) * noise
