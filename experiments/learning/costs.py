"""What fits cost: the memory of their programs, and the file that keeps seconds and memory of each fit of an ablation."""

import json

import jax
import jax.numpy as jnp

import bespoke_jax as bj
from bespoke_jax.flow.conditions import in_turn
from bespoke_jax.solver import LearnedSolver
from experiments.run.errors import cannot_read
from experiments.run.runs import Run

__all__ = ["memory", "read_costs", "write_costs"]

_FILE = "costs.json"


def read_costs(run: Run) -> dict[str, dict]:
    """Name of a fit -> its "seconds" and "memory", as noted by earlier starts. Damaged entries are left out.

    Raises:
        ReadError: if the file cannot be read now.
    """
    path = run.folder / _FILE
    try:
        costs = json.loads(path.read_text())
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    except OSError as error:
        raise cannot_read(path, error) from error

    def is_cost(value):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))

    return {
        name: cost
        for name, cost in (costs.items() if isinstance(costs, dict) else ())
        if isinstance(cost, dict) and cost.keys() == {"seconds", "memory"} and all(map(is_cost, cost.values()))
    }


def write_costs(run: Run, costs: dict[str, dict]) -> None:
    """Note the costs for later starts."""
    run.write_text(_FILE, json.dumps(costs, indent=2) + "\n")


def memory(flow: bj.Flow, stages: tuple[bj.Stage, ...], theta: LearnedSolver, paths: bj.Paths) -> float | None:
    """MiB of temporaries and outputs of the largest program of the stages, as XLA reports them, on one device.

    For a first-order update that program is its gradient on a whole batch. Levenberg-Marquardt on a loss of ends linearises the
    velocity, one evaluation of `chunk_size` samples at a time. On a loss of single steps its memory is unknown, and the result
    is None; so it is where XLA reports nothing.
    """
    found = [_program(flow, stage, theta, paths) for stage in stages]
    sizes = []
    for program in found:
        size = None if program is None else program.memory_analysis()
        if size is None:
            return None
        sizes.append(size.temp_size_in_bytes + size.output_size_in_bytes)
    return max(sizes) / 2**20


def _program(flow, stage, theta, paths):
    """The compiled program of a stage that takes the most memory; None if unknown."""
    batch = paths.take(jnp.arange(min(stage.batch_size, paths.num_paths)))
    if not stage.is_second_order:
        gradient = jax.jit(jax.grad(stage.loss, 1))
        return gradient.lower(flow, theta, batch).compile()
    if stage.is_of_ends:
        pullback = jax.jit(lambda flow, t, x: jax.vjp(lambda x: flow(t, x), x)[1])
        x = batch.x0[: stage.chunk_size]
        return pullback.lower(in_turn(flow, len(x)), jnp.float32(0.5), x).compile()
    return None
