"""What the adapters of modules share: how a module is called, and the flow that comes of it."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_choice
from bespoke_jax.flow.conditions import CONDITION
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.prediction import PREDICTIONS
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import EventShape, Numbers, PyTree, VelocityFunction

__all__ = ["call_of", "check_attributes", "flow_of"]

_TIMES = ("t", "time", "times", "timestep", "timesteps")


def call_of(call: Any, function: Callable, condition: Any, *, one_sample: bool) -> Callable:
    """`call`, or the default: the module's two arguments in their own order, the one called t (or time, timesteps, ...) the time.

    Args:
        call: of the user, or None.
        function: the module's `__call__`, whose parameters have names.
        condition: of the user; with one there is no default.
        one_sample: whether the module takes one sample and a scalar time; otherwise a batch and a time for each sample.

    Raises:
        TypeError: if `call` is not a function.
        ValueError: if the names do not tell.
    """
    if call is not None:
        if not callable(call):
            raise TypeError(f"call: wanted a function of (module, t, x), got {type(call).__name__}.")
        return call
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin
        parameters = []
    parameters = [p for p in parameters if p.name not in ("self", "key", "rngs")]
    names = [
        p.name for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    times = [i for i, name in enumerate(names) if name in _TIMES]
    if condition is not None or len(names) != 2 or len(times) != 1:
        arguments = "module, t, x" if condition is None else "module, t, x, condition"
        raise ValueError(
            f"call: wanted a function call({arguments}), because the module takes ({', '.join(names)}), not x and t alone; for "
            f"example lambda {arguments}: module(x, {'t' if one_sample else 'jnp.full(len(x), t)'})."
        )
    return {(0, True): _time_first, (1, True): _time_last, (0, False): _times_first, (1, False): _times_last}[
        times[0], one_sample
    ]


def check_attributes(module: Any, fields: Callable[[Any], Iterable[str]], remedy: str) -> None:
    """Raise ValueError if an attribute that compiled programs are known by is an array, which has no equality.

    Args:
        module: of the user; modules among its attributes are looked at, too.
        fields: module -> the names of such attributes of a module; empty for anything that is no module.
        remedy: what to do.
    """

    def look(value, path):
        if isinstance(value, jax.Array | np.ndarray):
            raise ValueError(
                f"module: wanted no arrays among its attributes, which have to be comparable, got one of shape {value.shape} at "
                f"{path}. {remedy}"
            )
        if isinstance(value, dict | list | tuple):
            entries = value.items() if isinstance(value, dict) else enumerate(value)
            for key, entry in entries:
                look(entry, f"{path}[{key!r}]")
        for name in fields(value):
            look(getattr(value, name, None), f"{path}.{name}")

    look(module, "module")


# At module level, so that flows of equal modules share compiled programs.


def _time_first(module, t, x):
    return module(t, x)


def _time_last(module, t, x):
    return module(x, t)


def _times_first(module, t, x):
    return module(jnp.full(_size(x), t), x)


def _times_last(module, t, x):
    return module(x, jnp.full(_size(x), t))


def _size(x):
    return jax.tree.leaves(x)[0].shape[0]  # may be symbolic


def flow_of(
    velocity: VelocityFunction,
    params: PyTree,
    event_shape: EventShape,
    scheduler: Scheduler | None,
    prediction: str,
    condition: PyTree,
    time: str | Numbers,
    options: dict[str, Any],
) -> Flow:
    """The flow, after one abstract evaluation: errors of the module come now, and not within a fit.

    Args:
        velocity: of (params, t, x); with a condition, params is {"network": ..., "condition": ...}.
        params: of the module alone.
        event_shape, scheduler: as for `Flow`.
        prediction: as for `Flow.from_prediction`.
        condition: of one sample, or None.
        time: the module's, as for `Flow.from_prediction`.
        options: `source`, `weights` and `time_margin`, as for `Flow.from_prediction`.
    """
    check_choice("prediction", prediction, PREDICTIONS)
    if condition is not None:
        params = {"network": params, CONDITION: jax.tree.map(jnp.asarray, condition)}
    if prediction == "velocity" and options["time_margin"] is not None:
        raise ValueError(
            f"time_margin: wanted None for a module that predicts the velocity, got {options['time_margin']!r}."
        )
    plain = isinstance(time, str) and time == "noise_at_0"
    if prediction == "velocity" and plain:
        flow = Flow(velocity, params, event_shape, scheduler, source=options["source"], weights=options["weights"])
    elif scheduler is None:
        why = f"prediction={prediction!r}" if plain else f"time={time!r:.40}"
        raise TypeError(f"scheduler: wanted that of the network for {why}, got None.")
    else:
        flow = Flow.from_prediction(
            velocity, params, event_shape, scheduler, prediction, time=time, per_sample_time=False, **options
        )
    shape = flow.event_shape
    batch = next(size for size in (3, 5, 7, 11, 13) if size not in shape or len(shape) > 4)
    jax.eval_shape(flow, jax.ShapeDtypeStruct((), np.float32), jax.ShapeDtypeStruct((batch, *shape), np.float32))
    return flow
