"""Exponential integrators with data prediction, one evaluation a step: DDIM, DPM-Solver++ and UniPC.

x / sigma is the integral of X1 = E[x1 | x] over the snr (Lu et al. 2022, arXiv:2211.01095). The linear part of the flow is solved
exactly, and X1 is approximated by a polynomial in log-SNR through its last values. No such polynomial reaches an infinite log-SNR
(snr below 1e-5 or above 1e5), for which all methods follow one rule: a step that begins or ends there has order 1, DDIM's, and a
value found there is no node of a polynomial. At snr 0 this is the limit of the formulas; towards clean data, formulas of higher
order have no limit.
"""

import math
from itertools import pairwise

import jax.numpy as jnp
import numpy as np

from bespoke_jax.checks import check_choice, check_count, check_flag
from bespoke_jax.classic.grids import time_grid
from bespoke_jax.classic.levels import Level, check_scheduler, levels
from bespoke_jax.classic.unroll import State, Unrolling, data_step, data_weight
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike, GridLike

__all__ = ["ddim", "dpm_solver_pp", "unipc"]


def ddim(nfe: int, scheduler: Scheduler, *, grid: GridLike = "uniform", dtype: DTypeLike = jnp.float32) -> SolverTable:
    """DDIM with eta = 0 (Song, Meng & Ermon 2020, arXiv:2010.02502, eq. 12): order 1, one evaluation a step.

    x_t = sigma_t / sigma_s x_s + (alpha_t - alpha_s sigma_t / sigma_s) X1(s), which is exact where X1 is constant. Under CondOT
    it is Euler's method.

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's.
        grid: a name or the nfe + 1 times between which it steps, see `time_grid`.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> ddim(2, bj.schedulers.CondOT()).b.tolist()
        [[0.5, 0.0], [0.5, 0.5]]
    """
    return dpm_solver_pp(nfe, check_scheduler(scheduler, "ddim"), order=1, grid=grid, dtype=dtype)


def dpm_solver_pp(
    nfe: int,
    scheduler: Scheduler,
    order: int = 2,
    *,
    grid: GridLike = "log_snr",
    lower_order_final: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> SolverTable:
    """DPM-Solver++ multistep, 2M and 3M (Lu et al. 2022, arXiv:2211.01095, Alg. 2): one evaluation a step.

    Let h be the step in log-SNR, D_k the k-th divided difference of X1 over log-SNR in units of h, and D' = D_1 + r D_2 the slope
    at the step's start (r: the ratio of the previous step to this one). Then

        2M: x_t = sigma_t / sigma_s x_s - alpha_t expm1(-h) (X1 + D_1 / 2)
        3M: x_t = sigma_t / sigma_s x_s - alpha_t [phi_1 X1 - phi_2 D' + phi_3 D_2],
            phi_1 = expm1(-h), phi_2 = phi_1 / h + 1, phi_3 = phi_2 / h - 1/2

    The first steps have order 1, 2. This 3M, published by the authors and used by other libraries, gives the quadratic term D_2
    half of its weight in the integral of the polynomial, so that its error eventually falls like h^2, with a small constant.
    `unipc(..., order=3, corrector=False)` uses the integral and has order 3.

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's.
        order: 1 (`ddim`), 2 or 3.
        grid: a name or the nfe + 1 times between which it steps, see `time_grid`.
        lower_order_final: let the last steps have order ..., 2, 1. A step to an infinite log-SNR always has order 1.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> dpm_solver_pp(4, bj.schedulers.CondOT(), order=3).nfe
        4
    """
    nfe, order = check_count("nfe", nfe), check_count("order", order, 1, 3)
    lower_order_final = check_flag("lower_order_final", lower_order_final)
    points = levels(check_scheduler(scheduler, "dpm_solver_pp"), time_grid(grid, nfe, scheduler))
    run = Unrolling(nfe)
    x, history = run.x0, _History(order)
    for i, (s, t) in enumerate(pairwise(points)):
        history.add(s, run.predict(s, x)[0])
        x = _multistep(s, t, x, history.last(s, t, nfe - i if lower_order_final else order))
    return run.table(x, dtype)


_Node = tuple[float, State]  # (log-SNR, X1)


class _History:
    """The last data predictions, newest first."""

    def __init__(self, order: int):
        self._order = order
        self._known: list[_Node] = []

    def add(self, level: Level, data: State) -> None:
        self._known = [(level.log_snr, data), *self._known][: self._order]

    def last(self, s: Level, t: Level, most: int) -> list[_Node]:
        """The nodes that a step from s to t may use, at most `most` of them."""
        if not (math.isfinite(s.log_snr) and math.isfinite(t.log_snr)):
            most = 1
        return [self._known[0], *(node for node in self._known[1:] if math.isfinite(node[0]))][:most]


def _multistep(s: Level, t: Level, x: State, nodes: list[_Node]) -> State:
    """The step of DPM-Solver++ through these nodes, newest first."""
    log_snrs, data = zip(*nodes, strict=True)
    x = data_step(s, t, x, data[0])
    if len(nodes) == 1:
        return x
    h = t.log_snr - s.log_snr
    r = (log_snrs[0] - log_snrs[1]) / h
    first = (data[0] - data[1]) / r
    if len(nodes) == 2:
        return x + data_weight(s, t) / 2 * first
    r_before = (log_snrs[1] - log_snrs[2]) / h
    second = (first - (data[1] - data[2]) / r_before) / (r + r_before)
    slope = first + r * second
    phi_2 = math.expm1(-h) / h + 1
    phi_3 = phi_2 / h - 0.5
    return x + t.alpha * (phi_2 * slope - phi_3 * second)


def unipc(
    nfe: int,
    scheduler: Scheduler,
    order: int = 3,
    variant: str = "bh2",
    corrector: bool = True,
    *,
    grid: GridLike = "log_snr",
    lower_order_final: bool = True,
    dtype: DTypeLike = jnp.float32,
) -> SolverTable:
    """UniPC, data prediction (Zhao et al. 2023, arXiv:2302.04867): order `order`, or one more with the corrector.

    Predictor and corrector share one formula, in which the corrector has one more node, at the step's end:

        x_t = sigma_t / sigma_s x_s - alpha_t [expm1(-h) X1_s + B(h) sum_k rho_k (X1_k - X1_s) / r_k]

    where r_k is the k-th node's distance from s in log-SNR in units of h, and rho_k integrates polynomials exactly. The
    evaluation at the predicted x_t corrects x_t and then serves the next step: one evaluation a step, and no corrector after the
    last. As in the authors' code, rho = 1/2 if there is only one (predictor of order 2, corrector of order 1); otherwise B(h)
    cancels out, and the variants agree.

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's.
        order: 1, 2 or 3, of the predictor.
        variant: B(h) = -h ("bh1") or expm1(-h) ("bh2", also used for "bh1" where h is infinite).
        corrector: whether to correct; without it this is UniP, which for order 3 is the exact exponential Adams-Bashforth method.
        grid: a name or the nfe + 1 times between which it steps, see `time_grid`.
        lower_order_final: let the last steps have order ..., 2, 1.
        dtype: of the table.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> unipc(6, bj.schedulers.VariancePreserving(), order=3).nfe
        6
    """
    nfe, order = check_count("nfe", nfe), check_count("order", order, 1, 3)
    check_choice("variant", variant, ("bh1", "bh2"))
    corrector = check_flag("corrector", corrector)
    lower_order_final = check_flag("lower_order_final", lower_order_final)
    points = levels(check_scheduler(scheduler, "unipc"), time_grid(grid, nfe, scheduler))
    run = Unrolling(nfe)
    x, history = run.x0, _History(order)
    data = run.predict(points[0], x)[0]
    for i, (s, t) in enumerate(pairwise(points)):
        history.add(s, data)
        nodes = history.last(s, t, nfe - i if lower_order_final else order)
        start, x = x, _unified(s, t, x, nodes, variant)
        if i + 1 < nfe:
            data = run.predict(t, x)[0]
            x = _unified(s, t, start, [*nodes, (t.log_snr, data)], variant) if corrector else x
    return run.table(x, dtype)


def _unified(s: Level, t: Level, x: State, nodes: list[_Node], variant: str) -> State:
    """The step of UniP or UniC through these nodes, the first of them at the step's start."""
    base = data_step(s, t, x, nodes[0][1])
    others = nodes[1:]
    if not others:
        return base
    h = t.log_snr - s.log_snr
    if math.isinf(h) or math.isnan(h):
        # A corrector of order 1, the only one with an infinite step, is the trapezium rule in the snr.
        return base + data_weight(s, t) / 2 * (others[0][1] - nodes[0][1])
    r = np.array([(log_snr - s.log_snr) / h for log_snr, _ in others])
    differences = [(data - nodes[0][1]) / r_k for r_k, (_, data) in zip(r, others, strict=True)]
    b_h = -h if variant == "bh1" else math.expm1(-h)
    if len(others) == 1:
        rho = [0.5]
    else:
        # Solve sum_k rho_k r_k^(p-1) = p! phi_{p+1}(-h) (-h) / B(h), where phi_{p+1} are integrals of polynomials.
        wanted, phi = [], math.expm1(-h) / -h - 1
        for p in range(1, len(others) + 1):
            wanted.append(math.factorial(p) * phi / b_h)
            phi = phi / -h - 1 / math.factorial(p + 1)
        rho = np.linalg.solve(r ** np.arange(len(others))[:, None], wanted)
    return base - t.alpha * b_h * sum(rho_k * difference for rho_k, difference in zip(rho, differences, strict=True))
