"""Calling a velocity or prediction of the user's, and checking that it returns one array like x."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.dtypes import promote
from bespoke_jax.flow.per_sample import CONDITION
from bespoke_jax.types import Array, PyTree, VelocityFunction

__all__ = ["call", "check_params", "like"]


def call(
    name: str,
    function: VelocityFunction,
    params: PyTree,
    t: Float[Array, ""],
    x: Float[Array, "B *event"],
    what: str = "the velocity",
    per_sample_time: bool | None = False,
) -> Float[Array, "B *event"]:
    """`function(params, t, x)` in x's dtype.

    Args:
        name: of the function, in errors.
        function: the user's.
        params: its parameters.
        t: the time.
        x: the states.
        what: what it returns, in errors.
        per_sample_time: whether the function takes t as [B], equal times, instead of a scalar; None to find out by trying.

    Raises:
        TypeError: if it returns something other than one floating array no wider than x.
        ValueError: if it returns another shape, takes a time for each sample instead of one, wants as many samples as its
            condition has rows, or reads a condition that the parameters have not.
    """
    try:
        out = function(params, _times(t, x) if per_sample_time else t, x)
    except Exception as error:
        if _lacks_condition(error, params):
            raise ValueError(
                f"{name}: wanted params[{CONDITION!r}], which it reads, got a flow without a condition. Use "
                f"bespoke_jax.given(flow, conditions), one for each sample, or flow.replace(params={{**flow.params, "
                f"{CONDITION!r}: condition}}), one for all."
            ) from error
        if _takes_rows(function, params, _times(t, x)[:1] if per_sample_time else t, x):
            raise ValueError(
                f"{name}: wanted one of one condition for the whole batch, got one that takes a batch of as many samples as "
                f"params[{CONDITION!r}] has rows, and no other ({type(error).__name__} on {x.shape[0]}). Use "
                f"bespoke_jax.given(flow, conditions, batched=True), with a flow whose params have no {CONDITION!r}."
            ) from error
        if per_sample_time or not _takes_times(function, params, t, x):
            error.add_note(
                f"{name} was called as {name}(params, t, x), with x of shape {x.shape} and t of shape {jnp.shape(t)}."
            )
            raise
        if per_sample_time is False:
            raise ValueError(
                f"{name}: wanted a function of a scalar t, got one of a time for each sample ({type(error).__name__} on a "
                f"scalar). Give it as lambda params, t, x: {name}(params, jnp.full(x.shape[0], t), x)."
            ) from error
        out = function(params, _times(t, x), x)
    return like(x, out, name, what)


def _times(t: Array, x: Array) -> jax.Array:
    return jnp.full(x.shape[:1], t)


def _lacks_condition(error: Exception, params: PyTree) -> bool:
    """Whether a function failed because it reads a condition that is not among its parameters."""
    return isinstance(error, KeyError) and error.args == (CONDITION,) and CONDITION not in params


def _takes_rows(function: VelocityFunction, params: PyTree, t: Array, x: Array) -> bool:
    """Whether a function that failed on this batch accepts one of as many samples as its condition has rows."""
    is_given = hasattr(function, "params_of_samples")  # whose errors are its own
    if is_given or not isinstance(params, dict):
        return False
    rows = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(params.get(CONDITION))}
    if len(rows) != 1 or rows & {(), x.shape[:1]}:
        return False
    ((count,),) = rows
    times = jax.ShapeDtypeStruct((count,) if jnp.ndim(t) else (), t.dtype)
    try:
        out = jax.eval_shape(function, params, times, jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype))
    except Exception:  # the user's code may raise anything
        return False
    return getattr(out, "shape", None) == (count, *x.shape[1:])


def _takes_times(function: VelocityFunction, params: PyTree, t: Array, x: Array) -> bool:
    """Whether a function that failed on a scalar time accepts one time for each sample."""
    times = jax.ShapeDtypeStruct(x.shape[:1], t.dtype)
    try:
        out = jax.eval_shape(function, params, times, jax.ShapeDtypeStruct(x.shape, x.dtype))
    except Exception:  # the user's code may raise anything
        return False
    return getattr(out, "shape", None) == x.shape and jnp.issubdtype(out.dtype, jnp.floating)


def like(x: Array, out: Any, name: str, what: str) -> Array:
    """`out`, returned by the function called `name`, in x's dtype, after checking that it is one array like x."""
    if not hasattr(out, "shape") or not hasattr(out, "dtype"):
        raise TypeError(f"{name}: wanted one array of shape {x.shape}, {what}, got {type(out).__name__}.")
    if out.shape != x.shape:
        raise ValueError(f"{name}: wanted the shape of x, {x.shape}, got {out.shape}.")
    if not jnp.issubdtype(out.dtype, jnp.floating) or promote(out.dtype, x.dtype) != x.dtype:
        raise TypeError(
            f"{name}: wanted the dtype of x, {x.dtype}, or a narrower float, got {out.dtype}; cast the network's output."
        )
    return jnp.asarray(out).astype(x.dtype)


def check_params(params: PyTree) -> None:
    """Raise TypeError, naming the leaf, if the parameters hold a function or a text."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if callable(leaf) or isinstance(leaf, str | bytes):
            what = f"the function {getattr(leaf, '__name__', leaf)!r}" if callable(leaf) else repr(leaf)
            raise TypeError(
                f"params: wanted a tree of arrays, got {what} at params{jax.tree_util.keystr(path)}. For a module of "
                "Equinox, Flax or PyTorch use bespoke_jax.adapters.equinox.flow(module, event_shape), .nnx.flow, .linen.flow, "
                ".torch.flow."
            )
