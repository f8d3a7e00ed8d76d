"""The relaxed target of LD3 (Tong et al. 2024, arXiv:2405.15506): a solver may reach a true end from a noise close by."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.fitting.losses_of_ends import Distance
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather
from bespoke_jax.metrics import mean_square
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.solve import solve
from bespoke_jax.solver import Solver
from bespoke_jax.table import SolverTable

__all__ = ["relaxed"]


def relaxed(loss: Distance, flow: Flow, solver: Solver, paths: Paths, radius: float) -> Paths:
    """The paths with their noises moved towards where the solver's ends are nearer the true ones.

    Each noise makes one step of gradient descent on its sample's distance, of Polyak's length f / |grad f|^2, but no longer than
    `radius`. The solver runs once, and back once.

    Args:
        loss: one of ends.
        flow, solver, paths: those of the fit.
        radius: the most that a noise moves, as a root mean square over its numbers.

    Examples:
        >>> import bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, -1.0], std=0.3)
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (8,)))
        >>> solver, loss = bj.init_theta("rk1", 3), bj.losses.Endpoint()
        >>> moved = relaxed(loss, flow, solver, paths, radius=0.1)
        >>> bool(loss(flow, solver, moved) < loss(flow, solver, paths))
        True
    """
    some, x0, x1 = samples(flow, paths)
    moved = gather(flow, _moved(loss, some, solver.unrolled(), x0, x1, radius))
    return dataclasses.replace(paths, states=paths.states.at[:, 0].set(moved))


@functools.partial(jax.jit, static_argnums=0)
def _moved(
    loss: Distance,
    flow: Flow,
    table: SolverTable,
    x0: Float[jax.Array, "B *event"],
    x1: Float[jax.Array, "B *event"],
    radius: float,
) -> Float[jax.Array, "B *event"]:
    def total(x0):
        distances = loss.between(solve(flow, table, x0), x1, flow.error_scale(len(x1)))
        return jnp.sum(distances), distances

    slopes, distances = jax.grad(total, has_aux=True)(x0)
    size = x0[0].size
    squares = mean_square(slopes, slopes.ndim - 1) * size
    lengths = jnp.minimum(distances, radius * jnp.sqrt(size * squares)) / jnp.where(squares > 0, squares, 1)
    return x0 - slopes * lengths.reshape(-1, *(1,) * (x0.ndim - 1))
