"""Solvers for an FM-OT flow of CIFAR-10 (32 x 32 x 3). Its weights are the user's own: none can be shipped.

Cost: not measured; meant for a GPU. Published (arXiv:2310.19075, not measured here): FID of rk2-bespoke on FM-OT 2.73
at NFE 10 and 2.59 at NFE 20, learned in 1.1 - 3.6 % of the flow's own training time.
"""

from experiments.configs import fashion_fmot


def get_config():
    config = fashion_fmot.get_config()
    config.workdir = "runs/cifar10_fmot"
    config.flow = dict(
        name="checkpoint",
        path="",
        missing="the weights of an FM-OT flow of CIFAR-10, which the library does not ship.",
        remedy="Train a bespoke_jax.models.UNet on CIFAR-10, write it with bespoke_jax.models.save_flow, and add "
        "--config.flow.path=FILE.safetensors.",
    )
    config.paths.update(num_train=128, num_validation=128, num_test=512)
    return config
