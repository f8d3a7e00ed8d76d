"""Flax networks and the shipped flows."""

from bespoke_jax.models.flow_file import SHIPPED, NetworkVelocity, load_flow, save_flow
from bespoke_jax.models.unet import UNet

__all__ = ["SHIPPED", "NetworkVelocity", "UNet", "load_flow", "save_flow"]
