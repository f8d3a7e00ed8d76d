"""swirl-dynamics: a solver as the `integrator` of its `OdeSampler`, and its diffusion schemes as schedulers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.adapters.tables import table_of_one_velocity
from bespoke_jax.checks import check_array, check_number, check_numeric
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.solver import Solver, to_table
from bespoke_jax.types import Array, PyTree

__all__ = ["TableIntegrator", "scheduler"]


def scheduler(scheme: Any, last_time: float) -> Scheduler:
    """The scheduler of a diffusion scheme from its time 1 to `last_time`: alpha = s, sigma_t = s sigma.

    The flow to fit is then `Flow.from_prediction(network, ..., scheduler, prediction="data")` with a network that calls the
    denoiser at x / alpha_t and the level sigma_t / alpha_t.

    Args:
        scheme: a `Diffusion`: functions `scale(time)` and `sigma(time)`.
        last_time: the last entry of the sampler's `tspan`.

    Raises:
        TypeError: if the scheme has no such functions.
        ValueError: unless 0 <= last_time < 1.
    """
    for name in ("scale", "sigma"):
        if not callable(getattr(scheme, name, None)):
            raise TypeError(f"scheme: wanted functions scale and sigma, got {type(scheme).__name__} without {name}.")
    last = check_number("last_time", last_time, 0, 1)
    if last == 1:
        raise ValueError("last_time: wanted a number from 0 to less than 1, got 1.0.")

    def alpha(t):
        return scheme.scale(1 - t * (1 - last))

    def sigma(t):
        time = 1 - t * (1 - last)
        return scheme.scale(time) * scheme.sigma(time)

    return Scheduler(alpha, sigma)


@dataclasses.dataclass(frozen=True)
class TableIntegrator:
    """A solver in the place of `HeunsMethod()`: `OdeSampler(..., integrator=TableIntegrator(theta))`.

    The times of the evaluations are the solver's own; of `tspan` only the ends are read.

    Args:
        solver: a learned solver or a table, fitted to a flow under `scheduler(scheme, tspan[-1])`.

    Raises:
        TypeError: if `solver` is not a solver with a table.
        ValueError: if its arrays disagree, or if it calls the networks of guidance apart. When run, for a `tspan` that is not a
            vector of decreasing times.

    Examples:
        >>> import bespoke_jax as bj
        >>> integrator = TableIntegrator(bj.classic.midpoint(2))
        >>> path = integrator(lambda x, t, params: x, jnp.ones(3), jnp.array([1.0, 0.0]), None)
        >>> path.tolist()  # noise and data
        [[1.0, 1.0, 1.0], [0.5, 0.5, 0.5]]
    """

    solver: Solver

    def __post_init__(self):
        table_of_one_velocity(self.solver)

    def __call__(
        self, func: Callable, x0: Float[Array, "*shape"], tspan: Float[Array, "n"], params: PyTree
    ) -> Float[jax.Array, "2 *shape"]:
        """Noise and data.

        Args:
            func: the dynamics, `func(x, time, params)`.
            x0: noise.
            tspan: times from noise to data.
            params: of the dynamics.
        """
        check_array("tspan", tspan, ("n",))
        if check_numeric("tspan", tspan)[0][0] < 2:
            raise ValueError("tspan: wanted at least the times of noise and data, got one.")
        table, first, span = to_table(self.solver), tspan[0], tspan[-1] - tspan[0]

        def evaluate(carry, index_and_time):
            i, t = index_and_time
            u = span * func(carry.x, first + t.astype(span.dtype) * span, params)
            return table.step(i, carry, u)[0], None

        carry, _ = jax.lax.scan(evaluate, table.begin(x0), (jnp.arange(table.nfe), table.times()))
        return jnp.stack([jnp.asarray(x0), carry.x])
