"""Why a loss is not finite: the velocity, its derivatives, the loss itself, or too long a step."""

import jax
import numpy as np

from bespoke_jax.fitting.losses import LOSSES
from bespoke_jax.fitting.stages import Stage
from bespoke_jax.flow.flow import Flow
from bespoke_jax.flow.sharding import gather
from bespoke_jax.run import adjoint
from bespoke_jax.run.paths import Paths
from bespoke_jax.solver import LearnedSolver, to_table

__all__ = ["cause_of"]


def cause_of(flow: Flow, theta: LearnedSolver, paths: Paths, stage: Stage) -> str:
    """The cause of a loss that is not finite, and its remedy.

    If the velocity, or a derivative of it, is not finite on the solver's way from these noises, that is the cause, with the first
    time at which it happens.
    """
    table = to_table(theta)
    finite = np.ones((2, theta.nfe), bool)  # velocities, their derivatives
    for some, x0, _ in paths.chunks(flow, stage.chunk_size):
        trace = adjoint.run(some, table, x0)
        evaluations = zip(table.t, trace.states, trace.velocities, strict=True)
        found = [adjoint.finite(some, *evaluation) for evaluation in evaluations]
        finite &= np.transpose(jax.device_get(gather(flow, found)))
    for what, fine in zip(("velocity", "derivative of the velocity in t or x"), finite, strict=True):
        if not np.all(fine):
            first = int(np.argmin(fine))
            return (
                f"The {what} is not finite at t = {float(table.t[first]):.6g} (evaluation {first} of 0 to {theta.nfe - 1}, in "
                f"the step from knot {first * theta.num_steps // theta.nfe}): check flow(t, x) near that time, and whether it "
                "divides by alpha_t or sigma_t, or has a root or a logarithm at 0."
            )
    shorter = "raise the damping, or lower the limit, of Levenberg-Marquardt"
    own = "the" if stage.name in LOSSES else f"it is the loss {stage.name!r} itself that is not finite, or the"
    return (
        f"The velocity and its derivatives are finite at all {theta.nfe} evaluations of the theta before it, so {own} "
        f"update went too far: {shorter if stage.is_second_order else 'lower the learning rate'}."
    )
