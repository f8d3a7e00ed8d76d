"""Pre-train a flow: `python -m experiments.pretrain --config=experiments/configs/fashion_fmot_pretrain.py --workdir=W`."""

import contextlib

import jax
import numpy as np
import tqdm

import bespoke_jax as bj
from bespoke_jax.models.labels import with_labels
from experiments import command_line, data, plots, pretrain_settings, runs
from experiments.flow_matching import TrainState, init_state, make_update

_LOG_EVERY = 10  # steps between looks at the loss: each look waits for the device
_NAME = "pretrain"  # of checkpoints and scalars in the run's folder


def prepare(config, workdir):
    """(plan, data set, run) of a config. Whatever is wrong with the user's input is an error here, before any work."""
    dataset = data.load(config.data)
    plan = pretrain_settings.read(config, dataset)
    return plan, dataset, runs.open_run(workdir, pretrain_settings.stamp(config))


def train(plan, dataset, run) -> TrainState:
    """The state after the last step, from the last checkpoint on if there is one.

    Raises:
        FloatingPointError: if the loss is not finite; the checkpoints are from before.
        ValueError: of an image that cannot be read; the last checkpoint is of that moment.
    """
    state = init_state(plan.objective, plan.optimizer, dataset.image_shape, jax.random.key(plan.seed))
    state = bj.sharding.replicate(state)
    update = make_update(plan.objective, plan.optimizer, plan.ema_decay)
    with run.checkpoints(_NAME) as checkpoints:
        restored = checkpoints.restore(state)
        state = state if restored is None else restored
        first, losses = int(state.step), []
        bar = tqdm.tqdm(total=plan.num_steps, initial=first, desc=_NAME)
        batches = data.batches(dataset, plan.seed, range(first, plan.num_steps), plan.batch_size, plan.flip)
        with bar, run.scalars(_NAME, first + 1) as scalars, contextlib.closing(batches):
            for done in range(first + 1, plan.num_steps + 1):
                try:
                    batch = bj.sharding.spread(state, next(batches))
                except ValueError:
                    checkpoints.save(done - 1, state)
                    raise
                key = jax.random.fold_in(jax.random.key(plan.seed), done - 1)
                state, loss = update(state, key, *batch)
                losses.append(loss)
                save = done % plan.checkpoint_every == 0 or done == plan.num_steps
                if save or done % _LOG_EVERY == 0:
                    mean, losses = float(np.mean(jax.device_get(losses))), []
                    if not np.isfinite(mean):
                        raise FloatingPointError(
                            f"step {done}: the loss is {mean}; lower config.learning_rate or config.clip_norm."
                        )
                    scalars.add_scalar("loss", mean, done)
                    bar.update(done - bar.n)
                    bar.set_postfix(loss=f"{mean:.4f}")
                if save:
                    checkpoints.save(done, state)
    return state


def finish(plan, dataset, run, state):
    """Write the flow of the averaged weights, and a picture of its samples, a row for each of the first ten classes."""
    path, network = run.folder / "flow.safetensors", plan.objective.network
    no_class = np.zeros(network.num_classes) if network.num_classes else None
    variables = with_labels({"params": state.ema}, no_class, network.num_classes)
    bj.models.save_flow(
        path, network, variables, dataset.image_shape, plan.scheduler, prediction=plan.objective.prediction
    )
    rows = {}
    for row in range(min(network.num_classes, 10) or 4):
        flow = bj.sharding.replicate(bj.models.load_flow(path, labels=row if network.num_classes else None))
        key = jax.random.key(plan.seed) if network.num_classes else jax.random.fold_in(jax.random.key(plan.seed), row)
        rows[f"{row}"] = np.asarray(bj.sample(flow, bj.classic.midpoint(100), key, num_samples=12))
    run.write_figure("samples", plots.image_grid(rows))


def main(config, workdir):
    """What is wrong with the input is said without a stack."""
    try:
        plan, dataset, run = prepare(config, workdir)
        state = train(plan, dataset, run)
    except (ValueError, FileNotFoundError, FloatingPointError) as error:
        raise SystemExit(str(error)) from None
    finish(plan, dataset, run, state)
    print(f"\nFlow: {run.folder / 'flow.safetensors'}")


if __name__ == "__main__":
    command_line.run(main, default="fashion_fmot_pretrain")
