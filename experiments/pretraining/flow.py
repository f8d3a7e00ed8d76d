"""Pre-training a flow: its training for the loop, and what is written at the end."""

import jax
import numpy as np

import bespoke_jax as bj
from bespoke_jax.models.labels import with_labels
from experiments import data
from experiments.pretraining.flow_matching import TrainState, init_state, make_update
from experiments.pretraining.loop import Training
from experiments.pretraining.settings import Plan
from experiments.report import plots
from experiments.run.runs import Run

__all__ = ["finish", "training_of"]

_ROWS, _COLUMNS = 10, 12  # at most, in the picture of samples


def training_of(plan: Plan, dataset: data.DataSet) -> Training:
    """The training of a plan on all devices: the state on each of them, the batches spread over them."""
    key = jax.random.key(plan.seed)
    compiled = make_update(plan.objective, plan.optimizer, plan.ema_decay)

    def update(state, step, images, labels):
        return compiled(state, jax.random.fold_in(key, step), *bj.sharding.spread(state, (images, labels)))

    return Training(
        name="pretrain",
        init=lambda: init_state(plan.objective, plan.optimizer, dataset.image_shape, key),
        update=update,
        batches=lambda steps: data.batches(dataset, plan.seed, steps, plan.batch_size, plan.flip),
        num_steps=plan.num_steps,
        checkpoint_every=plan.checkpoint_every,
        remedy="lower config.learning_rate or config.clip_norm",
        place=bj.sharding.replicate,
    )


def finish(plan: Plan, dataset: data.DataSet, run: Run, state: TrainState) -> None:
    """Write the flow of the averaged weights, and a picture of its samples with a row for each of the first ten classes."""
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
        # All classes share their noises, for comparison. Without classes every row has its own.
        key = jax.random.fold_in(jax.random.key(plan.seed), 0 if network.num_classes else row)
        rows[f"{row}"] = np.asarray(bj.sample(flow, solver, key, num_samples=_COLUMNS))
    run.write_figure("samples", plots.image_grid(rows))
    print(f"\nFlow: {path}")
