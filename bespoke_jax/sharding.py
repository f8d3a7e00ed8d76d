"""Data parallelism: the flow's parameters say on which devices everything is computed.

`replicate` copies a flow to all devices; from then on true paths, fits and samples of it have their samples spread over
them. Nothing else changes: theta and what is reported stay single arrays, and one device or many give the same
numbers to rounding. Parameters that you have sharded over a mesh yourself, because they are large, work the same way.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bespoke_jax.flow import Flow

__all__ = ["gather", "mesh_of", "replicate", "spread", "spread_over"]


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


def mesh_of(flow: Flow) -> Mesh | None:
    """The devices that the flow's parameters lie on; None if nobody placed them, or while they are traced."""
    for leaf in jax.tree.leaves(flow):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            return leaf.sharding.mesh if isinstance(leaf.sharding, NamedSharding) else None
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
        spec = PartitionSpec(*(None,) * axis, mesh.axis_names) if even else PartitionSpec()
        return jax.device_put(array, NamedSharding(mesh, spec))

    return jax.tree.map(place, tree)


def gather(flow: Flow, tree: Any) -> Any:
    """Small arrays, on one device or the same on each of the flow's, as arrays that go with any device."""
    return tree if mesh_of(flow) is None else jax.tree.map(lambda array: jnp.asarray(np.asarray(array)), tree)
