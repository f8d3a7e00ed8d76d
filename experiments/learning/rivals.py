"""The best dedicated solver at each NFE, found at little cost, for the report beside the learned ones.

`experiments.evaluate` tries some hundred of them. Here those few are tried that usually win there: on one batch of the noises,
after which the best one at each NFE is measured on all. Its error is then that of a solver chosen on a part of them.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

import bespoke_jax as bj
from bespoke_jax.flow.conditions import of_samples
from bespoke_jax.types import Array
from experiments.learning.measure import Row, end_points, row_of
from experiments.run import processes, stopping

__all__ = ["USUAL", "USUAL_ON_VELOCITY", "Rivals", "as_text", "find"]

USUAL = (
    *("solver_search/published", "midpoint/karras", "ipndm_noise-3/karras", "ipndm_noise-3/log_snr"),
    *("ipndm-3/karras", "unipc-2/quadratic", "midpoint/uniform", "midpoint/cosine"),
)
"""The dedicated solvers that win most of the comparisons in docs/compare.md and docs/shipped_flow.md, or come close; and rk2."""
USUAL_ON_VELOCITY = (
    "midpoint/uniform",
    "midpoint/quadratic",
    "ipndm-2/uniform",
    "ipndm-3/uniform",
    "ipndm-3/quadratic",
)
"""Those for a flow without a scheduler."""


class Rivals(NamedTuple):
    """The best of a few dedicated solvers at each NFE.

    Attributes:
        rows: a row for each NFE at which there was one.
        samples: its first few samples, by NFE.
        num_tried: the most solvers that were tried at an NFE.
        num_noises: how many of the noises they were tried on.
        evaluations: velocity evaluations of single samples that all of this took.
    """

    rows: list[Row]
    samples: dict[int, np.ndarray]
    num_tried: int
    num_noises: int
    evaluations: int


def find(
    flow: bj.Flow,
    nfes: Iterable[int],
    x0: Float[Array, "N *event"],
    x1: Float[Array, "N *event"],
    keep: int,
    batch_size: int,
) -> Rivals:
    """The best, by mean PSNR, of the usual dedicated solvers at each of these NFE.

    Args:
        flow: the velocity field; if it is `given` conditions, one for each noise.
        nfes: the numbers of evaluations.
        x0, x1: noises and their true ends, [N, *event].
        keep: how many samples of each solver to return.
        batch_size: how many the flow evaluates at once, and on how many the solvers are tried.
    """
    few = slice(min(batch_size, len(x0)))
    some = of_samples(flow, few)
    found = Rivals([], {}, 0, few.stop, 0)
    for nfe in processes.bar(sorted(set(nfes)), desc="dedicated solvers"):
        stopping.stop_if_asked()
        usual = USUAL if flow.scheduler is not None else USUAL_ON_VELOCITY
        tables = {name: table for name, table in bj.classic.dedicated(nfe, flow.scheduler).items() if name in usual}
        if not tables:
            continue
        tried = [
            row_of(name, nfe, end_points(some, table, x0[few], batch_size), x1[few]) for name, table in tables.items()
        ]
        best = max(tried, key=lambda row: row.mean_psnr).solver
        ends = end_points(flow, tables[best], x0, batch_size)
        found = Rivals(
            [*found.rows, row_of(best, nfe, ends, x1)],
            found.samples | {nfe: ends[:keep]},
            max(found.num_tried, len(tables)),
            few.stop,
            found.evaluations + nfe * (few.stop * len(tables) + len(x0)),
        )
    return found


def as_text(found: Rivals) -> str:
    """A line for the terminal: which solver is the best at each NFE."""
    names = ", ".join(f"{row.solver} at {row.nfe}" for row in found.rows) or "none"
    return f"dedicated: the best of up to {found.num_tried} on {found.num_noises} of the noises: {names}."
