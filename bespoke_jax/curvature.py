"""Gauss-Newton matrices of the losses: the curvature that second-order fitting needs.

A loss E sum_i phi(m_i), m_i = mean_j e_ij^2, with phi concave, lies below E sum_i phi'(m_i) mean_j e_ij^2 plus a constant once the
weights phi'(m_i) are held fixed (iteratively reweighted least squares). That quadratic has the loss's own gradient, and its
Gauss-Newton matrix is 2 E sum_i phi'(m_i) mean_j (de_ij/dtheta)^T (de_ij/dtheta).
"""

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bespoke_jax.losses import LOSSES, bound_weights, step_error
from bespoke_jax.metrics import mean_square

__all__ = ["gauss_newton"]


def gauss_newton(loss: str, flow, solver, paths, **options):
    """The Gauss-Newton matrix [P, P] of a named loss in the P raw numbers of `solver`.

    Costs P forward-mode passes for the losses that run the whole solver. The errors of single steps depend on the few
    knots of their own step alone, so `rmse_bound` and `local` take 7 (rk1) or 11 (rk2) passes whatever n is.

    Args:
        loss: a name in `losses.LOSSES`.
        flow, solver, paths: as for the loss.
        options: of the loss, e.g. `lipschitz`.
    """
    terms = LOSSES[loss]
    if terms.per_step:
        return _per_step(terms.phi, flow, solver, paths, loss == "rmse_bound", **options)
    flat, unravel = ravel_pytree(solver)
    columns, weights = _tangents(
        lambda vector: terms.errors(flow, unravel(vector), paths, **options)[0], flat, terms.phi, len(flow.event_shape)
    )
    return _gram(columns, weights)


def _tangents(errors, vector, phi, event_ndim):
    """All columns de/dvector, [P, B, *event], and the weights phi'(m), [B]. The primal pass is shared by all tangents."""
    value, columns = jax.vmap(lambda v: jax.jvp(errors, (vector,), (v,)), out_axes=(None, 0))(
        jnp.eye(vector.size, dtype=vector.dtype)
    )
    return columns, jax.vmap(jax.grad(phi))(mean_square(value, event_ndim))


def _gram(columns, weights):
    """2 E_b phi'(m_b) mean_j de_j/dp de_j/dq."""
    columns = columns.reshape(*columns.shape[:2], -1)
    return 2 * jnp.einsum("pbj,b,qbj->pq", columns, weights, columns) / (weights.size * columns.shape[-1])


def _per_step(phi, flow, theta, paths, weighted, **options):
    """The same from local numbers z_i: the knots of step i and its weight M_i. G = sum_i (dz_i/dtheta)^T G_i (dz_i/dtheta)."""
    _, unravel_window = ravel_pytree(jax.tree.map(lambda x: x[0], theta.knots().of_steps(theta.num_steps)))

    def local_numbers(raw):
        moved = jax.tree.unflatten(jax.tree.structure(theta), [raw])
        windows = jax.vmap(lambda w: ravel_pytree(w)[0])(moved.knots().of_steps(theta.num_steps))
        weights = bound_weights(moved, **options) if weighted else jnp.ones((theta.num_steps,), raw.dtype)
        return jnp.concatenate([windows, weights[:, None]], axis=1)

    def local_gram(z):
        def error(z):
            e = step_error(flow, theta, unravel_window(z[:-1]), paths)
            return z[-1].astype(e.dtype) * e

        return _gram(*_tangents(error, z, phi, len(flow.event_shape)))

    grams = jax.lax.map(local_gram, local_numbers(theta.raw))
    jacobians = jax.jacfwd(local_numbers)(theta.raw)
    return jnp.einsum("izp,izy,iyq->pq", jacobians, grams, jacobians)
