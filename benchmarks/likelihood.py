"""How accurate is log p through a solver? `python -m benchmarks.likelihood [name ...]`, or `images`: are images inverted?

Gaussian mixtures whose density has a closed form, on exact samples of the data. One row per solver and number of evaluations: the
RMS of the error of log p in bits per dimension, its mean (a solver's own density is another one), and how many samples have no
noise that the solver takes to them, or lie where it folds space. Dedicated: the named solvers. Learned: the table that
the default `fit` learns. Dopri5: the flow itself, backwards with the exact divergence.
"""

import math
import sys
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj

NUM_SAMPLES = 256
NFES = (4, 8, 16, 32)
LEARNED_NFES = (4, 8, 16)
RTOLS = (1e-2, 1e-3, 1e-4, 1e-5)


def flows() -> dict[str, bj.Flow]:
    ring = 2 * jnp.pi * jnp.arange(8) / 8
    return {
        "ring, 2-D": bj.analytic.mixture(2 * jnp.stack([jnp.cos(ring), jnp.sin(ring)], axis=1), std=0.3),
        "mixture, 8-D": bj.analytic.mixture(jax.random.normal(jax.random.key(0), (5, 8)), std=0.4),
    }


def data(flow: bj.Flow) -> tuple[jax.Array, np.ndarray]:
    """(samples of the mixture, their log-densities)."""
    means, std = np.asarray(flow.params["means"], np.float64), float(flow.params["std"][0])
    rng = np.random.default_rng(0)
    x = np.float32(
        means[rng.integers(len(means), size=NUM_SAMPLES)] + std * rng.standard_normal((NUM_SAMPLES, means.shape[1]))
    )
    squares = np.sum((np.float64(x)[:, None] - means) ** 2, axis=-1) / std**2
    log_p = np.logaddexp.reduce(-0.5 * squares, axis=1) - math.log(len(means))
    return jnp.asarray(x), log_p - means.shape[1] * math.log(math.sqrt(2 * math.pi) * std)


def solvers(flow: bj.Flow):
    """(kind, name, solver)."""
    for nfe in NFES:
        yield "dedicated", "midpoint", bj.classic.midpoint(nfe)
        yield "dedicated", "rk4", bj.classic.rk4(nfe)
        yield "dedicated", "ipndm", bj.classic.ipndm(nfe)
        yield "dedicated", "unipc", bj.classic.unipc(nfe, flow.scheduler)
        if nfe in LEARNED_NFES:
            yield "learned", "table", bj.fit(flow, bj.init_theta("table", nfe), jax.random.key(1)).theta


def row(name: str, kind: str, solver_name: str, nfe: float, x, wanted, solver, rtol: float = 1e-5) -> str:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = bj.log_likelihood(flows_by_name[name], solver, x, rtol=rtol)
    error = (found.log_p - wanted) / (x.shape[1] * math.log(2))
    lost = int(np.sum(~np.isfinite(error)))
    folded = [
        str(one.message).split(" folds space at ")[1].split(" of ")[0] for one in said if "folds" in str(one.message)
    ]
    good = error[np.isfinite(error)]
    nfe = nfe or found.evaluations // (1 + 2 * x.shape[1])
    return (
        f"| {name} | {kind} | {solver_name} | {nfe:.0f} | {np.sqrt(np.mean(good**2)):.2g} | {np.mean(good):+.2g} | {lost} | "
        f"{''.join(folded) or 0} | {found.evaluations:,} |"
    )


def images():
    """`invert` of eight images that a shipped table draws, and of eight exact samples of its flow."""
    flow = bj.models.load_flow("fashion_fmot")
    x0 = flow.noise(jax.random.key(5), (8,))
    exact = bj.ground_truth(flow, flow.noise(jax.random.key(6), (8,)), ends_only=True).x1
    print("| calls | images | converged | median residual | largest | evaluations an image | CPU s |")
    print("|---|---|---|---|---|---|---|")
    for calls in (16, 8):  # those of 8 take many minutes
        solver = bj.models.shipped_solver("fashion_fmot", "table", num_steps=calls)
        for name, x1 in (("its own", bj.solve(flow, solver, x0)), ("the flow's", jnp.asarray(exact))):
            start = time.process_time()
            with warnings.catch_warnings(action="ignore"):
                found = bj.invert(flow, solver, x1)
            took, again = time.process_time() - start, bj.solve(flow, solver, found.x0)
            share = np.asarray(flow.rmse(again, x1)) / math.sqrt(jnp.mean(x1**2))
            print(
                f"| {calls} | {name} | {np.sum(found.converged)} of {len(x1)} | {np.median(share):.1e} | {np.max(share):.1e} | "
                f"{found.evaluations:,} | {took:.0f} |",
                flush=True,
            )


flows_by_name = flows()


def main(*wanted_names: str):
    if wanted_names == ("images",):
        return images()
    warnings.filterwarnings("ignore", "fit: ")  # of heavy tails
    print("| flow | kind | solver | NFE | RMS error, bits/dim | mean | no noise | folds | evaluations of log p |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, flow in flows_by_name.items():
        if wanted_names and name not in wanted_names:
            continue
        x, wanted = data(flow)
        for kind, solver_name, solver in solvers(flow):
            print(row(name, kind, solver_name, solver.nfe, x, wanted, solver), flush=True)
        for rtol in RTOLS:
            print(row(name, "the flow", f"Dopri5, rtol {rtol:g}", 0, x, wanted, None, rtol), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
