"""The common part of the three class-conditional Fashion-MNIST flows: each solver serves all ten classes."""

from experiments.configs import fashion_fmot_long
from experiments.run.config import ConfigDict


def config(name: str) -> ConfigDict:
    config = fashion_fmot_long.get_config()
    config.workdir = f"runs/{name}"
    # labels: a class, "0,3,5", or "all". guidance_scale: w of classifier-free guidance, 0 for none.
    config.flow = dict(name=name, labels="all", guidance_scale=0.0)
    config.solvers = dict(rk1=(8,), rk2=(4, 5, 8, 10), table=(6, 8, 10))
    return config
