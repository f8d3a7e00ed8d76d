"""Values, gradients and Gauss-Newton matrices of the losses: what second-order fitting needs.

A loss E sum_i phi(m_i), m_i = mean_j e_ij^2, with phi concave, lies below E sum_i phi'(m_i) mean_j e_ij^2 plus a constant once
the weights phi'(m_i) are held fixed (iteratively reweighted least squares). That quadratic has the loss's own gradient, and its
Gauss-Newton matrix is 2 E sum_i phi'(m_i) mean_j (de_ij/dtheta)^T (de_ij/dtheta).

The losses of whole solves get both from the adjoint: the gradient from the cotangent e, the matrix, unbiased, from random
cotangents v with E v v^T = 1, since E (v^T J)^T (v^T J) = J^T J. A few per sample do, for there are many samples and few numbers.
The losses of single steps depend on few numbers each, and forward mode gives them exactly.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bespoke_jax import stepwise
from bespoke_jax.losses import LOSSES, bound_weights, step_error
from bespoke_jax.metrics import mean_square
from bespoke_jax.table import SolverTable, to_table

__all__ = ["Quadratic", "evaluate", "linearise"]


class Quadratic(NamedTuple):
    """A loss near a solver of P numbers: value [], gradient [P] and Gauss-Newton matrix [P, P]."""

    value: jax.Array
    gradient: jax.Array
    matrix: jax.Array


def linearise(loss: str, flow, solver, paths, key, *, probes: int = 4, batch_size: int | None = None, **options):
    """The `Quadratic` of a named loss in the raw numbers of `solver` (those of a table are t, a and b).

    Args:
        loss: a name in `losses.LOSSES`.
        flow, solver, paths: as for the loss.
        key: of the random cotangents; the losses of single steps use none.
        probes: random cotangents per sample. An evaluation costs 4 + `probes` network passes; `rmse_bound` and `local` cost
            7 (rk1) or 11 (rk2) forward-mode passes.
        batch_size: paths that are in memory together.
        options: of the loss, e.g. `lipschitz`.

    Example:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (8,)))
        >>> found = linearise("endpoint", flow, bj.init_theta("rk1", num_steps=3), paths, jax.random.key(1))
        >>> found.gradient.shape, found.matrix.shape
        ((11,), (11, 11))
    """
    terms = LOSSES[loss]
    if terms.per_step:
        value = _function(loss)(flow, solver, paths, **options)
        return Quadratic(value, *_per_step(loss, flow, solver, paths, **options))
    x0, x1 = (jnp.reshape(x, (-1, *flow.event_shape)) for x in (paths.x0, paths.x1))
    table, jacobian = _table_and_jacobian(solver)
    parts = []
    for number, part in enumerate(stepwise.chunks(len(x0), batch_size)):
        trace = stepwise.run(flow, table, x0[part])
        cotangents = _cotangents(trace.x1 - x1[part], jax.random.fold_in(key, number), probes)
        rows = _chain(stepwise.table_gradients(flow, table, trace, cotangents), jacobian)
        parts.append(_sums(terms.phi, mean_square(trace.x1 - x1[part], len(flow.event_shape)), rows))
    return Quadratic(*(sum(column) / len(x0) for column in zip(*parts, strict=True)))


def evaluate(loss: str, flow, solver, paths, *, batch_size: int | None = None, **options):
    """The value of a named loss, [], as `linearise` gives it, but cheaper: nothing is compiled for the solver of an end loss."""
    terms = LOSSES[loss]
    if terms.per_step:
        return _function(loss)(flow, solver, paths, **options)
    x0, x1 = (jnp.reshape(x, (-1, *flow.event_shape)) for x in (paths.x0, paths.x1))
    ends = stepwise.end_points(flow, solver, x0, batch_size)
    return jnp.mean(terms.phi(mean_square(ends - x1, len(flow.event_shape))))


@functools.cache
def _function(loss):
    return jax.jit(LOSSES[loss].function)


@jax.jit
def _table_and_jacobian(solver):
    """(table, its derivative in the solver's P numbers: each entry with a last axis [P])."""
    numbers, rebuild = ravel_pytree(solver) if isinstance(solver, SolverTable) else (solver.raw, solver.with_raw)
    return to_table(solver), jax.jacfwd(lambda vector: to_table(rebuild(vector)))(numbers)


@functools.partial(jax.jit, static_argnums=2)
def _cotangents(error, key, probes):
    """e / d and `probes` draws from N(0, 1/d), d being the size of an event: [1 + probes, B, *event]."""
    size = error[0].size
    draws = jax.random.normal(key, (probes, *error.shape), error.dtype)
    return jnp.concatenate([error[None] / size, draws / size**0.5])


@jax.jit
def _chain(gradients, jacobian):
    """Gradients in the table's entries -> gradients in the solver's numbers, [K, B, P]."""
    return (
        jnp.einsum("kbi,ip->kbp", gradients.t.astype(jacobian.t.dtype), jacobian.t)
        + jnp.einsum("kbi,ip->kbp", gradients.a.astype(jacobian.a.dtype), jacobian.a)
        + jnp.einsum("kbij,ijp->kbp", gradients.b.astype(jacobian.b.dtype), jacobian.b)
    )


@functools.partial(jax.jit, static_argnums=0)
def _sums(phi, squares, rows):
    """Sums over samples of the value, the gradient and the matrix; rows [1 + K, B, P], the first from the errors."""
    weights = 2 * jax.vmap(jax.grad(phi))(squares).astype(rows.dtype)
    matrix = jnp.einsum("b,kbp,kbq->pq", weights, rows[1:], rows[1:]) / max(len(rows) - 1, 1)
    return jnp.sum(phi(squares)), jnp.einsum("b,bp->p", weights, rows[0]), matrix


@functools.partial(jax.jit, static_argnums=0)
def _per_step(loss, flow, theta, paths, **options):
    """From local numbers z_i, the knots of step i and its weight M_i: G = sum_i (dz_i/dtheta)^T G_i (dz_i/dtheta)."""
    _, unravel_window = ravel_pytree(jax.tree.map(lambda x: x[0], theta.knots().of_steps(theta.num_steps)))

    def local_numbers(raw):
        moved = theta.with_raw(raw)
        windows = jax.vmap(lambda w: ravel_pytree(w)[0])(moved.knots().of_steps(theta.num_steps))
        ones = jnp.ones((theta.num_steps,), raw.dtype)
        weights = bound_weights(moved, **options) if loss == "rmse_bound" else ones
        return jnp.concatenate([windows, weights[:, None]], axis=1)

    def local_squares(z):
        def error(z):
            e = step_error(flow, theta, unravel_window(z[:-1]), paths)
            return z[-1].astype(e.dtype) * e

        return _least_squares(*_tangents(error, z), LOSSES[loss].phi, len(flow.event_shape))

    gradients, matrices = jax.lax.map(local_squares, local_numbers(theta.raw))
    jacobians = jax.jacfwd(local_numbers)(theta.raw)
    return jnp.einsum("izp,iz->p", jacobians, gradients), jnp.einsum("izp,izy,iyq->pq", jacobians, matrices, jacobians)


def _tangents(errors, vector):
    """(e [B, *event], de/dvector [P, B, *event]). The primal pass is shared by all tangents."""
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
