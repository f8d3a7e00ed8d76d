"""Learn the ODE solver of a pre-trained flow or diffusion model. The public names; see docs/ for a tour."""

from bespoke_jax import analytic, classic, metrics, models, schedulers, scale_time
from bespoke_jax.flow import Flow
from bespoke_jax.ground_truth import Paths, ground_truth
from bespoke_jax.scale_time import theta_from_curve
from bespoke_jax.solve import sample, solve
from bespoke_jax.steps import step_lipschitz, step_theta
from bespoke_jax.table import SolverTable, to_table
from bespoke_jax.theta import Knots, Theta, init_theta, theta_from_knots
