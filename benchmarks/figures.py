"""The two figures that the benchmarks print, in dB of data in [-1, 1]: the PSNR of the mean RMSE, and the mean over samples."""

import bespoke_jax as bj
from bespoke_jax.run.scores import distances, score
from bespoke_jax.solver import Solver

__all__ = ["figure", "figures"]


def figures(flow: bj.Flow, solver: Solver, paths: bj.Paths, batch_size: int | None = None) -> tuple[float, float]:
    """(PSNR of the mean RMSE, mean PSNR) of a solver on true paths of the flow, `batch_size` of them at a time."""
    ends = bj.adjoint.end_points(flow, solver, paths.x0, batch_size)
    found = score("", distances(flow, ends, paths.x1), 2.0)
    return found.psnr, found.mean_psnr


def figure(flow: bj.Flow, solver: Solver, paths: bj.Paths) -> str:
    """`figures` as the tables show them, "37.0 (38.9)"."""
    return "{:.1f} ({:.1f})".format(*figures(flow, solver, paths, 32))
