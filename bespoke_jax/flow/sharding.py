"""Data parallelism: the flow's parameters say on which devices everything is computed.

`replicate` copies a flow to all devices; from then on true paths, fits and samples of it have their samples spread over
them. Nothing else changes: theta and what is reported stay single arrays, and one device or many give the same
numbers to rounding. `shard_params` splits large parameters over the devices instead of copying them; those that you have sharded
over a mesh yourself work the same way.

The devices may belong to several processes (`jax.distributed.initialize`). Every process then runs the same program on the same
numbers, and computes the samples that lie on its own devices. Whatever Python decides by was `gather`ed first, and is the first
process's: no rounding can lead the processes apart.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bespoke_jax.checks import check_count
from bespoke_jax.flow.flow import Flow

__all__ = [
    "everywhere",
    "everywhere_over",
    "gather",
    "mesh_of",
    "on_one_device",
    "replicate",
    "shard_params",
    "spread",
    "spread_over",
]


def replicate(flow: Flow, devices: Sequence[jax.Device] | None = None) -> Flow:
    """The flow with its parameters on each of `devices`, all of them by default.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = replicate(bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5))
        >>> mesh_of(flow).size == jax.device_count()
        True
    """
    return jax.device_put(flow, NamedSharding(_mesh(devices), PartitionSpec()))


def shard_params(flow: Flow, devices: Sequence[jax.Device] | None = None, min_size: int = 2**18) -> Flow:
    """The flow with its large parameters split over `devices`, all of them by default, and the others on each.

    For networks that one device cannot hold: each has its part, and XLA brings together what a layer needs when it needs it.
    Samples are spread over the same devices, as after `replicate`, which is faster where memory allows it.

    Args:
        flow: the flow.
        devices: where to.
        min_size: numbers in a leaf from which on it is split, along its largest axis that the devices divide, if there is one.

    Raises:
        ValueError: if `min_size` is no positive integer.

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


def _mesh(devices):
    return Mesh(np.asarray(jax.devices() if devices is None else devices), ("samples",))


def on_one_device(flow: Flow) -> Flow:
    """The flow on one device of this process: for what one process does alone, as the others would not join in.

    Parameters that are split are put together first: call it in all processes.

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


def mesh_of(flow: Flow) -> Mesh | None:
    """The devices that the flow's parameters lie on; None if nobody placed them, or while they are traced."""
    for leaf in jax.tree.leaves(flow):
        placed = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
        if placed and isinstance(leaf.sharding, NamedSharding):  # conditions may be anywhere
            return leaf.sharding.mesh
    return None


def spread(flow: Flow, tree: Any, axis: int = 0) -> Any:
    """Arrays with their samples, along `axis`, spread over the flow's devices; as they are if it lies on no mesh.

    A number of samples that the devices do not divide is computed on every one of them: right, but no faster.
    """
    return spread_over(mesh_of(flow), tree, axis)


def spread_over(mesh: Mesh | None, tree: Any, axis: int = 0) -> Any:
    """`spread` for compiled functions, in which the flow no longer knows its devices."""
    if mesh is None:
        return tree

    def place(array):
        even = array.shape[axis] % mesh.size == 0
        return _placed(array, mesh, PartitionSpec(*(None,) * axis, mesh.axis_names) if even else PartitionSpec())

    return jax.tree.map(place, tree)


def everywhere(flow: Flow, tree: Any) -> Any:
    """Arrays with all samples on each of the flow's devices: any of them are taken without a word between devices."""
    return everywhere_over(mesh_of(flow), tree)


def everywhere_over(mesh: Mesh | None, tree: Any) -> Any:
    """`everywhere` for compiled functions."""
    return tree if mesh is None else jax.tree.map(lambda array: _placed(array, mesh, PartitionSpec()), tree)


def _placed(array, mesh, spec):
    sharding = NamedSharding(mesh, spec)
    if isinstance(array, jax.core.Tracer):  # a device_put in a compiled function is a wish that XLA may pass over
        return jax.lax.with_sharding_constraint(array, sharding)
    if mesh.is_multi_process and _is_here(array):
        values = np.asarray(array)  # every process has all, and gives its devices their part
        return jax.make_array_from_callback(values.shape, sharding, values.__getitem__)
    return jax.device_put(array, sharding)


def gather(flow: Flow, tree: Any) -> Any:
    """Arrays, on one device or on the flow's, as arrays that go with any device, the same on all processes."""
    mesh = mesh_of(flow)
    if mesh is None:
        return tree
    return jax.tree.map(lambda array: jnp.asarray(_agreed(array) if mesh.is_multi_process else np.asarray(array)), tree)


def _agreed(array):
    """An array's values on all processes: its parts put together, or, if each has all of it, those of the first."""
    if _is_here(array) or array.is_fully_replicated:
        return multihost_utils.broadcast_one_to_all(np.asarray(array))
    return multihost_utils.process_allgather(array, tiled=True)


def _is_here(array):
    """Whether this process holds all of it."""
    return not isinstance(array, jax.Array) or array.is_fully_addressable
