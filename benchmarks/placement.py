"""What calls of guidance could be worth, before any fit: `python -m benchmarks.placement [--scale W] [--calls N ...]`.

One row per number of network calls: the PSNR in dB that least squares on 32 true paths predict (docs/theory.md), with both
networks called at the same times, and with each call at a time of its own; and how many calls of each network that takes.
"""

import argparse

import jax
import numpy as np

import bespoke_jax as bj
from bespoke_jax.learned.calls import noises_and_image
from bespoke_jax.learned.placed import Design, WalkedPaths, improved


def design_of(flow: bj.Flow, key: jax.Array) -> tuple[Design, np.ndarray]:
    """(what calls at these times would do, the times)."""
    paths = WalkedPaths.of(*noises_and_image(flow, key))
    return paths.design(), paths.times


def best_pairs(design: Design, nfe: int) -> np.ndarray:
    """The best times at which to call both networks, from evenly spread ones, and from some denser at the noise."""
    found = [_improved(design, ((np.arange(nfe) + 0.5) / nfe) ** power) for power in (1.0, 1.4)]
    return min(found, key=lambda calls: float(design.errors(calls[None])[0]))


def _improved(design: Design, places: np.ndarray) -> np.ndarray:
    """Each time in turn replaced by the best other one."""

    def are_apart(times: np.ndarray) -> np.ndarray:
        return np.all(np.diff(times, axis=1) > 0, axis=1)

    def errors(times: np.ndarray) -> np.ndarray:
        return design.errors(as_calls(times))

    times = (places * design.num_times).astype(int)
    return as_calls(improved(times, design.num_times, are_apart, errors)[None])[0]


def as_calls(times: np.ndarray) -> np.ndarray:
    """Both networks at times [S, nfe], as calls [S, 2 nfe]."""
    return np.stack([2 * times, 2 * times + 1], axis=-1).reshape(len(times), -1)


def main() -> None:
    """Print the table of one flow and scale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", default="fashion_fmot_class")
    parser.add_argument("--scale", type=float, default=1.5)
    parser.add_argument("--calls", type=int, nargs="+", default=[8, 10, 12, 16])
    options = parser.parse_args()
    bj.sharding.use_all_cores()
    flow = bj.guided(bj.models.load_flow(options.flow, labels="all"), options.scale)
    design, times = design_of(flow, jax.random.key(11))
    print(f"{options.flow}, w = {options.scale:g}")
    print("| calls | pairs | by the call | calls of each network | conditional | unconditional |")
    print("|---|---|---|---|---|---|")
    for calls in options.calls:
        found = design.best(calls), best_pairs(design, calls // 2)
        apart, pairs = (float(bj.metrics.psnr(np.sqrt(design.errors(each[None])[0]), 2.0)) for each in found)
        own, other = ([f"{times[call // 2]:.2f}" for call in found[0] if call % 2 == field] for field in (0, 1))
        counts = f"{len(own)} + {len(other)}"
        print(f"| {calls} | {pairs:.1f} | {apart:.1f} | {counts} | {' '.join(own)} | {' '.join(other)} |", flush=True)


if __name__ == "__main__":
    main()
