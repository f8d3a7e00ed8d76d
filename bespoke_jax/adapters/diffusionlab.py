"""diffusionlab: a solver as a `Sampler`, with the time schedule of its evaluations."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bespoke_jax.adapters.tables import table_of_one_velocity
from bespoke_jax.checks import check_count, known
from bespoke_jax.solver import Solver, check_solver_arrays, to_table

__all__ = ["sampler", "schedule"]


def schedule(solver: Solver, batch_size: int) -> list[jax.Array]:
    """The `time_schedule` of the library's `sample`: the time of each evaluation and 0, [batch_size] each.

    Raises:
        TypeError: if `solver` is not a solver with a table.
        ValueError: if its arrays disagree, or for a batch size that is not a positive integer.

    Examples:
        >>> import bespoke_jax as bj
        >>> [time.tolist() for time in schedule(bj.classic.euler(2), 1)]
        [[1.0], [0.5], [0.0]]
    """
    times = to_table(check_solver_arrays("solver", solver)).times("noise_at_1")
    size = check_count("batch_size", batch_size)
    return [jnp.full(size, time) for time in (*times, 0.0)]


def sampler(solver: Solver, process: Any) -> Any:
    """A `Sampler` of diffusionlab, for `sample(key, sampler, predictor, batch_size, schedule(solver, batch_size))`.

    Args:
        solver: a learned solver or a table, fitted to the flow of the same network: `Flow.from_prediction` with the scheduler of
            the process, at 1 - t.
        process: a `GaussianDiffusionProcess`, which reads the network's prediction as a velocity.

    Raises:
        TypeError: if `solver` is not a solver with a table.
        ValueError: if its arrays disagree, or if it calls the networks of guidance apart. When run, for another time schedule.
    """
    from diffusionlab.sampling import Sampler, SamplerStep  # pyright: ignore[reportMissingImports]

    with jax.ensure_compile_time_eval():  # the sampler may be made under jit
        table = table_of_one_velocity(solver)
        times = [float(time) for time in (*table.times("noise_at_1"), 0.0)]

    def after(prediction, step):
        """The carry and the number of evaluations after the one at `step`."""
        i = step.aux["evaluations"]
        velocity = process.convert_prediction(prediction, step.x, None, step.t, "v_t").value
        return table.step(i, step.aux["carry"], -velocity)[0], i + 1

    def check_time(time, i):
        numbers = known(time)  # under jit too, unless the schedule was made there
        if numbers is None:
            return
        given = float(np.ravel(numbers)[0])
        if i >= len(times) or abs(given - times[i]) > 1e-4:
            raise ValueError(
                f"time_schedule: wanted schedule(solver, batch_size), the times {times}, got {given} in step {i}."
            )

    class TableSampler(Sampler):
        def initialize(self, key, x_T, T):
            check_time(T, 0)
            carry = table.begin(x_T)
            return SamplerStep(x=carry.x, t=T, aux=dict(carry=carry, evaluations=0))

        def update(self, key, prediction, current_step, s):
            carry, count = after(prediction, current_step)
            check_time(s, count)
            return SamplerStep(x=carry.x, t=s, aux=dict(carry=carry, evaluations=count))

        def finalize(self, key, prediction, current_step, t_final=None):
            carry, count = after(prediction, current_step)
            check_time(np.zeros(1) if t_final is None else t_final, count)
            return carry.x

    return TableSampler(process=process)
