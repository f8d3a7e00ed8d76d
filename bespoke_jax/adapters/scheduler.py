"""Schedulers in the manner of diffusers, for sampling loops of JAX or NumPy: `set_timesteps`, `timesteps`, `step`.

For diffusers itself, `export_code(solver, "diffusers")` writes a class of PyTorch.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax.adapters.tables import table_of_one_velocity
from bespoke_jax.checks import check_choice, check_count, known
from bespoke_jax.dtypes import promote
from bespoke_jax.flow.prediction import PREDICTIONS, velocity_of_prediction
from bespoke_jax.flow.source import noise_std
from bespoke_jax.flow.times import scheduler_of
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.solver import Solver
from bespoke_jax.stepping import check_of_state
from bespoke_jax.types import Array, Scalar

__all__ = ["StepOutput", "TableScheduler"]


class StepOutput(NamedTuple):
    """What a step returns.

    Attributes:
        prev_sample: the next state.
    """

    prev_sample: jax.Array


class TableScheduler:
    """A solver as the scheduler of a loop that calls its network itself.

    A loop takes `sample` from `scale_model_input`, gives it to the network and calls `step` with the output, once for each of
    `timesteps`. The object keeps noise and velocities between the steps of one batch, so a loop may not edit its samples between
    steps, as inpainting does. Within `jit` or `scan` use `SolverTable.begin` and `SolverTable.step`, which keep nothing.

    Args:
        solver: a learned solver or a table that evaluates one velocity.
        convention: of the network's time: "noise_at_1" (1 - t, its velocity points from data to noise), "steps_of_1000"
            (likewise, 1000 (1 - t), of flow matching), "noise_at_0" (t, its velocity points from noise to data), "sigma"
            (sigma_t) or "noise_to_signal" (sigma_t / alpha_t).
        scheduler: the flow's; needed for "sigma", "noise_to_signal" and for predictions other than velocity.
        prediction: what the network predicts, as for `Flow.from_prediction`.
        time_margin: that of the flow which the solver was learned for, as for `Flow.from_prediction`.
        image: of the samples, for a table with one for each class: `table.image(flow)`; None for the table's own.

    Raises:
        TypeError: if `solver` is not a solver with a table, or `scheduler` not a `Scheduler`.
        ValueError: for another convention or prediction, or a solver that calls the networks of guidance apart.

    Examples:
        >>> import bespoke_jax as bj
        >>> scheduler, x = TableScheduler(bj.classic.midpoint(2)), jnp.ones(())
        >>> scheduler.set_timesteps(2)
        >>> for t in scheduler.timesteps:
        ...     x = scheduler.scale_model_input(x, t)
        ...     x = scheduler.step(x, t, x).prev_sample  # the velocity, from data to noise, is x
        >>> float(x)
        0.5
    """

    order = 1

    def __init__(
        self,
        solver: Solver,
        convention: str = "noise_at_1",
        scheduler: Scheduler | None = None,
        prediction: str = "velocity",
        time_margin: float | None = None,
        image: Float[Array, "..."] | None = None,
    ):
        self._table = table_of_one_velocity(solver)
        check_choice("prediction", prediction, PREDICTIONS)
        self._velocity, evaluated = None, self._table
        if prediction != "velocity":
            self._velocity = velocity_of_prediction(_output, scheduler_of(scheduler), prediction, time_margin)
            t = jnp.asarray(evaluated.t, promote(evaluated.t.dtype, jnp.float32))
            evaluated = dataclasses.replace(evaluated, t=jnp.clip(t, *self._velocity.time_range))
        self.timesteps: np.ndarray = np.asarray(evaluated.times(convention, scheduler))
        self._sign = 1 if convention == "noise_at_0" or prediction != "velocity" else -1
        if convention == "steps_of_1000" and prediction != "velocity":
            raise ValueError(
                f"convention: wanted 'noise_at_1', 'noise_at_0' or 'sigma' for prediction={prediction!r}, got 'steps_of_1000': "
                "the steps of a DDPM are not 1000 (1 - t); find them from the levels of 'noise_to_signal'."
            )
        if convention in ("sigma", "noise_to_signal") and prediction == "velocity":
            raise ValueError(
                f"prediction: wanted 'noise', 'data', 'score' or 'v' with convention={convention!r}, got 'velocity'."
            )
        self.init_noise_sigma, self._image = noise_std(scheduler), image
        self.set_timesteps()

    def set_timesteps(self, num_inference_steps: int | None = None) -> None:
        """Begin anew, with other noise.

        Args:
            num_inference_steps: the solver's `nfe`, which is its only number of steps.
        """
        m = self._table.nfe
        if num_inference_steps is not None and check_count("num_inference_steps", num_inference_steps) != m:
            raise ValueError(
                f"num_inference_steps: wanted {m}, the evaluations of this solver, got {num_inference_steps}."
            )
        self._index, self._carry, self._noise = 0, None, None

    def scale_model_input(
        self, sample: Float[Array, "*shape"], timestep: Scalar | None = None
    ) -> Float[jax.Array, "*shape"]:
        """What the network is to be given: the sample; of a table with a first row of its own, at first the state made of it."""
        if self._index == 0:
            self._carry, self._noise = self._table.begin(sample, self._image), jnp.asarray(sample)
            return self._carry.x
        return jnp.asarray(sample)

    def step(
        self, model_output: Float[Array, "*shape"], timestep: Scalar, sample: Float[Array, "*shape"]
    ) -> StepOutput:
        """The next state.

        Args:
            model_output: of the network at `sample` and `timestep`.
            timestep: the entry of `timesteps` in turn.
            sample: what the network was given: what the step before returned, or at first the noise or the state made of it. A
                copy is read to compare its numbers, which waits for the device; the array itself, or a traced one, is not.

        Raises:
            ValueError: for a step too many, another timestep, a sample that was edited, or an output or sample of another shape.
        """
        i = self._index
        if i == self._table.nfe:
            raise ValueError(f"step: wanted at most {i} steps after set_timesteps, got more.")
        given, wanted = known(jnp.asarray(timestep)), self.timesteps[i]
        if given is not None and not np.allclose(given, wanted, rtol=1e-4, atol=1e-6):
            raise ValueError(f"timestep: wanted {wanted} in step {i}, got {given}.")
        if self._carry is None:
            plain = self._table.first is None and self._table.c is None
            if not plain:
                raise ValueError(
                    "step: wanted scale_model_input before the first step: the first state is not the noise."
                )
            self._carry = self._table.begin(sample, self._image)
        else:
            self._check_sample(sample, self._carry.x)
        u = self._sign * jnp.asarray(model_output)
        if self._velocity is not None:
            u = self._velocity(u, self._table.t[i], self._carry.x)
        self._carry, x = self._table.step(i, self._carry, u)
        self._index, self._noise = i + 1, None
        return StepOutput(x)

    def _check_sample(self, sample: Array, state: jax.Array) -> None:
        """Raise unless `sample` is the state, or at first the noise: the same object, or the same numbers but for rounding."""
        wanted = [state] if self._noise is None else [state, self._noise]
        if any(sample is array for array in wanted):
            return
        check_of_state("sample", sample, state.shape)
        if not any(_same(jnp.asarray(sample), array) for array in wanted):
            source = f"step {self._index - 1}" if self._index else "scale_model_input"
            raise ValueError(
                f"sample: wanted what {source} returned, got other numbers; the samples of a learned table may not be edited "
                "between steps, because each is made anew of the noise and all velocities."
            )


def _same(sample: jax.Array, state: jax.Array) -> bool:
    """Whether these are the same numbers, but for rounding to either dtype; True if that cannot be known now."""
    one, other = known(sample), known(state)
    if one is None or other is None:
        return True
    coarser = max((jnp.finfo(array.dtype) for array in (one, other)), key=lambda info: info.eps)
    one, other = one.astype(np.float64), other.astype(np.float64)
    return np.allclose(one, other, 2 * float(coarser.eps), float(coarser.smallest_normal), equal_nan=True)


def _output(output: jax.Array, t: jax.Array, x: jax.Array) -> jax.Array:
    """The network's output, which comes in the place of its parameters."""
    return output
