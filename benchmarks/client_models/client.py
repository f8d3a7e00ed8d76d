"""What `benchmarks.clients` wants of a client."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

import bespoke_jax as bj

NUM_SAMPLES, NUM_EXACT = 10_000, 2000

Sample = Callable[[], Any]  # draws NUM_SAMPLES samples from the client's noise


@dataclasses.dataclass(frozen=True)
class Client:
    """A trained model, and how its library samples.

    Attributes:
        model: what it is, in words.
        flow: to fit to.
        test: the flow of the first NUM_EXACT samples, with their conditions; the same as `flow` without conditions.
        x0: the noise of the samples, [NUM_SAMPLES, *event_shape].
        own: the library's samplers: the name, the network calls, the function.
        default: the name of the library's default.
        with_table: the library's sampling function with a solver of ours.
        calls: of our tables.
        rtol: of the exact paths, and of those that the fits learn from.
        merit: the name of the client's figure of merit and its function of samples, or None.
    """

    model: str
    flow: bj.Flow
    test: bj.Flow
    x0: Any
    own: dict[str, tuple[int, Sample]]
    default: str
    with_table: Callable[[Any], Sample]
    calls: tuple[int, ...] = (4, 6, 8)
    rtol: float = 1e-5
    merit: tuple[str, Callable[[np.ndarray], float]] | None = None
