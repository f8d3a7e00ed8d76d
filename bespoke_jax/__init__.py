"""Learn the ODE solver of a pre-trained flow or diffusion model.

The public interface is `__all__`, and the `__all__` of each module in it. Everything else may change without notice.
Each subpackage or module, a "room", imports only from its own line and the lines above it (tests/test_rooms.py):

    checks dtypes types warn     shared helpers
    metrics schedulers fid       mathematics without flows or solvers
    flow/                        the given model
    solver stepping corrections table  what a solver is, and a solver as numbers
    classic/                     the dedicated solvers
    run/                         solving, sampling, the adjoint, true paths
    learned/                     the families of learned solvers
    fitting/                     fitting them to a flow
    compare                      a solver beside the usual ones
    files/                       solver files, sampler files
    models/                      networks, importers, the shipped flows
    adapters/                    bridges to other libraries
    plots/                       figures
    cli/                         the console command
"""

import importlib
from typing import TYPE_CHECKING

from bespoke_jax import classic, fid, metrics, schedulers
from bespoke_jax.compare import SolverCheck, check_solver
from bespoke_jax.files.export_code import export_code
from bespoke_jax.files.sampler_file import Sampler, load_sampler, save_sampler
from bespoke_jax.files.solver_file import load_solver, save_solver
from bespoke_jax.fitting import losses
from bespoke_jax.fitting.averaging import Forgetting, PowerLaw, Recent
from bespoke_jax.fitting.fit import fit, fit_ladder
from bespoke_jax.fitting.history import FitError, FitResult, FitState, init_state
from bespoke_jax.fitting.levenberg_marquardt import LevenbergMarquardt
from bespoke_jax.fitting.perceptual import perceptual
from bespoke_jax.fitting.progress import progress_bar
from bespoke_jax.fitting.recipes import Recipe, frugal, mean_rmse, paper
from bespoke_jax.fitting.stages import DEFAULT_STAGES, SMALL_STEPS, Stage, untested_steps
from bespoke_jax.flow import analytic, sharding
from bespoke_jax.flow.conditions import given
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.guidance import guided
from bespoke_jax.learned import scale_time
from bespoke_jax.learned.blocks import in_blocks
from bespoke_jax.learned.calls import LearnedCalls, by_call
from bespoke_jax.learned.corrected import corrected
from bespoke_jax.learned.curve import LearnedCurve
from bespoke_jax.learned.families import init_theta
from bespoke_jax.learned.knots import Knots
from bespoke_jax.learned.lengthened import lengthened
from bespoke_jax.learned.step_theta import step_lipschitz, step_theta
from bespoke_jax.learned.table import LearnedTable
from bespoke_jax.learned.theta import Theta, theta_from_knots
from bespoke_jax.learned.times import LearnedTimes
from bespoke_jax.learned.transfer import theta_from_curve, transfer
from bespoke_jax.run import adjoint
from bespoke_jax.run.ground_truth import ground_truth
from bespoke_jax.run.invert import Inverse, invert
from bespoke_jax.run.likelihood import Likelihood, log_likelihood
from bespoke_jax.run.paths import Paths
from bespoke_jax.run.solve import sample, solve
from bespoke_jax.solver import to_table
from bespoke_jax.table import SolverTable

if TYPE_CHECKING:
    from bespoke_jax import adapters, models, plots

__all__ = [
    "DEFAULT_STAGES",
    "SMALL_STEPS",
    "FitError",
    "FitResult",
    "FitState",
    "Flow",
    "Forgetting",
    "Inverse",
    "Knots",
    "LearnedCalls",
    "LearnedCurve",
    "LearnedTable",
    "LearnedTimes",
    "LevenbergMarquardt",
    "Likelihood",
    "Paths",
    "PowerLaw",
    "Recent",
    "Recipe",
    "Sampler",
    "SolverCheck",
    "SolverTable",
    "Stage",
    "Theta",
    "adapters",
    "adjoint",
    "analytic",
    "by_call",
    "check_solver",
    "classic",
    "corrected",
    "export_code",
    "fid",
    "fit",
    "fit_ladder",
    "frugal",
    "given",
    "ground_truth",
    "guided",
    "in_blocks",
    "init_state",
    "init_theta",
    "invert",
    "lengthened",
    "load_sampler",
    "load_solver",
    "log_likelihood",
    "losses",
    "mean_rmse",
    "metrics",
    "models",
    "paper",
    "perceptual",
    "plots",
    "progress_bar",
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
    "untested_steps",
]


def __getattr__(name: str):
    """Import these rooms when they are first used: they need libraries that the rest of the package does not."""
    if name in ("adapters", "models", "plots"):
        return importlib.import_module(f"bespoke_jax.{name}")
    raise AttributeError(f"module 'bespoke_jax' has no attribute {name!r}")
