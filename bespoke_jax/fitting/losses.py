"""The losses of a theta against true paths. All have one signature: `loss(flow, theta, paths, ...) -> scalar`.

`rmse_bound` (26) and `local` look at each step on its own, from a point of the true path. `rmse` (6) and `endpoint` run the
solver and look at where it ends, as does a `Distance` of your own.

Each of the four is E sum_i phi(mean_j e_ij^2) for error vectors e_i and phi the square root or the logarithm. `LOSSES` keeps the
two parts of each beside its name: `curvature` needs them apart.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from bespoke_jax.checks import check_type
from bespoke_jax.fitting.distance import AVERAGES, MEAN_SQUARE, Distance
from bespoke_jax.flow.conditions import of_paths
from bespoke_jax.flow.flow import Flow
from bespoke_jax.learned.knots import Knots
from bespoke_jax.learned.step_theta import step_lipschitz
from bespoke_jax.learned.steps import table_from_knots
from bespoke_jax.learned.theta import Theta
from bespoke_jax.metrics import mean_square
from bespoke_jax.run.paths import Paths, samples
from bespoke_jax.run.solve import solve
from bespoke_jax.table import SolverTable, to_table

__all__ = [
    "LOSSES",
    "Distance",
    "auxiliary_path",
    "bound_weights",
    "end_errors",
    "endpoint",
    "local",
    "rmse",
    "rmse_bound",
    "step_error",
    "step_errors",
    "terms_of",
]


def auxiliary_path(paths: Paths, t):
    """xaux(t) = x([t]) + u_{[t]}(x([t])) (t - [t]), [.] being stop-gradient: eq. (27).

    Value and t-derivative are those of the true path; no gradient enters the reference solve. Shape as `paths.at(t)`.
    """
    t = jnp.asarray(t, paths.times.dtype)
    fixed = jax.lax.stop_gradient(t)
    x, velocity = jax.lax.stop_gradient((paths.at(fixed), paths.velocity(fixed)))
    offset = (t - fixed).astype(x.dtype)
    return x + velocity * offset.reshape(*t.shape, *(1,) * (x.ndim - t.ndim))


# Both kinds of error run tables: their scan holds the network once, where an rk2 step holds it twice. It compiles in half
# the time.


_OF_STEPS = "a theta of rk1 or rk2, of whose steps this loss is made"


def step_error(flow: Flow, theta: Theta, window: Knots, paths: Paths):
    """x(t_{i+1}) - step(t_i, x(t_i)) of the step with knots `window`, with xaux on both sides: [B, *event]."""
    flow, step = of_paths(flow, paths), table_from_knots(theta.base, window, 1.0 / theta.num_steps)
    error = auxiliary_path(paths, window.t[-1]) - solve(flow, step, auxiliary_path(paths, window.t[0]))
    return error.reshape(-1, *flow.event_shape)


def step_errors(flow: Flow, theta: Theta, paths: Paths):
    """The errors of all n steps, [n, B, *event] (Sec. 2.3, before eq. 24): independent, so they run as one batch."""
    check_type("theta", theta, Theta, _OF_STEPS)
    windows = theta.knots().of_steps(theta.num_steps)
    return jax.vmap(lambda window: step_error(flow, theta, window, paths))(windows)


def bound_weights(theta: Theta, lipschitz=1.0):
    """M_i = L_i L_{i+1} ... L_{n-1}, M_n = 1, for i = 1..n: shape [n] (Sec. 2.3, eqs. 24-26).

    L_j belongs to the step that starts at t_j: an error made in step i - 1 passes through steps i..n-1.
    """
    later = step_lipschitz(theta, lipschitz)[1:]
    return jnp.concatenate([jnp.cumprod(later[::-1])[::-1], jnp.ones((1,), later.dtype)])


def rmse_bound(flow: Flow, theta: Theta, paths: Paths, lipschitz=1.0):
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


def local(flow: Flow, theta: Theta, paths: Paths):
    """E sum_i d_i: `rmse_bound` with all M_i = 1."""
    check_type("theta", theta, Theta, _OF_STEPS)
    return _sum_of_steps(flow, theta, paths, jnp.ones((theta.num_steps,), theta.raw.dtype))


def rmse(flow: Flow, theta: Theta | SolverTable, paths: Paths):
    """E || x(1) - x_n ||, eq. (6): the global error itself, back through the solve. Takes a theta or a table."""
    return _reduce(flow, end_errors(flow, theta, paths), _root)


def endpoint(flow: Flow, theta: Theta | SolverTable, paths: Paths):
    """E log || x(1) - x_n ||^2: the mean PSNR, up to sign and scale. Takes a theta or a table."""
    return _reduce(flow, end_errors(flow, theta, paths), _log)


def end_errors(flow: Flow, solver: Theta | SolverTable, paths: Paths):
    """x_n - x(1): [1, B, *event]."""
    flow, x0, x1 = samples(flow, paths)
    return (solve(flow, to_table(solver), x0) - x1)[None]


def _sum_of_steps(flow, theta, paths, weights):
    """E sum_i w_i d_i, a step after the other, each done again for its gradient: memory does not grow with n."""

    @jax.checkpoint
    def distances(window_and_weight):
        window, weight = window_and_weight
        error = step_error(flow, theta, window, paths)
        return _root(mean_square(weight.astype(error.dtype) * error, len(flow.event_shape)))

    windows = theta.knots().of_steps(theta.num_steps)
    return jnp.mean(jnp.sum(jax.lax.map(distances, (windows, weights)), axis=0))


def _bound_errors(flow, theta, paths, lipschitz=1.0):
    """M_i times the error of step i: their norms add up to the bound."""
    errors = step_errors(flow, theta, paths)
    weights = bound_weights(theta, lipschitz).astype(errors.dtype)
    return weights.reshape(-1, *(1,) * (errors.ndim - 1)) * errors


_root, _log = AVERAGES["root"], AVERAGES["log"]


def _reduce(flow, errors, phi):
    """E over paths of the sum over terms of phi(mean square), from errors [terms, B, *event]."""
    return jnp.mean(jnp.sum(phi(mean_square(errors, len(flow.event_shape))), axis=0))


class LossTerms(NamedTuple):
    """A loss taken apart.

    Attributes:
        function: the loss itself.
        errors: its error vectors, [terms, B, *event].
        phi: what is taken of their mean squares.
        distance: that of ends; None for a loss of single steps.
    """

    function: Callable
    errors: Callable | None
    phi: Callable
    distance: Distance | None

    @property
    def per_step(self) -> bool:
        """Whether error i depends on the knots of step i alone (and its weight)."""
        return self.distance is None


LOSSES = {
    "rmse_bound": LossTerms(rmse_bound, _bound_errors, _root, None),
    "local": LossTerms(local, step_errors, _root, None),
    "rmse": LossTerms(rmse, end_errors, _root, MEAN_SQUARE),
    "endpoint": LossTerms(endpoint, end_errors, _log, MEAN_SQUARE),
}
"""The losses by the names that configs use."""


def terms_of(loss: str | Distance) -> LossTerms:
    """A named loss, or a distance, taken apart."""
    return LossTerms(loss, None, loss.phi, loss) if isinstance(loss, Distance) else LOSSES[loss]
