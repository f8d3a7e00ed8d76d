"""Train a network from its last checkpoint on, and write the flow that it has become."""

import contextlib

import jax
import numpy as np

import bespoke_jax as bj
from bespoke_jax.models.labels import with_labels
from experiments import data
from experiments.pretraining.flow_matching import TrainState, init_state, make_update
from experiments.pretraining.settings import Plan
from experiments.report import plots
from experiments.run import processes, stopping
from experiments.run.runs import Run

__all__ = ["finish", "train"]

_LOOK_EVERY = 10  # steps between looks at the loss and for SIGTERM: each look waits for the device
_NAME = "pretrain"  # of checkpoints and scalars in the run's folder
_ROWS, _COLUMNS = 10, 12  # of the picture of samples, at most


def train(plan: Plan, dataset: data.DataSet, run: Run) -> TrainState:
    """The state after the last step, on all devices.

    Raises:
        FloatingPointError: if the loss is not finite; the checkpoints are from before.
        ValueError: of an image that cannot be read; the last checkpoint is of that moment.
    """
    state = init_state(plan.objective, plan.optimizer, dataset.image_shape, jax.random.key(plan.seed))
    update = make_update(plan.objective, plan.optimizer, plan.ema_decay)
    with run.checkpoints(_NAME) as checkpoints:
        restored = checkpoints.restore(state)
        state = bj.sharding.replicate(state if restored is None else restored)
        first, losses = int(state.step), []
        bar = processes.bar(total=plan.num_steps, initial=first, desc=_NAME)
        batches = data.batches(dataset, plan.seed, range(first, plan.num_steps), plan.batch_size, plan.flip)
        with bar, run.scalars(_NAME, first + 1) as scalars, contextlib.closing(batches):
            for done in range(first + 1, plan.num_steps + 1):
                try:
                    batch = bj.sharding.spread(state, next(batches))
                except ValueError:
                    checkpoints.save(done - 1, state)
                    raise
                state, loss = update(state, jax.random.fold_in(jax.random.key(plan.seed), done - 1), *batch)
                losses.append(loss)
                save = done % plan.checkpoint_every == 0 or done == plan.num_steps
                if not save and done % _LOOK_EVERY:
                    continue
                mean, losses = float(np.mean(jax.device_get(losses))), []
                if not np.isfinite(mean):
                    raise FloatingPointError(
                        f"step {done}: the loss is {mean}; lower config.learning_rate or config.clip_norm."
                    )
                scalars.add(done, {"loss": mean})
                bar.update(done - bar.n)
                bar.set_postfix(loss=f"{mean:.4f}")
                if save or stopping.asked():
                    checkpoints.save(done, state)
                    stopping.stop_if_asked()
    return state


def finish(plan: Plan, dataset: data.DataSet, run: Run, state: TrainState):
    """Write the flow of the averaged weights, and a picture of its samples, a row for each of the first ten classes."""
    path, network = run.folder / "flow.safetensors", plan.objective.network
    no_class = np.zeros(network.num_classes) if network.num_classes else None
    variables = with_labels({"params": bj.sharding.on_one_device(state.ema)}, no_class, network.num_classes)
    bj.models.save_flow(
        path, network, variables, dataset.image_shape, plan.scheduler, prediction=plan.objective.prediction
    )
    solver, rows = bj.classic.midpoint(100), {}
    for row in range(min(network.num_classes, _ROWS) or 4):
        flow = bj.models.load_flow(path, labels=row if network.num_classes else None)
        flow = bj.sharding.replicate(flow, jax.local_devices())
        # Classes side by side: of the same noises. Without classes every row has its own.
        key = jax.random.fold_in(jax.random.key(plan.seed), 0 if network.num_classes else row)
        rows[f"{row}"] = np.asarray(bj.sample(flow, solver, key, num_samples=_COLUMNS))
    run.write_figure("samples", plots.image_grid(rows))
    print(f"\nFlow: {path}")
