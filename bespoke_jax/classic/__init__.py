"""Dedicated solvers, each a function that returns a `SolverTable`; and GENIE, which does not fit into a table.

All take the number of velocity evaluations and a time grid, most of them the flow's scheduler. A wrong argument raises a
ValueError before anything runs. Tables are computed in float64 and cast at the end.
"""

from bespoke_jax.classic.adams import deis, ipndm
from bespoke_jax.classic.dedicated import dedicated
from bespoke_jax.classic.exponential import ddim, dpm_solver_pp, unipc
from bespoke_jax.classic.first_call import known_first_call
from bespoke_jax.classic.genie import TaylorSolver, genie
from bespoke_jax.classic.grids import GRIDS, time_grid
from bespoke_jax.classic.published import SEARCHED, multistep, sigmas_of_steps, solver_search, times_of_sigmas
from bespoke_jax.classic.runge_kutta import euler, heun, midpoint, rk4, runge_kutta
from bespoke_jax.classic.singlestep import dpm_solver_2, dpm_solver_3, dpm_solver_pp_2s, edm_heun

__all__ = [
    "GRIDS",
    "SEARCHED",
    "TaylorSolver",
    "ddim",
    "dedicated",
    "deis",
    "dpm_solver_2",
    "dpm_solver_3",
    "dpm_solver_pp",
    "dpm_solver_pp_2s",
    "edm_heun",
    "euler",
    "genie",
    "heun",
    "ipndm",
    "known_first_call",
    "midpoint",
    "multistep",
    "rk4",
    "runge_kutta",
    "sigmas_of_steps",
    "solver_search",
    "time_grid",
    "times_of_sigmas",
    "unipc",
]
