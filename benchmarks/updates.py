"""What an update costs beyond the network: `python -m benchmarks.updates [network ...]`.

Python assembles a Levenberg-Marquardt update of rk2-bespoke with n = 4 from compiled programs. The table has its time over that
of the network's programs alone: for each of the 8 evaluations a velocity, a linearisation, a pullback of each of two cotangents,
and a velocity for the try. They are timed in turns, and the least times of many rounds are compared, as in `benchmarks.sampling`.
The first row has a velocity that costs nothing: it shows the host's share of an update.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from benchmarks.sampling import NETWORKS, seconds
from bespoke_jax.flow import kernels
from bespoke_jax.flow.conditions import each_at_its_time

NUM_STEPS = 4


@jax.jit
def linearised(flow, t, x):
    return jax.vjp(functools.partial(each_at_its_time, flow), jnp.broadcast_to(t, x.shape[:1]), x)


@jax.jit
def pulled_back(pullback, w):
    return pullback(w)


def row(name: str, flow, batch_size: int, rounds: int) -> str:
    theta, t = bj.init_theta("rk2", NUM_STEPS), np.float32(0.5)
    x0 = flow.noise(jax.random.key(0), (batch_size,))
    paths = bj.Paths.of_ends(flow, x0, bj.solve(flow, bj.classic.midpoint(16), x0))
    stage = bj.Stage(batch_size=batch_size, chunk_size=batch_size)
    state = stage.optimizer.init(theta.raw)

    def update():
        return stage.update(flow, theta, state, paths, jax.random.key(1), 0, 1)[0].raw

    def network():
        for _ in range(theta.nfe):
            kernels.velocity(flow, t, x0)
            _, pullback = linearised(flow, t, x0)
            for _ in range(1 + stage.probes):
                pulled_back(pullback, x0)
            last = kernels.velocity(flow, t, x0)
        return last

    for function in (update, network):  # compile
        seconds(function)
    updates, networks = 1e3 * np.array([(seconds(update), seconds(network)) for _ in range(rounds)]).T
    whole, programs_alone, by_chance = min(updates), min(networks), min(networks[::2]) / min(networks[1::2])
    ratio = whole / programs_alone
    return f"| {name}, batch {batch_size} | {whole:.0f} ms | {programs_alone:.0f} ms | {ratio:.2f} | {by_chance:.2f} |"


def main(wanted):
    print("| network | update | its network programs | ratio | by chance |")
    print("|---|---|---|---|---|")
    print(row("none", bj.Flow(lambda params, t, x: -x, None, (1,)), 16, rounds=20), flush=True)
    for name in wanted or NETWORKS:
        flow, _ = NETWORKS[name]()
        batch_size, rounds = (16, 10) if name == "fashion_fmot" else (4, 6)
        print(row(name, flow, batch_size, rounds), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
