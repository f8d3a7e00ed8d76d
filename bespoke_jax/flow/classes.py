"""Conditions that are classes: indices, or weights of the classes."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import known
from bespoke_jax.flow.conditions import CONDITION, condition_of, has_condition, is_given
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guided import of_network
from bespoke_jax.types import Array

__all__ = ["class_weights", "image_of", "num_classes"]


def num_classes(flow: Flow) -> int | None:
    """How many classes there are, if the flow is `given` conditions that are classes: indices, or one-hot vectors [K].

    None if the samples have no conditions of their own, or others, or if the conditions are traced.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.int32(0)}, ())
        >>> num_classes(bj.given(flow, [2, 0, 2])), num_classes(flow)
        (3, None)
    """
    leaves = jax.tree.leaves(of_network(condition_of(flow)))
    values = known(leaves[0]) if len(leaves) == 1 else None
    if values is None:
        return None
    if values.ndim == 1 and np.issubdtype(values.dtype, np.integer) and np.all(values >= 0):
        return int(np.max(values)) + 1
    is_vector = values.ndim == 2 and jnp.issubdtype(values.dtype, jnp.floating)
    if is_vector and np.all((values == 0) | (values == 1)) and np.all(np.sum(values, axis=1) == 1):
        return values.shape[1]
    return None


def class_weights(flow: Flow, count: int) -> Float[jax.Array, "... K"] | None:
    """The weights of K = `count` classes: [K], or [B, K] if each of B samples is `given` a class.

    All are 0 where there is no class: a vector of zeros, or an index that is not below K.

    Returns:
        None if the flow's condition is neither one index nor one vector [K].

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = Flow(lambda p, t, x: p["condition"] - x, {"condition": jnp.int32(0)}, ())
        >>> class_weights(bj.given(flow, [2, 0]), 3).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    if not has_condition(flow):
        return None
    leaves = jax.tree.leaves(of_network(condition_of(flow) if is_given(flow) else flow.params[CONDITION]))
    if len(leaves) != 1:
        return None
    (leaf,) = leaves
    shape, dtype = jnp.shape(leaf)[is_given(flow) :], jnp.result_type(leaf)
    if shape == () and jnp.issubdtype(dtype, jnp.integer):
        return jax.nn.one_hot(leaf, count)
    return leaf if shape == (count,) and jnp.issubdtype(dtype, jnp.floating) else None


def image_of(name: str, xi: Float[Array, "..."], flow: Flow) -> jax.Array:
    """The image of the flow's samples, [*event] or [B, *event].

    Args:
        name: of xi, in errors.
        xi: one image [*event], or one for each class [K, *event]; a sample without a class has their mean.
        flow: the flow of the samples.

    Raises:
        ValueError: if the image is not of the flow's event shape, or has classes that the flow's condition does not name.
    """
    shape, event = jnp.shape(xi), flow.event_shape
    if shape == event:
        return jax.device_put(xi)
    weights = class_weights(flow, shape[0]) if shape[1:] == event else None
    if weights is None:
        raise ValueError(
            f"{name}: wanted the flow's event shape {event}, or one image for each class of a condition that is an index or a "
            f"vector of weights, got shape {shape}."
        )
    return _image_of_classes(xi, weights)


@jax.jit
def _image_of_classes(xi, weights):
    mean = jnp.mean(xi, axis=0)
    return mean + jnp.tensordot(weights.astype(xi.dtype), xi - mean, axes=1)
