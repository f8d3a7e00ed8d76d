"""The common part of the three class-conditional pre-trainings on Fashion-MNIST: small versions of the paper's kinds of model.

A U-Net of 0.54 M parameters that is given the class, which is withheld for one sample in ten: so it learns both velocities of
classifier-free guidance. 3,000 steps of 64 images.
"""

from experiments.configs import fashion_fmot_pretrain
from experiments.run.config import ConfigDict


def config(name: str, scheduler: str, prediction: str) -> ConfigDict:
    config = fashion_fmot_pretrain.get_config()
    config.workdir = f"runs/{name}"
    config.scheduler = scheduler
    config.prediction = prediction
    config.network.num_classes = 10
    config.label_dropout = 0.1
    config.num_steps = 3_000
    config.checkpoint_every = 100
    return config
