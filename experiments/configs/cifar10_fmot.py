"""CIFAR-10 (32 x 32 x 3), FM-OT: solvers for the OT-CFM flow that torchcfm published.

Paper: Sec. 4, CIFAR10, row FM-OT. FID of rk2-bespoke as published: 2.73 at NFE 10 (n = 5), 2.59 at NFE 20 (n = 10); learned in
1.1 - 3.6 % of the flow's own training time. FM-OT is the CondOT path; torchcfm also pairs noises with data within batches, so
its flow is another one, with straighter paths. Cost: not measured; meant for a GPU.

  curl -LO https://github.com/atong01/conditional-flow-matching/releases/download/1.0.4/otcfm_cifar10_weights_step_400000.pt
  python -m experiments.train --config=experiments/configs/cifar10_fmot.py --config.flow.path=otcfm_cifar10_weights_step_400000.pt

For a file of `bespoke_jax.models.save_flow`, give --config.flow.name=checkpoint --config.flow.path=FILE.safetensors.
Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.cifar10_torchcfm("cifar10_fmot")
