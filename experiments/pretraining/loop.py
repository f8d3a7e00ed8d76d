"""The training loop of every network: batches, updates, progress, checkpoints, and a stop that loses nothing."""

import contextlib
from collections.abc import Callable, Generator
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float

from bespoke_jax.types import PyTree
from experiments.data.loader import Batch
from experiments.run import processes, stopping
from experiments.run.runs import Run

__all__ = ["State", "Training", "train"]

State: TypeAlias = PyTree
"""The state of a training: a tuple whose first entry counts the updates."""

_LOOK_EVERY = 10  # steps between looks at the loss and for SIGTERM: each look waits for the device


class Training(NamedTuple):
    """What distinguishes one training from another.

    Attributes:
        name: of its checkpoints and scalars in the run's folder.
        init: makes the state before the first update.
        update: `(state, step, images, labels) -> (state, loss)`; a function of its arguments, so that a run can be resumed.
        batches: range of steps -> their (images, labels), in order.
        num_steps: updates in all.
        checkpoint_every: steps between checkpoints; the last step has one, too.
        remedy: what to change if the loss is not finite.
        place: puts a state on its devices.
    """

    name: str
    init: Callable[[], State]
    update: Callable[[State, int, Any, Any], tuple[State, Float[jax.Array, ""]]]
    batches: Callable[[range], Generator[Batch]]
    num_steps: int
    checkpoint_every: int
    remedy: str
    place: Callable[[State], State] = lambda state: state


def train(training: Training, run: Run) -> State:
    """The state after the last step. Training continues from the last checkpoint in the run's folder, if there is one.

    Raises:
        FloatingPointError: if the loss is not finite; the checkpoints are from before.
        ValueError: if an image cannot be read; the last checkpoint is of that moment.
    """
    name, num_steps = training.name, training.num_steps
    with run.checkpoints(name) as checkpoints:
        state = training.init()
        state = training.place(checkpoints.restore(state) or state)
        first, losses = int(state[0]), []
        batches = training.batches(range(first, num_steps))
        bar = processes.bar(total=num_steps, initial=first, desc=name)
        with bar, run.scalars(name, first + 1) as scalars, contextlib.closing(batches):
            for done in range(first + 1, num_steps + 1):
                try:
                    images, labels = next(batches)
                except ValueError:
                    checkpoints.save(done - 1, state)
                    raise
                state, loss = training.update(state, done - 1, images, labels)
                losses.append(loss)
                save = done % training.checkpoint_every == 0 or done == num_steps
                if not save and done % _LOOK_EVERY:
                    continue
                mean, losses = float(np.mean(jax.device_get(losses))), []
                if not np.isfinite(mean):
                    raise FloatingPointError(f"step {done}: the loss is {mean}; {training.remedy}.")
                scalars.add(done, {"loss": mean})
                bar.update(done - bar.n)
                bar.set_postfix(loss=f"{mean:.4f}")
                if save or stopping.asked():
                    checkpoints.save(done, state)
                    stopping.stop_if_asked()
    return state
