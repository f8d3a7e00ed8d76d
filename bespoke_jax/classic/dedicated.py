"""All dedicated solvers at one number of evaluations, for comparisons, and for starting a fit from the best."""

from functools import partial

import jax.numpy as jnp

from bespoke_jax.checks import check_count
from bespoke_jax.classic.adams import deis, ipndm
from bespoke_jax.classic.exponential import ddim, dpm_solver_pp, unipc
from bespoke_jax.classic.grids import GRIDS, NEED_NO_SCHEDULER, time_grid
from bespoke_jax.classic.levels import check_scheduler, levels
from bespoke_jax.classic.published import SEARCHED, solver_search
from bespoke_jax.classic.runge_kutta import euler, heun, midpoint, rk4
from bespoke_jax.classic.singlestep import dpm_solver_2, dpm_solver_3, dpm_solver_pp_2s, edm_heun
from bespoke_jax.schedulers import CondOT, Scheduler
from bespoke_jax.table import SolverTable
from bespoke_jax.types import DTypeLike

__all__ = ["dedicated"]

# name -> (solver, its fewest evaluations, the number of which it takes multiples)
_ON_VELOCITY = {
    "euler": (euler, 1, 1),
    "midpoint": (midpoint, 2, 2),
    "heun": (heun, 2, 2),
    "rk4": (rk4, 4, 4),
    **{f"ipndm-{order}": (partial(ipndm, order=order), order, 1) for order in (2, 3, 4)},
}
# name -> (solver, its fewest evaluations)
_WITH_SCHEDULER = {
    "ddim": (ddim, 1),
    "dpm_solver-2": (dpm_solver_2, 2),
    "dpm_solver-3": (dpm_solver_3, 3),
    "dpm_solver_pp-2s": (dpm_solver_pp_2s, 2),
    "dpm_solver_pp-2m": (partial(dpm_solver_pp, order=2), 2),
    "dpm_solver_pp-3m": (partial(dpm_solver_pp, order=3), 3),
    **{f"unipc-{order}": (partial(unipc, order=order), order) for order in (2, 3)},
    **{f"deis-{order}": (partial(deis, order=order), order) for order in (2, 3, 4)},
    **{f"ipndm_noise-{order}": (partial(ipndm, order=order, coefficients="fixed"), order) for order in (2, 3, 4)},
}


def dedicated(nfe: int, scheduler: Scheduler | None, dtype: DTypeLike = jnp.float32) -> dict[str, SolverTable]:
    """Every dedicated solver on every time grid, at this number of evaluations.

    Solvers on the velocity: "euler", "midpoint", "heun", "rk4", "ipndm-2", "-3", "-4" (variable coefficients). With a scheduler
    also: "ddim", "dpm_solver-2", "-3", "dpm_solver_pp-2s", "-2m", "-3m", "unipc-2", "-3" (bh2, with corrector), "deis-2", "-3",
    "-4" (in time), "ipndm_noise-2", "-3", "-4" (fixed coefficients, noise prediction), "edm_heun"; for CondOT flows
    "solver_search". Solvers that cannot make `nfe` evaluations and orders above `nfe` are left out. The grids are those of
    `time_grid`; "edm_heun/karras" has EDM's own levels, and "solver_search/published" its published times.

    Args:
        nfe: velocity evaluations, at least 1.
        scheduler: the flow's; None for only the solvers on the velocity, on the grids that need no scheduler.
        dtype: of the tables.

    Returns:
        {"solver/grid": table}.

    Raises:
        TypeError: for a dtype that is not floating.
        ValueError: for another wrong argument.

    Examples:
        >>> import bespoke_jax as bj
        >>> tables = dedicated(7, bj.schedulers.CondOT())
        >>> tables["dpm_solver_pp-3m/log_snr"].nfe, "midpoint/uniform" in tables
        (7, False)
        >>> sorted(dedicated(2, None))[:4]
        ['euler/quadratic', 'euler/uniform', 'heun/quadratic', 'heun/uniform']
    """
    nfe = check_count("nfe", nfe)
    if scheduler is not None:
        check_scheduler(scheduler, "dedicated")
    grids = NEED_NO_SCHEDULER if scheduler is None else GRIDS
    tables = {}
    for name, (solver, fewest, multiple) in _ON_VELOCITY.items():
        if nfe >= fewest and nfe % multiple == 0:
            on_velocity = partial(solver, nfe, dtype=dtype)
            # A scheduler would make `ipndm` use noise prediction, so it is given times instead.
            tables |= {
                f"{name}/{grid}": on_velocity(grid=time_grid(grid, nfe // multiple, scheduler)) for grid in grids
            }
    if scheduler is None:
        return tables
    for name, (solver, fewest) in _WITH_SCHEDULER.items():
        if nfe >= fewest:
            tables |= {f"{name}/{grid}": solver(nfe, scheduler=scheduler, grid=grid, dtype=dtype) for grid in grids}
    if nfe % 2 or levels(scheduler, [1.0])[0].sigma > 0:
        tables["edm_heun/karras"] = edm_heun(nfe, scheduler, dtype=dtype)
    if scheduler == CondOT() and nfe in SEARCHED:
        tables["solver_search/published"] = solver_search(nfe, dtype)
    return tables
