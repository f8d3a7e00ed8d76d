"""Solvers for a flow of your own code: `flow.path` names a function that returns a `bj.Flow`, here `make_flow` below.

`--config.flow.path=my_module:make_flow` names yours, in a module that Python finds from the working directory. Arguments for it
are `flow.kwargs` in a copy of this file.

Cost: 51 seconds of CPU time on 2 Intel Xeon cores, mostly compiling.
Expect: PSNR 52.1 dB for rk2-bespoke at NFE 8, against 33.7 for rk2, and 56.5 for a learned table of 6.
"""

import jax.numpy as jnp

import bespoke_jax as bj
from experiments.configs import fashion_fmot_long
from experiments.run.config import ConfigDict


def make_flow() -> bj.Flow:
    """Two half moons in the plane, as a mixture of 16 Gaussians. A network of yours: `bj.Flow(velocity, params, event_shape)`."""
    angles = jnp.linspace(0, jnp.pi, 8)
    upper = jnp.stack([jnp.cos(angles) - 0.5, jnp.sin(angles) - 0.25], axis=1)
    return bj.analytic.mixture(jnp.concatenate([upper, -upper]), std=0.1)


def get_config() -> ConfigDict:
    config = fashion_fmot_long.get_config()
    config.workdir = "runs/own_flow"
    config.flow = dict(name="python", path="experiments.configs.own_flow:make_flow", kwargs=dict())
    config.solvers = dict(rk2=(4,), table=(6,))
    config.paths.update(num_train=96, num_validation=64, num_test=512)
    config.report.num_samples = 512
    return config
