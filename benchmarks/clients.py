"""Learned tables in the samplers of other libraries: `python -m benchmarks.clients [--default] [client ...]`.

Each client is a small model, trained as its library trains models. One Markdown table for each: the library's own sampler at few
calls and at its default, and tables of a few calls learned by a frugal fit (`--default`: by the default one), called through the
library's own sampling function. The columns, of 10,000 samples (swirl_dynamics: 2,000) from the same noise:

- RMSE to the exact ends of the flow's paths, of the first 2,000: mean and median over samples, in the units of the data, with the
  flow's weights, so that padding does not count;
- the client's figure of merit, where it has one, which `exact paths` has too: no sampler is expected to pass it;
- CPU time, the least of four runs, or of as many as begin in 10 seconds, and its ratio to the default's: other work on the
  machine does not count. The first one compiles too, which is little of a run of more than 10 seconds.

A client whose library is missing is skipped, with a line that says what to install. `benchmarks.client_models` has the models.
"""

import argparse
import dataclasses
import importlib.util
import time
import warnings

import jax
import numpy as np

import bespoke_jax as bj
from benchmarks.client_models import CLIENTS
from benchmarks.client_models.client import NUM_EXACT, Client, Sample

ROUNDS, LONG = 3, 10.0  # runs to time; the seconds after which there are no more


def timed(sample: Sample) -> tuple[np.ndarray, float]:
    """(the samples, the least CPU seconds of a few runs after one that compiles; of that one, if it is long)."""
    start = time.process_time()
    samples = np.asarray(sample())
    found = [time.process_time() - start]
    while len(found) <= ROUNDS and sum(found) < LONG:
        start = time.process_time()
        jax.block_until_ready(sample())
        found.append(time.process_time() - start)
    return samples, min(found)


def print_table(client: Client, recipe: bj.Recipe) -> None:
    """Print the client's table, and what the fits cost."""
    recipe = dataclasses.replace(recipe, rtol=client.rtol)
    paths = bj.ground_truth(client.test, client.x0[:NUM_EXACT], client.rtol, batch_size=NUM_EXACT, ends_only=True)
    exact = np.asarray(paths.x1)
    merit, merit_of = client.merit or ("", None)
    by_default = timed(client.own[client.default][1])

    def figure(found: np.ndarray) -> str:
        return f" {merit_of(found.reshape(NUM_EXACT, -1)):.3f} |" if merit_of else ""

    def row(name: str, calls: int, found: np.ndarray, took: float) -> str:
        found = found.reshape(len(client.x0), *exact.shape[1:])[:NUM_EXACT]
        errors = np.asarray(client.test.rmse(found, exact))
        times = f"{1e3 * took:.1f} | {took / by_default[1]:.3f}"
        return f"| {name} | {calls} | {errors.mean():.4f} | {np.median(errors):.4f} |{figure(found)} {times} |"

    head = ["sampler", "calls", "RMSE", "median", *([merit] if merit else []), "CPU ms", "of the default"]
    print(f"| {' | '.join(head)} |\n{'|---' * len(head)}|", flush=True)
    for name, (calls, sample) in client.own.items():
        is_default = name == client.default
        print(row(name + " (default)" * is_default, calls, *(by_default if is_default else timed(sample))), flush=True)
    costs = []
    for calls in client.calls:
        start = time.process_time()
        fitted = bj.fit(client.flow, bj.init_theta("table", calls), jax.random.key(1), recipe)
        costs.append(f"{time.process_time() - start:.0f} s and {fitted.cost:,} evaluations")
        print(row("learned table", calls, *timed(client.with_table(fitted.theta))), flush=True)
    print(f"| exact paths | {float(np.mean(np.asarray(paths.nfe))):.0f} | | |{figure(exact)} | |")
    print(f"\nCPU time: the fits took {', '.join(costs)}", end=" ")


def main() -> None:
    """Print the table of each client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clients", nargs="*", metavar="client", help=f"of {', '.join(CLIENTS)}; all if none is named")
    parser.add_argument("--default", action="store_true", help="fit by the default recipe, not the frugal one")
    options = parser.parse_args()
    for name in options.clients:
        if name not in CLIENTS:
            parser.error(f"client: wanted one of {', '.join(CLIENTS)}, got {name!r}.")
    warnings.filterwarnings("ignore")  # of the libraries, and of heavy tails
    for name in options.clients or CLIENTS:
        needs, install, make = CLIENTS[name]
        missing = [module for module in needs if importlib.util.find_spec(module) is None]
        if missing:
            print(f"\n{name}: skipped, {', '.join(missing)} missing; pip install {install}", flush=True)
            continue
        start = time.process_time()
        client = make()
        print(f"\n### {name}: {client.model}\n", flush=True)
        trained = time.process_time() - start
        print_table(client, bj.Recipe() if options.default else bj.frugal())
        print(f"and the training {trained:.0f} s.", flush=True)


if __name__ == "__main__":
    main()
