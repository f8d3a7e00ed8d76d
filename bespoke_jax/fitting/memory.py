"""What a fit will keep in memory, said before it begins."""

import math
import os
import pathlib

import jax
import numpy as np

from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import mesh_of

__all__ = ["available", "check_memory", "of_paths"]

_USUAL_STEPS = 24  # of Dopri5 at 1e-5
_SHARE = 0.9


def of_paths(flow: Flow, num_paths: int, ends_only: bool, itemsize: int = 4) -> int:
    """Bytes of so many true paths: two states each, or three for each step that Dopri5 usually takes.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[0.0] * 1000, std=1.0)
        >>> of_paths(flow, 192, ends_only=True), of_paths(flow, 192, ends_only=False)
        (1536000, 55296000)
    """
    return num_paths * (2 if ends_only else 3 * _USUAL_STEPS) * itemsize * math.prod(flow.event_shape)


def available(flow: Flow) -> int | None:
    """Bytes that each of the flow's devices can hold, or the machine, if it is their memory; None if nobody says."""
    mesh = mesh_of(flow)
    devices = jax.local_devices()[:1] if mesh is None else [d for d in mesh.devices.flat if d in jax.local_devices()]
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices if device.platform != "cpu"]
    if limits:
        return min((limit for limit in limits if limit), default=None)
    return None if (whole := _of_machine()) is None else whole // max(1, len(devices))


def _of_machine():
    """What the machine has, or the container that this runs in."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(whole, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return whole


def check_memory(flow: Flow, num_paths: int, ends_only: bool, chunk_size: int, nfe: int, probes: int) -> None:
    """Raise ValueError if the states that a fit keeps cannot be held; says what they take, and what to lower.

    Args:
        flow: the flow.
        num_paths: to fit to and held out.
        ends_only: whether only their ends are kept.
        chunk_size, nfe, probes: of an update, which keeps a state and a velocity for each evaluation and goes back with a
            cotangent for the error and each probe. What the network itself takes is not known here.
    """
    limit = available(flow)
    if limit is None:
        return
    event = 4 * math.prod(flow.event_shape)
    paths = of_paths(flow, num_paths, ends_only)
    update = chunk_size * event * (2 * nfe + (1 + probes) * (nfe + 1))
    if paths + update <= _SHARE * limit:
        return
    name, lower = "num_paths", f"num_paths + num_validation = {num_paths}"
    if update > paths:
        name = lower = "Stage.chunk_size"
    whole = (
        "" if ends_only else ", or use a loss of ends ('endpoint', 'rmse'), which needs no more than the ends of paths"
    )
    raise ValueError(
        f"{name}: the true paths need {_gigabytes(paths)} and an update {_gigabytes(update)} besides the network's own, and "
        f"there are {_gigabytes(limit)}. Lower {lower}{whole}."
    )


def _gigabytes(size) -> str:
    return f"{np.float64(size) / 2**30:.3g} GiB"
