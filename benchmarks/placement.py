"""What calls of guidance could be worth, before any fit: `python -m benchmarks.placement [--scale W] [--calls N ...]`.

One row per number of network calls: the PSNR in dB that least squares on 32 true paths predict (docs/theory.md), with both
networks called at the same times, and with each call at a time of its own; and how many calls of each network that takes.
"""

import argparse

import jax
import numpy as np

import bespoke_jax as bj
from bespoke_jax.flow.conditions import dealt, of_samples
from bespoke_jax.learned.placed import Design, WalkedPaths
from experiments.run.command_line import use_all_cores

NUM_IMAGES, NUM_PATHS = 128, 32


def design_of(flow: bj.Flow, key: jax.Array) -> tuple[Design, np.ndarray]:
    """(what calls at these times would do, the times)."""
    flow, x0 = dealt(flow, key, NUM_IMAGES), flow.noise(key, (NUM_IMAGES,))
    image = bj.LearnedCalls.euler(2).suited(flow).with_samples(flow, x0, x0, NUM_PATHS)[0].reference.xi
    paths = WalkedPaths.of(of_samples(flow, slice(0, NUM_PATHS)), x0[:NUM_PATHS], image)
    return paths.design(), paths.times


def best_pairs(design: Design, nfe: int) -> np.ndarray:
    """The best times at which to call both networks, from evenly spread ones, and from some denser at the noise."""
    found = [_improved(design, ((np.arange(nfe) + 0.5) / nfe) ** power) for power in (1.0, 1.4)]
    return min(found, key=lambda calls: float(design.errors(calls[None])[0]))


def _improved(design: Design, places: np.ndarray) -> np.ndarray:
    """Each time in turn replaced by the best other one."""
    nfe, times = len(places), (places * design.num_times).astype(int)
    for _ in range(10):
        before = times
        for i in range(nfe):
            others = np.repeat(times[None], design.num_times, axis=0)
            others[:, i] = np.arange(design.num_times)
            others = np.sort(others, axis=1)
            others = others[np.all(np.diff(others, axis=1) > 0, axis=1)]
            times = others[np.argmin(design.errors(as_calls(others)))]
        if np.array_equal(times, before):
            break
    return as_calls(times[None])[0]


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
    use_all_cores()
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
