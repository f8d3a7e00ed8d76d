"""Values, gradients and Gauss-Newton matrices of the losses, for second-order fitting.

A loss E sum_i phi(m_i), m_i = mean_j e_ij^2, with phi concave, lies below E sum_i phi'(m_i) mean_j e_ij^2 plus a constant when
the weights phi'(m_i) are held fixed (iteratively reweighted least squares). That quadratic has the gradient of the loss, and its
Gauss-Newton matrix is 2 E sum_i phi'(m_i) mean_j (de_ij/dtheta)^T (de_ij/dtheta).

For losses of ends the adjoint gives both. The cotangent e gives the gradient and, with it, the part of the matrix J^T J along e,
exactly. Random cotangents v across e, with E v v^T = 1 - e e^T / |e|^2, give an unbiased estimate of the rest, because
E (v^T J)^T (v^T J) = J^T (E v v^T) J. One per sample is enough: samples are many and parameters few. Losses of single steps
depend on few parameters each, so forward mode gives their matrices exactly.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from bespoke_jax.fitting.keys import fold_in
from bespoke_jax.fitting.loss import Loss
from bespoke_jax.fitting.losses_of_steps import weighted_error
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather, spread
from bespoke_jax.metrics import mean_square
from bespoke_jax.run import adjoint
from bespoke_jax.run.paths import Paths
from bespoke_jax.solver import Solver
from bespoke_jax.types import Array, KeyArray

__all__ = ["Quadratic", "evaluate", "linearise", "values_of_ends"]


class Quadratic(NamedTuple):
    """A loss near a solver of P parameters: value [], gradient [P] and Gauss-Newton matrix [P, P]; arrays of JAX or NumPy."""

    value: Any
    gradient: Any
    matrix: Any

    @property
    def is_finite(self) -> bool:
        """Whether gradient and matrix are finite."""
        return bool(np.all(np.isfinite(self.gradient)) and np.all(np.isfinite(self.matrix)))


def linearise(
    loss: Loss,
    flow: Flow,
    solver: Solver,
    paths: Paths,
    key: KeyArray,
    *,
    probes: int = 4,
    batch_size: int | None = None,
    keep_activations: bool = False,
) -> Quadratic:
    """The `Quadratic` of a loss in the raw parameters of `solver`; those of a table are t, a and b.

    Args:
        loss: a loss as a value, such as `losses.Endpoint()`.
        flow, solver, paths: as for the loss.
        key: for the random cotangents. Losses of single steps, and distances without features, use none.
        probes: random cotangents per sample. An evaluation of the solver costs 3 + `probes` network passes, or 3 where no
            probes are used; `rmse_bound` and `local` cost 7 (rk1) or 11 (rk2) forward-mode passes.
        batch_size: the most paths that are in memory together; None for all.
        keep_activations: keep the network's activations at all evaluations until the adjoint needs them, instead of those of
            one evaluation at a time. This saves a pass, for losses of ends.
        options: of the loss, e.g. `lipschitz`.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (8,)))
        >>> found = linearise(bj.losses.Endpoint(), flow, bj.init_theta("rk1", num_steps=3), paths, jax.random.key(1))
        >>> found.gradient.shape, found.matrix.shape
        ((11,), (11, 11))
    """
    if not loss.of_ends:
        paths = spread(flow, paths)
        value = _value(loss, flow, solver, paths)
        gradient, matrix = _per_step(loss, flow, solver, paths)
        return gather(flow, Quadratic(value, gradient, matrix))
    table, jacobian = solver.table_and_jacobian()
    parts = []
    for number, (some, x0, x1) in enumerate(paths.chunks(flow, batch_size)):
        trace = adjoint.run(some, table, x0, keep_activations)
        ends, cotangents = _ends(loss, trace.x1, x1, fold_in(key, number), probes, some.error_scale(len(x0)))
        rows = _chain(adjoint.table_gradients(some, table, trace, cotangents), jacobian)
        squares, values, slopes = jax.device_get(gather(flow, ends))
        parts.append(_sums(squares, values, slopes, rows))
    value, gradient, matrix = (sum(column) / paths.num_paths for column in zip(*parts, strict=True))
    return Quadratic(value, gradient, matrix)


def evaluate(
    loss: Loss, flow: Flow, solver: Solver, paths: Paths, *, batch_size: int | None = None, count: int | None = None
) -> Float[Array, ""]:
    """The value of a loss, as `linearise` gives it, at a lower cost; a loss of ends compiles nothing for the solver.

    It is that on the first `count` paths, which is for losses of ends; None for all.
    """
    if not loss.of_ends:
        return gather(flow, _value(loss, flow, solver, spread(flow, paths)))
    parts = []
    for some, x0, x1 in paths.chunks(flow, batch_size, count):
        parts.append(values_of_ends(loss, some, solver.end(some, x0), x1))
    return np.asarray(np.mean(np.concatenate(parts)))


def values_of_ends(
    loss: Loss, flow: Flow, x: Float[Array, "B *event"], x1: Float[Array, "B *event"]
) -> Float[np.ndarray, "B"]:
    """The values whose mean is a loss of ends, for samples x of the flow and their true ends x1."""
    return jax.device_get(gather(flow, _phi_of_distance(loss, x, x1, flow.error_scale(len(x1)))))


@functools.partial(jax.jit, static_argnums=0)
def _value(loss, flow, solver, paths):
    return loss(flow, solver, paths)


@functools.partial(jax.jit, static_argnums=0)
def _phi_of_distance(loss, x, x1, scale):
    return loss.phi(loss.between(x, x1, scale))


@functools.partial(jax.jit, static_argnums=(0, 4))
def _ends(loss, x, x1, key, probes, scale=None):
    """((m, phi(m), phi'(m)), cotangents of x) for the distances m of x from x1: numbers are [B], 1 + K cotangents [B, *event].

    The cotangents are half the gradient of the distances, and K random ones: with d errors e per sample e / d, and random signs
    over sqrt(d) without their part along e, pulled back from the features to x. K is `probes`, or 0 for a distance without
    features.
    """
    numbers = jax.vmap(jax.value_and_grad(loss.phi))
    if loss.features is None:
        squares, pullback = jax.vjp(lambda x: loss.between(x, x1, scale), x)
        return (squares, *numbers(squares)), list(pullback(jnp.full_like(squares, 0.5)))
    error, pullback = jax.vjp(lambda x: loss.difference(x, x1, scale), x)
    size, of_sample = error[0].size, range(-error.ndim + 1, 0)
    draws = _signs(key, (probes, *error.shape), error.dtype) / size**0.5
    squared_norms = jnp.sum(error**2, of_sample, keepdims=True)
    along = jnp.sum(draws * error, of_sample, keepdims=True) / jnp.where(squared_norms > 0, squared_norms, 1)
    (cotangents,) = jax.vmap(pullback)(jnp.concatenate([error[None] / size, draws - along * error]))
    squares = mean_square(error, error.ndim - 1)
    return (squares, *numbers(squares)), list(cotangents)


def _signs(key, shape, dtype):
    """Random signs, 32 from each random word: drawing long vectors of words takes seconds to compile."""
    size = math.prod(shape)
    words = jax.random.bits(key, (-(-size // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)) & 1
    return (2 * bits.reshape(-1)[:size].astype(dtype) - 1).reshape(shape)


# Small arrays whose shape varies by solver: NumPy avoids recompiling, and float64 costs nothing.


def _chain(gradients, jacobian):
    """Gradients in the table's entries -> gradients in the solver's parameters, [K, B, P]."""
    return sum(
        np.tensordot(np.asarray(gradient, np.float64), np.asarray(slope, np.float64), axes=np.ndim(slope) - 1)
        for gradient, slope in zip(jax.tree.leaves(gradients), jax.tree.leaves(jacobian), strict=True)
    )


def _sums(squares, values, slopes, rows):
    """Sums over samples of value, gradient and matrix; rows [1 + K, B, P], the first of them half the squares' gradient.

    The matrix along the error comes from the gradients of the roots. Without probes, with one residual per sample, it is all.
    """
    weights = 2 * slopes.astype(np.float64)
    roots = np.sqrt(squares.astype(np.float64))
    along = rows[:1] / np.where(roots > 0, roots, 1)[:, None]
    across = rows[1:] / np.sqrt(max(len(rows) - 1, 1))
    flat = np.concatenate([along, across]).reshape(-1, rows.shape[-1])
    return np.sum(values), weights @ rows[0], (np.tile(weights, len(rows))[:, None] * flat).T @ flat


@functools.partial(jax.jit, static_argnums=0)
def _per_step(loss, flow, theta, paths):
    """Gradient and matrix by way of z_i, the knots of step i and its weight M_i: G = sum_i (dz_i/dtheta)^T G_i (dz_i/dtheta)."""
    _, unravel_window = ravel_pytree(jax.tree.map(lambda x: x[0], theta.knots().of_steps(theta.num_steps)))

    def local_numbers(raw):
        moved = theta.with_raw(raw)
        windows = jax.vmap(lambda w: ravel_pytree(w)[0])(moved.knots().of_steps(theta.num_steps))
        return jnp.concatenate([windows, loss.weights(moved)[:, None]], axis=1)

    def local_squares(z):
        def error(z):
            e = weighted_error(flow, theta, unravel_window(z[:-1]), paths)
            return z[-1].astype(e.dtype) * e

        errors, columns = _tangents(error, z)
        return _least_squares(errors, columns, loss.phi, len(flow.event_shape))

    gradients, matrices = jax.lax.map(local_squares, local_numbers(theta.raw))
    jacobians = jax.jacfwd(local_numbers)(theta.raw)
    return jnp.einsum("izp,iz->p", jacobians, gradients), jnp.einsum("izp,izy,iyq->pq", jacobians, matrices, jacobians)


def _tangents(errors, vector):
    """(e [B, *event], de/dvector [P, B, *event]). All tangents share the primal pass."""
    return jax.vmap(lambda v: jax.jvp(errors, (vector,), (v,)), out_axes=(None, 0))(
        jnp.eye(vector.size, dtype=vector.dtype)
    )


def _least_squares(error, columns, phi, event_ndim):
    """Gradient 2 E_b phi'(m_b) mean_j e_j de_j/dp and Gauss-Newton matrix 2 E_b phi'(m_b) mean_j de_j/dp de_j/dq."""
    weights = jax.vmap(jax.grad(phi))(mean_square(error, event_ndim))
    batch = weights.size
    error, columns = error.reshape(batch, -1), columns.reshape(len(columns), batch, -1)
    scale = 2 / error.size
    weighted = columns * weights[:, None]
    return scale * jnp.einsum("pbj,bj->p", weighted, error), scale * jnp.einsum("pbj,qbj->pq", weighted, columns)
