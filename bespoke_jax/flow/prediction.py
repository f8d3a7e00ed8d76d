"""Predictions: networks that predict noise, data, score or v, read as velocities.

With X1 = E[x1 | x] and X0 = E[x0 | x] read off a prediction, u = alphadot X1 + sigmadot X0 (Sec. 2.2).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_flag, check_number
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.call import call
from bespoke_jax.flow.times import NetworkTime, time_of
from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import Array, Numbers, PyTree, VelocityFunction

__all__ = ["PREDICTIONS", "PredictionVelocity", "velocity_of_prediction"]

_VANISHES = 1e-4  # an alpha or sigma this small is no divisor; EDM's sigma_min is 2e-3
_MARGIN = 1e-3


# (x1, x0/sigma) from (output, x, alpha, sigma). x0/sigma = -score stays finite as sigma goes to 0.


def _from_noise(out, x, alpha, sigma):
    return (x - sigma * out) / alpha, out / sigma


def _from_data(out, x, alpha, sigma):
    return out, (x - alpha * out) / sigma**2


def _from_score(out, x, alpha, sigma):
    return (x + sigma**2 * out) / alpha, -out


def _from_v(out, x, alpha, sigma):
    # Solve x = alpha x1 + sigma x0, v = alpha x0 - sigma x1. (The velocity of the cosine path is -pi/2 v.)
    norm = alpha**2 + sigma**2
    return (alpha * x - sigma * out) / norm, (sigma * x + alpha * out) / (norm * sigma)


_READ_OFF: Mapping[str, Callable] = {"noise": _from_noise, "data": _from_data, "score": _from_score, "v": _from_v}

PREDICTIONS = (*_READ_OFF, "velocity")
"""What a network may predict."""


def velocity_of_prediction(
    network: VelocityFunction,
    scheduler: Scheduler,
    prediction: str,
    time_margin: float | None,
    time: str | Numbers = "noise_at_0",
    per_sample_time: bool | None = False,
) -> VelocityFunction:
    """The velocity of a network that predicts something else; arguments and errors are those of `Flow.from_prediction`."""
    check_choice("prediction", prediction, PREDICTIONS)
    if not callable(network):
        raise TypeError(f"network: wanted a function of (params, t, x), got {type(network).__name__}.")
    if time_margin is None:
        time_range = _regular_times(scheduler, prediction)
    else:
        margin = check_number("time_margin", time_margin, 0, 0.5)
        if margin == 0.5:
            raise ValueError("time_margin: wanted a number from 0 to less than 0.5, got 0.5.")
        time_range = (margin, 1 - margin)
    own_time = time_of(time, scheduler, prediction)
    per_sample_time = None if per_sample_time is None else check_flag("per_sample_time", per_sample_time)
    if prediction == "velocity":
        return TimedVelocity(network, own_time, per_sample_time)
    return PredictionVelocity(network, scheduler, prediction, time_range, own_time, per_sample_time)


def _regular_times(scheduler: Scheduler, prediction: str) -> tuple[float, float]:
    """The (first, last) time at which the prediction's divisor does not vanish."""
    alpha_0, sigma_1 = float(scheduler.alpha(jnp.zeros(()))), float(scheduler.sigma(jnp.ones(())))
    first = _MARGIN if prediction in ("noise", "score") and alpha_0 < _VANISHES else 0.0
    last = _MARGIN if prediction in ("noise", "data", "v") and sigma_1 < _VANISHES else 0.0
    return first, 1.0 - last


@dataclasses.dataclass(frozen=True)
class TimedVelocity(Wrapper):
    """`velocity(params, t, x)` of a network that predicts dx by its own time. Frozen: equal by value.

    Attributes:
        velocity: `network(params, its time, x) -> dx by its time`.
        time: its time as a function of t.
        per_sample_time: whether it takes its time as [B]; None to find out by trying.
    """

    velocity: VelocityFunction
    time: NetworkTime
    per_sample_time: bool | None

    @property
    def calls_per_evaluation(self) -> int:
        """The network's."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def __call__(self, params: PyTree, t: Float[Array, ""], x: Float[Array, "B *event"]) -> Float[Array, "B *event"]:
        out = call("network", self.velocity, params, self.time(t), x, "the velocity", self.per_sample_time)
        return jnp.asarray(self.time.slope(t), x.dtype) * out


@dataclasses.dataclass(frozen=True)
class PredictionVelocity:
    """`velocity(params, t, x)`, u = alphadot X1 + sigmadot X0, with X1 and X0 read off a prediction. Frozen: equal by value.

    Attributes:
        network: `network(params, its time, x) -> prediction`.
        scheduler: the one it was trained with.
        prediction: one of `PREDICTIONS` except "velocity".
        time_range: (first, last) time at which the network is evaluated.
        time: the network's time as a function of t.
        per_sample_time: whether it takes its time as [B]; None to find out by trying.
    """

    network: VelocityFunction
    scheduler: Scheduler
    prediction: str
    time_range: tuple[float, float]
    time: NetworkTime
    per_sample_time: bool | None

    @property
    def outside_jax(self) -> bool:
        """The network's."""
        return getattr(self.network, "outside_jax", False)

    @property
    def event(self) -> Any:
        """The network's."""
        return getattr(self.network, "event", None)

    @property
    def slope_at_noise(self) -> float:
        """alphadot / alpha for a noise or score prediction, at least 1; else 1."""
        if self.prediction not in ("noise", "score"):
            return 1.0
        values = self.scheduler.at(jnp.asarray(self.time_range[0], jnp.float32))
        return max(1.0, abs(float(values.alpha_dot) / float(values.alpha)))

    def __call__(self, params: PyTree, t: Float[Array, ""], x: Float[Array, "B *event"]) -> Float[Array, "B *event"]:
        t = jnp.clip(jnp.asarray(t, promote(x.dtype, jnp.float32)), *self.time_range)
        what = f"the {self.prediction} prediction"
        out = call("network", self.network, params, self.time(t), x, what, self.per_sample_time)
        alpha, sigma, alpha_dot, sigma_dot = jax.tree.map(lambda value: value.astype(x.dtype), self.scheduler.at(t))
        x1, x0_over_sigma = _READ_OFF[self.prediction](out, x, alpha, sigma)
        return alpha_dot * x1 + (sigma_dot * sigma) * x0_over_sigma
