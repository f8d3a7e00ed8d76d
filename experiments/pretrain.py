"""Pre-train a flow: `python -m experiments.pretrain --config=experiments/configs/fashion_fmot_pretrain.py`."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp
import tqdm
from absl import app, flags
from ml_collections import config_flags

import bespoke_jax as bj
from experiments import data, plots
from experiments.flow_matching import TrainState, learning_rate, make_update

config_flags.DEFINE_config_file("config", "experiments/configs/fashion_fmot_pretrain.py")
flags.DEFINE_string("workdir", None, "Where checkpoints go; the config's workdir if not given.")


def main(_):
    config = flags.FLAGS.config
    workdir = pathlib.Path(flags.FLAGS.workdir or config.workdir).absolute()
    images = data.load(config.data.name, config.data.folder)
    network = bj.models.UNet(**config.network)
    params = network.init(jax.random.key(config.seed), 0.0, jnp.zeros((1, *images.shape[1:])))
    schedule = learning_rate(config.learning_rate, config.num_steps, config.warmup, config.decay_fraction)
    optimizer = optax.chain(optax.clip_by_global_norm(config.clip_norm), optax.adam(schedule))
    state = TrainState(jnp.zeros((), jnp.int32), params, jax.tree.map(jnp.copy, params), optimizer.init(params))
    update = make_update(network.apply, bj.schedulers.by_name(config.scheduler), optimizer, config.ema_decay)
    manager = ocp.CheckpointManager(workdir / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=2))
    if manager.latest_step() is not None:
        state = manager.restore(manager.latest_step(), args=ocp.args.StandardRestore(state))
    draw = functools.partial(data.batch_indices, config.seed, batch_size=config.batch_size, num_images=len(images))
    progress = tqdm.trange(int(state.step), config.num_steps, initial=int(state.step), total=config.num_steps)
    mean = None
    for step in progress:
        x1 = data.to_model(images[draw(step)])
        state, loss = update(state, jax.random.fold_in(jax.random.key(config.seed), step), x1)
        mean = float(loss) if mean is None else 0.99 * mean + 0.01 * float(loss)
        progress.set_postfix(loss=f"{mean:.4f}")
        if (step + 1) % config.checkpoint_every == 0 or step + 1 == config.num_steps:
            manager.save(step + 1, args=ocp.args.StandardSave(state))
    manager.wait_until_finished()
    bj.models.save_flow(workdir / "flow.safetensors", network, state.ema, images.shape[1:], config.scheduler)
    flow = bj.models.load_flow(workdir / "flow.safetensors")
    samples = bj.sample(flow, bj.classic.midpoint(100), jax.random.key(config.seed), num_samples=64)
    rows = {f"{first}": samples[first : first + 16] for first in range(0, 64, 16)}
    plots.image_grid(rows).savefig(workdir / "samples.png", dpi=100)


if __name__ == "__main__":
    app.run(main)
