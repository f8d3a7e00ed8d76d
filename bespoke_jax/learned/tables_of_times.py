"""Tables of dedicated solvers as functions of their step times, traceable by JAX.

`classic` computes the same tables in float64 NumPy, for known times; the tests compare the two. Differences of those tables could
replace this module in a fit, but not under `jit`, `vmap`, `grad` and export, where times are traced: that would take a callback
that itself calls JAX (a scheduler is a function of JAX's), which can deadlock and cannot be exported.

A method with one evaluation per step computes a prediction d_i from (x_i, u_i), and steps by

    x_{i+1} = A_i x_i + B_i u_i + sum_k w_ik d_{i-k},        d_i = p_i x_i + q_i u_i.

A and B are its first-order step. The weights w, which add up to 0 over k, replace the newest prediction by a polynomial through
the last ones. Which predictions a step can use is known beforehand: the first steps have fewer, and none uses those beyond an
end where the polynomial's variable is infinite. Learned times stay away from the ends, so only the ends themselves matter.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax import classic
from bespoke_jax.classic.levels import levels
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.table import SolverTable

__all__ = ["METHODS", "Method"]


class Method(NamedTuple):
    """A dedicated solver.

    Attributes:
        table: (times [n + 1], scheduler) -> its `SolverTable`.
        stages: evaluations per step.
        needs_scheduler: whether it predicts noise or data.
    """

    table: Callable
    stages: int
    needs_scheduler: bool


def _runge_kutta(one_step: Callable, times, scheduler) -> SolverTable:
    """A Runge-Kutta method from its table of one step from 0 to 1, which is its tableau."""
    unit = one_step(dtype=times.dtype)
    h = jnp.diff(times)
    n, stages = h.size, unit.nfe
    # Column (l, j) of row (i, s): h_l times the weights of whole steps if l < i, h_i times the tableau if l = i.
    whole = jnp.kron(jnp.tril(jnp.ones((n, n), h.dtype), -1) * h, jnp.tile(unit.b[-1], (stages, 1)))
    b = whole + jnp.kron(jnp.diag(h), unit.b)
    return SolverTable((times[:-1, None] + h[:, None] * unit.t).ravel(), jnp.ones(n * stages, h.dtype), b)


def _adams(order: int, times, scheduler) -> SolverTable:
    """Adams-Bashforth on the velocity: `classic.ipndm` with variable coefficients."""
    h, one, zero = jnp.diff(times), jnp.ones_like(times[:-1]), jnp.zeros_like(times[:-1])
    mean = _mean_weights(times, _usable(h.size, order))
    return _unroll(times, (one, h), (zero, one), h[:, None] * mean)


def _on_noise(order: int, fixed: bool, times, scheduler) -> SolverTable:
    """Adams-Bashforth on dy = X0 d(rho), y = x / alpha, rho = sigma / alpha: `classic.ipndm` (fixed) and `classic.deis`."""
    at = _Levels.read(scheduler, times)
    start, end = levels(scheduler, [0.0, 1.0])
    rho = _between_ends(start.noise_to_signal, at.sigma[1:-1] / at.alpha[1:-1], end.noise_to_signal)
    usable = _usable(len(times) - 1, order)
    if fixed:
        mean = _mean_weights(jnp.arange(len(times), dtype=times.dtype), usable)
    else:
        # Means over d(rho) of powers of z, where a step goes from z = 0 to 1; by parts, for rho may be steep but is bounded.
        z, dz = (jnp.asarray(values, times.dtype) for values in _QUADRATURE)
        inner = times[:-1, None] + jnp.diff(times)[:, None] * z
        inner_rho = jax.vmap(jax.vmap(lambda t: scheduler.sigma(t) / scheduler.alpha(t)))(inner)
        grown = (inner_rho - rho[:-1, None]) / jnp.diff(rho)[:, None]
        moments = [1 - k * jnp.sum(dz * z ** (k - 1) * grown, axis=1) for k in range(1, order)]
        mean = _mean_weights(times, usable, [1.0, *moments])
    return _unroll(times, at.first_order, at.noise, (at.alpha[1:] * jnp.diff(rho))[:, None] * mean)


def _on_data(order: int, times, scheduler) -> SolverTable:
    """DPM-Solver++ of order 1 (DDIM), 2M, 3M: `classic.dpm_solver_pp`, whose docstring has the formulas."""
    at = _Levels.read(scheduler, times)
    n = len(times) - 1
    start, end = levels(scheduler, [0.0, 1.0])
    inner = jnp.log(at.alpha[1:-1]) - jnp.log(at.sigma[1:-1])
    log_snr = _between_ends(start.log_snr, inner, end.log_snr)
    # Lower orders at the end, as published; order 1 to and from an infinite log-SNR.
    usable = _usable(n, 3, start.log_snr == -np.inf, final=True) & (np.arange(3) < order)
    usable[-1, 1:] &= end.log_snr < np.inf
    two, three = usable[:, 1], usable[:, 2]
    h = jnp.where(two, jnp.diff(log_snr), 1.0)
    before = jnp.concatenate([jnp.ones((2,), h.dtype), jnp.diff(log_snr)])
    r, r_before = (jnp.where(known, gap, 1.0) / h for known, gap in ((two, before[1:-1]), (three, before[:-2])))

    def combination(*factors):  # of X1 at the last three times
        return jnp.stack(jnp.broadcast_arrays(*factors), axis=1)

    first = combination(1 / r, -1 / r, 0.0)
    second = (first - combination(0.0, 1 / r_before, -1 / r_before)) / (r + r_before)[:, None]
    # phi_2 and phi_3 as integrals, in which nothing cancels: of -expm1(-h z) and of (1 - z) expm1(-h z) over z from 0 to 1.
    z, dz = (jnp.asarray(values, h.dtype) for values in _QUADRATURE)
    growth = jnp.expm1(-h[:, None] * z)
    phi_2, phi_3 = -jnp.sum(dz * growth, axis=1), jnp.sum(dz * (1 - z) * growth, axis=1)
    second_order = (at.data_weight / 2)[:, None] * first
    third_order = at.alpha[1:, None] * (phi_2[:, None] * (first + r[:, None] * second) - phi_3[:, None] * second)
    weights = jnp.where(three[:, None], third_order, jnp.where(two[:, None], second_order, 0.0))
    return _unroll(times, at.first_order, at.data, weights[:, :order])


_VELOCITY = {"euler": (classic.euler, 1), "midpoint": (classic.midpoint, 2), "heun": (classic.heun, 2)}
_VELOCITY |= {"rk4": (classic.rk4, 4)}

METHODS = (
    {name: Method(partial(_runge_kutta, partial(f, nfe)), nfe, False) for name, (f, nfe) in _VELOCITY.items()}
    | {f"ipndm-{order}": Method(partial(_adams, order), 1, False) for order in (2, 3, 4)}
    | {"ddim": Method(partial(_on_data, 1), 1, True)}
    | {f"dpm_solver_pp-{order}m": Method(partial(_on_data, order), 1, True) for order in (2, 3)}
    | {f"deis-{order}": Method(partial(_on_noise, order, False), 1, True) for order in (2, 3, 4)}
    | {f"ipndm_noise-{order}": Method(partial(_on_noise, order, True), 1, True) for order in (2, 3, 4)}
)
"""The solvers, by their names in `classic.dedicated`."""


def _quadrature(num_nodes: int = 24):
    """Nodes z, weights on [0, 1]: Gauss-Legendre in y, z = 1 - (1 - y)^2; a root at clean data, sqrt(1 - z), is smooth in y."""
    y, dy = np.polynomial.legendre.leggauss(num_nodes)
    y, dy = (y + 1) / 2, dy / 2
    return 1 - (1 - y) ** 2, 2 * (1 - y) * dy


_QUADRATURE = _quadrature()


class _Levels(NamedTuple):
    """A scheduler at the times: alpha and sigma [n + 1], their derivatives at all but the last time [n]."""

    alpha: jax.Array
    sigma: jax.Array
    alpha_dot: jax.Array
    sigma_dot: jax.Array

    @classmethod
    def read(cls, scheduler: Scheduler, times) -> "_Levels":
        # The end by itself: it is not learned, and the slopes there may be infinite.
        at, end = jax.vmap(scheduler.at)(times[:-1]), scheduler.at(jnp.ones((), times.dtype))
        return cls(jnp.append(at.alpha, end.alpha), jnp.append(at.sigma, end.sigma), at.alpha_dot, at.sigma_dot)

    @property
    def data(self):
        """Factors of x and u in X1 = E[x1 | x]."""
        return self.sigma_dot / self._determinant, -self.sigma[:-1] / self._determinant

    @property
    def noise(self):
        """Factors of x and u in X0 = E[x0 | x]."""
        return -self.alpha_dot / self._determinant, self.alpha[:-1] / self._determinant

    @property
    def data_weight(self):
        """Factor of X1 in a step of DDIM."""
        return self.alpha[1:] - self.alpha[:-1] * self.sigma[1:] / self.sigma[:-1]

    @property
    def first_order(self):
        """Factors of x and u in a step of DDIM."""
        of_x, of_u = self.data
        return self.sigma[1:] / self.sigma[:-1] + self.data_weight * of_x, self.data_weight * of_u

    @property
    def _determinant(self):
        return self.alpha[:-1] * self.sigma_dot - self.sigma[:-1] * self.alpha_dot


def _between_ends(start: float, inner, end: float):
    """A variable at all times. At the ends, which are not learned, it is a plain number; infinity is not used and becomes 0."""
    first, last = (jnp.full((1,), value if np.isfinite(value) else 0.0, inner.dtype) for value in (start, end))
    return jnp.concatenate([first, inner, last])


def _usable(num_steps: int, order: int, singular: bool = False, final: bool = False) -> np.ndarray:
    """Whether step i may use the prediction of time i - k: [n, order], the last one (k = 0) always.

    Args:
        singular: nothing of time 0 is used by later steps, nor anything else by step 0.
        final: the last steps have order ..., 2, 1.
    """
    i, k = np.indices((num_steps, order))
    return (k == 0) | (i - k >= singular) & ((k < num_steps - i) | (not final))


def _mean_weights(v, usable: np.ndarray, moments=None):
    """Weights [n, K] of the last values in the mean of their polynomial in v over step i, from v_i to v_{i+1}, less (1, 0, ..).

    Args:
        moments: the means of 1, z, z^2, ..., where z goes from 0 to 1; 1, 1/2, 1/3, ... if not given.
    """
    n, order = usable.shape
    moments = moments or [1 / (power + 1) for power in range(order)]
    back = np.maximum(np.arange(n)[:, None] - np.arange(order), 0)
    length = jnp.where(usable[:, 1:].any(axis=1, keepdims=True), jnp.diff(v)[:, None], 1.0)
    z = (v[back] - v[:-1, None]) / length
    weights = []
    for k in range(order):
        # The k-th Lagrange polynomial: powers of z, lowest first.
        polynomial = [jnp.ones_like(v[:-1])]
        for j in range(order):
            if j != k:
                both = usable[:, j] & usable[:, k]
                slope = jnp.where(both, 1 / jnp.where(both, z[:, k] - z[:, j], 1.0), 0.0)
                constant = jnp.where(both, -z[:, j] * slope, 1.0)
                raised = [jnp.zeros_like(slope), *polynomial]
                polynomial = [constant * c + slope * r for c, r in zip([*polynomial, 0.0], raised, strict=True)]
        mean = sum(c * moment for c, moment in zip(polynomial, moments, strict=True))
        weights.append(jnp.where(usable[:, k], mean, 0.0) - float(k == 0))
    return jnp.stack(weights, axis=1)


def _unroll(times, first_order, prediction, weights) -> SolverTable:
    """The table of the recurrence above: states and predictions are coefficient vectors over x_0 and all velocities."""
    n, order = weights.shape
    unit = jnp.eye(n + 1, dtype=times.dtype)

    def step(carry, factors):
        x, known = carry
        a, b, p, q, w, u = factors
        known = jnp.concatenate([(p * x + q * u)[None], known[:-1]])
        x = a * x + b * u + jnp.sum(w[:, None] * known, axis=0)
        return (x, known), x

    start = (unit[0], jnp.zeros((order, n + 1), times.dtype))
    _, rows = jax.lax.scan(step, start, (*first_order, *prediction, weights, unit[1:]))
    return SolverTable(times[:-1], rows[:, 0], rows[:, 1:])
