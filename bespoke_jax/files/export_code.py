"""Solvers as code: one self-contained file in another language, with the numbers in it."""

import base64
import importlib.resources
import string
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from bespoke_jax import schedulers
from bespoke_jax.checks import check_choice, check_numbers
from bespoke_jax.flow.prediction import velocity_of_prediction
from bespoke_jax.flow.source import noise_std
from bespoke_jax.schedulers import Scheduler
from bespoke_jax.solver import Solver, check_solver_arrays
from bespoke_jax.table import SolverTable
from bespoke_jax.types import Numbers

__all__ = ["LANGUAGES", "export_code"]

LANGUAGES = ("numpy", "torch", "jax", "diffusers")
"""What a solver can be written in."""

_DIFFUSERS = {"velocity": "flow", "noise": "epsilon", "data": "sample", "v": "v_prediction"}
_OUTPUTS = {
    "velocity": "the velocity noise - data of flow matching, dx/dsigma on the straight path",
    "noise": "the noise, epsilon",
    "data": "the clean sample",
    "v": "v = alpha noise - sigma data, with alpha^2 + sigma^2 = 1",
}


def export_code(
    solver: Solver,
    to: str,
    *,
    scheduler: Scheduler | None = None,
    prediction: str = "velocity",
    betas: Numbers | None = None,
    time_range: tuple[float, float] = (0.0, 1.0),
) -> str:
    """A solver as one file of Python that does not need this package.

    "numpy", "torch" and "jax" give a function `sample(velocity, x0)`, "diffusers" a class `BespokeScheduler`, which takes the
    place of a pipeline's scheduler. A solver by the call (`by_call`) evaluates `velocity(t, x, field)`; its class for diffusers
    wants `step(..., field=...)`, since a pipeline's own guidance mixes both networks in every step.

    Args:
        solver: a learned solver or a table.
        to: one of `LANGUAGES`.
        scheduler: the flow's, on whose path the solver runs. Needed for diffusers unless `prediction` is "velocity", which has
            `CondOT`; for the others it only fills in the scale of the noise.
        prediction: for diffusers, what the network predicts: "velocity" (noise - data, time 1000 sigma), "noise", "data" or "v".
        betas: [N] for diffusers, the variances that the network was trained with, as in its own scheduler; needed unless
            `prediction` is "velocity". Times become steps 0, ..., N - 1 by their noise level; levels outside are evaluated at the
            nearest of them.
        time_range: `flow.time_range` of the flow that the solver was fitted to; times outside are replaced by the nearer end.

    Returns:
        The text of the file.

    Raises:
        TypeError: if `solver` is not a solver with a table.
        ValueError: for a table with corrections, for another language or prediction, or if something that it needs is missing.

    Examples:
        >>> import bespoke_jax as bj
        >>> names = {}
        >>> exec(export_code(bj.classic.midpoint(2), "numpy"), names)
        >>> float(names["sample"](lambda t, x: -x, np.float32(1.0)))
        0.5
    """
    check_choice("to", to, LANGUAGES)
    check_choice("prediction", prediction, _DIFFUSERS)
    table = _table_for_all(solver)
    if scheduler is not None and not isinstance(scheduler, Scheduler):
        raise TypeError(f"scheduler: wanted a bespoke_jax.schedulers.Scheduler or None, got {scheduler!r}.")
    first, last = check_numbers("time_range", time_range, (2,)).tolist()
    if not 0 <= first < last <= 1:
        raise ValueError(f"time_range: wanted (first, last) within [0, 1], got {time_range}.")
    times = np.clip(np.asarray(table.t, np.float64), first, last)
    network: dict[str, Any] = {}
    if to == "diffusers" and prediction == "velocity":
        network = _velocity_path(times, scheduler)
    elif to == "diffusers":
        network = _ddpm(times, scheduler, prediction, betas)
    steps = 1000 if betas is None else len(check_numbers("betas", betas, ("N",)))
    text = _numbers(table, times) + "".join(f"\n{name} = {_list(values)}" for name, values in network.items())
    return _filled(to, table, text, noise_std(scheduler), prediction, steps)


def _table_for_all(solver: Solver) -> SolverTable:
    """The solver's table, if it is the same for all samples. Raises ValueError otherwise."""
    table = check_solver_arrays("solver", solver).unrolled()
    if table.corrections is not None:
        raise ValueError(
            "solver: wanted one table for all samples, got one with corrections for each class or scale; for one of these export "
            "bespoke_jax.to_table(solver).of_samples(flow), with the flow of that class or scale."
        )
    return table


def _filled(to: str, table: SolverTable, numbers: str, noise_std: float, prediction: str, steps: int) -> str:
    """The template of a language, with these numbers and what the text says of them."""
    has_image, by_call = table.xi is not None, table.fields is not None
    fill = dict(
        nfe=table.nfe,
        title=f"A solver of {table.nfe} velocity evaluations per sample.",
        notes=_NOTES,
        numbers=numbers,
        call="velocity(t, x, field)" if by_call else "velocity(t, x)",
        field="\n            field is 0 for the conditional network and 1 for the unconditional one."
        if by_call
        else "",
        noise="." if noise_std == 1.0 else f", of standard deviation {noise_std:g}.",
        base64="import base64\n\n" * has_image,
        base64_first="import base64\n" * has_image,
        numpy="import numpy as np\n" * has_image + "\n" * (has_image and to == "numpy"),
        num_train_timesteps=steps,
        prediction_type=_DIFFUSERS[prediction],
        output=_OUTPUTS[prediction],
        init_noise_sigma=noise_std,
        is_flow=prediction == "velocity",
    )
    template = importlib.resources.files("bespoke_jax.files").joinpath(f"templates/{to}.txt").read_text()
    return string.Template(template).substitute(fill)


_NOTES = """
State i is A[i] x0 + C[i] XI + sum_j B[i][j] u_j, where u_j is the velocity at time T[j] and state j; the last state is x1.
"""


def _numbers(table: SolverTable, times: np.ndarray) -> str:
    """The table as constants: rows of states, the first state's first."""
    first = 1.0 if table.first is None else table.first
    b = np.asarray(table.b)
    rows = ["    [],", *(f"    {_list(row[: i + 1])}," for i, row in enumerate(b))]
    lines = [
        f"T = {_list(times.astype(np.promote_types(np.asarray(table.t).dtype, np.float32)))}",
        f"A = {_list([first, *np.asarray(table.a)])}",
        "B = [",
        *rows,
        "]",
        f"FIELDS = {None if table.fields is None else list(table.fields)}",
    ]
    if table.c is None or table.xi is None:
        return "\n".join([*lines, "C = XI = None"])
    xi = np.asarray(table.xi)
    xi = xi.astype(np.promote_types(xi.dtype, np.float32))
    text = base64.b64encode(xi.astype(xi.dtype.newbyteorder("<")).tobytes()).decode()
    lines += [f"C = {_list(np.asarray(table.c))}", f'XI = np.frombuffer(base64.b64decode("{text}"), "<f{xi.itemsize}")']
    return "\n".join([*lines, f"XI = XI.astype(np.{xi.dtype.name}).reshape({xi.shape})"])


def _list(values: Any) -> str:
    """A Python list of the shortest numbers that read back exactly in their own precision."""
    return "[" + ", ".join(_number(value) for value in values) + "]"


def _number(value: Any) -> str:
    value = np.asarray(value)
    exact = value if value.dtype in (np.float32, np.float64) else value.astype(np.float64)
    return repr(float(str(exact)))


def _velocity_path(times: np.ndarray, scheduler: Scheduler | None) -> dict[str, Any]:
    """For a network of flow matching: its time, and the velocity from its output."""
    if scheduler is not None and scheduler != schedulers.CondOT():
        raise ValueError(
            f"scheduler: wanted CondOT, the path of a network that predicts a velocity, got {scheduler!r}."
        )
    one = np.ones(len(times))
    return dict(TIMESTEPS=1000 * (1 - times), SCALES=one, OF_STATE=0 * one, OF_OUTPUT=-one)


def _ddpm(times: np.ndarray, scheduler: Scheduler | None, prediction: str, betas: Numbers | None) -> dict[str, Any]:
    """For a network trained on steps: its steps, the scale of its input, and the velocity as a sum of state and output."""
    for name, value in dict(scheduler=scheduler, betas=betas).items():
        if value is None:
            raise ValueError(
                f"{name}: wanted that of the network and its flow for prediction={prediction!r}, got None."
            )
    assert scheduler is not None and betas is not None
    levels = schedulers.ddpm_levels(betas)
    velocity = velocity_of_prediction(_output_of_pair, scheduler, prediction, None)
    found = scheduler.at(jnp.asarray(np.clip(times, *_time_range(velocity)), jnp.float32))
    alpha, sigma = (np.asarray(value, np.float64) for value in (found.alpha, found.sigma))
    norm = np.hypot(alpha, sigma)
    with np.errstate(divide="ignore"):
        steps = np.interp(np.log(sigma) - np.log(alpha), np.log(levels), np.arange(len(levels)))
    # The velocity is linear in state and prediction: its factors are its values at (1, 0) and (0, 1).
    pairs = np.stack([_factors(velocity, t) for t in times]).astype(np.float64)
    pairs[:, 1] *= norm if prediction == "v" else 1.0  # of a path whose alpha^2 + sigma^2 is 1
    return dict(
        TIMESTEPS=steps,
        SCALES=np.where(np.abs(norm - 1) < 1e-5, 1.0, 1 / norm),
        OF_STATE=pairs[:, 0],
        OF_OUTPUT=pairs[:, 1],
    )


def _output_of_pair(params: None, t: Any, x: Float[Any, "2"]) -> Any:
    return 1 - x


def _factors(velocity: Callable, t: float) -> np.ndarray:
    return np.asarray(velocity(None, jnp.float32(t), jnp.array([1.0, 0.0], jnp.float32)))


def _time_range(velocity: Callable) -> tuple[float, float]:
    return getattr(velocity, "time_range", (0.0, 1.0))
