"""The processes of a run. All run the same program on the same numbers; only the first one writes files and messages.

Without `start` there is one process, the first, and nothing here costs anything.
"""

import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np
import tqdm
from jax.experimental import multihost_utils

__all__ = ["all_of", "bar", "from_first", "is_first", "say", "start"]


def start(
    coordinator_address: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Connect to the other processes, if there are any. Call it before asking JAX for its devices.

    Args:
        coordinator_address: host:port of the first process. On a TPU pod and in a Slurm step JAX finds all three by itself.
        num_processes: how many processes there are.
        process_id: which one this is, from 0.

    Raises:
        ValueError: if only some of the three are given, or `process_id` is out of range.
    """
    given = dict(coordinator_address=coordinator_address, num_processes=num_processes, process_id=process_id)
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"--{missing[0]}: missing; --coordinator_address, --num_processes and --process_id go together."
        )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator_address is not None and num_processes is not None and process_id is not None:
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"--process_id: wanted 0 to {num_processes - 1}, one below --num_processes, got {process_id}."
            )
        jax.distributed.initialize(coordinator_address, num_processes, process_id)
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_NODELIST" in os.environ:
        jax.distributed.initialize()
    elif importlib.util.find_spec("libtpu"):
        try:
            jax.distributed.initialize()
        except ValueError:  # JAX finds no coordinator: there is no TPU
            return


def is_first() -> bool:
    """Whether this is the process that writes reports, tables and progress."""
    return jax.process_index() == 0


def all_of(condition: bool) -> bool:
    """Whether `condition` holds on all processes."""
    return bool(condition) if jax.process_count() == 1 else bool(np.all(multihost_utils.process_allgather(condition)))


def from_first(function: Callable[[], Any]) -> Any:
    """Call `function` on the first process only, and return its result on all. An exception is raised on all, too.

    The function must not compute on devices of other processes. Its result must be picklable and should be small.
    """
    if jax.process_count() == 1:
        return function()
    content = np.zeros(0, np.uint8)
    if is_first():
        try:
            outcome = (function(), None)
        except Exception as error:
            outcome = (None, error)
        content = np.frombuffer(pickle.dumps(outcome), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(content.size)))
    content = multihost_utils.broadcast_one_to_all(content if is_first() else np.zeros(size, np.uint8))
    result, error = pickle.loads(content.tobytes())
    if error is not None:
        raise error
    return result


def bar(items: Iterable[Any] | None = None, **options: Any) -> tqdm.tqdm:
    """A progress bar, which only the first process shows."""
    return tqdm.tqdm(items, disable=not is_first(), **options)


def say(text: str) -> None:
    """Print a line, on the first process only, above the progress bars."""
    if is_first():
        tqdm.tqdm.write(text, file=sys.stderr)
