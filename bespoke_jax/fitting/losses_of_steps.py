"""Losses of single steps, each begun from a point of the true path: the RMSE-Bound loss (26) and the plain sum of errors."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Float

from bespoke_jax.checks import check_number, check_type
from bespoke_jax.fitting.loss import AVERAGES, Loss
from bespoke_jax.flow.conditions import of_paths
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.states import weighted
from bespoke_jax.learned.knots import Knots
from bespoke_jax.learned.step_theta import step_lipschitz
from bespoke_jax.learned.steps import table_from_knots
from bespoke_jax.learned.theta import Theta
from bespoke_jax.metrics import mean_square
from bespoke_jax.run.paths import Paths
from bespoke_jax.run.solve import solve
from bespoke_jax.solver import Solver
from bespoke_jax.types import Array, Scalar

__all__ = [
    "Local",
    "RmseBound",
    "auxiliary_path",
    "bound_weights",
    "local",
    "rmse_bound",
    "step_error",
    "step_errors",
    "weighted_error",
]


def auxiliary_path(paths: Paths, t: Scalar | Float[Array, "m"]) -> Float[jax.Array, "..."]:
    """xaux(t) = x([t]) + u_{[t]}(x([t])) (t - [t]), [.] being stop-gradient: eq. (27).

    Value and t-derivative are those of the true path; no gradient enters the reference solve. Shape as `paths.at(t)`.
    """
    t = jnp.asarray(t, paths.times.dtype)
    fixed = jax.lax.stop_gradient(t)
    x, velocity = jax.lax.stop_gradient((paths.at(fixed), paths.velocity(fixed)))
    offset = (t - fixed).astype(x.dtype)
    return x + velocity * offset.reshape(*t.shape, *(1,) * (x.ndim - t.ndim))


# A step is run as a table: the scan of a table holds the network once, the step of rk2 twice, so the table compiles in half the
# time.


_OF_STEPS = "a theta of rk1 or rk2, whose steps this loss compares"


def step_error(flow: Flow, theta: Theta, window: Knots, paths: Paths) -> Float[jax.Array, "batch *event"]:
    """x(t_{i+1}) - step(t_i, x(t_i)) of the step with knots `window`, with xaux on both sides: [B, *event]."""
    flow, step = of_paths(flow, paths), table_from_knots(theta.base, window, 1.0 / theta.num_steps)
    error = auxiliary_path(paths, window.t[-1]) - solve(flow, step, auxiliary_path(paths, window.t[0]))
    return error.reshape(-1, *flow.event_shape)


def weighted_error(flow: Flow, theta: Theta, window: Knots, paths: Paths) -> Float[jax.Array, "batch *event"]:
    """`step_error`, of which the plain mean square is that of the flow's norm."""
    error = step_error(flow, theta, window, paths)
    return weighted(error, of_paths(flow, paths).error_scale(len(error)))


def step_errors(flow: Flow, theta: Theta, paths: Paths) -> Float[jax.Array, "n batch *event"]:
    """The errors of all n steps, [n, B, *event] (Sec. 2.3, before eq. 24). They are independent and run as one batch."""
    check_type("theta", theta, Theta, _OF_STEPS)
    windows = theta.knots().of_steps(theta.num_steps)
    return jax.vmap(lambda window: step_error(flow, theta, window, paths))(windows)


def bound_weights(theta: Theta, lipschitz: Scalar = 1.0) -> Float[jax.Array, "n"]:
    """M_i = L_i L_{i+1} ... L_{n-1}, M_n = 1, for i = 1..n: shape [n] (Sec. 2.3, eqs. 24-26).

    L_j belongs to the step that starts at t_j: an error made in step i - 1 passes through steps i..n-1.
    """
    later = step_lipschitz(theta, lipschitz)[1:]
    return jnp.concatenate([jnp.cumprod(later[::-1])[::-1], jnp.ones((1,), later.dtype)])


def rmse_bound(flow: Flow, theta: Theta, paths: Paths, lipschitz: Scalar = 1.0) -> Float[jax.Array, ""]:
    """RMSE-Bound loss, eq. (26): E sum_i M_i d_i, with d_i = || x(t_i) - step(t_{i-1}, x(t_{i-1})) ||.

    At least E || x(1) - x_n || whenever `lipschitz` (L_tau; 1 in the paper) is at least the field's Lipschitz constant.

    Examples:
        >>> import jax, bespoke_jax as bj
        >>> flow = bj.analytic.gaussian(mean=[1.0, 2.0], std=0.5)
        >>> paths = bj.ground_truth(flow, flow.noise(jax.random.key(0), (8,)))
        >>> theta = bj.init_theta("rk2", num_steps=4)
        >>> bool(rmse_bound(flow, theta, paths) > local(flow, theta, paths))
        True
    """
    return _sum_of_steps(flow, theta, paths, bound_weights(theta, lipschitz))


def local(flow: Flow, theta: Theta, paths: Paths) -> Float[jax.Array, ""]:
    """E sum_i d_i: `rmse_bound` with all M_i = 1."""
    check_type("theta", theta, Theta, _OF_STEPS)
    return _sum_of_steps(flow, theta, paths, Local().weights(theta))


def _sum_of_steps(flow, theta, paths, weights):
    """E sum_i w_i d_i, one step after another, each recomputed for its gradient: memory does not grow with n."""

    @jax.checkpoint
    def distances(window_and_weight):
        window, weight = window_and_weight
        error = weighted_error(flow, theta, window, paths)
        return AVERAGES["root"](mean_square(weight.astype(error.dtype) * error, len(flow.event_shape)))

    windows = theta.knots().of_steps(theta.num_steps)
    return jnp.mean(jnp.sum(jax.lax.map(distances, (windows, weights)), axis=0))


@dataclasses.dataclass(frozen=True)
class RmseBound(Loss):
    """The RMSE-Bound loss, eq. (26), as a value: `rmse_bound`.

    Args:
        lipschitz: L_tau >= 0, 1 in the paper.

    Raises:
        ValueError: for another number.
    """

    lipschitz: float = 1.0

    name = "rmse_bound"
    average = "root"
    of_ends = False

    def __post_init__(self):
        check_number("RmseBound.lipschitz", self.lipschitz, 0)

    def weights(self, theta: Theta) -> Float[jax.Array, "n"]:
        """M_i of each step, [n]."""
        return bound_weights(theta, self.lipschitz)

    def __call__(self, flow: Flow, solver: Solver, paths: Paths) -> Float[jax.Array, ""]:
        """The loss, []."""
        return rmse_bound(flow, check_type("solver", solver, Theta, _OF_STEPS), paths, self.lipschitz)


@dataclasses.dataclass(frozen=True)
class Local(Loss):
    """The sum of the steps' own errors as a value: `local`."""

    name = "local"
    average = "root"
    of_ends = False

    def weights(self, theta: Theta) -> Float[jax.Array, "n"]:
        """1 for each step, [n]."""
        return jnp.ones((theta.num_steps,), theta.raw.dtype)

    def __call__(self, flow: Flow, solver: Solver, paths: Paths) -> Float[jax.Array, ""]:
        """The loss, []."""
        return local(flow, check_type("solver", solver, Theta, _OF_STEPS), paths)
