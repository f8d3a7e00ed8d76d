"""Small compiled programs, which Python calls one by one when it solves or fits evaluation by evaluation.

Sampling compiles a whole solve as one program, at the cost of compiling the network anew for every number of evaluations. The
programs here contain one velocity or none, and nothing of a solver: true paths, fits and validation share them for all families
and numbers of evaluations.

A velocity that runs outside JAX is in no compiled program. What surrounds it is traced once and then run operation by operation:
its errors are its own, and its arrays need not leave their device.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Float

from bespoke_jax.flow.flow import Flow
from bespoke_jax.types import Array, Number, Scalar

__all__ = ["Kernel", "combine", "computes_in_half", "velocity", "velocity_and_slope"]


class Kernel:
    """`function(flow, ...)` of trees of arrays, compiled unless the flow's velocity runs outside JAX."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function
        self.compiled = jax.jit(function)
        self.lower = self.compiled.lower
        functools.update_wrapper(self, function)

    def __call__(self, flow: Flow, *args: Any) -> Any:
        if not flow.outside_jax:
            return self.compiled(flow, *args)
        leaves, tree = jax.tree.flatten((flow, *args))
        shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in leaves)
        operations, out_tree = _traced(self.function, tree, shapes)
        return jax.tree.unflatten(out_tree, operations(*leaves))


@functools.lru_cache(maxsize=256)
def _traced(function, tree, shapes):
    """(a function of leaves that runs the operations of `function` one by one, the structure of its results)."""
    closed, out = jax.make_jaxpr(lambda *leaves: function(*jax.tree.unflatten(tree, leaves)), return_shape=True)(
        *shapes
    )
    return jaxpr_as_fun(closed), jax.tree.structure(out)


@Kernel
def velocity(flow: Flow, t: Scalar, x: Float[Array, "B *event"]) -> Float[jax.Array, "B *event"]:
    """u_t(x), for x [B, *event]."""
    return flow(t, x)


@Kernel
def velocity_and_slope(
    flow: Flow, t: Float[Array, ""], x: Float[Array, "B *event"]
) -> tuple[Float[jax.Array, "B *event"], Float[jax.Array, "B *event"]]:
    """u_t(x), and its derivative du/dt along the path through (t, x), for x [B, *event]."""
    u, push = jax.linearize(flow, t, x)
    return u, push(jnp.ones_like(t), u)


def computes_in_half(flow: Flow, t: Scalar, x: Float[Array, "B *event"]) -> bool:
    """Whether any number that the velocity computes is in half precision; False for one outside JAX, which does not say.

    Examples:
        >>> import jax.numpy as jnp, bespoke_jax as bj
        >>> flow = bj.Flow(lambda params, t, x: jnp.tanh(x.astype(jnp.bfloat16)).astype(x.dtype), None, event_shape=(2,))
        >>> computes_in_half(flow, 0.5, jnp.ones((1, 2)))
        True
    """
    return not flow.outside_jax and _in_half(velocity.compiled.trace(flow, t, x).jaxpr)


def _in_half(jaxpr: Any) -> bool:
    """Whether an equation of a jaxpr, or of one within it, has a result of half precision."""
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:  # the jaxpr of a closed one
        if any(getattr(out.aval, "dtype", None) in (jnp.bfloat16, jnp.float16) for out in equation.outvars):
            return True
        inner = jax.tree.leaves(list(equation.params.values()), is_leaf=_has_equations)
        if any(_in_half(leaf) for leaf in inner if _has_equations(leaf)):
            return True
    return False


def _has_equations(leaf: Any) -> bool:
    return hasattr(getattr(leaf, "jaxpr", leaf), "eqns")


def combine(
    weights: Sequence[Number | Float[np.ndarray, "..."]] | Float[np.ndarray, "k ..."],
    terms: Sequence[Float[Array, "*shape"]],
) -> Float[jax.Array, "*shape"]:
    """sum_i weights_i terms_i. Terms of weight 0 are not read, so they may be NaN.

    Args:
        weights: as many as terms; each a number, or one for each index of the first axes of the terms.
        terms: arrays of one shape and dtype.

    Examples:
        >>> import jax.numpy as jnp
        >>> combine([2.0, 0.0, 1.0], [jnp.ones(2), jnp.full(2, jnp.nan), jnp.ones(2)]).tolist()
        [3.0, 3.0]
    """
    factors = np.asarray(weights)
    used = np.flatnonzero(np.any(factors.reshape(len(factors), -1), axis=1))
    first, *others = used.tolist() or [0]
    total = _scaled(factors[first], terms[first])
    for i in others:
        total = _add_scaled(total, factors[i], terms[i])
    return total


@jax.jit
def _scaled(weight, x):
    return _along(weight, x) * x


@functools.partial(jax.jit, donate_argnums=0)
def _add_scaled(total, weight, x):
    return total + _along(weight, x) * x


def _along(weight, x):
    """A weight of the first axes of x, in its dtype."""
    return weight.astype(x.dtype).reshape(weight.shape + (1,) * (x.ndim - weight.ndim))
