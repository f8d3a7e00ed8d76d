"""FM-OT pre-training of the shipped Fashion-MNIST flow: 28 x 28 x 1 in [-1, 1], a U-Net of 0.54 M parameters.

Data: the Debian package dataset-fashion-mnist (or `--config.data.folder=` with the idx files). 5,400 steps of 64 images,
6 epochs. Cost: 36 minutes on 2 idle CPU cores, 0.4 s a step. A kill loses at most 250 steps: start it again. Writes
workdir/flow.safetensors, which `bespoke_jax.models.load_flow` reads, and workdir/figures/samples.png.
"""

from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return ConfigDict(
        dict(
            workdir="runs/fashion_fmot_pretrain",
            seed=0,
            data=dict(name="fashion_mnist", folder="", flip=False),
            scheduler="condot",
            prediction="velocity",
            network=dict(channels=(32, 64), num_blocks=(1, 2), patch_size=2, head_channels=8, num_heads=4),
            compute_dtype="float32",
            label_dropout=0.0,
            num_steps=5_400,
            batch_size=64,
            learning_rate=1e-3,
            warmup=200,
            decay_fraction=0.25,
            clip_norm=1.0,
            ema_decay=0.999,
            checkpoint_every=250,
        )
    )
