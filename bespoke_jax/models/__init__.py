"""Flax networks, importers of published weights, and the shipped flows with their solvers."""

from bespoke_jax.models import diffusers, edm, inception, torchcfm
from bespoke_jax.models.classifier import (
    CLASSIFIERS,
    Classifier,
    ConvClassifier,
    load_classifier,
    save_classifier,
)
from bespoke_jax.models.denoiser import Denoiser
from bespoke_jax.models.flow_file import (
    SHIPPED,
    NetworkVelocity,
    load_flow,
    save_denoiser,
    save_flow,
    shipped_solver,
)
from bespoke_jax.models.networks.adm import ADM
from bespoke_jax.models.networks.songunet import SongUNet
from bespoke_jax.models.networks.unet import UNet
from bespoke_jax.models.perceptual import classifier_features, inception_features
from bespoke_jax.models.preconditioning import Preconditioning

__all__ = [
    "ADM",
    "CLASSIFIERS",
    "SHIPPED",
    "Classifier",
    "ConvClassifier",
    "Denoiser",
    "NetworkVelocity",
    "Preconditioning",
    "SongUNet",
    "UNet",
    "classifier_features",
    "diffusers",
    "edm",
    "inception",
    "inception_features",
    "load_classifier",
    "load_flow",
    "save_classifier",
    "save_denoiser",
    "save_flow",
    "shipped_solver",
    "torchcfm",
]
