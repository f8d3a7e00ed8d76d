"""The states of a flow: their shapes, as trees and as the arrays that the library computes with, and their norm."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_numeric, known
from bespoke_jax.flow.norm import error_scale
from bespoke_jax.flow.trees import Event
from bespoke_jax.metrics import rmse
from bespoke_jax.types import Array, State, VelocityFunction

__all__ = ["States", "weighted"]


class States:
    """What a `Flow` says of its states."""

    velocity: VelocityFunction
    params: Any
    event_shape: tuple[int, ...]
    weights: Callable[[Any], Any] | None

    @property
    def event(self) -> Event | None:
        """The structure of a sample that is a tree of arrays; None for a flow of arrays."""
        return getattr(self.velocity, "event", None)

    @property
    def _shapes(self) -> Any:
        """The event shape as the caller gave it: a shape, or a tree of shapes."""
        return self.event_shape if self.event is None else self.event.tree

    def batch_shape(self, x: Float[Array, "..."], name: str = "x") -> tuple[Any, ...]:
        """The leading axes of `x`, after checking that it is a floating array of trailing shape `event_shape`.

        Args:
            x: [*batch, *event_shape].
            name: of the argument, in errors.

        Raises:
            TypeError: if `x` is not a floating array.
            ValueError: if its shape does not end in `event_shape`.
        """
        (shape, dtype), ndim = check_numeric(name, x), len(self.event_shape)
        if shape[len(shape) - ndim :] != self.event_shape or len(shape) < ndim:
            raise ValueError(f"{name}: wanted shape [*batch, {', '.join(map(str, self.event_shape))}], got {shape}.")
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"{name}: wanted a floating dtype, got {dtype}.")
        return shape[: len(shape) - ndim]

    def ravel(self, x: State, name: str = "x") -> Float[jax.Array, "*shape"]:
        """States as one array [*batch, *event_shape]: of a flow of trees, all leaves after one another, [*batch, D].

        Args:
            x: a tree of arrays [*batch, *leaf]; or an array, which is returned as it is.
            name: of the argument, in errors.

        Raises:
            TypeError: for leaves that are not floating, or of several dtypes.
            ValueError: for another tree than the flow's, naming the leaf, and for wrong shapes.

        Examples:
            >>> import bespoke_jax as bj
            >>> shapes = {"a": (2,), "b": ()}
            >>> flow = bj.Flow(lambda p, t, x: {"a": -x["a"], "b": 1 - x["b"]}, None, shapes)
            >>> flow.ravel({"a": jnp.ones((5, 2)), "b": jnp.zeros(5)}).shape
            (5, 3)
            >>> flow.unravel(jnp.ones(3))["a"].shape
            (2,)
        """
        return self.as_array(name, x)[0]

    def unravel(self, x: Float[Array, "*shape"]) -> Any:
        """The inverse of `ravel`: the tree of arrays [*batch, *leaf] of a flow of trees; the same array for others."""
        self.batch_shape(x)
        return x if self.event is None else self.event.unravel(x)

    def as_array(self, name: str, x: State) -> tuple[Any, Callable[[Any], Any]]:
        """(states as one array, a function that gives arrays like it the form in which they came)."""
        if self.event is None or hasattr(x, "dtype"):
            self.batch_shape(x, name)
            return x, _same
        return self.event.ravel(name, x), self.event.unravel

    def rmse(self, x: State, y: State) -> Float[jax.Array, "..."]:
        """||x - y|| of each sample, [*batch]: one norm over all leaves, with the flow's `weights`.

        Args:
            x, y: [*batch, *event_shape], or trees of [*batch, *leaf]; a single batch axis for weights of each sample.

        Raises:
            TypeError, ValueError: for states of another kind, tree or shape.

        Examples:
            >>> import bespoke_jax as bj
            >>> flow = bj.Flow(lambda p, t, x: -x, None, (3,), weights=[1.0, 1.0, 0.0])
            >>> flow.rmse(jnp.array([2.0, 2.0, 9.0]), jnp.zeros(3)).item()
            2.0
        """
        (x, _), (y, _) = self.as_array("x", x), self.as_array("y", y)
        scale = self.error_scale(int(np.prod(self.batch_shape(x))))
        if scale is not None:
            scale = jnp.reshape(scale, (*self.batch_shape(x)[: scale.ndim - len(self.event_shape)], *self.event_shape))
            x, y = weighted(x, scale), weighted(y, scale)
        return rmse(x, y, len(self.event_shape))

    def error_scale(self, count: int) -> Float[jax.Array, "..."] | None:
        """Factors of an error, [*event] or [count, *event], whose plain mean square is then the weighted one; or None."""
        if self.weights is None:
            return None
        params_of = getattr(self.velocity, "params_of_samples", None)
        of_sample = None if params_of is None else params_of(self.params, count)
        return error_scale(self.weights, self.event, self.event_shape, of_sample, count, self.params)

    def check_weights(self, count: int) -> None:
        """Raise ValueError if the weights of some of the flow's `count` samples are negative, not finite, or all 0."""
        scale = self.error_scale(count)
        numbers = None if scale is None else known(scale)
        if numbers is not None and not np.all(np.isfinite(numbers)):
            bad = np.flatnonzero(~np.all(np.isfinite(numbers.reshape(-1, int(np.prod(self.event_shape)))), axis=1))
            raise ValueError(
                f"weights: wanted finite numbers >= 0, not all 0 for a sample, got others in sample {int(bad[0])}."
            )


def weighted(x: Float[Array, "*shape"], scale: Float[Array, "..."] | None) -> Any:
    """x times `Flow.error_scale`, in its dtype; x itself for None."""
    return x if scale is None else _weighted(x, scale)


@jax.jit
def _weighted(x, scale):
    return x * scale.astype(x.dtype)


def _same(x: Any) -> Any:
    return x
