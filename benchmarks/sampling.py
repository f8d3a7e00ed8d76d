"""What sampling costs beyond the network: `python -m benchmarks.sampling [network ...]`.

For rk2-bespoke and a table of equal NFE, prints the time of a compiled `solve` over that of NFE compiled velocities of the same
batch. They are timed in turns, and the least times of many rounds are compared, because a shared machine can only add to a time.
The same ratio, for the velocities of every other round over the rest, shows how far to trust it. The last column is the memory
that XLA gives the compiled solve beyond arguments and result, over that of one velocity.
"""

import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

import bespoke_jax as bj
from bespoke_jax.flow import kernels
from experiments.configs import cifar10_fmot_pretrain

NFE = 8


def _adm(batch_size):
    """The network of our CIFAR10 configs, torchcfm's (35.7 M parameters), untrained."""
    fields = cifar10_fmot_pretrain.get_config().network.to_dict()
    network = getattr(bj.models, fields.pop("name"))(**fields | {"dropout": 0.0})
    params = jax.jit(network.init)(jax.random.key(0), 0.5, jnp.zeros((1, 32, 32, 3)))
    return bj.Flow(lambda params, t, x: network.apply(params, t, x), params, (32, 32, 3)), batch_size


NETWORKS = {
    "fashion_fmot": lambda: (bj.models.load_flow("fashion_fmot"), 32),
    "adm_cifar10": lambda: _adm(4),
}


def seconds(function) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def row(name: str, flow, solver, x0, rounds: int) -> str:
    def once():
        return kernels.velocity(flow, np.float32(0.5), x0)

    def whole():
        return bj.solve(flow, solver, x0)

    compiled = [seconds(function) for function in (once, whole)][1]
    pairs = [(seconds(whole), sum(seconds(once) for _ in range(solver.nfe))) for _ in range(rounds)]
    of_whole, of_velocities = (np.array(column) for column in zip(*pairs, strict=True))
    ratio = np.min(of_whole) / np.min(of_velocities)
    by_chance = np.min(of_velocities[::2]) / np.min(of_velocities[1::2])
    per_call = np.min(of_velocities) / solver.nfe
    memory = [
        function.memory_analysis().temp_size_in_bytes
        for function in (
            jax.jit(lambda x0: bj.solve(flow, solver, x0)).lower(x0).compile(),
            jax.jit(lambda x0: flow(0.5, x0)).lower(x0).compile(),
        )
    ]
    kind = "rk2-bespoke" if solver.has_steps else "table"
    return (
        f"| {name}, batch {len(x0)} | {kind} | {ratio:.3f} | {by_chance:.3f} | {1e3 * per_call:.1f} ms | {compiled:.1f} s | "
        f"{memory[0] / memory[1]:.2f} |"
    )


def main(wanted):
    print(
        f"| network | solver, NFE {NFE} | solve / (NFE velocities) | by chance | one velocity | first solve | "
        "memory of solve / velocity |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in wanted or NETWORKS:
        flow, batch_size = NETWORKS[name]()
        x0 = flow.noise(jax.random.key(0), (batch_size,))
        for solver in (bj.init_theta("rk2", NFE // 2), bj.classic.midpoint(NFE)):
            print(row(name, flow, solver, x0, rounds=40 if name == "fashion_fmot" else 20), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
