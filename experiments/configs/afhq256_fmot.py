"""AFHQ-256 (256 x 256 x 3), FM-OT. Its weights are the user's own.

Paper: Sec. 4, AFHQ-256, row FM-OT. Its published figures could not be verified, so none is given. Cost: not measured; meant
for a GPU. Few paths: three states of 0.8 MB are kept for each of their steps.

  python -m experiments.train --config=experiments/configs/afhq256_fmot.py --config.flow.path=FILE.safetensors

The file is one of `bespoke_jax.models.save_flow`: see docs/models.md. Then as `_paper` says.
"""

from experiments.configs import _paper


def get_config():
    return _paper.own("afhq256_fmot", "an FM-OT flow of AFHQ-256", num_train=32, num_validation=32, num_test=64)
