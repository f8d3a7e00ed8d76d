"""Flax networks and the shipped flows with their solvers."""

from bespoke_jax.models.flow_file import SHIPPED, NetworkVelocity, load_flow, save_flow, shipped_solver
from bespoke_jax.models.unet import UNet

__all__ = ["SHIPPED", "NetworkVelocity", "UNet", "load_flow", "save_flow", "shipped_solver"]
