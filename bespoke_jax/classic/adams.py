"""Adams-Bashforth methods with one evaluation a step: DEIS and iPNDM.

Both integrate dy = X0 d(rho), y = x / alpha, rho = sigma / alpha, with a polynomial through the last values of X0 = E[x0 | x];
they differ in the polynomial's variable. A step from snr 0 (within 1e-5), where y is infinite, is DDIM's.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_choice, check_count
from bespoke_jax.classic.grids import time_grid
from bespoke_jax.classic.levels import Level, check_scheduler, levels
from bespoke_jax.classic.unroll import Unrolling, data_step
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike, GridLike

__all__ = ["deis", "ipndm"]

_FIXED = {  # order -> the weights for equal steps, newest value first
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}
_VARIABLES = {
    "t": lambda level: level.t,
    "rho": lambda level: level.noise_to_signal,
    "log_rho": lambda level: -level.log_snr,
}


def deis(
    nfe: int,
    scheduler: Scheduler,
    order: int = 3,
    *,
    grid: GridLike = "quadratic",
    variable: str = "t",
    dtype: DTypeLike = jnp.float32,
) -> SolverTable:
    """DEIS (Zhang & Chen 2022, arXiv:2204.13902): exponential Adams-Bashforth, one evaluation a step.

    x_t = alpha_t / alpha_s x_s + alpha_t sum_j C_j X0_j, C_j the integral of the j-th Lagrange polynomial over d(sigma / alpha).
    The paper's tAB-r, with polynomials of degree r in time, has order r + 1 here; order 1 is `ddim`. The first steps have
    order 1, 2, ...

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's.
        order: 1 to 4, the number of values of X0 used.
        grid: a name or the nfe + 1 times between which it steps, see `time_grid`. The paper's best is "quadratic".
        variable: of the polynomials: "t" (tAB), "rho" (rhoAB; sigma / alpha) or "log_rho", the DEIS of other libraries (in which
            a step to an infinite log-SNR has order 1).
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> deis(8, bj.schedulers.VariancePreserving(), order=3).nfe
        8
    """
    nfe, order = check_count("nfe", nfe), check_count("order", order, 1, 4)
    check_choice("variable", variable, _VARIABLES)
    points = levels(check_scheduler(scheduler, "deis"), time_grid(grid, nfe, scheduler))

    def rho_of(v: np.ndarray) -> np.ndarray:
        if variable == "t":
            return np.array([level.noise_to_signal for level in levels(scheduler, v)])
        return v if variable == "rho" else np.exp(v)

    return _on_noise(points, order, _VARIABLES[variable], lambda v, end: _lagrange_weights(v, end, rho_of), dtype)


def ipndm(
    nfe: int,
    order: int = 4,
    *,
    grid: GridLike = "uniform",
    scheduler: Scheduler | None = None,
    coefficients: str = "variable",
    dtype: DTypeLike = jnp.float32,
) -> SolverTable:
    """iPNDM (Liu et al. 2022, arXiv:2202.09778; Zhang & Chen 2022, arXiv:2204.13902): Adams-Bashforth, one evaluation a step.

    The first steps have lower orders. Without a scheduler the method is applied to the velocity,
    x_{i+1} = x_i + (t_{i+1} - t_i) sum_k c_k u_{i-k}; with one, to the noise prediction in a step of DDIM, as in the papers.

    Args:
        nfe: velocity evaluations, at least 1.
        order: 1 to 4, the number of values used.
        grid: a name or the nfe + 1 times between which it steps, see `time_grid`.
        scheduler: the flow's, for noise prediction and for grids that need one; None for the velocity.
        coefficients: "variable" for those of the grid's own steps, in t or in sigma / alpha (the latter is rhoAB-DEIS, often
            called iPNDM_v), with full order on every grid; "fixed" for the papers', those of equal steps on any grid, such as
            55/24, -59/24, 37/24, -9/24. The two agree for the velocity on a uniform grid.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> ipndm(2).b.tolist()
        [[0.5, 0.0], [0.25, 0.75]]
    """
    nfe, order = check_count("nfe", nfe), check_count("order", order, 1, 4)
    check_choice("coefficients", coefficients, ("fixed", "variable"))
    times = time_grid(grid, nfe, scheduler)
    fixed = coefficients == "fixed"
    if scheduler is not None:
        points = levels(check_scheduler(scheduler, "ipndm"), times)
        if fixed:
            # The weights do not depend on the variable; any finite one will do.
            return _on_noise(points, order, _VARIABLES["t"], lambda v, end: np.array(_FIXED[len(v)]), dtype)
        return _on_noise(points, order, _VARIABLES["rho"], _step_weights, dtype)
    run = Unrolling(nfe)
    x, known = run.x0, []
    for s, t in pairwise(times):
        known = [(s, run.velocity(s, x)), *known][:order]
        nodes, velocities = zip(*known, strict=True)
        weights = _FIXED[len(nodes)] if fixed else _step_weights(np.array(nodes), t)
        x = x + (t - s) * sum(weight * velocity for weight, velocity in zip(weights, velocities, strict=True))
    return run.table(x, dtype)


def _on_noise(
    points: list[Level],
    order: int,
    variable: Callable[[Level], float],
    weights: Callable[[np.ndarray, float], np.ndarray],
    dtype: DTypeLike,
) -> SolverTable:
    """Adams-Bashforth on dy = X0 d(rho).

    `weights(nodes, end)` are those of the values at the nodes, newest first, of sum 1.
    """
    run = Unrolling(len(points) - 1)
    x, known = run.x0, []
    for s, t in pairwise(points):
        data, noise = run.predict(s, x)
        known = [(variable(s), noise), *(node for node in known if math.isfinite(node[0]))][:order]
        x = data_step(s, t, x, data)
        if s.log_snr == -math.inf or not (math.isfinite(known[0][0]) and math.isfinite(variable(t))):
            continue
        nodes, noises = zip(*known, strict=True)
        mean = sum(w * value for w, value in zip(weights(np.array(nodes), variable(t)), noises, strict=True))
        x = x + t.alpha * (t.noise_to_signal - s.noise_to_signal) * (mean - noise)
    return run.table(x, dtype)


def _step_weights(nodes: np.ndarray, end: float) -> np.ndarray:
    """The weights of the values at the nodes in the mean of their polynomial from nodes[0] to the end."""
    return _weights(nodes, end, 1 / np.arange(1, len(nodes) + 1))


def _lagrange_weights(nodes: np.ndarray, end: float, rho_of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """The same for the mean over rho = rho_of(variable) of a polynomial in that variable."""
    rho_start, *rho, rho_end = rho_of(nodes[0] + (end - nodes[0]) * np.concatenate([[0.0], _NODES, [1.0]]))
    # Integrals of z^k over d(rho), z from 0 to 1, by parts, because rho is bounded but may be steep, as at clean data.
    k = np.arange(1, len(nodes))
    moments = rho_end - k * (_NODES ** (k[:, None] - 1) @ (_WEIGHTS * rho))
    return _weights(nodes, end, np.concatenate([[1.0], moments / (rho_end - rho_start)]))


def _weights(nodes: np.ndarray, end: float, moments: np.ndarray) -> np.ndarray:
    z = (nodes - nodes[0]) / (end - nodes[0])
    return np.linalg.solve(z ** np.arange(len(nodes))[:, None], moments)


def _tanh_sinh(step: float = 0.1, reach: float = 3.2) -> tuple[np.ndarray, np.ndarray]:
    """(nodes, weights) of a quadrature on [0, 1], accurate despite roots and logarithms at an end (Takahasi & Mori 1974)."""
    w = np.arange(-reach, reach + step / 2, step)
    nodes = 1 / (1 + np.exp(-math.pi * np.sinh(w)))
    weights = nodes * (1 - nodes) * math.pi * np.cosh(w)
    return nodes, weights / np.sum(weights)


_NODES, _WEIGHTS = _tanh_sinh()
