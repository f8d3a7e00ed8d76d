"""AFHQ-256 (256 x 256 x 3), FM-OT: solvers for a flow of your own.

Paper: Sec. 4, AFHQ-256, row FM-OT. Its published figures could not be verified, so none is quoted. Cost: not measured; meant
for a GPU. There are few paths, since each keeps three states of 0.8 MB for each of its steps.

  python -m experiments.train --config=experiments/configs/afhq256_fmot.py --config.flow.path=FILE.safetensors

The file is written by `bespoke_jax.models.save_flow`: see docs/models.md. Then continue as `_paper` says.
"""

from experiments.configs import _paper
from experiments.run.config import ConfigDict


def get_config() -> ConfigDict:
    return _paper.own("afhq256_fmot", "an FM-OT flow of AFHQ-256", num_train=32, num_validation=32, num_test=64)
