"""Schedulers in float64: alpha, sigma and their derivatives as plain numbers, whatever precision JAX is set to.

Coefficients of solvers are differences of nearly equal numbers, of which float32 would keep few digits.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import jax
import jax.experimental
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import Numbers

__all__ = ["Level", "check_scheduler", "level_at_snr", "levels", "times_of_snr"]

# Log-SNR beyond this counts as infinite, out of reach of a polynomial in log-SNR. It only chooses between methods (the VP
# scheduler's sigma_1 = 1e-6 stands for 0); alpha and sigma are always used unchanged.
_INFINITE_LOG_SNR = math.log(1e5)
_ROUNDING = 1e-5  # of schedulers that interpolate numbers in float32
_CHUNK = 128  # the compiled functions take times in chunks of one size, so that they are compiled once


def check_scheduler(scheduler: Any, wanted_by: str) -> Scheduler:
    """`scheduler`, if it is a `Scheduler` whose signal-to-noise ratio nowhere falls. Raises ValueError otherwise."""
    if not isinstance(scheduler, Scheduler):
        raise ValueError(f"scheduler: wanted a bespoke_jax.schedulers.Scheduler for {wanted_by}, got {scheduler!r}.")
    fall = _first_fall(scheduler)
    if fall is not None:
        s, t = fall
        raise ValueError(
            f"scheduler: wanted a growing signal-to-noise ratio for {wanted_by}, got one that falls from {s.snr:.6g} at "
            f"t={s.t:.6g} to {t.snr:.6g} at t={t.t:.6g}."
        )
    return scheduler


@functools.lru_cache(maxsize=64)
def _first_fall(scheduler: Scheduler) -> tuple["Level", "Level"] | None:
    """The first neighbours among equally spaced times whose snr falls by more than rounding; None if it falls nowhere."""
    for s, t in pairwise(levels(scheduler, np.linspace(0.0, 1.0, _CHUNK))):
        if s.alpha * t.sigma - t.alpha * s.sigma > _ROUNDING * t.alpha * s.sigma:
            return s, t
    return None


@dataclasses.dataclass(frozen=True)
class Level:
    """alpha and sigma at time t, with their first and second derivatives.

    Attributes:
        t, alpha, sigma, alpha_dot, sigma_dot, alpha_ddot, sigma_ddot: numbers in float64.
    """

    t: float
    alpha: float
    sigma: float
    alpha_dot: float
    sigma_dot: float
    alpha_ddot: float
    sigma_ddot: float

    @property
    def snr(self) -> float:
        """alpha / sigma; infinite at clean data."""
        return self.alpha / self.sigma if self.sigma > 0 else math.inf

    @property
    def noise_to_signal(self) -> float:
        """sigma / alpha, EDM's noise level; infinite at pure noise."""
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def log_snr(self) -> float:
        """log(alpha / sigma), lambda in the DPM-Solver papers; -inf or inf where no polynomial reaches it."""
        value = -math.inf if self.alpha == 0 else math.inf if self.sigma == 0 else math.log(self.alpha / self.sigma)
        return value if abs(value) <= _INFINITE_LOG_SNR else math.copysign(math.inf, value)

    @property
    def determinant(self) -> float:
        """alpha sigmadot - sigma alphadot, which is negative because the snr grows."""
        return self.alpha * self.sigma_dot - self.sigma * self.alpha_dot

    def predictions(self, x: Any, u: Any) -> tuple[Any, Any]:
        """(X1, X0) = (E[x1 | x], E[x0 | x]) from x = alpha X1 + sigma X0 and u = alphadot X1 + sigmadot X0.

        Args:
            x: a state, or the vector of its coefficients.
            u: its velocity, likewise.

        Raises:
            ValueError: if the scheduler's slopes are not finite here, or its signal-to-noise ratio does not grow.
        """
        determinant = self.determinant
        if not (math.isfinite(determinant) and determinant < 0):
            raise ValueError(
                f"scheduler: wanted finite slopes and a growing signal-to-noise ratio at t={self.t}, got "
                f"alpha={self.alpha}, sigma={self.sigma} with slopes {self.alpha_dot} and {self.sigma_dot}."
            )
        data = (self.sigma_dot * x - self.sigma * u) / determinant
        noise = (self.alpha * u - self.alpha_dot * x) / determinant
        return data, noise


def levels(scheduler: Scheduler, times: Numbers) -> list[Level]:
    """The scheduler at these times, [n].

    Examples:
        >>> import bespoke_jax as bj
        >>> levels(bj.schedulers.CondOT(), [0.25])[0].predictions(x=1.0, u=2.0)
        (2.5, 0.5)
    """
    points = np.asarray(times, np.float64)
    values = _compiled(scheduler)[0](points)
    values[:2] = np.maximum(values[:2], 0.0)  # rounding may leave an end slightly below 0
    return [Level(float(t), *map(float, column)) for t, column in zip(points, values.T, strict=True)]


def times_of_snr(scheduler: Scheduler, snr: Numbers) -> Float[np.ndarray, "n"]:
    """The times in [0, 1] with these signal-to-noise ratios, [n]."""
    angle = np.arctan(np.asarray(snr, np.float64))  # (alpha, sigma) proportional to (snr, 1), both finite
    return _compiled(scheduler)[1](np.sin(angle), np.cos(angle))[0]


def level_at_snr(scheduler: Scheduler, snr: float) -> Level:
    """The level with this signal-to-noise ratio."""
    return levels(scheduler, times_of_snr(scheduler, [snr]))[0]


@functools.lru_cache(maxsize=64)
def _compiled(scheduler: Scheduler) -> tuple["_Chunks", "_Chunks"]:
    """(t -> the rows of `Level` after t, (alpha, sigma) -> t)."""

    def read(t):
        values, slopes = jax.jvp(scheduler.at, (t,), (jnp.ones_like(t),))
        return jnp.stack([*values, slopes.alpha_dot, slopes.sigma_dot])

    def invert(alpha, sigma):
        return scheduler.time_of(alpha, sigma)[None]

    return _Chunks(read, 1), _Chunks(invert, 2)


class _Chunks:
    """`function` of numbers, compiled for chunks of them in float64."""

    def __init__(self, function: Callable, num_arguments: int):
        self._function, self._num_arguments = function, num_arguments

    @functools.cached_property
    def _program(self) -> Callable:
        mapped, chunk = jax.jit(jax.vmap(self._function, out_axes=1)), jax.ShapeDtypeStruct((_CHUNK,), np.float64)
        with _x64(), jax.disable_jit(False):
            return mapped.lower(*(chunk,) * self._num_arguments).compile()

    def __call__(self, *values: np.ndarray) -> np.ndarray:
        """The rows of results, [rows, len(values)], computed at once, even while JAX traces something else."""
        (count,) = values[0].shape
        padded = [np.pad(value, (0, -count % _CHUNK), mode="edge") for value in values]
        with _x64(), jax.disable_jit(False):  # a compiled program refuses to run in a debugging session without jit
            parts = [
                self._program(*chunk) for chunk in zip(*(value.reshape(-1, _CHUNK) for value in padded), strict=True)
            ]
        return np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)[:, :count]


def _x64() -> contextlib.AbstractContextManager:
    # jax.enable_x64 is the newer name.
    named: Any = jax if hasattr(jax, "enable_x64") else jax.experimental
    return named.enable_x64(True)
