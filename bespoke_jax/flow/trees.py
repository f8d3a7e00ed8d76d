"""Events that are trees of arrays: one sample of several parts, such as positions and features of a molecule.

The library computes with one array per sample: the leaves, each flattened, one after another. A tree is taken apart where a state
comes from the caller, and put together where one is returned, or where the velocity is called.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_numeric, check_shape
from bespoke_jax.flow.call import like
from bespoke_jax.flow.wrapper import Wrapper
from bespoke_jax.types import Array, PyTree, Scalar, VelocityFunction

__all__ = ["Event", "TreeVelocity", "event_of", "of_arrays"]


@dataclasses.dataclass(frozen=True)
class Event:
    """The structure of one sample that is a tree of arrays. Frozen: equal by value.

    Attributes:
        structure: the `PyTreeDef`.
        places: where each leaf stands, as errors write it: "['positions']".
        shapes: the shape of each leaf.

    Examples:
        >>> event = Event.of({"image": (2, 2), "label": (3,)})
        >>> event.size, event.ravel("x", {"image": jnp.zeros((5, 2, 2)), "label": jnp.ones((5, 3))}).shape
        (7, (5, 7))
    """

    structure: Any
    places: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, event_shape: PyTree) -> "Event":
        """The event whose leaves have these shapes.

        Raises:
            TypeError, ValueError: if a leaf is no shape; the message names it.
        """
        leaves, structure = jax.tree_util.tree_flatten_with_path(event_shape, is_leaf=_is_shape)
        places = tuple(jax.tree_util.keystr(path) for path, _ in leaves)
        if not leaves:
            raise ValueError(f"event_shape: wanted a tree of shapes, got {event_shape!r}, which has no leaves.")
        shapes = (check_shape(f"event_shape{place}", leaf) for place, (_, leaf) in zip(places, leaves, strict=True))
        return cls(structure, places, tuple(shapes))

    @property
    def size(self) -> int:
        """D, the numbers of a sample."""
        return sum(self._sizes)

    @property
    def tree(self) -> Any:
        """The tree of shapes."""
        return jax.tree.unflatten(self.structure, self.shapes)

    @property
    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    def ravel(self, name: str, x: PyTree) -> Float[jax.Array, "*batch D"]:
        """One array [*batch, D] of a tree of arrays [*batch, *leaf].

        Args:
            name: of the tree, in errors.
            x: its leaves have one floating dtype and the same batch axes.

        Raises:
            TypeError: for leaves that are no floating arrays, or of several dtypes.
            ValueError: for another structure, other shapes, or batch axes that differ.
        """
        leaves = self.leaves(name, x)
        first, batch = check_numeric(f"{name}{self.places[0]}", leaves[0])[1], None
        for place, shape, leaf in zip(self.places, self.shapes, leaves, strict=True):
            found, dtype = check_numeric(f"{name}{place}", leaf)
            if not jnp.issubdtype(dtype, jnp.floating):
                raise TypeError(f"{name}{place}: wanted a floating dtype, got {dtype}.")
            if dtype != first:
                raise TypeError(
                    f"{name}{place}: wanted the dtype of {name}{self.places[0]}, {first}, got {dtype}; all leaves have one."
                )
            ndim = len(found) - len(shape)
            if ndim < 0 or found[ndim:] != shape or batch not in (None, found[:ndim]):
                axes = ("*batch",) if batch is None else batch
                raise ValueError(f"{name}{place}: wanted shape [{', '.join(map(str, (*axes, *shape)))}], got {found}.")
            batch = found[:ndim]
        assert batch is not None  # there is a leaf
        return jnp.concatenate(
            [jnp.reshape(leaf, (*batch, size)) for leaf, size in zip(leaves, self._sizes, strict=True)], axis=-1
        )

    def unravel(self, x: Float[Array, "*batch D"]) -> Any:
        """The tree of arrays [*batch, *leaf] of one array [*batch, D]."""
        batch, ends = jnp.shape(x)[:-1], np.cumsum(self._sizes).tolist()
        leaves = [
            jnp.reshape(x[..., end - size : end], (*batch, *shape))
            for end, size, shape in zip(ends, self._sizes, self.shapes, strict=True)
        ]
        return jax.tree.unflatten(self.structure, leaves)

    def leaves(self, name: str, x: PyTree) -> list[Any]:
        """The leaves of a tree of this structure. Raises ValueError, naming the leaf, for another structure."""
        found, structure = jax.tree_util.tree_flatten_with_path(x)
        if structure == self.structure:
            return [leaf for _, leaf in found]
        if jax.tree_util.all_leaves([x]):
            raise ValueError(f"{name}: wanted a tree of arrays like event_shape, {self.tree}, got {type(x).__name__}.")
        places = [jax.tree_util.keystr(path) for path, _ in found]
        for place in self.places:
            if place not in places:
                raise ValueError(f"{name}{place}: wanted an array, as event_shape is {self.tree}, got none.")
        for place in places:
            if place not in self.places:
                raise ValueError(f"{name}{place}: wanted no such leaf, as event_shape is {self.tree}, got one.")
        raise ValueError(f"{name}: wanted the structure of event_shape, {self.structure}, got {structure}.")


def _is_shape(value: Any) -> bool:
    """Whether this is a shape: a tuple or list of integers."""
    if not isinstance(value, tuple | list):
        return False
    return all(isinstance(size, int | np.integer) and not isinstance(size, bool) for size in value)


def event_of(event_shape: Any) -> Event | None:
    """The event, if this is a tree of shapes; None for one shape, and for what is neither.

    Examples:
        >>> event_of((8, 8, 1)), event_of(())
        (None, None)
        >>> event_of(((8, 8, 1), (10,))).shapes
        ((8, 8, 1), (10,))
    """
    if _is_shape(event_shape):
        return None
    leaves = jax.tree.leaves(event_shape, is_leaf=_is_shape)
    return Event.of(event_shape) if isinstance(event_shape, dict) or any(map(_is_shape, leaves)) else None


def of_arrays(name: str, velocity: Any, event: Event | None, shape: tuple[int, ...] | None = None) -> Any:
    """A velocity of arrays: one of trees is wrapped, unless that is done already.

    Args:
        name: of the velocity, in errors.
        velocity: the caller's, or one made of it.
        event: what its samples are; None for arrays.
        shape: of the samples, for arrays.

    Raises:
        ValueError: if it is of other trees, or of trees and not of arrays of this shape.
    """
    own = getattr(velocity, "event", None)
    own = own if isinstance(own, Event) else None
    if own is None:
        return velocity if event is None or not callable(velocity) else TreeVelocity(velocity, event, name)
    if own != event and (event is not None or shape != (own.size,)):
        got = shape if event is None else event.tree
        raise ValueError(f"event_shape: wanted the tree of the velocity, {own.tree}, got {got}.")
    return velocity


@dataclasses.dataclass(frozen=True)
class TreeVelocity(Wrapper):
    """A velocity, or another prediction, of trees as one of arrays [B, D]. Frozen: equal by value.

    Attributes:
        velocity: `velocity(params, t, x) -> tree like x`, x a tree of [B, *leaf].
        of: the structure of a sample.
        name: of the velocity, in errors.
    """

    velocity: VelocityFunction
    of: Event
    name: str

    @property
    def event(self) -> Event:
        """The structure of a sample."""
        return self.of

    @property
    def __name__(self) -> str:
        return getattr(self.velocity, "__name__", type(self.velocity).__name__)

    @property
    def calls_per_evaluation(self) -> int:
        """The wrapped velocity's."""
        return getattr(self.velocity, "calls_per_evaluation", 1)

    def __call__(self, params: PyTree, t: Scalar, x: Float[Array, "B D"]) -> Float[jax.Array, "B D"]:
        tree = self.of.unravel(x)
        out = self.of.leaves(self.name, self.velocity(params, t, tree))
        leaves = [
            like(own, leaf, f"{self.name}{place}", "the velocity of a leaf")
            for own, leaf, place in zip(jax.tree.leaves(tree), out, self.of.places, strict=True)
        ]
        return self.of.ravel(self.name, jax.tree.unflatten(self.of.structure, leaves))
