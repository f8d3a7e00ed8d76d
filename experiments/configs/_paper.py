"""The common part of the configs of the paper's experiments (arXiv:2310.19075, Sec. 4).

The paper's own weights are not public. Each config takes the nearest published ones that an importer reads, or your own. So the
FID that it quotes is what the paper's network reached, not what these weights will; none was measured here. For rk1-bespoke none
is quoted: the paper's figures for it could not be verified.

To reproduce a row, download the weights that the config names, then run

    python -m experiments.train --config=experiments/configs/NAME.py --workdir=W --config.flow.path=FILE
    python -m experiments.evaluate --config=experiments/configs/NAME.py --workdir=W --config.flow.path=FILE

The first command learns both families at every n and reports RMSE and PSNR; the second compares them with every dedicated
solver. For one row alone, add --config.solver.base=rk2 --config.solver.num_steps=5. For the FID of the learned solvers, see
`experiments.fid` and docs/fid.md.
"""

from experiments.configs import fashion_fmot_long
from experiments.run.config import ConfigDict

_STEPS = (4, 5, 8, 10, 12)  # NFE 8, 10, 16, 20, 24 of rk2
_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained/"
_TORCHCFM = "https://github.com/atong01/conditional-flow-matching/releases/download/1.0.4/"


def _config(name: str, flow: dict, **num_paths: int) -> ConfigDict:
    config = fashion_fmot_long.get_config()
    config.workdir = f"runs/{name}"
    config.flow = flow
    config.solvers = dict(rk1=_STEPS, rk2=_STEPS)
    config.paths.update(dict(num_train=128, num_validation=128, num_test=512) | num_paths)
    return config


def _published(what: str, url: str) -> dict:
    """The fields that say what is missing, and how to get it, if there is no file."""
    return dict(path="", missing=what, remedy=f"curl -LO {url} and add --config.flow.path={url.rsplit('/', 1)[1]}")


def cifar10_edm(name: str, scheduler: str, file: str = "edm-cifar10-32x32-uncond-vp.pkl") -> ConfigDict:
    """CIFAR-10 with one of EDM's files, unconditional, under a scheduler."""
    missing = "EDM's denoiser of CIFAR-10 (55.7 M parameters), which the library does not ship."
    return _config(name, dict(name="edm", scheduler=scheduler) | _published(missing, _EDM + file))


def cifar10_torchcfm(name: str) -> ConfigDict:
    """CIFAR-10 with torchcfm's OT-CFM file."""
    missing = "torchcfm's OT-CFM weights of CIFAR-10 (35.7 M parameters), which the library does not ship."
    return _config(
        name, dict(name="torchcfm") | _published(missing, f"{_TORCHCFM}otcfm_cifar10_weights_step_400000.pt")
    )


def imagenet64(name: str, scheduler: str) -> ConfigDict:
    """ImageNet-64 with EDM's conditional ADM, all classes, under a scheduler."""
    missing = "EDM's denoiser of ImageNet-64 (295.9 M parameters), which the library does not ship."
    flow = dict(name="edm", scheduler=scheduler, labels="all")
    return _config(name, flow | _published(missing, f"{_EDM}edm-imagenet-64x64-cond-adm.pkl"), num_test=256)


def own(name: str, what: str, **num_paths: int) -> ConfigDict:
    """A data set without published weights that an importer reads: the user's own file."""
    flow = dict(
        name="checkpoint",
        path="",
        missing=f"the weights of {what}, of which we know no published ones that an importer reads.",
        remedy="Train one with experiments.pretrain (docs/pretraining.md), or write one of bespoke_jax.models with save_flow, "
        "and add --config.flow.path=FILE.safetensors",
    )
    return _config(name, flow, **num_paths)
