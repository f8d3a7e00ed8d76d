"""The common part of the three pre-trainings on CIFAR10: the paper's three kinds of model, unconditional, 32 x 32 x 3.

Network and schedule are those of torchcfm's CIFAR10 example: an ADM of 35.7 M parameters with dropout, 400,000 steps of 128
images. Cost and expected FID: not measured, as we never ran it to its end; meant for one or several GPUs.

  curl -LO https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz
  python -m experiments.pretrain --config=experiments/configs/cifar10_fmot_pretrain.py --config.data.folder=cifar-10-python.tar.gz

Then `python -m experiments.train --config=experiments/configs/cifar10_fmot.py --config.flow.name=checkpoint
--config.flow.path=runs/cifar10_fmot_pretrain/flow.safetensors`.
"""

from experiments.configs import fashion_fmot_pretrain
from experiments.run.config import ConfigDict


def config(name: str, scheduler: str, prediction: str) -> ConfigDict:
    config = fashion_fmot_pretrain.get_config()
    config.workdir = f"runs/{name}"
    config.data = dict(name="cifar10", folder="", flip=True)
    config.scheduler = scheduler
    config.prediction = prediction
    config.network = dict(
        name="ADM",
        channels=(128, 256, 256, 256),
        num_blocks=2,
        heads=(0, 4, 0, 0),
        middle_heads=4,
        time_channels=128,
        scale_shift=False,
        resampling="conv",
        group_width=1,
        dropout=0.1,
        remat=False,
    )
    config.update(num_steps=400_000, batch_size=128, learning_rate=2e-4, warmup=5_000, decay_fraction=0.0)
    config.update(ema_decay=0.9999, checkpoint_every=5_000)
    return config
