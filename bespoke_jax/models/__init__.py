"""Flax networks, importers of published weights, and the shipped flows with their solvers."""

from bespoke_jax.models import diffusers, edm, inception, torchcfm
from bespoke_jax.models.adm import ADM
from bespoke_jax.models.denoiser import Denoiser, Preconditioning
from bespoke_jax.models.flow_file import (
    SHIPPED,
    NetworkVelocity,
    load_flow,
    save_denoiser,
    save_flow,
    shipped_solver,
)
from bespoke_jax.models.songunet import SongUNet
from bespoke_jax.models.unet import UNet

__all__ = [
    "ADM",
    "SHIPPED",
    "Denoiser",
    "NetworkVelocity",
    "Preconditioning",
    "SongUNet",
    "UNet",
    "diffusers",
    "edm",
    "inception",
    "load_flow",
    "save_denoiser",
    "save_flow",
    "shipped_solver",
    "torchcfm",
]
