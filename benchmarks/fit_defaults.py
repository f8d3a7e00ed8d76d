"""What the defaults of `fit` reach, on flows they were tuned on and others: `python -m benchmarks.fit_defaults [flow ...]`.

One row per flow and solver, PSNR in dB on fresh noise (of the mean RMSE, in brackets the mean over samples): the plain base
solver (Euler for a table), the chosen start (for a table the best dedicated solver), the default fit, and for rk1 and rk2 the
paper's recipe (Adam on the RMSE-Bound loss from the identity) with as many velocity evaluations as the default fit.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.figures import figure
from bespoke_jax.fitting.starts import start_groups

SOLVERS = (("rk1", 10), ("rk2", 4), ("rk2", 8), ("table", 6))
NUM_TEST = 256
NUM_TEST_CLOSED_FORM = 4096  # a few noises near where two components part dominate the mean RMSE


def blobs(num: int, size: int):
    """Smooth random images in [-1, 1]: means for a mixture in many dimensions."""
    random = np.random.default_rng(0)
    grid = (np.arange(size) + 0.5) / size
    centre, width = random.uniform(0.2, 0.8, (2, num, 1)), random.uniform(0.1, 0.3, (2, num, 1))
    rows, columns = np.exp(-(((grid - centre) / width) ** 2))
    return (2 * rows[:, :, None] * columns[:, None, :] - 1)[..., None]


def rescheduled(flow: bj.Flow, target) -> bj.Flow:
    """The same network under another scheduler, eq. (16), with times kept 1e-3 from the ends."""
    curve = bj.scale_time.curve_between(flow.scheduler, target)

    def velocity(params, t, x):
        inner = bj.Flow(flow.velocity, params, flow.event_shape)
        return bj.scale_time.transform_velocity(inner, curve)(jnp.clip(t, 1e-3, 1 - 1e-3), x)

    return bj.Flow(velocity, flow.params, flow.event_shape, target)


def flows() -> dict:
    """Functions that make the flows, by name."""
    points = jax.random.normal(jax.random.key(5), (10, 8))
    triangle = jnp.array([[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]])
    vp, cosine = bj.schedulers.VariancePreserving(), bj.schedulers.Cosine()
    return {
        "mixture8 CondOT": lambda: bj.analytic.mixture(points, 0.1),
        "mixture8 VP": lambda: bj.analytic.mixture(points, 0.1, scheduler=vp),
        "mixture2 cosine": lambda: bj.analytic.mixture(triangle, 0.15, scheduler=cosine),
        "images8x8 CondOT": lambda: bj.analytic.mixture(blobs(20, 8), 0.2),
        "images8x8 VP": lambda: bj.analytic.mixture(blobs(20, 8), 0.2, scheduler=vp),
        "fashion_fmot": lambda: bj.models.load_flow("fashion_fmot"),
        "fashion_fmot as VP": lambda: rescheduled(bj.models.load_flow("fashion_fmot"), vp),
    }


def row(name: str, flow, base: str, num_steps: int, test) -> str:
    identity, key = bj.init_theta(base, num_steps), jax.random.key(0)
    result = bj.fit(flow, identity, key)
    # A table's starts have the structure and the image of the learned one.
    starts = {name: start for group in start_groups(flow, result.theta) for name, start in group.items()}
    start = (starts | {"given": identity})[result.start]
    cells = [figure(flow, theta, test) for theta in (identity, start, result.theta)]
    if base == "table":
        cells.append("")
    else:
        # An update costs 3 passes: 1 forward, 2 backward.
        iterations = max(1, result.cost // (3 * 16 * identity.nfe))
        adam = bj.fit(flow, identity, key, bj.paper(iterations, batch_size=16))
        cells.append(figure(flow, adam.theta, test))
    return " | ".join([f"| {name}", f"{base} {num_steps}", result.start, *cells, f"{result.cost:,} |"])


def main(wanted):
    print("| flow | solver, n | start chosen | base | start | default fit | paper's recipe, equal cost | evaluations |")
    print("|---|---|---|---|---|---|---|---|")
    for name, make in flows().items():
        if wanted and name not in wanted:
            continue
        flow = make()
        num_test = NUM_TEST if name.startswith("fashion") else NUM_TEST_CLOSED_FORM
        test = bj.ground_truth(flow, flow.noise(jax.random.key(2), (num_test,)), batch_size=1024)
        for base, num_steps in SOLVERS:
            print(row(name, flow, base, num_steps, test), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
