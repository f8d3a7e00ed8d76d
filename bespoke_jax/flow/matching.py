"""Conditions that have to match a flow's own: their structure, shapes and kinds of numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_numeric, known
from bespoke_jax.types import PyTree

__all__ = ["as_arrays", "cast", "check_like", "kind_of", "matched"]

_KINDS = {"a boolean": jnp.bool_, "an integer": jnp.integer, "a float": jnp.floating}


def kind_of(leaf: Any) -> str:
    """The kind of an array's numbers in words: "a boolean", "an integer" or "a float"."""
    dtype = jnp.result_type(leaf)
    return next((name for name, kind in _KINDS.items() if jnp.issubdtype(dtype, kind)), str(dtype))


def matched(one: PyTree, conditions: PyTree) -> Any:
    """Conditions of several samples as arrays in the dtypes of one sample's.

    Args:
        one: the condition of one sample, or its shapes and dtypes.
        conditions: a pytree of the same structure, its leaves with one more leading axis.

    Raises:
        ValueError: if they do not match.

    Examples:
        >>> matched({"centre": jnp.zeros(2)}, {"centre": [[1, 2], [3, 4], [5, 6]]})["centre"].shape
        (3, 2)
    """
    try:
        conditions = jax.tree.map(_array_of, one, conditions)
        sizes = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(conditions)}
        fit = all(
            jnp.shape(new)[1:] == jnp.shape(own)
            for own, new in zip(jax.tree.leaves(one), jax.tree.leaves(conditions), strict=True)
        )
    except (IndexError, TypeError, ValueError):
        fit, sizes = False, set()
    if not fit or len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"conditions: wanted the shapes of the flow's own, {jax.tree.map(jnp.shape, one)}, after one leading axis, the same "
            f"for all, got {jax.tree.map(_shape, conditions)}."
        )
    return jax.tree.map(_as, one, conditions)


def as_arrays(conditions: PyTree) -> Any:
    """Conditions of several samples as arrays, for a flow without a condition of its own to match.

    A list of numbers, or of such lists, is one array; other lists are part of the tree.

    Raises:
        TypeError: if they are no arrays.
        ValueError: if they have no leading axis, or not the same.
    """
    conditions = jax.tree.map(_as_array, conditions, is_leaf=_is_numbers)
    leaves = jax.tree.leaves(conditions)
    for leaf in leaves:
        check_numeric("conditions", leaf)
    sizes = {jnp.shape(leaf)[:1] for leaf in leaves}
    if len(sizes) != 1 or sizes & {(), (0,)}:
        shapes = jax.tree.map(_shape, conditions)
        raise ValueError(f"conditions: wanted arrays with one leading axis, the same for all, got {shapes}.")
    return jax.tree.map(jnp.asarray, conditions)


def _is_numbers(node: Any) -> bool:
    """Whether a part of a tree is a list of plain numbers, or of such lists."""
    leaves = jax.tree.leaves(node)
    return isinstance(node, list) and bool(leaves) and all(isinstance(leaf, int | float) for leaf in leaves)


def _as_array(leaf: Any) -> Any:
    try:
        return np.asarray(leaf) if isinstance(leaf, list) else leaf
    except ValueError as error:
        raise ValueError(
            "conditions: wanted lists of equal lengths, or arrays, got lists of different lengths."
        ) from error


def _shape(leaf: Any) -> Any:
    return jnp.shape(leaf) if hasattr(leaf, "shape") else type(leaf).__name__


def _array_of(own: Any, new: Any) -> Any:
    new = new if hasattr(new, "dtype") else np.asarray(new)
    check_numeric("conditions", new)
    return new


def _as(own: Any, new: Any) -> jax.Array:
    """`new` in the dtype of the flow's own condition, if that can hold it."""
    kinds, dtype = (kind_of(own), kind_of(new)), jnp.result_type(own)
    if kinds[0] != kinds[1] and kinds != ("a float", "an integer"):
        raise ValueError(f"conditions: wanted {kinds[0]} for each sample, like the flow's own, got {kinds[1]}.")
    numbers = known(new) if kinds[0] == "an integer" else None
    if numbers is not None and not np.array_equal(numbers, numbers.astype(dtype)):
        raise ValueError(f"conditions: wanted integers that {dtype} can hold, got {numbers}.")
    return jnp.asarray(new).astype(dtype)


def check_like(condition: PyTree, unconditional: PyTree) -> None:
    """Raise ValueError unless `unconditional` has the condition's structure, shapes and kinds of numbers."""
    for leaf in jax.tree.leaves(unconditional):
        check_numeric("unconditional", leaf)
    wanted, got = (jax.tree.map(jnp.shape, tree) for tree in (condition, unconditional))
    if got != wanted:
        raise ValueError(
            f"unconditional: wanted the shapes of one sample's condition, {wanted}, got {got}; for a value that depends on the "
            "sample, give a function of its condition."
        )
    leaves = jax.tree_util.tree_leaves_with_path(condition)
    for (path, own), other in zip(leaves, jax.tree.leaves(unconditional), strict=True):
        kinds = kind_of(own), kind_of(other)
        if kinds[0] != kinds[1] and kinds != ("a float", "an integer"):
            raise ValueError(f"unconditional{jax.tree_util.keystr(path)}: wanted {kinds[0]}, got {kinds[1]}.")


def cast(unconditional: PyTree, condition: PyTree) -> Any:
    """`unconditional` in the dtypes of the condition; what is the condition's own stays the same array."""

    def as_own(other, own):
        return other if other is own else jnp.asarray(other, jnp.result_type(own))

    return jax.tree.map(as_own, unconditional, condition)
