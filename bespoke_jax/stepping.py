"""Running a table one evaluation at a time: what a loop that owns its network calls needs.

`begin` gives the state of the first evaluation; `step` takes the velocity found there and gives the next state. `solve` scans
over the same two functions.
"""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.checks import check_choice, check_count, check_numeric, known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow import kernels
from bespoke_jax.flow.times import TIMES, NetworkTime
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.types import Array

if TYPE_CHECKING:
    from bespoke_jax.table import SolverTable

__all__ = ["Carry", "begin", "check_of_state", "check_times", "step", "time_dtype", "times", "walk_calls"]

_OF_SCHEDULER = ("sigma", "noise_to_signal")


class Carry(NamedTuple):
    """What a loop keeps between evaluations.

    Attributes:
        x: the state to evaluate the velocity at; after the last evaluation the sample.
        coming: [m, *x.shape] the states after each evaluation, as far as the velocities so far determine them; at least float32.
    """

    x: jax.Array
    coming: jax.Array


def begin(table: "SolverTable", x0: Float[Array, "*shape"], image: Float[Array, "..."] | None = None) -> Carry:
    """The carry before the first evaluation; arguments are those of `SolverTable.begin`."""
    shape, dtype = _check_start(table, x0)
    shown = _image(table, image, shape)
    x0, wide = jnp.asarray(x0), promote(dtype, jnp.float32)
    x, coming = x0, _along(table.a, x0, wide) * x0.astype(wide)
    if table.first is not None:
        x = (_along(table.first[None], x0, wide)[0] * x0.astype(wide)).astype(dtype)
    if table.c is not None:
        shown = like(shown, x0).astype(wide)
        x = (x.astype(wide) + _along(table.c[:1], x0, wide)[0] * shown).astype(dtype)
        coming = coming + _along(table.c[1:], x0, wide) * shown
    return Carry(x, coming)


def step(table: "SolverTable", i: Any, carry: Carry, u: Float[Array, "*shape"]) -> Carry:
    """The carry after evaluation i, whose velocity is u; arguments are those of `SolverTable.step`.

    The states are summed in place. A history of velocities would be read and written in the same step, and XLA would copy it.
    The gradient in b, too, needs only the velocity of its own step.
    """
    x, coming = carry
    coming = coming + _along(jnp.asarray(table.b)[:, i], x, coming.dtype) * u.astype(coming.dtype)
    return Carry(jax.lax.dynamic_index_in_dim(coming, i, keepdims=False).astype(x.dtype), coming)


def checked_step(table: "SolverTable", i: Any, carry: Carry, u: Float[Array, "*shape"]) -> Carry:
    """`step`, with its arguments checked."""
    if isinstance(i, jax.core.Tracer):
        if i.shape != () or not jnp.issubdtype(i.dtype, jnp.integer):
            raise ValueError(f"i: wanted one integer, got {i.dtype} of shape {i.shape}.")
    else:
        i = check_count("i", i, 0, table.nfe - 1)
    if not isinstance(carry, Carry):
        raise TypeError(f"carry: wanted what begin or step returned, got {type(carry).__name__}.")
    check_of_state("u", u, carry.x.shape)
    return step(table, i, carry, jnp.asarray(u))


def times(table: "SolverTable", convention: str = "noise_at_0", scheduler: Scheduler | None = None) -> jax.Array:
    """The times of the evaluations in another convention; arguments are those of `SolverTable.times`."""
    check_choice("convention", convention, TIMES)
    needed = convention in _OF_SCHEDULER
    if not isinstance(scheduler, Scheduler) and (scheduler is not None or needed):
        raise TypeError(
            f"scheduler: wanted a bespoke_jax.schedulers.Scheduler{' or None' * (not needed)}, got {scheduler!r}."
        )
    t = jnp.asarray(table.t, promote(table.t.dtype, jnp.float32))
    theirs = jnp.broadcast_to(NetworkTime(convention, scheduler)(t), t.shape)  # a scheduler's sigma may be one number
    values = known(theirs)
    if values is not None and not np.all(np.isfinite(values)):
        raise ValueError(
            f"scheduler: wanted alpha above 0 at the times {np.asarray(t).tolist()}, where sigma / alpha has to be finite, got "
            f"{scheduler}."
        )
    return theirs


def walk_calls(
    table: "SolverTable", velocity: Callable, x0: Float[Array, "*shape"], image: Float[Array, "..."] | None = None
) -> Float[jax.Array, "*shape"]:
    """`SolverTable.walk` with a velocity of (i, t_i, x_i), i the number of the evaluation.

    Row by row: sums skip velocities of factor 0 and share compiled programs among all tables.
    """
    shown = _image(table, image, _check_start(table, x0)[0])
    moments, a, b = (np.asarray(value) for value in (table.t, table.a, table.b))
    moments = moments.astype(time_dtype(table, x0))
    x = noise = jnp.asarray(x0)
    terms, factors = [noise], a[:, None]
    first = np.ones_like(a[:1]) if table.first is None else np.asarray(table.first)[None]
    if table.c is not None:
        terms.append(broadcast(shown, noise))
        c = np.asarray(table.c)
        first, factors = np.concatenate([first, c[:1]]), np.stack([a, c[1:]], axis=1)
    if table.first is not None or table.c is not None:
        x = kernels.combine(first, terms)
    for i, t in enumerate(moments):
        terms.append(check_of_state("velocity", velocity(i, t, x), x.shape))
        x = kernels.combine([*factors[i], *b[i, : i + 1]], terms)
    return x


def time_dtype(solver: Any, x: Array) -> np.dtype:
    """The dtype in which a solver's times go to the flow: the wider of theirs and the state's."""
    return promote(solver.t.dtype, x.dtype)


def like(image: Array, x: Array) -> jax.Array:
    """An image [*event] or [B, *event] in the shape of states [*batch, *event]."""
    return jnp.reshape(image, x.shape) if jnp.size(image) == x.size else jnp.broadcast_to(image, x.shape)


def _check_start(table: "SolverTable", x0: Array) -> tuple[tuple[int, ...], np.dtype]:
    """(shape, dtype) of the noise, for a table without corrections."""
    if table.corrections is not None:
        raise ValueError("table: wanted one without corrections, got one with; use table.of_samples(flow).")
    if isinstance(x0, dict | list | tuple):
        raise TypeError(f"x0: wanted an array, which flow.ravel makes of a tree of arrays, got {type(x0).__name__}.")
    shape, dtype = check_numeric("x0", x0)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"x0: wanted a floating dtype, got {dtype}.")
    return shape, dtype


def _image(table: "SolverTable", image: Array | None, shape: tuple[int, ...]) -> Any:
    """The image [*event] or [B, *event] of noise of this shape; None for a table without one.

    The table's own may be one for each class, [K, *event]. It cannot be told from a sample of its shape, unless that is a vector:
    scalar samples of several classes have no images of their own.
    """
    if table.c is None:
        if image is not None:
            raise ValueError("image: wanted None, because the table has no image, got one.")
        return None
    shown: Any = table.xi if image is None else image
    size = check_numeric("image", shown)[0]
    of_one = shape[max(0, len(shape) - len(size)) :] == size
    if image is None and (not of_one or (size == shape and len(size) > 1)):
        raise ValueError(
            f"image: wanted those of these samples, as in table.begin(x0, table.image(flow)), because the table's, of shape "
            f"{size}, may be one for each class where x0 has shape {shape}, got None."
        )
    if not of_one and all(size != (math.prod(shape[:k]), *shape[k:]) for k in range(len(shape) + 1)):
        raise ValueError(f"image: wanted the shape of x0, {shape}, or of one sample, got {size}.")
    return shown


def check_of_state(name: str, u: Any, shape: tuple[int, ...]) -> Any:
    """`u`, if it is a floating array of the state's shape. Raises TypeError or ValueError, beginning with `name`, otherwise."""
    found, dtype = check_numeric(name, u)
    if found != shape:
        raise ValueError(f"{name}: wanted the shape of the state, {shape}, got {found}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: wanted a floating dtype, got {dtype}.")
    return u


def _along(numbers: jax.Array, x: jax.Array, dtype: np.dtype) -> jax.Array:
    """Numbers [m], one for each coming state, or [m, B], one for each sample of it, against states of x's shape."""
    batch, count = (), math.prod(numbers.shape[1:])
    while math.prod(batch) < count:
        batch = x.shape[: len(batch) + 1]
    return numbers.astype(dtype).reshape(-1, *batch, *(1,) * (x.ndim - len(batch)))


def broadcast(image: Array, x: Array) -> jax.Array:
    """`like`, in the dtype of x; compiled, unless there is nothing to do."""
    if isinstance(image, jax.Array) and image.shape == x.shape and image.dtype == x.dtype:
        return image
    return _broadcast(image, x)


@jax.jit
def _broadcast(image, x):
    return like(image, x).astype(x.dtype)


def check_times(name: str, t: Float[Array, "m"]) -> Float[Array, "m"]:
    """`t`, if its times lie within [0, 1] where they are `known`."""
    times = known(t)
    if times is not None and not np.all((times >= 0) & (times <= 1)):
        raise ValueError(f"{name}: wanted times within [0, 1], got {times.tolist()}.")
    return t
