"""The memory that a fit needs, checked before it begins."""

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
    """Bytes of true paths: two states each, or three for each step that Dopri5 usually takes.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[0.0] * 1000, std=1.0)
        >>> of_paths(flow, 192, ends_only=True), of_paths(flow, 192, ends_only=False)
        (1536000, 55296000)
    """
    return num_paths * (2 if ends_only else 3 * _USUAL_STEPS) * itemsize * math.prod(flow.event_shape)


def available(flow: Flow) -> int | None:
    """Bytes of memory of each of the flow's devices, or of the machine where they share its memory; None if unknown."""
    mesh = mesh_of(flow)
    devices = jax.local_devices()[:1] if mesh is None else [d for d in mesh.devices.flat if d in jax.local_devices()]
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices if device.platform != "cpu"]
    if limits:
        return min((limit for limit in limits if limit), default=None)
    return None if (whole := _of_machine()) is None else whole // max(1, len(devices))


def _of_machine():
    """Bytes of memory of the machine, or of the container that this process runs in."""
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    try:
        return min(whole, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no container, or one without a limit
        return whole


def check_memory(flow: Flow, num_paths: int, ends_only: bool, chunk_size: int, nfe: int, probes: int) -> None:
    """Raise ValueError, with the sizes and what to lower, if the states of a fit exceed the memory.

    Args:
        flow: the flow.
        num_paths: paths to fit to and to hold out.
        ends_only: whether only their ends are kept.
        chunk_size, nfe, probes: of an update, which keeps a state and a velocity for each evaluation and propagates a cotangent
            for the error and for each probe. The network's own memory is not known here.
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
        f"{name}: wanted true paths and an update that fit into {_SHARE:.0%} of {_gigabytes(limit)}, got {_gigabytes(paths)} and "
        f"{_gigabytes(update)} besides the network's own memory. Lower {lower}{whole}."
    )


def _gigabytes(size) -> str:
    return f"{np.float64(size) / 2**30:.3g} GiB"
