"""Image data sets from the user's own files, and batches of them: uint8 [B, H, W, C], which `to_model` scales to [-1, 1]."""

from experiments.data.dataset import DataSet, to_model
from experiments.data.loader import batch, batch_indices, batches
from experiments.data.sources import load

__all__ = ["DataSet", "batch", "batch_indices", "batches", "load", "to_model"]
