"""FM-OT pre-training of the shipped Fashion-MNIST flow (28x28x1, 0.54 M parameters)."""

import ml_collections


def get_config():
    return ml_collections.ConfigDict(
        dict(
            workdir="runs/fashion_fmot_pretrain",
            seed=0,
            data=dict(name="fashion_mnist", folder=None),
            scheduler="condot",
            network=dict(channels=(32, 64), num_blocks=(1, 2), patch_size=2, head_channels=8, num_heads=4),
            num_steps=12_000,
            batch_size=64,
            learning_rate=1e-3,
            warmup=200,
            decay_fraction=0.25,
            clip_norm=1.0,
            ema_decay=0.999,
            checkpoint_every=250,
            export="",
        )
    )
