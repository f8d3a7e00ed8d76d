"""The fingerprint of a flow: a few numbers that tell it from other flows and survive a change of machine or precision.

The velocity is looked at where noise of a fixed seed, scaled as the flow's states are, stands at three times. Of each velocity
one number is kept, its projection on a direction of the same seed. Projections on random directions keep distances: the
root mean square of their differences estimates that of the velocities, without the velocities.
"""

import math

import jax.numpy as jnp
import numpy as np

from bespoke_jax.files.json_text import numbers_of_json
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import has_condition, is_given, like_any
from bespoke_jax.flow.flow import Flow

__all__ = ["NUM_SAMPLES", "TOLERANCE", "check", "differences", "fingerprint"]

TOLERANCE = 0.02
"""Two velocities of one flow may be this far apart, as a share of their RMS.

Measured on the shipped flow: computing in bfloat16 moves them by 0.7 %, rounding the weights to bfloat16 by 0.8 %, 150 training
steps of 5,400 by 1 % (as an average over steps, EMA); the weights without that average are 5 % away, those of 2,000 steps
earlier 20 %.
"""

_TIMES = (0.1, 0.5, 0.9)
NUM_SAMPLES = 4
"""Noises that a velocity is looked at on."""
_SCHEDULER_TOLERANCE = 1e-3


def fingerprint(flow: Flow) -> dict:
    """The fingerprint as JSON can hold it. It costs 12 velocity evaluations of single samples.

    A flow that is `given` a condition for each sample is looked at under one that is the same for all flows: a solver learned
    over some classes knows the flow again under others.

    Returns:
        A dict of numbers and nested lists:

        - "event_shape";
        - "condition": "any" of a `given` flow, else not there;
        - "t": the times of the probe, [3];
        - "alpha", "sigma": the scheduler there, [3]; None if the flow has none;
        - "noise_std": the probe's scale, sqrt(alpha^2 + sigma^2) or 1, [3];
        - "rms": of the velocities at each time, [3];
        - "projections": of each sample's velocity, [3, 4].

    Raises:
        TypeError: if `flow` is none.
        ValueError: if its velocity is not finite on the probe.

    Examples:
        >>> import bespoke_jax as bj
        >>> found = fingerprint(bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5))
        >>> found["event_shape"], found["t"], found["sigma"]
        ([2], [0.1, 0.5, 0.9], [0.9, 0.5, 0.1])
    """
    if not isinstance(flow, Flow):
        raise TypeError(f"flow: wanted a bespoke_jax.Flow, got {type(flow).__name__}.")
    any_condition = is_given(flow)
    flow = like_any(flow) if any_condition else flow
    alpha, sigma = _scheduler(flow, _TIMES)
    noise_std = [1.0] * len(_TIMES) if alpha is None else _short(np.hypot(alpha, sigma))
    rms, projections = _look(flow, _TIMES, noise_std, NUM_SAMPLES)
    for t, value in zip(_TIMES, rms, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"flow: its velocity is not finite at t={t} on noise; look at flow(t, x) near that time.")
    return dict(
        event_shape=list(flow.event_shape),
        t=list(_TIMES),
        alpha=alpha,
        sigma=sigma,
        noise_std=noise_std,
        rms=rms,
        projections=projections,
        **({"condition": "any"} if any_condition else {}),
    )


def differences(stored: dict, flow: Flow) -> list[str]:
    """What tells `flow` from the one with the fingerprint `stored`: a line for each, with both figures; none if it is the same.

    Times and scale of the probe are those in `stored`. A scheduler is compared only if both have one: the velocity decides.

    Raises:
        ValueError: if `stored` is no fingerprint; names the field.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow, other = (bj.analytic.gaussian(mean=[1.0, mean], std=0.5) for mean in (2.0, 3.0))
        >>> differences(fingerprint(flow), flow)
        []
        >>> print(differences(fingerprint(flow), other)[0])
        velocity: RMS at t = 0.1, 0.5, 0.9: 1.58, 2.19, 1.27 stored, 2.27, 3.27, 1.5 found; 34 % apart, up to 2 % may be rounding
    """
    numbers = _read(stored)
    shape, found_shape = stored["event_shape"], list(flow.event_shape)
    if shape != found_shape:
        return [f"event_shape: {shape} stored, {found_shape} found"]
    if "condition" in stored and has_condition(flow):
        flow = like_any(flow)
    times, noise_std, rms, projections = (numbers[name] for name in ("t", "noise_std", "rms", "projections"))
    at_times, lines = f"at t = {_text(times)}", []
    for name, found in zip(("alpha", "sigma"), _scheduler(flow, times), strict=True):
        there = numbers.get(name)
        if found is not None and there is not None:
            if not np.allclose(there, found, rtol=_SCHEDULER_TOLERANCE, atol=_SCHEDULER_TOLERANCE):
                lines.append(f"scheduler: {name} {at_times}: {_text(there)} stored, {_text(found)} found")
    found_rms, found_projections = _look(flow, times, noise_std, NUM_SAMPLES)
    # Each time counts alike, however large the velocity is there; where it vanishes, nothing but rounding is left of it.
    scale = np.maximum(rms, 0.01 * noise_std)[:, None]
    distance = math.sqrt(np.mean(np.square((projections - found_projections) / scale)))
    if not distance <= TOLERANCE:  # NaN is no agreement
        lines.append(
            f"velocity: RMS {at_times}: {_text(rms)} stored, {_text(found_rms)} found; "
            f"{100 * distance:.2g} % apart, up to {100 * TOLERANCE:g} % may be rounding"
        )
    return lines


def _scheduler(flow, times):
    """(alpha, sigma) at the times, or (None, None)."""
    if flow.scheduler is None:
        return None, None
    return tuple(
        _short([np.asarray(function(jnp.float32(t)), np.float64) for t in times])
        for function in (flow.scheduler.alpha, flow.scheduler.sigma)
    )


def _look(flow, times, noise_std, num_samples):
    """(RMS of the velocities at each time, the projection of each velocity) on the probe."""
    # RandomState, for NumPy promises that its numbers stay the same in all versions.
    noise, *directions = np.random.RandomState(0).standard_normal((1 + len(times), num_samples, *flow.event_shape))
    rms, projections = [], []
    for t, std, direction in zip(times, noise_std, directions, strict=True):
        u = np.asarray(kernels.velocity(flow, np.float32(t), jnp.asarray(std * noise, jnp.float32)), np.float64)
        if not np.all(np.isfinite(u)):
            u = np.full_like(u, np.nan)
        u, direction = u.reshape(num_samples, -1), direction.reshape(num_samples, -1)
        rms.append(math.sqrt(np.mean(np.square(u))))
        projections.append(_short(np.sum(u * direction, axis=1) / math.sqrt(u.shape[1])))
    return _short(rms), projections


def _short(values) -> list[float]:
    """Six digits of each: what float32 has."""
    return [float(f"{float(value):.6g}") for value in values]


def _text(values) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def check(stored) -> None:
    """Raise ValueError, naming the field, unless this is a fingerprint, as `fingerprint` makes them."""
    _read(stored)


def _read(stored) -> dict[str, np.ndarray]:
    """The numbers of a stored fingerprint. How many there are is known beforehand: a file does not say how much work it is."""
    if not isinstance(stored, dict):
        raise ValueError(f"flow: wanted a fingerprint, a JSON object, got {type(stored).__name__}.")
    shape = stored.get("event_shape")
    if not isinstance(shape, list) or any(type(size) is not int or size < 1 for size in shape):
        raise ValueError(f"flow.event_shape: wanted a list of positive integers, got {shape!r:.50}.")
    if stored.get("condition", "any") != "any":
        raise ValueError(f"flow.condition: wanted 'any' or nothing, got {stored['condition']!r:.50}.")
    n = len(_TIMES)
    shapes = {"t": (n,), "noise_std": (n,), "rms": (n,), "projections": (n, NUM_SAMPLES)}
    shapes |= {name: (n,) for name in ("alpha", "sigma") if stored.get(name) is not None}
    numbers = {name: numbers_of_json(f"flow.{name}", stored.get(name), shape) for name, shape in shapes.items()}
    if not np.all((numbers["t"] >= 0) & (numbers["t"] <= 1)):
        raise ValueError(f"flow.t: wanted times within [0, 1], got {stored['t']}.")
    for name in ("noise_std", "rms"):
        if np.any(numbers[name] < 0):
            raise ValueError(f"flow.{name}: wanted numbers >= 0, got {stored[name]}.")
    return numbers
