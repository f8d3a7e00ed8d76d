"""Learn the ODE solver of a pre-trained flow or diffusion model. The public names; docs/ has the tour."""

from bespoke_jax import analytic, classic, fid, losses, metrics, models, scale_time, schedulers, sharding, stepwise
from bespoke_jax.check import SolverCheck, check_solver
from bespoke_jax.conditions import given
from bespoke_jax.families import init_theta
from bespoke_jax.fit import FitError, FitResult, FitState, fit, fit_ladder, init_state
from bespoke_jax.flow import Flow
from bespoke_jax.frugal import frugal
from bespoke_jax.ground_truth import ground_truth
from bespoke_jax.guidance import guided
from bespoke_jax.learned_curve import LearnedCurve
from bespoke_jax.learned_table import LearnedTable
from bespoke_jax.learned_times import LearnedTimes
from bespoke_jax.paths import Paths
from bespoke_jax.sampler_file import Sampler, load_sampler, save_sampler
from bespoke_jax.scale_time import theta_from_curve, transfer
from bespoke_jax.second_order import LevenbergMarquardt
from bespoke_jax.solve import sample, solve
from bespoke_jax.solver_file import load_solver, save_solver
from bespoke_jax.stages import DEFAULT_STAGES, SMALL_STEPS, Stage, paper_stages
from bespoke_jax.steps import step_lipschitz, step_theta
from bespoke_jax.table import SolverTable, to_table
from bespoke_jax.theta import Knots, Theta, theta_from_knots

__all__ = [
    "DEFAULT_STAGES",
    "SMALL_STEPS",
    "FitError",
    "FitResult",
    "FitState",
    "Flow",
    "Knots",
    "LearnedCurve",
    "LearnedTable",
    "LearnedTimes",
    "LevenbergMarquardt",
    "Paths",
    "Sampler",
    "SolverCheck",
    "SolverTable",
    "Stage",
    "Theta",
    "analytic",
    "check_solver",
    "classic",
    "fid",
    "fit",
    "fit_ladder",
    "frugal",
    "given",
    "ground_truth",
    "guided",
    "init_state",
    "init_theta",
    "load_sampler",
    "load_solver",
    "losses",
    "metrics",
    "models",
    "paper_stages",
    "sample",
    "save_sampler",
    "save_solver",
    "scale_time",
    "schedulers",
    "sharding",
    "solve",
    "step_lipschitz",
    "step_theta",
    "stepwise",
    "theta_from_curve",
    "theta_from_knots",
    "to_table",
    "transfer",
]
