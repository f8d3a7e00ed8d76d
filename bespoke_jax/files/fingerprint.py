"""The fingerprint of a flow: a few numbers that tell it from other flows and survive a change of machine or precision.

The velocity is evaluated at three times, on noise of a fixed seed scaled like the flow's states. Each velocity is stored as one
number, its projection on a random direction of the same seed. Random projections preserve distances: the root mean square of
their differences estimates that of the velocities, which need not be stored. Of a source of the flow's own, mean and standard
deviation are kept.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_type
from bespoke_jax.files.json_text import numbers_of_json
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import has_condition, is_given, like_any
from bespoke_jax.flow.flow import Flow

__all__ = ["NUM_SAMPLES", "TOLERANCE", "check", "differences", "fingerprint"]

TOLERANCE = 0.02
"""The largest difference of velocities that counts as the same flow, relative to their RMS.

Measured on the shipped flow: computing in bfloat16 changes the velocities by 0.7 %, rounding the weights to bfloat16 by 0.8 %,
150 of 5,400 training steps by 1 % (with the moving average of the weights, EMA); weights without that average differ by 5 %,
those of 2,000 steps earlier by 20 %.
"""

_TIMES = (0.1, 0.5, 0.9)
NUM_SAMPLES = 4
"""The number of noises at each time."""
_SCHEDULER_TOLERANCE = 1e-3
_DRAWS = 256  # of a source, or fewer if they are large
_DRAWN = 2**20  # numbers
_SOURCE_TOLERANCE = 0.5  # standard deviations: chance alone is far below, whatever the machine's random numbers


def fingerprint(flow: Flow) -> dict[str, Any]:
    """The fingerprint, as a value that JSON can hold. It costs 12 velocity evaluations of single samples.

    A flow that is `given` conditions is evaluated under one condition that is the same for all flows, so that a solver learned
    over some classes recognises the flow under others.

    Returns:
        A dict of numbers and nested lists:

        - "event_shape";
        - "condition": "any" for a `given` flow, absent for others;
        - "t": the times, [3];
        - "alpha", "sigma": the scheduler there, [3]; None if the flow has none;
        - "noise_std": the scale of the noise, sqrt(alpha^2 + sigma^2) or 1, [3];
        - "rms": the RMS of the velocities at each time, [3];
        - "projections": the projections of the velocities, [3, 4];
        - "source": mean and standard deviation of x0, [2], if the flow has a source of its own.

    Raises:
        TypeError: if `flow` is not a Flow.
        ValueError: if a velocity is not finite.

    Examples:
        >>> import bespoke_jax as bj
        >>> found = fingerprint(bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5))
        >>> found["event_shape"], found["t"], found["sigma"]
        ([2], [0.1, 0.5, 0.9], [0.9, 0.5, 0.1])
    """
    check_type("flow", flow, Flow, "a bespoke_jax.Flow")
    any_condition = is_given(flow)
    flow = like_any(flow) if any_condition else flow
    alpha, sigma = _scheduler(flow, _TIMES)
    noise_std = [1.0] * len(_TIMES) if alpha is None or sigma is None else _short(np.hypot(alpha, sigma))
    rms, projections = _look(flow, _TIMES, noise_std, NUM_SAMPLES)
    for t, value in zip(_TIMES, rms, strict=True):
        if not math.isfinite(value):
            raise ValueError(f"flow: its velocity is not finite at t={t} on noise; check flow(t, x) near that time.")
    return dict(
        event_shape=list(flow.event_shape),
        t=list(_TIMES),
        alpha=alpha,
        sigma=sigma,
        noise_std=noise_std,
        rms=rms,
        projections=projections,
        **({"condition": "any"} if any_condition else {}),
        **({} if flow.source is None else {"source": _of_source(flow)}),
    )


def differences(stored: dict[str, Any], flow: Flow) -> list[str]:
    """The differences between `flow` and the flow with the fingerprint `stored`.

    The times and the scale of the noise are those in `stored`. Schedulers are compared only if both flows have one; the velocity
    decides.

    Returns:
        A line with both figures for each difference; none if the flow is the same.

    Raises:
        ValueError: if `stored` is not a fingerprint; names the field.

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
    lines = []
    if is_given(flow) and "condition" not in stored:
        lines.append("condition: one for all samples, or none, stored; one for each sample found")
    if has_condition(flow) and ("condition" in stored or is_given(flow)):
        flow = like_any(flow)
    times, noise_std, rms, projections = (numbers[name] for name in ("t", "noise_std", "rms", "projections"))
    at_times = f"at t = {_text(times)}"
    for name, found in zip(("alpha", "sigma"), _scheduler(flow, times), strict=True):
        there = numbers.get(name)
        if found is not None and there is not None:
            if not np.allclose(there, found, rtol=_SCHEDULER_TOLERANCE, atol=_SCHEDULER_TOLERANCE):
                lines.append(f"scheduler: {name} {at_times}: {_text(there)} stored, {_text(found)} found")
    lines += _source_differences(numbers.get("source"), flow)
    found_rms, found_projections = _look(flow, times, noise_std, NUM_SAMPLES)
    # Relative to the velocity, so that all times count alike; where it vanishes, only round-off is left of it.
    scale = np.maximum(rms, 0.01 * noise_std)[:, None]
    distance = math.sqrt(np.mean(np.square((projections - found_projections) / scale)))
    if not distance <= TOLERANCE:  # true for NaN
        lines.append(
            f"velocity: RMS {at_times}: {_text(rms)} stored, {_text(found_rms)} found; "
            f"{100 * distance:.2g} % apart, up to {100 * TOLERANCE:g} % may be rounding"
        )
    return lines


def _scheduler(flow: Flow, times: Iterable[float]) -> tuple[list[float] | None, list[float] | None]:
    """(alpha, sigma) at the times, or (None, None)."""
    if flow.scheduler is None:
        return None, None
    alpha, sigma = (
        _short([np.asarray(function(jnp.float32(t)), np.float64) for t in times])
        for function in (flow.scheduler.alpha, flow.scheduler.sigma)
    )
    return alpha, sigma


def _of_source(flow: Flow) -> list[float]:
    """Mean and standard deviation of x0 from a flow's source."""
    count = max(NUM_SAMPLES, min(_DRAWS, _DRAWN // math.prod(flow.event_shape)))
    x0 = np.asarray(flow.ravel(flow.noise(jax.random.key(0), (count,))), np.float64)
    return _short([np.mean(x0), np.std(x0)])


def _source_differences(stored: Any, flow: Flow) -> list[str]:
    """A line if the sources of x0 differ; stored are mean and standard deviation, or None for Gaussian noise."""
    found = None if flow.source is None else _of_source(flow)
    if stored is None or found is None:
        names = ["Gaussian noise" if each is None else "one of its own" for each in (stored, found)]
        return [] if stored is found else [f"source: {names[0]} stored, {names[1]} found"]
    (mean, std), (found_mean, found_std) = stored, found
    allowed = _SOURCE_TOLERANCE * max(std, found_std) + _SCHEDULER_TOLERANCE * abs(mean)
    if abs(mean - found_mean) <= allowed and abs(std - found_std) <= allowed:
        return []
    return [f"source: mean and standard deviation of x0 {_text(stored)} stored, {_text(found)} found"]


def _look(
    flow: Flow, times: Iterable[float], noise_std: Iterable[float], num_samples: int
) -> tuple[list[float], list[list[float]]]:
    """(the RMS of the velocities at each time, the projection of each velocity)."""
    # RandomState, because NumPy guarantees that its numbers are the same in all versions.
    noise, *directions = np.random.RandomState(0).standard_normal((1 + len(_TIMES), num_samples, *flow.event_shape))
    rms, projections = [], []
    for t, std, direction in zip(times, noise_std, directions, strict=True):
        u = np.asarray(kernels.velocity(flow, np.float32(t), jnp.asarray(std * noise, jnp.float32)), np.float64)
        if not np.all(np.isfinite(u)):
            u = np.full_like(u, np.nan)
        u, direction = u.reshape(num_samples, -1), direction.reshape(num_samples, -1)
        rms.append(math.sqrt(np.mean(np.square(u))))
        projections.append(_short(np.sum(u * direction, axis=1) / math.sqrt(u.shape[1])))
    return _short(rms), projections


def _short(values: Iterable[Any]) -> list[float]:
    """The numbers to six digits, about the precision of float32."""
    return [float(f"{float(value):.6g}") for value in values]


def _text(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def check(stored: Any) -> None:
    """Raise ValueError, naming the field, unless this is a fingerprint in the form of `fingerprint`."""
    _read(stored)


def _read(stored: Any) -> dict[str, Float[np.ndarray, "..."]]:
    """The numbers of a stored fingerprint. Their number is fixed, so that no file can ask for more work than that."""
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
    shapes |= {"source": (2,)} if stored.get("source") is not None else {}
    numbers = {name: numbers_of_json(f"flow.{name}", stored.get(name), shape) for name, shape in shapes.items()}
    if not np.all((numbers["t"] >= 0) & (numbers["t"] <= 1)):
        raise ValueError(f"flow.t: wanted times within [0, 1], got {stored['t']}.")
    for name in ("noise_std", "rms"):
        if np.any(numbers[name] < 0):
            raise ValueError(f"flow.{name}: wanted numbers >= 0, got {stored[name]}.")
    return numbers
