"""Data parallelism: the flow's parameters say on which devices everything is computed.

`replicate` copies a flow to all devices; from then on true paths, fits and samples of it have their samples spread over
them. Nothing else changes: theta and what is reported stay single arrays, and one device or many give the same
numbers to rounding. Parameters that you have sharded over a mesh yourself, because they are large, work the same way.

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

from bespoke_jax.flow import Flow

__all__ = ["everywhere", "everywhere_over", "gather", "mesh_of", "on_one_device", "replicate", "spread", "spread_over"]


def replicate(flow: Flow, devices: Sequence[jax.Device] | None = None) -> Flow:
    """The flow with its parameters on each of `devices`, all of them by default.

    Example:
        >>> import bespoke_jax as bj
        >>> flow = replicate(bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5))
        >>> mesh_of(flow).size == jax.device_count()
        True
    """
    mesh = Mesh(np.asarray(jax.devices() if devices is None else devices), ("samples",))
    return jax.device_put(flow, NamedSharding(mesh, PartitionSpec()))


def on_one_device(flow: Flow) -> Flow:
    """A replicated flow on one device of this process: for what one process does alone, as the others would not join in.

    Example:
        >>> import bespoke_jax as bj
        >>> flow = replicate(bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5))
        >>> mesh_of(on_one_device(flow)) is None
        True
    """
    return jax.tree.map(
        lambda leaf: leaf.addressable_data(0) if isinstance(leaf, jax.Array) and leaf.is_fully_replicated else leaf,
        flow,
    )


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
