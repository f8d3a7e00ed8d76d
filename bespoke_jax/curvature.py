"""Gradients and Gauss-Newton matrices of the losses by forward mode: what second-order fitting needs.

A loss E sum_i phi(m_i), m_i = mean_j e_ij^2, with phi concave, lies below E sum_i phi'(m_i) mean_j e_ij^2 plus a constant once
the weights phi'(m_i) are held fixed (iteratively reweighted least squares). That quadratic has the loss's own gradient, and its
Gauss-Newton matrix is 2 E sum_i phi'(m_i) mean_j (de_ij/dtheta)^T (de_ij/dtheta).
"""

import functools

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from bespoke_jax.losses import LOSSES, bound_weights, step_error
from bespoke_jax.metrics import mean_square

__all__ = ["linearise"]


def linearise(loss: str, flow, solver, paths, **options):
    """(gradient [P], Gauss-Newton matrix [P, P]) of a named loss in the P raw numbers of `solver`.

    Costs P forward-mode passes for the losses that run the whole solver. The errors of single steps depend on the few
    knots of their own step alone, so `rmse_bound` and `local` take 7 (rk1) or 11 (rk2) passes whatever n is. Nothing is
    stored for a reverse pass, and the network is compiled three times less often than with one.

    Args:
        loss: a name in `losses.LOSSES`.
        flow, solver, paths: as for the loss.
        options: of the loss, e.g. `lipschitz`.

    Example:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (8,)))
        >>> gradient, curvature = linearise("endpoint", flow, bj.init_theta("rk1", num_steps=3), paths)
        >>> gradient.shape, curvature.shape
        ((11,), (11, 11))
    """
    terms = LOSSES[loss]
    if terms.per_step:
        return _per_step(terms.phi, flow, solver, paths, loss == "rmse_bound", **options)
    flat, unravel = ravel_pytree(solver)
    errors = functools.partial(_first_term, terms.errors, flow, unravel, paths, options)
    return _least_squares(*_tangents(errors, flat), terms.phi, len(flow.event_shape))


def _first_term(errors, flow, unravel, paths, options, vector):
    return errors(flow, unravel(vector), paths, **options)[0]


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


def _per_step(phi, flow, theta, paths, weighted, **options):
    """The same from local numbers z_i: the knots of step i and its weight M_i. G = sum_i (dz_i/dtheta)^T G_i (dz_i/dtheta)."""
    _, unravel_window = ravel_pytree(jax.tree.map(lambda x: x[0], theta.knots().of_steps(theta.num_steps)))

    def local_numbers(raw):
        moved = jax.tree.unflatten(jax.tree.structure(theta), [raw])
        windows = jax.vmap(lambda w: ravel_pytree(w)[0])(moved.knots().of_steps(theta.num_steps))
        weights = bound_weights(moved, **options) if weighted else jnp.ones((theta.num_steps,), raw.dtype)
        return jnp.concatenate([windows, weights[:, None]], axis=1)

    def local_squares(z):
        def error(z):
            e = step_error(flow, theta, unravel_window(z[:-1]), paths)
            return z[-1].astype(e.dtype) * e

        return _least_squares(*_tangents(error, z), phi, len(flow.event_shape))

    gradients, matrices = jax.lax.map(local_squares, local_numbers(theta.raw))
    jacobians = jax.jacfwd(local_numbers)(theta.raw)
    return jnp.einsum("izp,iz->p", jacobians, gradients), jnp.einsum("izp,izy,iyq->pq", jacobians, matrices, jacobians)
