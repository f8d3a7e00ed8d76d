"""The noise that a scheduler_config.json of diffusers describes: a network's preconditioning, and the nearest scheduler."""

import math
import pathlib
from typing import Any

import numpy as np

from bespoke_jax import schedulers
from bespoke_jax.checks import check_count, check_number, check_positive
from bespoke_jax.models.diffusers.folder import read_json
from bespoke_jax.models.preconditioning import Preconditioning
from bespoke_jax.schedulers import Scheduler

__all__ = ["preconditioning_of"]

_PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}

# Schedulers whose betas are a DDPM's, whatever they do when sampling: class -> its default beta_start, beta_end.
_DDPM_NAMES = (
    "DDPM",
    "DDPMParallel",
    "DDIM",
    "DDIMInverse",
    "DDIMParallel",
    "PNDM",
    "RePaint",
    "LMSDiscrete",
    "UniPCMultistep",
    "DPMSolverMultistep",
    "DPMSolverMultistepInverse",
    "DPMSolverSinglestep",
    "DEISMultistep",
    "SASolver",
    "EulerDiscrete",
    "EulerAncestralDiscrete",
)
_DDPM = {f"{name}Scheduler": (1e-4, 0.02) for name in _DDPM_NAMES} | {
    f"{name}Scheduler": (0.00085, 0.012)
    for name in ("HeunDiscrete", "KDPM2Discrete", "KDPM2AncestralDiscrete", "DPMSolverSDE")
}
_EDM = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")


def preconditioning_of(path: pathlib.Path | None) -> tuple[Preconditioning, Scheduler]:
    """(preconditioning, the scheduler nearest to it) from a scheduler_config.json; Ho et al.'s (2020) if there is none.

    Raises:
        ValueError: if it describes a kind of network that is not supported, or impossible numbers.
    """
    config = {} if path is None else read_json(path)
    kind = str(config.get("_class_name", "DDPMScheduler")).removeprefix("Flax")
    prediction = config.get("prediction_type", "epsilon")
    if config.get("predict_epsilon") is False:  # diffusers before prediction_type
        prediction = "sample"
    if kind in _FLOW or (kind in _DDPM and config.get("use_flow_sigmas")):
        return _flow_matching(config, kind, prediction, path), schedulers.CondOT()
    if kind in _EDM:
        return _edm(config, prediction, path)
    if kind not in _DDPM:
        raise ValueError(
            f"{path}: networks of {kind[:80]} are not supported; supported are those of {', '.join((*_DDPM, *_EDM, *_FLOW))}."
        )
    if not isinstance(prediction, str) or prediction not in _PREDICTIONS:
        raise ValueError(f"{path}: prediction_type: wanted one of {sorted(_PREDICTIONS)}, got {prediction!r:.80}.")
    if config.get("rescale_betas_zero_snr"):
        raise ValueError(f"{path}: rescale_betas_zero_snr is not supported: its last step has no noise level.")
    if config.get("timestep_type", "discrete") != "discrete":
        raise ValueError(f"{path}: timestep_type: wanted 'discrete', got {config['timestep_type']!r:.80}.")
    betas, usual = _betas(config, _DDPM[kind], path)
    return Preconditioning.ddpm(betas, _PREDICTIONS[prediction]), usual


def _flow_matching(config: dict, kind: str, prediction: Any, path: pathlib.Path | None) -> Preconditioning:
    if kind not in _FLOW and prediction != "flow_prediction":
        raise ValueError(
            f"{path}: prediction_type: wanted 'flow_prediction' with use_flow_sigmas, got {prediction!r:.80}."
        )
    if config.get("invert_sigmas"):
        raise ValueError(f"{path}: invert_sigmas: wanted False, times that are 0 at the data, got True.")
    # The other entries, such as `shift`, say at which times to sample; the network's field does not depend on them.
    steps = check_count(f"{path}: num_train_timesteps", config.get("num_train_timesteps", 1000), 3, 10**6)
    return Preconditioning.flow_matching(steps)


def _edm(config: dict, prediction: Any, path: pathlib.Path | None) -> tuple[Preconditioning, Scheduler]:
    if prediction not in ("epsilon", "v_prediction"):
        raise ValueError(f"{path}: prediction_type: wanted 'epsilon' or 'v_prediction', got {prediction!r:.80}.")
    usual = dict(sigma_min=0.002, sigma_max=80.0, sigma_data=0.5)
    numbers = {name: check_positive(f"{path}: {name}", config.get(name, value)) for name, value in usual.items()}
    low, high = numbers["sigma_min"], numbers["sigma_max"]
    if low >= high:
        raise ValueError(f"{path}: wanted sigma_min < sigma_max, got {low}, {high}.")
    rho = check_positive(f"{path}: rho", config.get("rho", 7.0))
    preconditioning = Preconditioning(
        "edm", low, high, sigma_data=numbers["sigma_data"], prediction=_PREDICTIONS[prediction]
    )
    return preconditioning, schedulers.EDM(low, high, rho)


def _betas(
    config: dict, usual: tuple[float, float], path: pathlib.Path | None
) -> tuple[np.ndarray | list[float], Scheduler]:
    """(the variances added by each step, the scheduler nearest to them)."""
    if (betas := config.get("trained_betas")) is not None:
        if not isinstance(betas, list):
            raise ValueError(f"{path}: trained_betas: wanted a list of numbers, got {betas!r:.80}.")
        return [check_number(f"{path}: trained_betas", beta, 0, 1) for beta in betas], schedulers.Cosine()
    count = check_count(f"{path}: num_train_timesteps", config.get("num_train_timesteps", 1000), 2, 10**6)
    start, end = (
        check_number(f"{path}: {name}", config.get(name, value), 0, 1, above=True)
        for name, value in zip(("beta_start", "beta_end"), usual, strict=True)
    )
    kind = config.get("beta_schedule", "linear")
    if kind == "linear":
        return np.linspace(start, end, count), schedulers.VariancePreserving(count * start, count * end)
    if kind == "scaled_linear":
        return np.linspace(start**0.5, end**0.5, count) ** 2, schedulers.Cosine()
    if kind == "squaredcos_cap_v2":  # Nichol & Dhariwal 2021 (arXiv:2102.09672), eq. 17
        remaining = np.cos((np.arange(count + 1) / count + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.minimum(1 - remaining[1:] / remaining[:-1], 0.999), schedulers.Cosine()
    raise ValueError(f"{path}: beta_schedule = {kind!r:.80} is not supported; give the betas as trained_betas.")
