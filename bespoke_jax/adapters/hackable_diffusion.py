"""hackable_diffusion: a solver as the time schedule and the step of its `DiffusionSampler`."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from bespoke_jax.adapters.tables import table_of_one_velocity
from bespoke_jax.checks import check_flag
from bespoke_jax.solver import Solver
from bespoke_jax.table import SolverTable

__all__ = ["TableSchedule", "TableStep", "sampler"]


def sampler(solver: Solver, corruption_process: Any, *, store_trajectory: bool = True) -> Any:
    """`sample(inference_fn, rng, initial_noise, conditioning)`, a `DiffusionSampler` of hackable_diffusion.

    Args:
        solver: a learned solver or a table, fitted to the flow of the same network: `Flow.from_prediction` with the scheduler of
            the process.
        corruption_process: a `GaussianProcess`, which reads the network's prediction as a velocity. Its time is 1 - t.
        store_trajectory: the sampler's own option. False returns None in place of all steps, each of which holds as many states
            as the solver has evaluations.

    Raises:
        TypeError: if `solver` is not a solver with a table, or `store_trajectory` not a bool.
        ValueError: if it has fewer than 2 evaluations, or calls the networks of guidance apart.
    """
    from hackable_diffusion.lib.sampling.sampling import DiffusionSampler  # pyright: ignore[reportMissingImports]

    table = table_of_one_velocity(solver)
    schedule, stepper = TableSchedule(table), TableStep(table, corruption_process)
    return DiffusionSampler(
        time_schedule=schedule,
        stepper=stepper,
        num_steps=table.nfe + 1,
        store_trajectory=check_flag("store_trajectory", store_trajectory),
    )


@dataclasses.dataclass(frozen=True)
class TableSchedule:
    """The times of a table, and 0 at the end.

    Attributes:
        table: the solver.
    """

    table: SolverTable

    def all_step_infos(self, rng: jax.Array, num_steps: int, data_spec: jax.Array) -> Any:
        """A `StepInfo` of each step, [num_steps, B, 1, ...]."""
        from hackable_diffusion.lib.sampling.base import StepInfo  # pyright: ignore[reportMissingImports]

        if num_steps != self.table.nfe + 1:
            raise ValueError(f"num_steps: wanted {self.table.nfe + 1}, one more than evaluations, got {num_steps}.")
        times = jnp.append(self.table.times("noise_at_1"), 0.0).reshape(-1, *(1,) * data_spec.ndim)
        times = jnp.broadcast_to(times, (num_steps, data_spec.shape[0], *(1,) * (data_spec.ndim - 1)))
        return StepInfo(step=jnp.arange(num_steps), time=times, rng=jax.random.split(rng, num_steps))


@dataclasses.dataclass(frozen=True)
class TableStep:
    """A `SamplerStep`; the carry of the table is the step's `aux`.

    Attributes:
        table: the solver.
        corruption_process: reads predictions.
    """

    table: SolverTable
    corruption_process: Any

    def initialize(self, initial_noise: jax.Array, initial_step_info: Any) -> Any:
        """The first state."""
        from hackable_diffusion.lib.sampling.base import DiffusionStep  # pyright: ignore[reportMissingImports]

        carry = self.table.begin(initial_noise)
        return DiffusionStep(xt=carry.x, step_info=initial_step_info, aux=dict(carry=carry))

    def update(self, prediction: Any, current_step: Any, next_step_info: Any) -> Any:
        """The state after the evaluation at the current one."""
        now = current_step.step_info
        read = self.corruption_process.convert_predictions(prediction=prediction, xt=current_step.xt, time=now.time)
        carry, x = self.table.step(now.step, current_step.aux["carry"], -read["velocity"])
        return dataclasses.replace(current_step, xt=x, step_info=next_step_info, aux=dict(carry=carry))

    def finalize(self, prediction: Any, current_step: Any, last_step_info: Any) -> Any:
        """The sample."""
        return self.update(prediction, current_step, last_step_info)
