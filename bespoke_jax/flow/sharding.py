"""Data parallelism: the devices of the flow's parameters are those on which everything is computed.

`replicate` copies a flow to all devices; true paths, fits and samples of it then have their samples spread over these devices.
Nothing else changes: theta and reported numbers stay single arrays, and the results agree with those of one device to rounding.
`shard_params` splits large parameters over the devices instead of copying them; parameters that you have sharded over a mesh
yourself work the same way.

The devices may belong to several processes (`jax.distributed.initialize`). Every process then runs the same program on the same
numbers, and computes the samples on its own devices. All numbers on which Python branches are first `gather`ed, which makes them
the first process's, so rounding cannot lead the processes apart.
"""

import os
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.core
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bespoke_jax.checks import check_count, items_of
from bespoke_jax.flow.flow import Flow
from bespoke_jax.types import Array, Device, PyTree

__all__ = [
    "everywhere",
    "everywhere_over",
    "gather",
    "mesh_of",
    "num_cores",
    "on_one_device",
    "replicate",
    "shard_params",
    "spread",
    "spread_over",
    "use_all_cores",
]


T = TypeVar("T")  # a flow, or any other tree whose leaves say on which devices it lies


def use_all_cores() -> None:
    """Count each core of a CPU as a device, up to eight, so that `replicate` uses them; call it before anything else of JAX.

    By itself JAX counts a CPU as one device, which keeps little more than one core busy with a small network. The number is a
    power of 2, which divides most numbers of samples; one that is set already, by JAX_NUM_CPU_DEVICES or in XLA_FLAGS, is kept.
    Programs on the CPU then run one at a time. Computations on GPUs and TPUs stay as they are.

    Raises:
        RuntimeError: if JAX has computed something before.

    Examples:
        >>> bj.sharding.use_all_cores()  # doctest: +SKIP
        >>> flow = bj.sharding.replicate(bj.models.load_flow("fashion_fmot"))  # doctest: +SKIP
    """
    config: Any = jax.config
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not chosen and config.jax_num_cpu_devices < 1:
        try:
            config.update("jax_num_cpu_devices", _devices_of_cores(num_cores()))
        except RuntimeError:
            raise RuntimeError(
                "use_all_cores: wanted a call before anything else of JAX, which counts the devices once, got one after a "
                "computation; call it first in your script."
            ) from None
    # A program that waits for the others' terms of a sum can hold the thread that they need; XLA then aborts after 40 seconds.
    config.update("jax_cpu_enable_async_dispatch", False)


def num_cores() -> int:
    """The cores that this process may use; all of the machine's where the system does not say.

    Examples:
        >>> num_cores() >= 1
        True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _devices_of_cores(cores: int) -> int:
    """The largest power of 2 that is neither above the number of cores nor above 8."""
    return min(8, 2 ** (cores.bit_length() - 1))


def replicate(flow: T, devices: Sequence[Device] | None = None) -> T:
    """The flow with a copy of its parameters on each of `devices`; None for all devices.

    Raises:
        TypeError: if `devices` is anything else, a Mesh too.
        ValueError: if there are none.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = replicate(bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5))
        >>> mesh_of(flow).size == jax.device_count()
        True
    """
    return jax.device_put(flow, NamedSharding(_mesh(devices), PartitionSpec()))


def shard_params(flow: Flow, devices: Sequence[Device] | None = None, min_size: int = 2**18) -> Flow:
    """The flow with its large parameters split over `devices`, and its small ones copied to each.

    For networks too large for one device: each device holds its part, and XLA gathers the parameters of a layer when it needs
    them. Samples are spread over the same devices, as after `replicate`, which is faster where memory allows it.

    Args:
        flow: the flow.
        devices: the devices; None for all.
        min_size: the smallest number of entries for which a leaf is split. It is split along its largest axis that the number of
            devices divides, and copied if there is none.

    Raises:
        TypeError: as `replicate`.
        ValueError: if `min_size` is not a positive integer, or there are no devices.

    Examples:
        >>> import jax, jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda w, t, x: jnp.tanh(x @ w), jnp.eye(1024), event_shape=(1024,))
        >>> split = shard_params(flow)
        >>> split.params.addressable_shards[0].data.size == 1024**2 // jax.device_count()
        True
    """
    min_size = check_count("min_size", min_size)
    mesh = _mesh(devices)

    def place(leaf):
        shape = np.shape(leaf)
        axes = [axis for axis, size in enumerate(shape) if size % mesh.size == 0] if np.size(leaf) >= min_size else []
        if not axes:
            return _placed(leaf, mesh, PartitionSpec())
        axis = max(axes, key=shape.__getitem__)
        return _placed(leaf, mesh, PartitionSpec(*(None,) * axis, mesh.axis_names))

    return jax.tree.map(place, flow)


def _mesh(devices: Sequence[Device] | None) -> Mesh:
    if isinstance(devices, Mesh):
        raise TypeError(
            "devices: wanted a sequence of devices, got a Mesh; list(mesh.devices.flat) has those of a mesh."
        )
    if devices is None:
        devices = jax.devices()
    found = items_of(devices) if isinstance(devices, Sequence | np.ndarray) else None
    if found is None or not all(isinstance(device, Device) for device in found):
        raise TypeError(f"devices: wanted a sequence of devices, got {devices!r}.")
    if not found:
        raise ValueError("devices: wanted at least one, got none.")
    return Mesh(np.asarray(found), ("samples",))


def on_one_device(flow: T) -> T:
    """The flow on one device of this process, for computations that one process does alone.

    Split parameters are put together first, so call it in all processes.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = replicate(bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5))
        >>> mesh_of(on_one_device(flow)) is None
        True
    """

    def on_one(leaf):
        if not isinstance(leaf, jax.Array):
            return leaf
        return (leaf if leaf.is_fully_replicated else everywhere(flow, leaf)).addressable_data(0)

    return jax.tree.map(on_one, flow)


def mesh_of(flow: PyTree) -> Mesh | None:
    """The devices of the flow's parameters; None if they have not been placed on a mesh, or are traced."""
    for leaf in jax.tree.leaves(flow):
        placed = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
        if placed and isinstance(leaf.sharding, NamedSharding):  # the first such leaf: conditions may lie elsewhere
            mesh = leaf.sharding.mesh
            assert isinstance(mesh, Mesh), "an array that is not traced lies on devices"
            return mesh
    return None


def spread(flow: PyTree, tree: PyTree, axis: int = 0) -> Any:
    """A tree of arrays with the samples, along `axis`, spread over the flow's devices; unchanged if the flow lies on no mesh.

    If the number of devices does not divide that of the samples, every device computes all samples: correct, but no faster.
    """
    return spread_over(mesh_of(flow), tree, axis)


def spread_over(mesh: Mesh | None, tree: PyTree, axis: int = 0) -> Any:
    """`spread` for compiled functions, in which the flow is traced and has no devices."""
    if mesh is None:
        return tree

    def place(array):
        even = array.shape[axis] % mesh.size == 0
        return _placed(array, mesh, PartitionSpec(*(None,) * axis, mesh.axis_names) if even else PartitionSpec())

    return jax.tree.map(place, tree)


def everywhere(flow: PyTree, tree: PyTree) -> Any:
    """A tree of arrays with all samples on each of the flow's devices, so that taking some needs no communication."""
    return everywhere_over(mesh_of(flow), tree)


def everywhere_over(mesh: Mesh | None, tree: PyTree) -> Any:
    """`everywhere` for compiled functions."""
    return tree if mesh is None else jax.tree.map(lambda array: _placed(array, mesh, PartitionSpec()), tree)


def _placed(array: Array, mesh: Mesh, spec: PartitionSpec) -> jax.Array:
    sharding = NamedSharding(mesh, spec)
    if isinstance(array, jax.core.Tracer):  # XLA may ignore a device_put in a compiled function
        return jax.lax.with_sharding_constraint(array, sharding)
    if mesh.is_multi_process and _is_here(array):
        values = np.asarray(array)  # every process has all values, and gives its devices their part
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)
    return jax.device_put(array, sharding)


def gather(flow: PyTree, tree: PyTree) -> Any:
    """A tree of arrays, on one device or on the flow's, as arrays for use with any device, equal on all processes."""
    mesh = mesh_of(flow)
    if mesh is None:
        return tree
    return jax.tree.map(
        lambda array: jax.device_put(_agreed(array) if mesh.is_multi_process else np.asarray(array)), tree
    )


def _agreed(array: Array) -> Any:
    """An array's values on all processes: its parts put together, or the first process's values if each has them all."""
    if not isinstance(array, jax.Array) or _is_here(array) or array.is_fully_replicated:
        return multihost_utils.broadcast_one_to_all(np.asarray(array))
    return multihost_utils.process_allgather(array, tiled=True)


def _is_here(array: Array) -> bool:
    """Whether this process holds the whole array."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable
