"""Learn the ODE solver of a pre-trained flow or diffusion model.

The names in `__all__` are the public interface, the modules among them with the names in their own `__all__`. Everything else may
change without notice. From the ground up, each room importing only what stands below it (tests/test_rooms.py):

    checks dtypes metrics schedulers fid    no knowledge of flows or solvers
    flow/                                   the given model
    table                                   what a solver is
    classic/                                the dedicated solvers
    run/                                    solving, sampling, the adjoint, true paths
    learned/                                what can be learned
    fitting/                                learning it
    compare                                 is it better than what you would use otherwise?
    files/                                  solver files, sampler files
    models/                                 networks, importers, the shipped flows
"""

import importlib
from typing import TYPE_CHECKING

from bespoke_jax import classic, fid, metrics, schedulers
from bespoke_jax.compare import SolverCheck, check_solver
from bespoke_jax.files.sampler_file import Sampler, load_sampler, save_sampler
from bespoke_jax.files.solver_file import load_solver, save_solver
from bespoke_jax.fitting import losses
from bespoke_jax.fitting.fit import fit, fit_ladder
from bespoke_jax.fitting.history import FitError, FitResult, FitState, init_state
from bespoke_jax.fitting.levenberg_marquardt import Forgetting, LevenbergMarquardt, PowerLaw
from bespoke_jax.fitting.recipes import Recipe, frugal, paper
from bespoke_jax.fitting.stages import DEFAULT_STAGES, SMALL_STEPS, Stage
from bespoke_jax.flow import analytic, sharding
from bespoke_jax.flow.conditions import given
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guidance import guided
from bespoke_jax.learned import scale_time
from bespoke_jax.learned.curve import LearnedCurve
from bespoke_jax.learned.families import init_theta
from bespoke_jax.learned.knots import Knots
from bespoke_jax.learned.step_theta import step_lipschitz, step_theta
from bespoke_jax.learned.table import LearnedTable
from bespoke_jax.learned.theta import Theta, theta_from_knots
from bespoke_jax.learned.times import LearnedTimes
from bespoke_jax.learned.transfer import theta_from_curve, transfer
from bespoke_jax.run import adjoint
from bespoke_jax.run.ground_truth import ground_truth
from bespoke_jax.run.paths import Paths
from bespoke_jax.run.solve import sample, solve
from bespoke_jax.table import SolverTable, to_table

if TYPE_CHECKING:
    from bespoke_jax import models

__all__ = [
    "DEFAULT_STAGES",
    "SMALL_STEPS",
    "FitError",
    "FitResult",
    "FitState",
    "Flow",
    "Forgetting",
    "Knots",
    "LearnedCurve",
    "LearnedTable",
    "LearnedTimes",
    "LevenbergMarquardt",
    "Paths",
    "PowerLaw",
    "Recipe",
    "Sampler",
    "SolverCheck",
    "SolverTable",
    "Stage",
    "Theta",
    "adjoint",
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
    "paper",
    "sample",
    "save_sampler",
    "save_solver",
    "scale_time",
    "schedulers",
    "sharding",
    "solve",
    "step_lipschitz",
    "step_theta",
    "theta_from_curve",
    "theta_from_knots",
    "to_table",
    "transfer",
]


def __getattr__(name: str):
    """`models` brings Flax, which the rest of the package does without: it is imported when it is first asked for."""
    if name == "models":
        return importlib.import_module("bespoke_jax.models")
    raise AttributeError(f"module 'bespoke_jax' has no attribute {name!r}")
