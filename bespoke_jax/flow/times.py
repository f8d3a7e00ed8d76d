"""The time of a network: other libraries' conventions as functions of this library's t, which is 0 at noise and 1 at data."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_choice
from bespoke_jax.schedulers import Scheduler, ddpm_levels
from bespoke_jax.types import Array, Numbers

__all__ = ["TIMES", "NetworkTime", "check_direction", "scheduler_of", "step_of_level", "time_of"]

TIMES = ("noise_at_0", "noise_at_1", "sigma", "noise_to_signal", "steps_of_1000")
"""The times that a network may be called with: t, 1 - t, sigma_t, sigma_t / alpha_t, and steps."""

_STEPS = 1000
_NEARLY_1 = 1e-2


@dataclasses.dataclass(frozen=True)
class NetworkTime:
    """The time that a network is called with, as a function of t. Frozen: equal by value.

    Attributes:
        name: one of `TIMES`.
        scheduler: whose sigma_t, or noise level, it is; None for a time that needs none.
        levels: sigma / alpha at each discrete step, increasing; empty for times that are no discrete steps.
    """

    name: str
    scheduler: Any
    levels: tuple[float, ...] = ()

    def __call__(self, t: Float[Array, ""]) -> Float[Array, ""]:
        if self.name == "noise_at_0":
            return t
        if self.name == "noise_at_1":
            return 1 - t
        if self.name == "sigma":
            return jnp.asarray(self.scheduler.sigma(t), t.dtype)
        if self.name == "noise_to_signal":
            return jnp.asarray(self.scheduler.sigma(t) / self.scheduler.alpha(t), t.dtype)
        if not self.levels:
            return _STEPS * (1 - t)
        return step_of_level(self.scheduler.sigma(t) / self.scheduler.alpha(t), self.levels).astype(t.dtype)

    def slope(self, t: Float[Array, ""]) -> Any:
        """The factor from a network's derivative of x in its own time to the velocity dx/dt.

        The network of a flow counts its steps, but differentiates by s = 1 - t.
        """
        if self.name == "sigma":
            return self.scheduler.at(t).sigma_dot
        if self.name == "noise_to_signal":
            alpha, sigma, alpha_dot, sigma_dot = self.scheduler.at(t)
            return (sigma_dot * alpha - sigma * alpha_dot) / alpha**2
        return 1.0 if self.name == "noise_at_0" else -1.0


def time_of(time: str | Numbers, scheduler: Scheduler, prediction: str) -> NetworkTime:
    """The time of a network, from the argument of `Flow.from_prediction`.

    Args:
        time: one of `TIMES`; or the variances that the steps of a DDPM add, betas [N].
        scheduler: the flow's.
        prediction: what the network predicts. One that predicts a velocity has continuous times.

    Raises:
        ValueError: for another name; for sigma / alpha where alpha_0 is 0; for steps under a scheduler that is not
            variance-preserving, or adds its noise too fast.

    Examples:
        >>> from bespoke_jax import schedulers
        >>> t = jnp.float32(0.75)
        >>> [float(time_of(name, schedulers.CondOT(), "velocity")(t)) for name in TIMES if name != "noise_to_signal"]
        [0.75, 0.25, 0.25, 250.0]
        >>> round(float(time_of("steps_of_1000", schedulers.VariancePreserving(), "noise")(t)))
        249
    """
    if isinstance(time, str):
        check_choice("time", time, TIMES)
        if time == "noise_to_signal" and not float(scheduler.alpha(jnp.zeros(()))) > 0:
            raise ValueError(
                f"time: wanted another than 'noise_to_signal', because sigma / alpha is infinite at t = 0, got {scheduler}."
            )
        if time != "steps_of_1000" or prediction == "velocity":
            return NetworkTime(time, scheduler)
    elif prediction == "velocity":
        raise ValueError(f"time: wanted one of {TIMES} for a network that predicts a velocity, got {time!r:.80}.")
    levels = () if isinstance(time, str) else _levels(time)
    alpha, sigma, _, _ = (np.asarray(value) for value in scheduler.at(jnp.linspace(0.0, 1.0, 5)))
    if np.any(np.abs(alpha**2 + sigma**2 - 1) > _NEARLY_1):
        raise ValueError(
            "scheduler: wanted alpha^2 + sigma^2 = 1 for a network of discrete steps, such as VariancePreserving(), got "
            f"{np.round(alpha**2 + sigma**2, 3).tolist()} at t = 0, ..., 1."
        )
    return NetworkTime("steps_of_1000", scheduler, levels or _levels(_betas(scheduler)))


def _levels(betas: Any) -> tuple[float, ...]:
    try:
        return tuple(ddpm_levels(betas).tolist())
    except ValueError as error:
        raise ValueError(f"time: wanted one of {TIMES}, or betas ({error})") from None


def _betas(scheduler: Scheduler) -> np.ndarray:
    """The variances of 1000 steps with the scheduler's rate of noise at equal times: those of DDPM, if it is its scheduler."""
    values = scheduler.at(jnp.linspace(1.0, 0.0, _STEPS))
    with np.errstate(divide="ignore"):
        betas = 2 * np.asarray(values.alpha_dot, np.float64) / np.asarray(values.alpha, np.float64) / _STEPS
    if not np.all((betas > 0) & (betas < 1)):
        raise ValueError(
            "time: wanted 'steps_of_1000' under a scheduler whose steps add variances within (0, 1), such as "
            f"VariancePreserving(), got {np.min(betas):.3g} to {np.max(betas):.3g}; give the betas of the steps, time=betas."
        )
    return betas


def step_of_level(level: Float[Array, "*shape"], levels: Numbers) -> Float[jax.Array, "*shape"]:
    """The discrete step whose noise level sigma / alpha this is, interpolated linearly in the logarithm of the level.

    Args:
        level: > 0; the nearest step if there is none on one of its sides.
        levels: [N] those of steps 0, ..., N - 1, increasing.

    Examples:
        >>> float(step_of_level(jnp.float32(2.0), [1.0, 4.0]))
        0.5
    """
    levels = np.asarray(levels, np.float64)
    level = jnp.clip(level, levels[0], levels[-1])
    return jnp.interp(jnp.log(level), np.log(levels), np.arange(len(levels), dtype=np.float64))


def scheduler_of(schedule: Any) -> Scheduler:
    """A scheduler from another library's schedule: any object with functions `alpha(s)` and `sigma(s)` of its own time.

    Which end of [0, 1] is the noise, and whether the functions take scalars, is found out by trying. Of the schedule's values
    only alpha and sigma are used, at times s = t or s = 1 - t.

    Raises:
        TypeError: if it has no such functions.

    Examples:
        >>> import types
        >>> theirs = types.SimpleNamespace(alpha=lambda s: 1 - s[:], sigma=lambda s: s[:])  # vectors alone, noise at 1
        >>> ours = scheduler_of(theirs)
        >>> float(ours.alpha(jnp.float32(0.25))), float(ours.sigma(jnp.float32(0.25)))
        (0.25, 0.75)
    """
    if isinstance(schedule, Scheduler):
        return schedule
    functions: list[Any] = [getattr(schedule, name, None) for name in ("alpha", "sigma")]
    if isinstance(schedule, type) or not all(map(callable, functions)):
        raise TypeError(
            "scheduler: wanted a bespoke_jax.schedulers.Scheduler, or another library's schedule with functions alpha and sigma, "
            f"got {schedule!r}."
        )
    alpha, sigma = (_OfLibrary(function, noise_at_1=False) for function in functions)
    ends = [float(alpha(t)) * float(sigma(1 - t)) for t in (jnp.float32(0.0), jnp.float32(1.0))]
    if ends[1] > ends[0]:  # snr increases
        return Scheduler(alpha, sigma)
    return Scheduler(*(dataclasses.replace(function, noise_at_1=True) for function in (alpha, sigma)))


def check_direction(scheduler: Scheduler) -> None:
    """Raise unless the scheduler's functions are JAX's, and lead from noise at t = 0 to data at t = 1.

    Raises:
        TypeError: if JAX cannot trace one of them.
        ValueError: if sigma_0 is not positive, or the signal-to-noise ratio no greater at 1 than at 0, or one of these is NaN.

    Examples:
        >>> check_direction(Scheduler(lambda t: 1.0 - t, lambda t: t))
        Traceback (most recent call last):
        ValueError: scheduler: wanted noise at t=0 and data at t=1, got alpha from 1 to 0 and sigma from 0 to 1. One that ...
    """
    try:
        (alpha_0, alpha_1), (sigma_0, sigma_1) = _ends(scheduler)
    except jax.errors.ConcretizationTypeError:  # made of traced numbers
        return
    if not (0 < sigma_0 < math.inf and alpha_1 * sigma_0 > alpha_0 * sigma_1):
        raise ValueError(
            f"scheduler: wanted noise at t=0 and data at t=1, got alpha from {alpha_0:g} to {alpha_1:g} and sigma from "
            f"{sigma_0:g} to {sigma_1:g}. One that runs the other way is Scheduler(lambda t: alpha(1 - t), lambda t: "
            "sigma(1 - t))."
        )


@functools.lru_cache(maxsize=64)  # errors are not kept, and so no function of traced numbers
def _ends(scheduler: Scheduler) -> list[tuple[float, float]]:
    """alpha and sigma, each at 0 and 1."""
    found = []
    for name, function in dict(alpha=scheduler.alpha, sigma=scheduler.sigma).items():
        try:
            jax.eval_shape(lambda t, function=function: function(t), jax.ShapeDtypeStruct((), np.float32))
            with jax.ensure_compile_time_eval():
                found.append((float(function(jnp.float32(0.0))), float(function(jnp.float32(1.0)))))
        except jax.errors.ConcretizationTypeError:
            raise
        except TypeError as error:
            raise TypeError(
                f"scheduler.{name}: wanted a function of one time that JAX can trace, made of jax.numpy, got {function!r} "
                f"({type(error).__name__}: {str(error).splitlines()[0]})"
            ) from error
    return found


@dataclasses.dataclass(frozen=True)
class _OfLibrary:
    """A function of a schedule's own time as one of t. Frozen: equal by value."""

    function: Callable[[Any], Any]
    noise_at_1: bool

    def __call__(self, t: Float[Array, "*shape"]) -> Float[jax.Array, "*shape"]:
        return _elementwise(self._value, jnp.asarray(1 - t if self.noise_at_1 else t))

    def _value(self, s: jax.Array) -> jax.Array:
        try:
            value = self.function(s)
        except Exception:  # its own, of any kind
            if s.ndim:
                raise
            value = self.function(s[None])
        return jnp.reshape(jnp.asarray(value, s.dtype), s.shape)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _elementwise(function, s):
    """An elementwise function, differentiated in reverse mode: some libraries define that alone (`jax.custom_vjp`)."""
    return function(s)


@_elementwise.defjvp
def _(function, primals, tangents):
    value, pull = jax.vjp(function, *primals)
    return value, pull(jnp.ones_like(value))[0] * tangents[0]
